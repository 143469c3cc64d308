"""Public data sets, one file each: what they are, where they lie, and how they become tables and a schema.

`get` writes a folder of Parquet tables with `schema.toml`, `README.txt` and a manifest; `prepare` takes it from there.
None of the data is part of weft: it is downloaded from its publisher or read from a folder that is already here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from weft import artifacts, schema
from weft.data.catalog import (
    adult,
    avazu,
    criteo,
    frappe,
    gowalla,
    kuairand,
    lastfm,
    movielens_1m,
    movielens_100k,
    music,
    open_bandit,
)
from weft.data.catalog._files import Dataset, Download, Tables, fetched, local, write_frames
from weft.errors import ConfigError, DataError, near

__all__ = ["Dataset", "Download", "entry", "get", "names", "parse_options"]

_MODULES = (movielens_100k, movielens_1m, frappe, criteo, avazu, adult, open_bandit, gowalla, kuairand, lastfm, music)
_DATASETS: dict[str, Dataset] = {module.DATASET.name: module.DATASET for module in _MODULES}


def names() -> list[str]:
    """The names of all data sets.

    >>> names()[:5]
    ['adult', 'avazu', 'criteo', 'frappe', 'gowalla']
    """
    return sorted(_DATASETS)


def entry(name: str) -> Dataset:
    """The data set of this name; ConfigError with near names if there is none."""
    if name not in _DATASETS:
        raise ConfigError(f"no data set is named {name!r}; {near(name, _DATASETS)}")
    return _DATASETS[name]


def get(
    name: str,
    out: str | Path,
    *,
    protocol: str | None = None,
    source: str | Path | None = None,
    options: Mapping[str, object] | None = None,
    progress: bool = True,
) -> Path:
    """Write the tables and the schema of a data set into the folder `out`.

    Args:
        name: One of `names()`.
        out: The folder to make.
        protocol: One of the data set's protocols; its first one without this.
        source: A folder with the publisher's files, plain or as `.xz`; without it they are downloaded.
        options: Options of the data set, as values or as text.
        progress: Draw bars on standard error while downloading.

    Returns:
        The folder.

    Raises:
        ConfigError: the name, the protocol or an option does not exist.
        DataError: a file is missing, cannot be downloaded, or does not hold what it should.
        ArtifactError: `out` is in the way.
    """
    dataset = entry(name)
    protocol = _protocol(dataset, protocol)
    chosen = _options(dataset, options or {})
    facts = {"name": name, "protocol": protocol, "options": msgspec.to_builtins(chosen)}
    with artifacts.new_folder(Path(out), "dataset", **facts) as folder:
        files = fetched(dataset, protocol, progress=progress) if source is None else local(dataset, Path(source))
        try:
            tables = dataset.read(files, protocol, chosen)
            write_frames(tables.frames, folder)
        except pl.exceptions.PolarsError as error:
            where = ", ".join(str(path) for path in files.folders)
            raise DataError(
                f"{name}: a file in {where} cannot be used: {error}; get the publisher's file again"
            ) from error
        (folder / "schema.toml").write_text(schema.dumps(tables.schema), encoding="utf-8")
        (folder / "README.txt").write_text(_readme(dataset, protocol, tables), encoding="utf-8")
    return Path(out)


def parse_options(pairs: Iterable[str]) -> dict[str, str]:
    """Options given as KEY=VALUE.

    >>> parse_options(["fold=2"])
    {'fold': '2'}
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ConfigError(f"option {pair!r} must be KEY=VALUE, such as seed=1")
        options[key.strip()] = value.strip()
    return options


def _protocol(dataset: Dataset, protocol: str | None) -> str:
    if protocol is None:
        return dataset.default_protocol
    if protocol not in dataset.protocols:
        raise ConfigError(f"{dataset.name} has no protocol {protocol!r}; {near(protocol, dataset.protocols)}")
    return protocol


def _options(dataset: Dataset, options: Mapping[str, object]) -> Any:
    known = dataset.options.__struct_fields__
    for key in options:
        if key not in known:
            mend = near(key, known) if known else "it takes none"
            raise ConfigError(f"{dataset.name} has no option {key!r}; {mend}")
    try:
        return msgspec.convert(dict(options), dataset.options, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"option of {dataset.name}: {error}") from error


def _readme(dataset: Dataset, protocol: str, tables: Tables) -> str:
    lines = (f"{dataset.title}. Protocol: {protocol}.", f"Terms: {dataset.terms}", *tables.notes)
    return "\n".join(lines) + "\n"
