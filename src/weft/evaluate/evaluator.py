"""Judge a run on a split under a protocol."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft import artifacts
from weft.data.store import Store
from weft.errors import ConfigError, near
from weft.evaluate.pipeline import judge_bundle
from weft.evaluate.pointwise import pointwise
from weft.evaluate.ranking import by_novelty, candidate_values, coverage, left_out, mean_of_users, progress, strangers
from weft.evaluate.report import Report, Value
from weft.ranking import full_ranking, list_values
from weft.recommend.bundle import KIND as BUNDLE
from weft.recommend.recommender import Recommender
from weft.runs import SavedRun
from weft.schema import Protocol, Schema
from weft.scoring import Scorer

KINDS = ("pointwise", "full", "candidates")
SCORE = "score"

Floats = NDArray[np.floating[Any]]


def evaluate(
    run: SavedRun | str | Path,
    *,
    split: str = "test",
    protocol: str | None = None,
    store: str | Path | None = None,
    seed: int = 0,
) -> Report:
    """Judge a run, or a bundle with each of its stages.

    Args:
        run: A run or its folder, or the folder of a bundle.
        split: train, valid or test.
        protocol: pointwise, full or candidates; the schema's own protocol without it. A bundle makes lists of the
            whole catalogue, so that `full` is the only one of it, and what it has without this.
        store: The store, if it is not where the run was trained.
        seed: Of the bootstrap intervals, and of a bundle's exploration.

    Raises:
        ConfigError: An unknown split or protocol, or one that the schema cannot serve.
        StaleModel: The store is not the one that the run was trained on.
    """
    if not isinstance(run, SavedRun) and artifacts.kind_of(Path(run)) == BUNDLE:
        return _bundle(Path(run), split=split, protocol=protocol, store=store, seed=seed)
    return judge(run, split=split, protocol=protocol, store=store, seed=seed).report


def _bundle(path: Path, *, split: str, protocol: str | None, store: str | Path | None, seed: int) -> Report:
    if protocol not in (None, "full"):
        raise ConfigError(f"a bundle makes lists of the whole catalogue, got protocol {protocol!r}; give full or none")
    recommender = Recommender.load(path)
    data = Store.open(store if store is not None else recommender.bundle.manifest["store"]["path"])
    chosen = resolve(recommender.schema, "full")
    words = in_words(recommender.schema, chosen, ties="as the pipeline orders them")
    return judge_bundle(recommender, data, chosen, words, split=split, seed=seed)


class Judged(NamedTuple):
    """A report and what it was computed from.

    Attributes:
        report: Every metric with its interval.
        values: What differs between models: `score`, the logits of the rows under the pointwise protocol, else each
            metric's value for each user.
    """

    report: Report
    values: dict[str, Floats]


def judge(
    run: SavedRun | str | Path,
    *,
    split: str = "test",
    protocol: str | None = None,
    store: str | Path | None = None,
    seed: int = 0,
) -> Judged:
    """As `evaluate`, with the values of the rows or users, so that models can be compared on the same ones."""
    start = time.perf_counter()
    run = run if isinstance(run, SavedRun) else SavedRun.open(run)
    data = open_store(run, store)
    chosen = resolve(run.schema, protocol)
    rows = data.split(split)
    if not len(rows):
        raise ConfigError(f"the split {split!r} of {data.path} has no rows; evaluate another split")
    model = run.load_model()
    scorer = Scorer(model, run.transforms, data.items, intercept=run.intercept)
    metrics: dict[str, Value]
    notes: tuple[str, ...] = ()
    match chosen.kind:
        case "pointwise":
            values = {SCORE: scorer.rows(rows)}
            metrics = pointwise(rows, values[SCORE], run.schema, seed=seed)
        case "full":
            ranked = full_ranking(
                rows, scorer, data.catalogue, run.schema, chosen, split=split, seed=seed, progress=progress
            )
            counts = data.catalogue.counts
            values = list_values(ranked, counts, chosen) | by_novelty(ranked, counts, chosen)
            metrics = mean_of_users(values, seed=seed) | coverage(ranked, len(counts), chosen)
            notes = left_out(rows, chosen) + strangers(ranked, model)
        case "candidates":
            values = candidate_values(rows, scorer, *data.candidates(), chosen)
            metrics = mean_of_users(values, seed=seed)
    report = Report(
        model=run.config.model,
        data=run.config.data,
        split=split,
        rows=len(rows),
        protocol=in_words(run.schema, chosen),
        metrics=metrics,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - start,
        notes=notes,
    )
    return Judged(report, values)


def open_store(run: SavedRun, store: str | Path | None) -> Store:
    """The store that a run was trained on; StaleModel when it is another one."""
    data = Store.open(store if store is not None else run.config.store)
    run.check_store(data.id, data.path)
    return data


def resolve(schema: Schema, kind: str | None) -> Protocol:
    """The schema's protocol, or the same with another kind."""
    kind = schema.protocol.kind if kind is None else kind
    if kind not in KINDS:
        raise ConfigError(f"no protocol is named {kind!r}; {near(kind, KINDS)}")
    if kind == "candidates" and schema.protocol.candidates is None:
        raise ConfigError(
            "the schema gives no candidate lists; set `candidates` in [protocol] or choose another protocol"
        )
    if kind != "pointwise" and (schema.roles.user is None or schema.roles.item is None):
        raise ConfigError(f"protocol {kind!r} needs `user` and `item` in [roles] of the schema")
    if kind != "pointwise" and any(label.task == "multiclass" for label in schema.roles.label[:1]):
        raise ConfigError(f"protocol {kind!r} orders items by one score, and a multiclass label has several")
    same = kind == schema.protocol.kind
    return schema.protocol if same else msgspec.structs.replace(schema.protocol, kind=kind, name=None)


def in_words(schema: Schema, protocol: Protocol, *, ties: str = "in random order") -> str:
    """A protocol in words, to stand beside its numbers."""
    split = schema.split.__class__.__name__.removesuffix("Split").lower()
    words = {"pointwise": "rows as they are", "full": "whole catalogue", "candidates": "given candidates"}
    parts = [protocol.name or "", f"{protocol.kind}: {words[protocol.kind]}", f"{split} split"]
    if protocol.kind == "pointwise":
        parts.append(_groups(schema))
    if protocol.kind == "full":
        parts.append(f"relevant from {protocol.relevant:g}{_of_label(schema)}, seen items {_seen(protocol)}")
    if protocol.kind != "pointwise":
        parts.append(f"equal scores {ties}")
    if schema.roles.position is not None:
        parts.append("position not given")
    return ", ".join(part for part in parts if part)


def _groups(schema: Schema) -> str:
    if all(label.task != "binary" for label in schema.roles.label):
        return ""
    if schema.roles.group is not None:
        return f"NDCG and GAUC within {schema.roles.group}"
    return f"GAUC within {schema.roles.user}" if schema.roles.user is not None else ""


def _of_label(schema: Schema) -> str:
    """Which of several labels says what is relevant, and which score orders the lists."""
    labels = schema.roles.label
    return f" of {labels[0].name}" if len(labels) > 1 else ""


def _seen(protocol: Protocol) -> str:
    seen = {"hide": "hidden", "allow": "allowed", "window": f"hidden for {protocol.window or 0:g} s"}[protocol.seen]
    return seen + (" (relevant ones)" if protocol.seen_from == "relevant" and protocol.seen != "allow" else "")
