import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from weft.data.download import digest, download
from weft.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """A server whose manners a test sets; it keeps the requests it got."""

    url: str = ""
    content: bytes = CONTENT
    tag: str | None = '"v1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    errors: list[int] = field(default_factory=list)  # statuses of the next answers
    promised: bool = True  # send Content-Length
    asked: list[str | None] = field(default_factory=list)  # the Range of each request


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        asked = self.headers["Range"]
        site.asked.append(asked)
        if site.errors:
            self.send_error(site.errors.pop(0))
            return
        same = self.headers["If-Range"] in (None, site.tag)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges and same else 0
        if start >= len(site.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(start)

    def _send(self, start: int) -> None:
        site = self.site
        body = site.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        if site.promised:
            self.send_header("Content-Length", str(len(body)))
        if site.tag:
            self.send_header("ETag", site.tag)
        self.end_headers()
        self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}/file.bin"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(site: Site, tmp_path: Path) -> None:
    target = download(site.url, tmp_path / "deep" / "file.bin", sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert left(target.parent) == ["file.bin"]


def test_every_kind_of_checksum_is_known(site: Site, tmp_path: Path) -> None:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    target = download(site.url, tmp_path / "file.bin", md5=md5, sha256=SHA256, progress=False)
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert digest(tmp_path / "hello", "git_blob") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    blob = digest(target, "git_blob")
    target.unlink()
    assert download(site.url, target, git_blob=blob, progress=False).read_bytes() == CONTENT


def test_a_good_file_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    for _ in range(2):
        download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False)
    assert len(site.asked) == 1


def test_a_file_that_differs_from_its_checksum_is_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"something else")
    assert download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False).read_bytes() == CONTENT


def test_a_cut_connection_goes_on_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 200_000]
    target = download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False, wait=0.0)
    assert target.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-", "bytes=300000-"]


def test_a_later_call_resumes_an_earlier_one(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000]
    with pytest.raises(DataError, match="cut after 100,000 of 1,048,576 bytes; 100,000 bytes are kept"):
        download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False, retries=0)
    download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False)
    assert site.asked[-1] == "bytes=100000-"
    assert left(tmp_path) == ["file.bin"]


def test_a_server_without_ranges_sends_everything_again(site: Site, tmp_path: Path) -> None:
    site.cuts, site.ranges = [100_000], False
    target = download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False, wait=0.0)
    assert target.read_bytes() == CONTENT


def test_two_versions_of_a_file_are_never_spliced(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000]
    with pytest.raises(DataError, match="cut"):
        download(site.url, tmp_path / "file.bin", progress=False, retries=0)
    site.content, site.tag = CONTENT[::-1], '"v2"'
    assert download(site.url, tmp_path / "file.bin", progress=False).read_bytes() == CONTENT[::-1]


def test_a_part_that_is_whole_already_is_accepted(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False).read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_too_long_is_thrown_away(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    target = download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False, wait=0.0)
    assert target.read_bytes() == CONTENT


def test_a_wrong_checksum_names_both_and_removes_the_file(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"sha256 {'0' * 64} expected, got {SHA256}"):
        download(site.url, tmp_path / "file.bin", sha256="0" * 64, progress=False)
    assert left(tmp_path) == []


def test_without_a_published_checksum_the_first_download_is_recorded(site: Site, tmp_path: Path) -> None:
    target = download(site.url, tmp_path / "file.bin", progress=False)
    assert (tmp_path / "file.bin.sha256").read_text() == f"{SHA256}  file.bin\n"
    target.write_bytes(b"damaged")
    assert download(site.url, target, progress=False).read_bytes() == CONTENT


def test_a_length_that_is_not_promised_is_no_cut(site: Site, tmp_path: Path) -> None:
    site.promised = False
    assert download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(site: Site, tmp_path: Path) -> None:
    site.errors = [503, 429]
    download(site.url, tmp_path / "file.bin", sha256=SHA256, progress=False, wait=0.0)
    site.errors = [404]
    with pytest.raises(DataError, match="answers 404 Not Found"):
        download(site.url, tmp_path / "other.bin", progress=False)
    assert len(site.asked) == 4


def test_nobody_at_the_address_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 bytes are kept"):
        download("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", progress=False, retries=1, wait=0.0)
