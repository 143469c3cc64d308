"""Folders that can be trusted: written whole or not at all, checked by SHA-256, owned by one process at a time."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from weft.errors import ArtifactError, Locked

MANIFEST = "manifest.json"
LOCK = ".lock"
FORMAT = 1


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write plain values, Structs or dataclasses as JSON that people can read, as `write_atomic` does."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value), indent=1))


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(folder: Path, kind: str, **facts: Any) -> str:
    """Write the manifest of a folder: kind, facts, SHA-256 and size of every file. Returns the folder's id."""
    files = {
        str(path.relative_to(folder)): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in (folder / MANIFEST, folder / LOCK)
    }
    identity = _identity(files)
    manifest = {"kind": kind, "format": FORMAT, "id": identity, **facts, "files": files}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return identity


def _identity(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a folder of this kind; ArtifactError if it is missing, unreadable or of another kind."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{str(folder)!r} is not a folder; give the path of a {kind}")
    if not path.is_file():
        raise ArtifactError(f"{str(folder)!r} has no {MANIFEST}: it is no {kind}, or its writing was cut short")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        found = manifest["kind"], manifest["format"]
        whole = manifest["id"] == _identity(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{str(path)!r} is damaged ({error}); make the {kind} again") from error
    if found != (kind, FORMAT):
        raise ArtifactError(
            f"{str(folder)!r} is a {found[0]} of format {found[1]}, a {kind} of format {FORMAT} is needed"
        )
    if not whole:
        raise ArtifactError(f"{str(path)!r} is damaged (its id does not match its files); make the {kind} again")
    return manifest


def kind_of(folder: Path) -> str | None:
    """What a folder is by its manifest; None where it has none that can be read."""
    try:
        kind: object = json.loads((folder / MANIFEST).read_bytes())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kind if isinstance(kind, str) else None


def verify(folder: Path, kind: str) -> dict[str, Any]:
    """Read the manifest and check every file against its hash; ArtifactError names the first file that differs."""
    manifest = read_manifest(folder, kind)
    for name, fact in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{str(folder)!r}: the file {name!r} is missing; make the {kind} again")
        if path.stat().st_size != fact["bytes"] or sha256(path) != fact["sha256"]:
            raise ArtifactError(f"{str(folder)!r}: the file {name!r} differs from its hash; make the {kind} again")
    return manifest


@contextmanager
def new_folder(target: Path, kind: str, **facts: Any) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it gets its manifest, is synced and takes the name `target`.

    Nothing is left behind when the body raises. A target that exists is refused.
    """
    refuse_existing(target, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        write_manifest(temporary, kind, **facts)
        for path in temporary.rglob("*"):
            sync_folder(path) if path.is_dir() else _sync_file(path)
        sync_folder(temporary)
        if target.is_dir():
            target.rmdir()
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def refuse_existing(target: Path, kind: str) -> None:
    """ArtifactError when `target` is in the way; an empty folder is not."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(f"{str(target)!r} exists already; choose another path for the {kind} or remove it first")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Own a folder: Locked if a live process has it; the system frees the lock of a process that died."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise Locked(
                f"{str(folder)!r} is in use by process {owner}; wait for it or choose another folder"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
