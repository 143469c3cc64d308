"""Score every row of a table with a run: the same transforms as training, chunk by chunk.

Columns of users or items that the table lacks are looked up by id in the store's catalogues, as they were when the
store was prepared. Counters and derived sequences are read as of the row's time, or of now where it has none.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from msgspec.structs import replace
from numpy.typing import NDArray

from weft.data._tables import Tables
from weft.data.read import Source, open_table
from weft.errors import ArtifactError, ConfigError, UnknownColumn
from weft.evaluate.evaluator import open_store
from weft.evaluate.pointwise import sigmoid
from weft.runs import SavedRun
from weft.schema import Categorical, Dense, Feature, Label, MultiHot, RandomSplit, Roles, Schema, Sequence
from weft.scoring import Scorer
from weft.transforms.catalogue import Catalogue
from weft.transforms.columns import Keys, RawTable, as_times
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows

Floats = NDArray[np.floating[Any]]

WRITERS = (".parquet", ".csv")
ROWS_AT_ONCE = 65_536


def predict(run: SavedRun | str | Path, table: Any, out: str | Path, *, store: str | Path | None = None) -> int:
    """Write a table with its scores beside it.

    One label gives the column `score`: a probability (binary), a value (regression), a rate (count); a multiclass label
    gives `score.0`, `score.1` and so on, several labels `score.NAME`.

    Args:
        run: A run or its folder.
        table: A path or a frame with the schema's columns; labels are not needed.
        out: The file to write, .parquet or .csv; a file that is there is replaced once all rows are scored.
        store: The store, if it is not where the run was trained.

    Returns:
        The number of rows.

    Raises:
        UnknownColumn: A column is neither in the table nor in the catalogues.
        DataError: A value cannot be used.
    """
    target = Path(out)
    if target.suffix not in WRITERS:
        raise ConfigError(f"`out` must end in {' or '.join(WRITERS)}, got {str(out)!r}")
    if not target.parent.is_dir():
        raise ArtifactError(f"the folder of `out` = {str(out)!r} does not exist; make it first")
    run = run if isinstance(run, SavedRun) else SavedRun.open(run)
    source = open_table(table, "table")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        rows = 0
        for part, frame in enumerate(scored(run, source, open_store(run, store).catalogue)):
            frame.write_parquet(Path(folder) / f"{part:08d}.parquet")
            rows += frame.height
        whole = pl.scan_parquet(Path(folder) / "*.parquet")
        done = Path(folder) / f"done{target.suffix}"
        whole.sink_csv(done) if target.suffix == ".csv" else whole.sink_parquet(done)
        done.replace(target)
    return rows


def scored(run: SavedRun, source: Source, catalogue: Catalogue) -> Iterator[pl.DataFrame]:
    """The chunks of a table in order, with their scores."""
    transforms = run.transforms
    scorer = Scorer(run.load_model(), transforms, catalogue.items, intercept=run.intercept)
    looked_up = {side for side in ("user", "item") if _missing(run.schema, source, side)}
    schema = _readable(run.schema, source, looked_up)
    tables = Tables(schema, source)
    originals = source.chunks(list(source.columns), ROWS_AT_ONCE)
    for piece, original in zip(tables.chunks(rows=ROWS_AT_ONCE), originals, strict=True):
        rows = _encode(transforms, tables.raw(piece.frame), catalogue, looked_up)
        scores = _as_columns(run.schema.roles.label, scorer.rows(rows))
        yield original.frame.with_columns(pl.Series(name, values) for name, values in scores.items())


def _encode(transforms: Transforms, table: RawTable, catalogue: Catalogue, looked_up: set[str]) -> Rows:
    roles = transforms.schema.roles
    users, items = (_side(transforms, table, catalogue, side, looked_up) for side in ("user", "item"))
    context = transforms.encode_side(table, "context")
    time = as_times(table[roles.time], name=roles.time) if roles.time is not None and roles.time in table else None
    return transforms.join(users, items, context=context, time=time)


def _side(transforms: Transforms, table: RawTable, catalogue: Catalogue, side: str, looked_up: set[str]) -> Rows:
    if side not in looked_up:
        return transforms.encode_side(table, side)
    roles = transforms.schema.roles
    name, ids, rows = (
        (roles.user, transforms.user_ids, catalogue.users)
        if side == "user"
        else (roles.item, transforms.item_ids, catalogue.items)
    )
    assert name is not None
    assert ids is not None
    keys = table[name]
    assert isinstance(keys, Keys)
    return rows.take(ids.encode(keys))


def _own_columns(schema: Schema, side: str) -> list[str]:
    return [f.name for f in schema.features if _is_read(f) and getattr(f, "side", None) == side]


def _is_read(feature: Feature) -> bool:
    """Whether a feature is a column of a table, not made of others."""
    derived = isinstance(feature, Sequence) and feature.of is not None
    return isinstance(feature, Dense | Categorical | MultiHot | Sequence) and not derived


def _missing(schema: Schema, source: Source, side: str) -> bool:
    """Whether the table lacks columns of a side, which are then looked up by id."""
    role = schema.roles.user if side == "user" else schema.roles.item
    lacking = [name for name in _own_columns(schema, side) if name not in source.columns]
    if lacking and role not in source.columns:
        raise UnknownColumn(
            f"{source.name!r} has neither the column {lacking[0]!r} nor the {side}'s id {role!r} to look it up; add one"
        )
    return bool(lacking)


def _readable(schema: Schema, source: Source, looked_up: set[str]) -> Schema:
    """The part of a schema that the table must have: columns of sides that are not looked up, ids and time."""
    roles = schema.roles
    kept = Roles(
        user=roles.user if roles.user in source.columns else None,
        item=roles.item if roles.item in source.columns else None,
        time=roles.time if roles.time in source.columns else None,
        time_unit=roles.time_unit,
    )
    features = tuple(
        replace(f, shares=None) if not isinstance(f, Dense) else f
        for f in schema.features
        if _is_read(f) and (getattr(f, "side", None) not in looked_up or f.name in (roles.user, roles.item))
    )
    return Schema(features=features, roles=kept, split=RandomSplit(), name=schema.name)


def _as_columns(labels: tuple[Label, ...], logits: Floats) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    columns = logits[:, None] if logits.ndim == 1 else logits
    if labels[0].task == "multiclass":
        odds = np.exp(columns - columns.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        return {f"score.{i}": shares[:, i] for i in range(shares.shape[1])}
    for label, column in zip(labels, columns.T, strict=True):
        found["score" if len(labels) == 1 else f"score.{label.name}"] = _answer(label, column.astype(np.float64))
    return found


def _answer(label: Label, logit: Floats) -> Floats:
    if label.task == "binary":
        return sigmoid(logit)
    return np.exp(logit) if label.task == "count" else logit
