"""Explain a run: what matters to its model, how its fields work together, and what it makes of one user and item."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from weft import artifacts
from weft.batch import FIRST_ID, Batch
from weft.data.store import Store
from weft.errors import ConfigError
from weft.explain.crosses import largest_crosses
from weft.explain.explanation import Explanation, Row, TableVariance
from weft.explain.importance import features, importances, metrics_of
from weft.explain.maps import maps_of_row, maps_over
from weft.explain.names import row_values
from weft.explain.page import render_page
from weft.models import _registry as registry
from weft.models._dimensions import cumulative_variance, smallest_width, tables_of
from weft.runs import SavedRun
from weft.scoring import Scorer
from weft.transforms.rows import Rows
from weft.transforms.vocabulary import Vocabulary

KIND = "explanation"
NUMBERS, PAGE = "explanation.json", "index.html"
KEEP = (0.99, 0.95, 0.9, 0.8)
BATCH = 1_024


def explain(
    run: SavedRun | str | Path,
    *,
    out: str | Path,
    user: str | int | None = None,
    item: str | int | None = None,
    split: str = "test",
    rows: int = 10_000,
    store: str | Path | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Explanation:
    """Write what a run's model looks at, as JSON and as a page that needs nothing else.

    Args:
        run: A run or its folder.
        out: The folder to write: explanation.json and index.html.
        user: With `item`, the pair that is explained too.
        item: External id, as `user`.
        split: Whose rows are sampled.
        rows: At most so many.
        store: The store, if it is not where the run was trained.
        seed: Of the sample, the shuffles and the intervals.
        console: Where progress is shown; nowhere without it.

    Raises:
        ConfigError: An unknown split, user or item, or only one of `user` and `item`.
        ArtifactError: `out` is in the way.
        StaleModel: The store is not the one that the run was trained on.
    """
    artifacts.refuse_existing(Path(out), KIND)
    run = run if isinstance(run, SavedRun) else SavedRun.open(run)
    data = _store(run, store)
    asked = _asked(run, data, user, item)
    sample = _sample(data, split, rows, seed)
    model = run.load_model()
    scorer = Scorer(model, run.transforms, data.items, intercept=run.intercept)
    by_feature = track(
        features(run.schema, run.fields),
        description="shuffling",
        transient=True,
        console=console,
        disable=console is None,
    )
    found = Explanation(
        model=run.config.model,
        data=run.config.data,
        run=str(run.path),
        split=split,
        rows=len(sample),
        metrics=_metrics(run, sample, scorer),
        importance=importances(sample, run.schema, by_feature, scorer.rows, seed=seed),
        maps=maps_over(model, (_batch(sample.take(slice(i, i + BATCH))) for i in range(0, len(sample), BATCH))),
        crosses=largest_crosses(model, run.transforms, data.split("train")),
        tables=_tables(run, model),
        row=None if asked is None else _row(scorer, data, asked),
    )
    with artifacts.new_folder(Path(out), KIND, run=run.id) as folder:
        artifacts.write_json(folder / NUMBERS, found)
        (folder / PAGE).write_text(render_page(found), encoding="utf-8")
    return found


class _Asked(NamedTuple):
    """A user and an item as they were asked for, and their ids."""

    user: str | int
    item: str | int
    user_id: int
    item_id: int


def _asked(run: SavedRun, data: Store, user: str | int | None, item: str | int | None) -> _Asked | None:
    if user is None and item is None:
        return None
    if user is None or item is None:
        raise ConfigError("explaining one row needs both a user and an item; give --user and --item")
    if run.transforms.user_ids is None or run.transforms.item_ids is None:
        raise ConfigError("explaining one row needs `user` and `item` in [roles] of the schema; leave both out")
    user_id = _known(run.transforms.user_ids, "user", user, data)
    return _Asked(user, item, user_id, _known(run.transforms.item_ids, "item", item, data))


def _known(ids: Vocabulary, role: str, value: str | int, data: Store) -> int:
    id = ids.id_of(value)
    if id < FIRST_ID:
        raise ConfigError(f"the {role} {value!r} is unknown to the store {str(data.path)!r}; give one that it knows")
    return id


def _store(run: SavedRun, store: str | Path | None) -> Store:
    data = Store.open(store if store is not None else run.config.store)
    run.check_store(data.id, data.path)
    return data


def _sample(data: Store, split: str, most: int, seed: int) -> Rows:
    """Some rows of a split by chance, in the order of the table."""
    if most < 1:
        raise ConfigError(f"`rows` must be 1 or more, got {most}")
    rows = data.split(split)
    if not len(rows):
        raise ConfigError(f"the split {split!r} of {data.path} has no rows; explain on another split")
    if len(rows) <= most:
        return rows.take(slice(0, len(rows)))
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False)))


def _batch(rows: Rows) -> Batch:
    """As at evaluation: where the rows were shown is not given."""
    return replace(rows.batch(), position=None)


def _metrics(run: SavedRun, sample: Rows, scorer: Scorer) -> dict[str, float | None]:
    every = np.ones(len(sample))
    found = metrics_of(run.schema.roles.label, sample, scorer.rows(sample))
    values = {name: metric(every) for name, metric in found.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _tables(run: SavedRun, model: nn.Module) -> tuple[TableVariance, ...]:
    tables = tables_of(model, registry.config(run.config.model, run.config.options))
    return tuple(_variance(name, tables[name][0]) for name in run.fields.tables() if name in tables)


def _variance(name: str, table_RE: Tensor) -> TableVariance:
    cumulative = cumulative_variance(table_RE)
    return TableVariance(
        table=name,
        categories=len(table_RE),
        width=table_RE.shape[1],
        keep={f"{share:g}": smallest_width(cumulative, share) for share in KEEP},
        cumulative=cumulative.tolist(),
    )


def _row(scorer: Scorer, data: Store, asked: _Asked) -> Row:
    """The pair as it is now: history after all events, no context."""
    one = slice(asked.user_id, asked.user_id + 1), slice(asked.item_id, asked.item_id + 1)
    rows = scorer.transforms.join(data.users.take(one[0]), data.items.take(one[1]))
    titles = data.catalogue.titles
    return Row(
        user=asked.user,
        item=asked.item,
        title=None if titles is None else str(titles[asked.item_id]) or None,
        score=float(scorer.rows(rows).flat[0]),
        values=row_values(scorer.transforms, rows),
        maps=maps_of_row(scorer.model, _batch(rows)),
    )
