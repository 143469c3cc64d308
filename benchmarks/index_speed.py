"""Finding the nearest items: the cost law of two towers, and an approximate index beside the exact one.

    WEFT_DATA=folder python benchmarks/index_speed.py [--quick] [--json FILE]

A two_tower, 64 wide by cosine, is trained on MovieLens-1M (with --quick on the simulated music service). Its catalogue
is small, so the vectors measured are drawn: normal, with the mean and the covariance of the trained item vectors (those
of users: of trained user vectors), and brought to the trained length. They have the trained spectrum but no clusters,
which makes them harder to index than trained ones.

The law: for N items, the user tower for one row, the lookup of N vectors by random id and their dot products, and the
search of a whole catalogue of N for the best 100, exact and IVF-PQ with its own settings. Below 6,400 items the second
scores every item too. Top 500: a million items, IVF-PQ with the fewest visited cells that find .95 of the best 500.
`ratio` is the time of the exact index over that of the approximate one, `plain` that of one torch product and `topk`,
in turns in the same run; recall is of users that no build has seen. Where other work takes the processor from time to
time, the ratios by processor time are the fair ones: the longer call is interrupted more often.
"""

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import weft
from _records import WORK, Record, Records, run
from _stores import MISSING, store
from _timing import peak_memory_mib, seconds_of
from weft.data import catalog
from weft.data.store import Store
from weft.recommend.index import IVFPQ, Exact, Found, Index, build, recall
from weft.runs import SavedRun
from weft.scoring import Scorer
from weft.study.lines import Line, plot

Vectors = NDArray[np.float32]

WIDTH, LISTED, TOP, TOGETHER, FLOOR = 64, 100, 500, 64, 0.95
SETS = (f"width={WIDTH}", "similarity=cosine", "train.epochs=5", "train.monitor=ndcg@10", "train.batch_size=2048")


class Tower(NamedTuple):
    """A trained tower, and vectors like its own.

    Attributes:
        one_user: Computes the vector of one user from the user's row.
        item: Vectors of the trained catalogue.
        user: Vectors of trained users.
    """

    one_user: Callable[[], object]
    item: Vectors
    user: Vectors


def music() -> Store:
    """A small store that needs no data."""
    place = WORK / "index-music"
    if not (place / "store" / "manifest.json").is_file():
        shutil.rmtree(place, ignore_errors=True)
        catalog.get("music", place / "tables", options={"rows": 20_000, "tracks": 500, "users": 200})
        weft.prepare(place / "tables" / "schema.toml", place / "store")
    return Store.open(place / "store")


def tower(data: Store, place: Path) -> Tower:
    """The trained tower of a store, made if it is not there."""
    if not (place / "manifest.json").is_file():
        shutil.rmtree(place, ignore_errors=True)
        weft.train(data, "two_tower", out=place, sets=SETS)
    saved = SavedRun.open(place)
    scorer = Scorer(saved.load_model(), saved.transforms, data.items)
    rows = saved.transforms.user_side(data.catalogue.users)
    one = rows.take(slice(2, 3))
    return Tower(lambda: scorer.user_vectors(one), scorer.item_vectors()[2:], scorer.user_vectors(rows)[2:])


def drawn(like: Vectors, count: int, seed: int) -> Vectors:
    """Vectors with the mean, the covariance and the length of others."""
    draw = np.random.default_rng(seed)
    value, basis = np.linalg.eigh(np.cov(like.T))
    root = (basis * np.sqrt(value.clip(min=0))).T.astype(np.float32)
    vectors = draw.standard_normal((count, like.shape[1]), dtype=np.float32) @ root + like.mean(0)
    length = np.linalg.norm(like, axis=1).mean()
    found: Vectors = vectors * (length / np.linalg.norm(vectors, axis=1, keepdims=True))
    return found.astype(np.float32)


def spectrum(made: Tower) -> Record:
    """How many directions the trained vectors use: (sum of eigenvalues)^2 / sum of their squares, around zero."""
    found = {}
    for name, vectors in (("items", made.item), ("users", made.user)):
        value = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))[::-1]
        found[name] = {
            "vectors": len(vectors),
            "directions": float(value.sum() ** 2 / np.square(value).sum()),
            "share_of_largest": (value[:16] / value.sum()).tolist(),
        }
    return found


