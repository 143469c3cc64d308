"""Ranking many candidates for one user: the user's side once, against the full rows of every pair.

    python benchmarks/rank_one_user.py [--quick] [--json FILE]

20,000 items; 24 fields of width 16 (3 numbers, 8 ids, a set and a history of the user and context, 3 numbers, 7 ids and
2 sets of the item), so 400 wide with the vector of the history's mean; the models' default layers, and the same with
two crosses of user and item in the schema for some. `plain` joins the rows of user and items and scores them, `parts`
is `Scorer.one`; both give the same scores, which is checked, and take turns. The floor is the matrix products that are
left for each pair, each made by itself, as a fraction of `parts`. One thread; times are of the processor, to which
other work on the machine adds little.
"""

import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch

import weft
from _floor import Floor
from _records import Record, Records, run
from weft.data.store import Store
from weft.models import create
from weft.scoring import Scorer

MODELS = ("lr", "fm", "wide_deep", "deepfm", "mlp", "dcn", "dcn_v2", "dcn_mix", "gdcn_s", "gdcn_p", "dlrm", "split")
WITH_CROSSES = ("lr", "wide_deep", "dcn_v2")
COUNTS, QUICK_COUNTS = (100, 1_000, 10_000), (50, 200)
USER_IDS, CONTEXT_IDS, ITEM_IDS, NUMBERS = 6, 2, 7, 3


def schema(crosses: bool) -> weft.Schema:
    """Users, context and items; with crosses also AND(country, artist) and AND(hour, genre of the item)."""
    sides = (("user", USER_IDS), ("context", CONTEXT_IDS), ("item", ITEM_IDS))
    ids = [weft.Categorical(name=f"{side}_{i}", side=side) for side, count in sides for i in range(count)]
    numbers = [weft.Dense(name=f"{side}_x{i}", side=side) for side in ("user", "item") for i in range(NUMBERS)]
    sets = [weft.MultiHot(name=name, side=name.split("_")[0]) for name in ("user_set", "item_set", "item_tags")]
    history = [weft.Sequence(name="recent", of="item_0", where="liked", max_length=20)]
    both = [weft.Cross(name="a", of=("user_1", "item_1")), weft.Cross(name="b", of=("context_0", "item_2"))]
    return weft.Schema(
        features=(*ids, *numbers, *sets, *history, *(both if crosses else ())),
        roles=weft.Roles(user="user_0", item="item_0", time="time", label=(weft.Label(name="liked"),)),
        split=weft.TimeSplit(valid=0.02, test=0.02),
    )


def tables(items: int, users: int, rows: int) -> dict[str, pl.DataFrame]:
    """Random tables in which every item has rows."""
    random = np.random.default_rng(0)
    item = np.concatenate([random.permutation(items), random.integers(items, size=rows - items)])
    context = {f"context_{i}": random.integers(24, size=rows) for i in range(CONTEXT_IDS)}
    user_0 = random.integers(users, size=rows)
    facts = {"user_0": user_0, "item_0": item, "time": np.arange(rows), "liked": random.integers(2, size=rows)}
    return {
        "interactions": pl.DataFrame({**facts, **context}),
        "users": _side("user", users, USER_IDS, ("user_set",), random),
        "items": _side("item", items, ITEM_IDS, ("item_set", "item_tags"), random),
    }


def _side(side: str, rows: int, ids: int, sets: tuple[str, ...], random: np.random.Generator) -> pl.DataFrame:
    columns: dict[str, object] = {f"{side}_0": np.arange(rows)}
    columns |= {f"{side}_{i}": random.integers(10 * 2**i, size=rows) for i in range(1, ids)}
    columns |= {f"{side}_x{i}": random.normal(size=rows) for i in range(NUMBERS)}
    columns |= {name: random.integers(50, size=(rows, 3)).tolist() for name in sets}
    return pl.DataFrame(columns)


def ways(name: str, store: Store, count: int) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray], Floor]:
    """Scoring as many candidates for a user plainly, by parts, and the products that are left."""
    torch.set_num_threads(1)
    scorer = Scorer(create(name, store.transforms.fields, seed=0).eval(), store.transforms, store.items)
    user = store.users.take(slice(2, 3))
    items = np.random.default_rng(1).permutation(np.arange(2, len(store.items)))[:count]

    def plain() -> np.ndarray:
        return scorer.rows(store.transforms.join(user, store.items.take(items)))

    def parts() -> np.ndarray:
        return scorer.one(user, items)

    parts()
    return plain, parts, Floor(parts)


def processor_seconds(call: Callable[[], object]) -> float:
    """Processor time of one call in one thread."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def compare(name: str, store: Store, count: int, rounds: int) -> Record:
    """Both ways in turns."""
    plain, parts, floor = ways(name, store, count)
    off = float(np.abs(plain() - parts()).max())
    assert off < 1e-4, f"{name} by parts is off by {off}"
    calls = (plain, parts, floor.once)
    times = [tuple(processor_seconds(call) for call in calls) for _ in range(rounds)]
    slow, fast, least = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "model": name,
        "candidates": count,
        "plain_ms": 1e3 * slow,
        "parts_ms": 1e3 * fast,
        "ratio": statistics.median(a / b for a, b, _ in times),
        "floor_ms": 1e3 * least,
        "floor_fraction": statistics.median(c / b for _, b, c in times),
        "flops_a_pair": floor.flops / count,
        "largest_difference": off,
    }


def measure(records: Records, quick: bool) -> None:
    """All cases that have no record yet."""
    items, rows, rounds = (500, 2_000, 3) if quick else (20_000, 60_000, 9)
    with TemporaryDirectory() as folder:

        @cache
        def store(crosses: bool) -> Store:
            place = Path(folder) / f"crosses-{crosses}"
            return weft.prepare(schema(crosses), place, **tables(items, items // 5, rows))

        for crosses, models in ((False, MODELS), (True, WITH_CROSSES)):
            for name in models:
                for count in QUICK_COUNTS if quick else COUNTS:
                    key = f"{name}{' with crosses' if crosses else ''}-{count}"
                    records.measured(key, lambda n=name, x=crosses, c=count: compare(n, store(x), c, rounds))


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    counts = sorted({r["candidates"] for r in found.values()})
    lines = [
        "Plain over parts, milliseconds by parts, and the fraction of these that is matrix products of the pairs:",
        "",
        "| model | " + " | ".join(f"N = {count:,}" for count in counts) + " |",
        "| --- " * (1 + len(counts)) + "|",
    ]
    for name in dict.fromkeys(key.rsplit("-", 1)[0] for key in found):
        cells = (found.get(f"{name}-{count}") for count in counts)
        shown = [f"{r['ratio']:.1f}x, {r['parts_ms']:.2f} ms, {r['floor_fraction']:.2f}" if r else "" for r in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    run(measure, __doc__)
