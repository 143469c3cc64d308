"""Fetch a file over HTTP: resumed where it was cut, checked before it takes its name."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from weft.errors import DataError

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 18

Report = Callable[[int, int | None], None]  # bytes there, bytes in all


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    git_blob: str | None = None,
    progress: bool = True,
    retries: int = 5,
    wait: float = 1.0,
) -> Path:
    """Fetch `url` into the file `target`, unless it lies there already and agrees with its checksum.

    Bytes gather in `target.part`; a later call goes on from there. Where the publisher gives no checksum, the SHA-256
    of the first download is written to `target.sha256` and later calls check against it.

    Args:
        url: An HTTP or HTTPS address.
        target: The file to make.
        sha256: The publisher's checksum in hex.
        md5: The publisher's checksum in hex.
        git_blob: The SHA-1 that git gives to a file with this content.
        progress: Draw a bar on standard error.
        retries: Attempts in a row that may bring nothing new.
        wait: Seconds before the second attempt; doubled for each further one.

    Raises:
        DataError: the server refuses, the connection keeps breaking, or the checksum differs.
    """
    expected = {kind: value for kind, value in (("sha256", sha256), ("md5", md5), ("git_blob", git_blob)) if value}
    if _is_good(target, expected):
        return target
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with _bar(target.name, progress) as report:
        _fetch(url, part, report, retries, wait)
    _accept(url, part, target, expected)
    return target


def digest(path: Path, kind: str) -> str:
    """The checksum of a file in hex; `kind` is sha256, md5 or git_blob."""
    with path.open("rb") as file:
        if kind != "git_blob":
            return hashlib.file_digest(file, kind).hexdigest()
        head = f"blob {path.stat().st_size}\0".encode()
        return hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False)).hexdigest()


def _is_good(target: Path, expected: Mapping[str, str]) -> bool:
    if not target.is_file():
        return False
    record = _record(target)
    if not expected and record.is_file():
        expected = {"sha256": record.read_text().split()[0]}
    return all(digest(target, kind) == value for kind, value in expected.items())


def _accept(url: str, part: Path, target: Path, expected: Mapping[str, str]) -> None:
    """Give a whole file its name, or remove it when a checksum differs."""
    for kind, value in expected.items():
        got = digest(part, kind)
        if got != value:
            _discard(part)
            raise DataError(
                f"{url}: {kind} {value} expected, got {got}; the file was removed: download it again, "
                "or pass a copy you trust with --from"
            )
    if not expected:
        _record(target).write_text(f"{digest(part, 'sha256')}  {target.name}\n")
    os.replace(part, target)
    _tag(part).unlink(missing_ok=True)


def _fetch(url: str, part: Path, report: Report, retries: int, wait: float) -> None:
    """Stream until the file is whole; attempts that bring nothing new are counted and spaced out."""
    failures, most = 0, _size(part)
    while True:
        try:
            return _stream(url, part, report)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 429 and error.code < 500:
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}; get it by hand and use --from"
                ) from error
            cause: Exception = error
        except (OSError, http.client.HTTPException) as error:
            cause = error
        failures = 1 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if failures > retries:
            raise DataError(
                f"{url}: {cause}; {_size(part):,} bytes are kept in {str(part)!r}: run again to go on"
            ) from cause
        time.sleep(wait * 2 ** (failures - 1))


def _stream(url: str, part: Path, report: Report) -> None:
    """Ask once for the bytes that are missing and append them; OSError when fewer came than were promised."""
    offset = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "weft", **_range(part, offset)})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        return _settle(part, offset, error.headers)
    with response:
        start = offset if response.status == 206 else 0
        if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            _discard(part)
            raise ConnectionError(f"the server sent {response.headers.get('Content-Range')} for bytes from {start}")
        _remember(part, response.headers)
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        _append(response, part, start, total, report)
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the connection was cut after {_size(part):,} of {total:,} bytes")


def _append(response: http.client.HTTPResponse, part: Path, start: int, total: int | None, report: Report) -> None:
    with part.open("ab" if start else "wb") as file:
        report(start, total)
        while block := response.read(CHUNK):
            file.write(block)
            report(file.tell(), total)
        file.flush()
        os.fsync(file.fileno())


def _settle(part: Path, offset: int, headers: Message) -> None:
    """The server has nothing after `offset`: the part is whole, or it is not a part of this file."""
    if headers.get("Content-Range") != f"bytes */{offset}":
        _discard(part)
        raise ConnectionError("what was kept of an earlier download does not fit the file; beginning again")


def _range(part: Path, offset: int) -> dict[str, str]:
    if not offset:
        return {}
    tag = _tag(part)
    same = {"If-Range": tag.read_text()} if tag.is_file() else {}
    return {"Range": f"bytes={offset}-", **same}


def _remember(part: Path, headers: Message) -> None:
    """Keep what tells this version of the file from another, so that two versions are never spliced."""
    tag = headers.get("ETag", "")
    validator = tag if tag.startswith('"') else headers.get("Last-Modified")
    if validator:
        _tag(part).write_text(validator)
    else:
        _tag(part).unlink(missing_ok=True)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _record(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _bar(name: str, shown: bool) -> Iterator[Report]:
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
