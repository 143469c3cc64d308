"""Recommending: milliseconds of one request and of each stage, and users a second of the command for many users.

    python benchmarks/recommend_speed.py [--quick] [--json FILE]

A catalogue of 100,000 items: a retriever (two_tower, 64 wide) proposes 500 through an index, dcn_v2 ranks them, MMR by
the item vectors chooses ten. Weights of one short epoch: they decide nothing here. The floor, in turns in the same run:
the product of the user's vector with all item vectors and its 500 best, and a plain forward of dcn_v2 on 500 rows that
lie ready; `ratio` is the request over the sum of both.
"""

import shutil
import statistics
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import polars as pl
import torch

import weft
from _records import WORK, Record, Records, run
from _timing import seconds_of
from weft.recommend.bundle import bundle
from weft.recommend.index import Exact, IndexConfig
from weft.recommend.pipeline import Mmr, Pipeline, Rank, Source
from weft.recommend.recommender import Recommender

QUOTA, K = 500, 10
RETRIEVER = "two_tower"
SHORT = ("train.epochs=1", "train.batch_size=1024")
GENRES = [f"genre-{i}" for i in range(20)]


def schema() -> weft.Schema:
    """Users, items and context with ids, numbers, sets, a history and a counter."""
    return weft.Schema(
        features=(
            weft.Categorical(name="user", side="user"),
            weft.Categorical(name="country", side="user"),
            weft.Dense(name="age", side="user"),
            weft.Sequence(name="recent", of="item", where="played", max_length=20),
            weft.Categorical(name="item", side="item"),
            weft.Categorical(name="artist", side="item"),
            weft.MultiHot(name="genres", side="item"),
            weft.Dense(name="year", side="item"),
            weft.Categorical(name="hour", side="context"),
            weft.Count(name="user_plays", by=("user",), of="played", stat="sum"),
        ),
        roles=weft.Roles(user="user", item="item", time="time", label=(weft.Label(name="played"),)),
        split=weft.TimeSplit(valid=0.02, test=0.02),
    )


