"""Judge a bundle: its lists by the protocol, and each stage by what it loses and how long it takes."""

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft import metrics
from weft.batch import FIRST_ID, PADDING
from weft.data.store import Store
from weft.errors import StaleModel
from weft.evaluate.funnel import Latency, Way, funnel, joined, way
from weft.evaluate.ranking import by_novelty, coverage, left_out, mean_of_users, progress
from weft.evaluate.report import Report
from weft.ranking import Held, Ranked, found, list_values, something_held_out
from weft.recommend.recommender import Recommender
from weft.recommend.values import feature_names, values_of
from weft.schema import UNITS_PER_SECOND, Categorical, MultiHot, Protocol
from weft.transforms.rows import Rows

USERS_AT_ONCE = 64
REQUESTS = 50

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


def judge_bundle(
    recommender: Recommender, data: Store, protocol: Protocol, words: str, *, split: str, seed: int
) -> Report:
    """Judge what a bundle answers the users of a split who have something relevant there.

    Args:
        recommender: The bundle.
        data: The store of its runs.
        protocol: A full ranking: what is relevant, what is hidden, and the lengths of the lists.
        words: The protocol in words.
        split: train, valid or test; a user's earlier splits are what the user has had.
        seed: Of the bootstrap intervals, of exploration, and of the users that are asked for the time.

    Raises:
        ConfigError: The split has nothing to find.
        StaleModel: The store is not that of the runs.
    """
    start = time.perf_counter()
    store_id = recommender.bundle.manifest["store"]["id"]
    if data.id != store_id:
        raise StaleModel(
            f"the bundle {str(recommender.bundle.path)!r} was made of runs on another store than {str(data.path)!r} "
            "(the ids differ); give the right one (`store`, `--store`)"
        )
    rows = data.split(split)
    held = something_held_out(rows, protocol, split)
    ranked, where, stages = _walked(recommender, rows, held, protocol, split, seed)
    times, whole, degraded = _timed(recommender, held.user, max(protocol.k), seed)
    stage_table = funnel([s.name for s in stages], [s.kind for s in stages], where, max(protocol.k), times, whole)
    counts = recommender.catalogue.counts
    values = list_values(ranked, counts, protocol) | by_novelty(ranked, counts, protocol)
    values |= _diversity(recommender, ranked.lists, protocol)
    members = recommender.bundle.members.values()
    return Report(
        model=recommender.pipeline.name or "pipeline",
        data=recommender.bundle.manifest["data"],
        split=split,
        rows=len(rows),
        protocol=words,
        metrics=mean_of_users(values, seed=seed) | coverage(ranked, len(counts), protocol),
        parameters=sum(parameter.numel() for member in members for parameter in member.model.parameters()),
        seconds=time.perf_counter() - start,
        notes=left_out(rows, protocol) + _skips(stages) + degraded,
        funnel=stage_table,
    )


class _Stage(NamedTuple):
    name: str
    kind: str
    skipped: str | None


def _walked(
    recommender: Recommender, rows: Rows, held: Held, protocol: Protocol, split: str, seed: int
) -> tuple[Ranked, Way, list[_Stage]]:
    ranked: list[Ranked] = []
    ways: list[Way] = []
    stages: list[_Stage] = []
    for start in progress(range(0, len(held.user), USERS_AT_ONCE)):
        users = rows.take(held.first[start : start + USERS_AT_ONCE])
        judged = recommender.walk(users, max(protocol.k), before=split, seed=seed + start)
        user, item = held.pairs(start, start + len(users))
        hidden = _hidden(recommender, users, user, item, protocol, split)
        user, item = user[~hidden], item[~hidden]
        lists = np.where(judged.ids == PADDING, -1, judged.ids)
        ranked.append(found(lists, user, item, recommender.catalogue.counts))
        ways.append(way([stage.ids for stage in judged.stages], user, item, judged.hidden, judged.available))
        now = [_Stage(stage.name, stage.kind, stage.skipped) for stage in judged.stages]
        stages = [before if before.skipped else after for before, after in zip(stages or now, now, strict=True)]
    together = Ranked(*(np.concatenate(parts) for parts in zip(*ranked, strict=True)))
    return together, joined(ways), stages


def _hidden(
    recommender: Recommender, users: Rows, user: Ints, item: Ints, protocol: Protocol, split: str
) -> NDArray[np.bool_]:
    """Which pairs of a user's place and a relevant item the protocol hides, as everywhere in full rankings."""
    assert users.user is not None
    unit = UNITS_PER_SECOND[recommender.schema.roles.time_unit]
    seen, items = recommender.catalogue.seen, len(recommender.catalogue.counts)
    place, had = seen.hidden_from(users.user, protocol, before=split, times=users.time, unit=unit)
    return np.isin(user * items + item, place * items + had) & (item >= FIRST_ID)


def _diversity(recommender: Recommender, lists: Ints, protocol: Protocol) -> dict[str, Floats]:
    """How varied each list is [U]: by every item feature of values, and by the first run with item vectors."""
    schema, transforms = recommender.schema, recommender.transforms
    known = feature_names(schema, transforms)
    features = [
        feature.name
        for feature in schema.features
        if isinstance(feature, Categorical | MultiHot) and feature.name in known and feature.name != schema.roles.item
    ]
    found: dict[str, Floats] = {}
    for name in features:
        sets = values_of(recommender.catalogue.items, transforms, name)
        for k in protocol.k:
            found[f"diversity.{name}@{k}"] = metrics.set_diversity(lists[:, :k], sets.offsets, sets.values)
    retrievers = (member for member in recommender.bundle.members.values() if member.is_retriever)
    for member in list(retrievers)[:1]:
        for k in protocol.k:
            found[f"diversity.{member.name}@{k}"] = metrics.diversity(lists[:, :k], member.unit_vectors)
    return found


def _timed(
    recommender: Recommender, users: Ints, k: int, seed: int
) -> tuple[dict[str, Latency], Latency, tuple[str, ...]]:
    """The time of each stage and of whole requests, of some users one after the other, and what ran late."""
    recommender.warm()
    asked = np.random.default_rng(seed).permutation(users)[:REQUESTS]
    answers = [recommender.recommend(recommender.users.name_of(int(user)), k=k, trace=True) for user in asked]
    traces = [answer.trace for answer in answers if answer.trace is not None]
    milliseconds: dict[str, list[float]] = {}
    for trace in traces:
        for stage in trace.stages:
            milliseconds.setdefault(stage.name, []).append(stage.milliseconds)
    late = sum(1 for answer in answers if answer.degraded)
    notes = (f"{late} of {len(answers)} timed requests were degraded",) if late else ()
    whole = _latency([trace.milliseconds for trace in traces])
    return {name: _latency(values) for name, values in milliseconds.items()}, whole, notes


def _latency(milliseconds: list[float]) -> Latency:
    return Latency(median=float(np.median(milliseconds)), p95=float(np.quantile(milliseconds, 0.95)))


def _skips(stages: list[_Stage]) -> tuple[str, ...]:
    return tuple(f"the stage {stage.name} was skipped: {stage.skipped}" for stage in stages if stage.skipped)