def in_turns(calls: dict[str, Callable[[int], object]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds of each call by the clock and by the processor, all called once a round."""
    for call in calls.values():
        call(0)
    clock: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            before = time.process_time()
            clock[name].append(seconds_of(lambda c=call, n=number: c(n)))
            processor[name].append(time.process_time() - before)
    return tuple({name: 1000 * statistics.median(v) for name, v in times.items()} for times in (clock, processor))


def law(made: Tower, items: int, rounds: int) -> Record:
    """One point of the cost law."""
    vectors, users = drawn(made.item, items, 0), drawn(made.user, 2_000, 1)
    ids = np.arange(2, items + 2)
    exact = build(ids, vectors, Exact())
    near = build(ids, vectors, IVFPQ(), queries=users[:1_000])
    table = torch.from_numpy(vectors)
    order = torch.from_numpy(np.random.default_rng(2).permutation(items))
    looked_up = torch.empty_like(table)
    asked = users[1_000:]
    clock, processor = in_turns(
        {
            "user": lambda n: made.one_user(),
            "lookup": lambda n: torch.index_select(table, 0, order, out=looked_up),
            "dots": lambda n: looked_up @ torch.from_numpy(asked[n]),
            "exact": lambda n: exact.search(asked[n : n + 1], LISTED),
            "ivfpq": lambda n: near.search(asked[n : n + 1], LISTED),
        },
        rounds,
    )
    sample = asked[:256]
    return {
        "items": items,
        "threads": torch.get_num_threads(),
        "milliseconds": clock,
        "processor_milliseconds": processor,
        "ratio": clock["exact"] / clock["ivfpq"],
        "processor_ratio": processor["exact"] / processor["ivfpq"],
        "recall": recall(exact.search(sample, LISTED), near.search(sample, LISTED)),
        "nprobe": near.facts.config.nprobe,
    }


def reaching(ids: NDArray[np.int64], vectors: Vectors, asked: Vectors, best: Found) -> tuple[Index, Record]:
    """The IVF-PQ with the fewest visited cells that finds enough of the best 500, and what it took."""
    for part in (32, 16, 8, 4, 2):
        config = IVFPQ(nprobe=max(1, round(len(ids) ** 0.5) // part), floor=0.0)
        start = time.perf_counter()
        near = build(ids, vectors, config)
        seconds = time.perf_counter() - start
        found = recall(best, near.search(asked, TOP))
        if found >= FLOOR:
            break
    return near, {"recall": found, "nprobe": config.nprobe, "rescore": config.rescore, "build_seconds": seconds}


def top(made: Tower, items: int, rounds: int) -> Record:
    """The best 500 of a large catalogue, one user at a time and many together."""
    vectors, users = drawn(made.item, items, 0), drawn(made.user, 2_000, 1)
    ids, asked = np.arange(2, items + 2), users[1_000:]
    exact, table = build(ids, vectors, Exact()), torch.from_numpy(vectors)
    near, reached = reaching(ids, vectors, asked[:256], exact.search(asked[:256], TOP))
    record: Record = {"items": items, "threads": torch.get_num_threads(), "at_once": TOGETHER, **reached}
    for name, count, times in (("one", 1, rounds), ("together", TOGETHER, max(2, rounds // 8))):
        some = [asked[n : n + count] for n in range(times)]
        clock, processor = in_turns(
            {
                "exact": lambda n, q=some: exact.search(q[n], TOP),
                "plain": lambda n, q=some: (torch.from_numpy(q[n]) @ table.T).topk(TOP, dim=1),
                "ivfpq": lambda n, q=some: near.search(q[n], TOP),
            },
            times,
        )
        record[name] = {
            "milliseconds": {key: value / count for key, value in clock.items()},
            "processor_milliseconds": {key: value / count for key, value in processor.items()},
            "ratio": clock["exact"] / clock["ivfpq"],
            "processor_ratio": processor["exact"] / processor["ivfpq"],
            "plain_ratio": clock["plain"] / clock["ivfpq"],
            "processor_plain_ratio": processor["plain"] / processor["ivfpq"],
        }
    return {**record, "peak_mib": peak_memory_mib()}


def measure(records: Records, quick: bool) -> None:
    """All cases that have no record yet."""
    data = music() if quick else store("movielens-1m", "ml-1m", "ctr")
    if data is None:
        records.measured("spectrum", lambda: {"skipped": MISSING})
        return
    made = tower(data, WORK / f"index-tower-{data.path.parent.name}")
    records.measured("spectrum", lambda: spectrum(made))
    for items in (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        records.measured(f"law-{items}", lambda n=items: law(made, n, 5 if quick else 60))
    items = 40_000 if quick else 1_000_000
    records.measured(f"top-{items}", lambda: top(made, items, 8 if quick else 60))


def fitted(points: list[Record]) -> tuple[float, float]:
    """Nanoseconds an item of lookup and of dots, by least squares through the largest sizes."""
    items = np.array([point["items"] for point in points], float)
    times = [np.array([point["milliseconds"][name] for point in points]) for name in ("lookup", "dots")]
    lookup, dots = (1e6 * float(items @ time / (items @ items)) for time in times)
    return lookup, dots


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    points = [record for key, record in found.items() if key.startswith("law-")]
    if not points:
        return [f"Not measured: {record['skipped']}." for record in found.values() if "skipped" in record]
    lookup, dots = fitted(points)
    lines = [
        "| items | user tower, ms | lookup of all, ms | dots of all, ms | exact, ms | ivfpq, ms | exact / ivfpq | "
        f"by processor time | recall at {LISTED} | nprobe |",
        "| --- " * 10 + "|",
    ]
    for point in points:
        times = " | ".join(
            f"{point['milliseconds'][name]:.3g}" for name in ("user", "lookup", "dots", "exact", "ivfpq")
        )
        ratios = f"{point['ratio']:.2f} | {point['processor_ratio']:.2f}"
        lines.append(f"| {point['items']:,} | {times} | {ratios} | {point['recall']:.3f} | {point['nprobe']} |")
    user = statistics.median(point["milliseconds"]["user"] for point in points)
    lines += [
        "",
        f"The law of N given candidates: {user:.2f} ms for the user, and for each candidate {lookup:.1f} ns of lookup "
        f"and {dots:.1f} ns of its dot product (least squares, so by the largest N).",
        "",
        "![law](benchmarks/index-law.svg)",
        "",
        f"The best {TOP}, milliseconds a user; in brackets by processor time:",
        "",
        "| items | users at once | exact | plain torch | ivfpq | exact / ivfpq | plain / ivfpq | recall | nprobe |",
        "| --- " * 9 + "|",
    ]
    for record in (record for key, record in found.items() if key.startswith("top-")):
        for part, count in ((record["one"], 1), (record["together"], record["at_once"])):
            times = " | ".join(f"{part['milliseconds'][kind]:.3g}" for kind in ("exact", "plain", "ivfpq"))
            ratios = " | ".join(
                f"{part[kind]:.1f} ({part[f'processor_{kind}']:.1f})" for kind in ("ratio", "plain_ratio")
            )
            lines.append(
                f"| {record['items']:,} | {count} | {times} | {ratios} | {record['recall']:.3f} | {record['nprobe']} |"
            )
    return lines


def plots(found: dict[str, Record]) -> dict[str, str]:
    """The law over the number of items, by file name."""
    points = [record for key, record in found.items() if key.startswith("law-")]
    if not points:
        return {}
    items = [point["items"] for point in points]
    names = {"user": "user tower", "lookup": "lookup", "dots": "dots", "exact": "exact search", "ivfpq": "ivfpq search"}
    lines = [Line(name, items, [point["milliseconds"][key] for point in points]) for key, name in names.items()]
    return {"index-law.svg": plot("Two towers: cost over the catalogue", "items", "milliseconds", lines)}


if __name__ == "__main__":
    run(measure, __doc__)
