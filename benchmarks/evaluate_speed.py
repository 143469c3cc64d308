"""Evaluation: the exact AUC of many scores, and ranking the whole catalogue for all users of MovieLens-1M.

    WEFT_DATA=folder python benchmarks/evaluate_speed.py [--quick] [--json FILE]

AUC: `weft.metrics.auc` and `StreamingAuc` (bounded memory) beside scikit-learn, and beside only sorting the scores, on
the same 50 M scores with ties; each in a process of its own for its peak memory, in turns.

Ranking: the test movies of all 6,040 users among all movies with the train movies hidden, recall@20 and NDCG@20, for
vectors of width 64 drawn at random, the same for all: `weft.evaluate.ranking.full_ranking`, a plain loop (one user at a
time: score all movies with the model, hide, sort, count) and RecBole's own evaluation of the same vectors on the same
split, with its default of about one user a batch and with 64 users a batch. All three must find the same metrics.

Ranker: the same for dcn_v2, which must score each pair of user and movie, for some users.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from _contest import CannotRun, Trainer, environment
from _records import WORK, Record, Records, run
from _stores import MISSING, store
from _timing import peak_memory_mib, seconds_in_turns, seconds_of
from weft import metrics
from weft.batch import FIRST_ID
from weft.data.store import Store
from weft.metrics.pointwise import StreamingAuc
from weft.models import create
from weft.ranking import Held, full_ranking, held_out, list_values
from weft.schema import Protocol
from weft.scoring import Scorer
from weft.transforms.rows import Rows

WIDTH, K = 64, 20
PROTOCOL = Protocol(kind="full", k=(K,), relevant=0.5)
Floats = NDArray[np.floating[Any]]


# AUC


def labels_and_scores(rows: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Scores that tell something, rounded so that some tie."""
    generator = np.random.default_rng(0)
    label = (generator.random(rows, np.float32) < 0.25).astype(np.int8)
    score = generator.standard_normal(rows, np.float32) + label
    return label, np.round(score, 5)


def auc_by(name: str, rows: int) -> dict[str, float]:
    """One way to the AUC, in this process."""
    label, score = labels_and_scores(rows)
    before, value = peak_memory_mib(), float("nan")

    def call() -> None:
        nonlocal value
        value = {"weft": metrics.auc, "streaming": _streaming, "scikit-learn": _sklearn, "sort": _sort}[name](
            label, score
        )

    seconds = seconds_of(call)
    return {"seconds": seconds, "value": value, "more_mib": peak_memory_mib() - before}


def _streaming(label: Any, score: Any) -> float:
    with StreamingAuc() as streaming:
        for start in range(0, len(label), 1 << 18):
            streaming.update(label[start : start + (1 << 18)], score[start : start + (1 << 18)])
        return streaming.value()


def _sklearn(label: Any, score: Any) -> float:
    return float(roc_auc_score(label, score))


def _sort(label: Any, score: Any) -> float:
    np.sort(score)
    return float("nan")


def auc(rows: int, rounds: int) -> Record:
    """All ways in turn."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ("weft", "streaming", "scikit-learn", "sort")}
    for _ in range(rounds):
        for name, of_name in runs.items():
            command = [sys.executable, __file__, "--auc", name, str(rows)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(threads()))
            of_name.append(json.loads(done.stdout))
    seconds = {name: [one["seconds"] for one in many] for name, many in runs.items()}
    return {
        "rows": rows,
        "threads": threads(),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "more_mib": {name: max(one["more_mib"] for one in many) for name, many in runs.items()},
        "value": {name: many[0]["value"] for name, many in runs.items() if name != "sort"},
        "ratio": {
            name: statistics.median(a / b for a, b in zip(seconds["scikit-learn"], seconds[name], strict=True))
            for name in ("weft", "streaming", "sort")
        },
    }


def threads() -> int:
    """Of torch, which the others are given too."""
    return torch.get_num_threads()


# Ranking


def drawn(data: Store) -> tuple[torch.nn.Module, Floats, Floats]:
    """Matrix factorisation with drawn vectors, and the vectors [U, E] and [I, E]."""
    model = create("mf", data.fields, {"embedding_dim": WIDTH, "biases": False}, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    user, item = model.factors()  # type: ignore[operator]
    for table in (user, item):
        table.copy_(0.1 * torch.randn(table.shape, generator=generator))
    return model, user.numpy(), item.numpy()


def plain_loop(
    model: torch.nn.Module, data: Store, rows: Rows, held: Held, users: int, make: Any
) -> tuple[float, float]:
    """Recall and NDCG at K, one user at a time, as a first evaluation is written; `make` gives a user's batch."""
    items, seen = len(data.items), data.catalogue.seen
    recall, ndcg = [], []
    for place in range(users):
        user = int(held.user[place])
        with torch.no_grad():
            scores = make(model, user, items)
        scores[:FIRST_ID] = -torch.inf
        scores[seen.hidden(user, PROTOCOL, before="test")] = -torch.inf
        best = scores.topk(K).indices.tolist()
        wanted = {int(i) for i in held.relevant(place) if scores[int(i)] > -torch.inf}
        if not wanted:
            continue
        hits = [1 / np.log2(rank + 2) for rank, item in enumerate(best) if item in wanted]
        recall.append(len(hits) / len(wanted))
        ndcg.append(sum(hits) / sum(1 / np.log2(rank + 2) for rank in range(min(K, len(wanted)))))
    return float(np.mean(recall)), float(np.mean(ndcg))