def tables(items: int, users: int, rows: int) -> dict[str, pl.DataFrame]:
    """Random tables in which every item and user has rows."""
    random = np.random.default_rng(0)
    item = np.concatenate([random.permutation(items), random.integers(items, size=rows - items)])
    interactions = pl.DataFrame(
        {
            "user": random.integers(users, size=rows),
            "item": item,
            "hour": random.integers(24, size=rows),
            "time": np.arange(rows),
            "played": random.integers(2, size=rows),
        }
    )
    catalogue = pl.DataFrame(
        {
            "item": np.arange(items),
            "artist": random.integers(items // 10, size=items),
            "genres": [random.choice(GENRES, 1 + i % 3, replace=False).tolist() for i in range(items)],
            "year": random.integers(1960, 2025, size=items),
        }
    )
    people = pl.DataFrame(
        {
            "user": np.arange(users),
            "country": random.integers(50, size=users),
            "age": random.integers(15, 80, size=users),
        }
    )
    return {"interactions": interactions, "items": catalogue, "users": people}


def made(items: int, index: IndexConfig, name: str) -> Path:
    """The bundle of some size, made if it is not there."""
    place = WORK / f"recommend-{items}"
    if not (place / "ranker" / "manifest.json").is_file():
        shutil.rmtree(place, ignore_errors=True)
        given = tables(items, users=max(100, items // 5), rows=3 * items // 2)
        store = weft.prepare(schema(), place / "store", **given)
        weft.train(store, RETRIEVER, out=place / "retriever", sets=SHORT)
        weft.train(store, "dcn_v2", out=place / "ranker", sets=SHORT)
    pipeline = Pipeline(
        sources=(Source(run="retriever", quota=QUOTA, index=index),),
        ranking=(Rank(run="ranker"),),
        final=(Mmr(by="retriever", depth=100),),
    )
    target = place / name
    shutil.rmtree(target, ignore_errors=True)
    return bundle([place / "retriever", place / "ranker"], target, pipeline=pipeline, train_state=False).path


def request(path: Path, rounds: int) -> Record:
    """One request at a time, its stages, and the floor, in turns."""
    recommender = Recommender.load(path)
    recommender.warm()
    names = [recommender.users.name_of(id) for id in range(2, 2 + rounds)]
    scan, forward = exact_scan(recommender), plain_forward(recommender)
    for _ in range(5):
        scan(), forward()
    whole, floors, stages = [], [], {}
    for number, user in enumerate(names):
        context = {"hour": number % 24}
        whole.append(seconds_of(lambda u=user, c=context: recommender.recommend(u, k=K, context=c)))
        floors.append(seconds_of(scan) + seconds_of(forward))
        traced = recommender.recommend(user, k=K, context=context, trace=True).trace
        assert traced is not None
        for stage in traced.stages:
            stages.setdefault(stage.name, []).append(stage.milliseconds)
    middle = 1000 * statistics.median(whole)
    return {
        "items": len(recommender.catalogue.items),
        "quota": QUOTA,
        "k": K,
        "threads": torch.get_num_threads(),
        "milliseconds": middle,
        "p99_milliseconds": 1000 * float(np.quantile(whole, 0.99)),
        "stages_milliseconds": {name: statistics.median(values) for name, values in stages.items()},
        "floor_milliseconds": 1000 * statistics.median(floors),
        "ratio": statistics.median(a / b for a, b in zip(whole, floors, strict=True)),
    }


def exact_scan(recommender: Recommender) -> Callable[[], object]:
    """The product of a user's vector with all item vectors, and its 500 best."""
    vectors = torch.from_numpy(recommender.bundle.members["retriever"].scorer.item_vectors().copy())
    query = vectors[2].clone()
    return lambda: (vectors @ query).topk(QUOTA)


def plain_forward(recommender: Recommender) -> Callable[[], object]:
    """A forward of the ranker on 500 rows that lie ready."""
    model = recommender.bundle.members["ranker"].model
    name = recommender.users.name_of(2)
    batch = recommender.features(
        recommender.user_rows(name), [recommender.items.name_of(id) for id in range(2, 2 + QUOTA)]
    ).batch()
    return torch.inference_mode()(lambda: model(batch))


def many(path: Path, users: int) -> Record:
    """Users a second of `recommend_many`."""
    recommender = Recommender.load(path)
    recommender.warm()
    known = [recommender.users.name_of(id) for id in range(2, min(len(recommender.users), 2 + users))]
    asked = islice(cycle(known), users)
    seconds = seconds_of(lambda: sum(1 for _ in recommender.recommend_many(asked, k=K)))
    return {"users": users, "k": K, "users_per_second": users / seconds}


def measure(records: Records, quick: bool) -> None:
    """All cases that have no record yet."""
    items, rounds, users = (2_000, 5, 64) if quick else (100_000, 200, 2_000)
    for name, index in (("exact", Exact()),) if quick else (("exact", Exact()), ("auto", weft_auto())):
        path = made(items, index, name)
        records.measured(f"request-{name}", lambda p=path: request(p, rounds))
        records.measured(f"many-{name}", lambda p=path: many(p, users))


def weft_auto() -> IndexConfig:
    """What a bundle of this size takes by itself."""
    return Source(run="retriever").index


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    lines = ["| index | request, ms | floor, ms | ratio | p99, ms | stages, ms |", "| --- " * 6 + "|"]
    for key, r in found.items():
        if key.startswith("request-"):
            stages = ", ".join(f"{name} {value:.2f}" for name, value in r["stages_milliseconds"].items())
            cells = f"{r['milliseconds']:.2f} | {r['floor_milliseconds']:.2f} | {r['ratio']:.2f}"
            lines.append(f"| {key[8:]} | {cells} | {r['p99_milliseconds']:.2f} | {stages} |")
    lines += [
        f"\n{r['users_per_second']:,.0f} users a second, many at once ({key[5:]} index)."
        for key, r in found.items()
        if key.startswith("many-")
    ]
    return lines


if __name__ == "__main__":
    run(measure, __doc__)
