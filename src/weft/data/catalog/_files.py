"""What the data sets of the catalog share: the shape of an entry, the publisher's files, and reading them."""

import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import polars as pl
from msgspec import Struct
from rich.console import Console

from weft.data.download import download
from weft.errors import DataError
from weft.schema import Schema

Columns = dict[str, type[pl.DataType]]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set that has no options."""


class Download(NamedTuple):
    """One file of a publisher.

    Attributes:
        url: Where it lies.
        sha256: Checksum in hex. Where none of the three is known, the SHA-256 of the first download is recorded.
        md5: Checksum in hex.
        git_blob: The SHA-1 by which git knows the file's content.
        members: Of an archive: the files to take out of it.
        protocols: The protocols that need it; empty means all.
        folder: Where it is kept below the data set's folder, so that files of one name do not meet.
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    git_blob: str | None = None
    members: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    folder: str = ""

    @property
    def name(self) -> str:
        """The name of the file."""
        return PurePosixPath(self.url).name


class Tables(NamedTuple):
    """What a data set becomes: Parquet files by name, the schema over them, and sentences for the README."""

    frames: Mapping[str, pl.DataFrame | pl.LazyFrame]
    schema: Schema
    notes: tuple[str, ...] = ()


class Files:
    """The publisher's files in one or more folders, plain or as `.xz`."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders

    def find(self, name: str) -> Path | None:
        """The first file of this name, or of this name with `.xz`."""
        paths = (folder / (name + ending) for folder in self.folders for ending in ("", ".xz"))
        return next((path for path in paths if path.is_file()), None)

    def path(self, *names: str) -> Path:
        """The first of these files that is there; DataError if none is."""
        for name in names:
            if path := self.find(name):
                return path
        looked = ", ".join(str(folder) for folder in self.folders)
        raise DataError(f"no file {' or '.join(names)} (plain or .xz) in {looked}; pass their folder with --from")

    def table(
        self,
        name: str,
        columns: Columns,
        *,
        separator: str = "\t",
        header: bool = False,
        encoding: str = "utf-8",
        remark: str | None = None,
    ) -> pl.DataFrame:
        """Read a text table without quotes, in the order of the file; lines that begin with `remark` are left out.

        Raises:
            DataError: the file is missing, damaged, or does not have these columns.
        """
        path = self.path(name)
        try:
            text = read_bytes(path).decode(encoding)
            return pl.read_csv(
                text.replace(separator, "\t").encode(),
                separator="\t",
                has_header=header,
                schema=columns,
                quote_char=None,
                comment_prefix=remark,
            )
        except (UnicodeDecodeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{str(path)!r} does not have the columns {', '.join(columns)}: {_first_line(error)}; "
                "get the publisher's file again"
            ) from error


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends in `.xz`; DataError if it cannot be read."""
    try:
        return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    except (OSError, lzma.LZMAError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}; get the publisher's file again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One public data set.

    Attributes:
        name: What it is called on the command line.
        title: What it is, in a line.
        protocols: The ways to make a task of it; the first one is the default.
        terms: What its publisher asks, in a sentence.
        downloads: The publisher's files; none for a data set that is made here.
        folders: Names of folders that `--from` may also mean: inside the given one or beside it.
        options: The options it takes.
        read: From the files, a protocol and the options to tables.
    """

    name: str
    title: str
    protocols: tuple[str, ...]
    terms: str
    downloads: tuple[Download, ...] = ()
    folders: tuple[str, ...] = ()
    options: type[Struct] = Options
    read: Callable[[Files, str, Any], Tables]

    @property
    def default_protocol(self) -> str:
        """The protocol that is used without a choice."""
        return self.protocols[0]


def local(dataset: Dataset, source: Path) -> Files:
    """The files of a data set in a folder that is already here."""
    if not source.is_dir():
        raise DataError(f"{str(source)!r} is not a folder; pass the folder with the publisher's files with --from")
    source = source.resolve()
    return Files(source, *(base / name for base in (source, source.parent) for name in dataset.folders))


def fetched(dataset: Dataset, protocol: str, *, progress: bool = True) -> Files:
    """The files of a data set, downloaded into the cache folder where they are not there yet."""
    folder = cache_folder() / dataset.name
    wanted = [file for file in dataset.downloads if not file.protocols or protocol in file.protocols]
    if wanted and progress:
        Console(stderr=True).print(f"{dataset.title}. {dataset.terms}", highlight=False)
    for file in wanted:
        path = _download(file, folder, progress)
        unpack(path, file.members)
    return Files(folder)


def _download(file: Download, folder: Path, progress: bool) -> Path:
    return download(
        file.url,
        folder / file.folder / file.name,
        sha256=file.sha256,
        md5=file.md5,
        git_blob=file.git_blob,
        progress=progress,
    )


def cache_folder() -> Path:
    """Where downloads are kept: the variable WEFT_CACHE, or `weft` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("WEFT_CACHE") or Path(base) / "weft").expanduser()


def unpack(archive: Path, members: tuple[str, ...]) -> None:
    """Take files out of a zip or tar archive and put them beside it; what is already out is not taken again."""
    for member in members:
        target = archive.parent / PurePosixPath(member).name
        if target.is_file() and target.stat().st_mtime >= archive.stat().st_mtime:
            continue
        part = target.with_name(target.name + ".part")
        try:
            _take_out(archive, member, part)
        except (KeyError, OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
            part.unlink(missing_ok=True)
            raise DataError(
                f"{str(archive)!r} has no readable {member!r}: {error}; remove it and get it again"
            ) from error
        os.replace(part, target)


def _take_out(archive: Path, member: str, target: Path) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as bundle, bundle.open(member) as content:
            _copy(content, target)
        return
    with tarfile.open(archive) as tape:
        found = tape.extractfile(member)
        if found is None:
            raise KeyError(member)
        with found:
            _copy(found, target)


def _copy(content: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)


def write_frames(frames: Mapping[str, pl.DataFrame | pl.LazyFrame], folder: Path) -> None:
    """Write each table as NAME.parquet; a lazy one is streamed."""
    for name, frame in frames.items():
        path = folder / f"{name}.parquet"
        if isinstance(frame, pl.LazyFrame):
            frame.sink_parquet(path, maintain_order=True)
        else:
            frame.write_parquet(path)