def _score_mf(model: torch.nn.Module, user: int, items: int) -> torch.Tensor:
    p, q = model.factors()  # type: ignore[operator]
    return (p[torch.full((items,), user)] * q[torch.arange(items)]).sum(1)


def ours(model: torch.nn.Module, data: Store, rows: Rows) -> tuple[float, float]:
    """The same through weft."""
    scorer = Scorer(model, data.transforms, data.items)
    ranked = full_ranking(rows, scorer, data.catalogue, data.schema, PROTOCOL, split="test", seed=0)
    values = list_values(ranked, data.catalogue.counts, PROTOCOL)
    return float(np.nanmean(values[f"recall@{K}"])), float(np.nanmean(values[f"ndcg@{K}"]))


def ranking(rounds: int, users: int | None) -> Record:
    """All of them in turn on the same vectors."""
    data = store("movielens-1m", "ml-1m", "ctr")
    if data is None:
        return {"skipped": MISSING}
    rows = _of_first_users(data.split("test"), users)
    held = held_out(rows, PROTOCOL)
    model, p, q = drawn(data)
    found: dict[str, tuple[float, float]] = {}
    calls = {
        "weft": lambda: found.update(weft=ours(model, data, rows)),
        "loop": lambda: found.update(loop=plain_loop(model, data, rows, held, len(held.user), _score_mf)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    peers, left_out = _recbole(data, rows, p, q)
    answers: dict[str, Any] = {}
    try:
        for number in range(rounds + 1):
            for name, call in calls.items():
                taken = seconds_of(call)
                if number:
                    seconds[name].append(taken)
            for name, peer in peers.items():
                answers[name] = peer.ask("evaluate")
                if number:
                    seconds.setdefault(name, []).append(answers[name]["seconds"])
    finally:
        for peer in peers.values():
            peer.close()
    for name, answer in answers.items():
        found[name] = (answer[f"recall@{K}"], answer[f"ndcg@{K}"])
    return {
        "users": len(held.user),
        "items": len(data.items) - FIRST_ID,
        "threads": threads(),
        "left_out": left_out,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "metrics": {name: {"recall@20": a, "ndcg@20": b} for name, (a, b) in found.items()},
        "ratio": {
            name: statistics.median(a / b for a, b in zip(values, seconds["weft"], strict=True))
            for name, values in seconds.items()
            if name != "weft"
        },
    }


def _of_first_users(rows: Rows, users: int | None) -> Rows:
    """The rows of some users only."""
    assert rows.user is not None
    return rows if users is None else rows.take(rows.user < FIRST_ID + users)


def _recbole(data: Store, rows: Rows, p: Floats, q: Floats) -> tuple[dict[str, Trainer], dict[str, str]]:
    """RecBole with two sizes of batch on files of the same split and vectors."""
    folder = WORK / "recbole" / "ml"
    _write_recbole(folder, data, rows, p, q)
    case = {"ranking": str(folder), "width": WIDTH, "threads": threads(), "device": "cpu"}
    found, left_out = {}, {}
    for name, size in (("RecBole, default batches", 4096), ("RecBole, 64 users a batch", 64 * len(data.items))):
        try:
            found[name] = Trainer("recbole", case | {"eval_batch_size": size})
        except CannotRun as reason:
            left_out[name] = str(reason)
    return found, left_out


def _write_recbole(folder: Path, data: Store, rows: Rows, p: Floats, q: Floats) -> None:
    """What hides movies in its first two files, the relevant rows of the test split in its third; catalogue ids."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {1: data.split("train"), 2: data.split("valid"), 3: rows}
    for number, part in parts.items():
        assert part.user is not None
        assert part.item is not None
        assert part.label is not None
        keep = (part.item >= FIRST_ID) & (part.user >= FIRST_ID)
        if number == 3:
            keep &= part.label[:, 0] >= PROTOCOL.relevant
        frame = pl.DataFrame({"user_id:token": part.user[keep], "item_id:token": part.item[keep]})
        frame.write_csv(folder / f"{folder.name}.part{number}.inter", separator="\t")
    pl.DataFrame({"item_id:token": np.arange(FIRST_ID, len(data.items))}).write_csv(folder / f"{folder.name}.item")
    np.savez(folder / "vectors.npz", user=p, item=q)


def ranker(rounds: int, users: int) -> Record:
    """A ranker over the whole catalogue: weft, and the loop of one user at a time."""
    data = store("movielens-1m", "ml-1m", "ctr")
    if data is None:
        return {"skipped": MISSING}
    rows = _of_first_users(data.split("test"), users)
    held = held_out(rows, PROTOCOL)
    model = create("dcn_v2", data.fields, {}, seed=0).eval()
    first = rows.take(held.first)

    def scores(model: torch.nn.Module, user: int, items: int) -> torch.Tensor:
        place = int(np.flatnonzero(held.user == user)[0])
        pairs = data.transforms.join(first.take(slice(place, place + 1)), data.items)
        return model(pairs.batch())  # type: ignore[no-any-return]

    found: dict[str, tuple[float, float]] = {}
    calls = {
        "weft": lambda: found.update(weft=ours(model, data, rows)),
        "loop": lambda: found.update(loop=plain_loop(model, data, rows, held, len(held.user), scores)),
    }
    seconds = seconds_in_turns(calls, rounds)
    return {
        "users": len(held.user),
        "items": len(data.items) - FIRST_ID,
        "threads": threads(),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "metrics": {name: {"recall@20": a, "ndcg@20": b} for name, (a, b) in found.items()},
        "ratio": {"loop": statistics.median(a / b for a, b in zip(seconds["loop"], seconds["weft"], strict=True))},
    }


def measure(records: Records, quick: bool) -> None:
    """All cases that have no record yet."""
    WORK.mkdir(exist_ok=True)
    rows, rounds, users, some = (200_000, 1, 100, 4) if quick else (50_000_000, 3, None, 200)
    records.measured("auc", lambda: auc(rows, rounds))
    records.measured("ranking", lambda: ranking(rounds, users))
    records.measured("ranker", lambda: ranker(rounds, some))


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    lines: list[str] = []
    if (record := found.get("auc")) is not None:
        lines += [f"Exact AUC of {record['rows']:,} scores:", ""]
        lines += ["| how | s | more memory MiB | value | scikit-learn / this |", "| --- " * 5 + "|"]
        for name, seconds in record["seconds"].items():
            value, times = record["value"].get(name), record["ratio"].get(name)
            lines.append(
                f"| {name} | {seconds:.2f} | {record['more_mib'][name]:,.0f} | "
                f"{'' if value is None else f'{value:.9f}'} | {'' if times is None else f'{times:.1f}'} |"
            )
    for key, what in (("ranking", f"vectors of width {WIDTH}"), ("ranker", "dcn_v2")):
        record = found.get(key, {})
        if "seconds" not in record:
            continue
        lines += ["", f"The {record['items']:,} movies ranked for {record['users']:,} users, {what}:", ""]
        lines += ["| how | s | users/s | recall@20 | NDCG@20 | this / weft |", "| --- " * 6 + "|"]
        for name, seconds in record["seconds"].items():
            m, times = record["metrics"][name], record["ratio"].get(name, 1.0)
            lines.append(
                f"| {name} | {seconds:.2f} | {record['users'] / seconds:,.0f} | {m['recall@20']:.4f} | "
                f"{m['ndcg@20']:.4f} | {times:.1f} |"
            )
    left = [f"* {key}: {why}" for key, r in found.items() for why in r.get("left_out", {}).values()]
    left += [f"* {key}: {r['skipped']}" for key, r in found.items() if "skipped" in r]
    return lines + (["", "Left out:", "", *left] if left else [])


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    return [
        (
            "full ranking of MovieLens-1M against a plain loop",
            found.get("ranking", {}).get("ratio", {}).get("loop"),
            20.0,
        ),
        ("exact AUC against scikit-learn", found.get("auc", {}).get("ratio", {}).get("weft"), 1.0),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--auc", nargs=2)
    own, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    if own.auc:
        print(json.dumps(auc_by(own.auc[0], int(own.auc[1]))))
    else:
        run(measure, __doc__, page)
