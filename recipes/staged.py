"""MovieLens-1M: a bundle of three stages against each of its stages alone."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

import weft
from weft.recommend.bundle import bundle
from weft.recommend.pipeline import Mmr, Pipeline, Rank, Source
from weft.runs import SavedRun

RUNS = {
    "popularity": (),
    "item_knn": (),
    "two_tower": ("train.epochs=15", "train.batch_size=2048"),
    "dcn_v2": ("train.negatives=4", "train.epochs=8", "hidden=[200, 200]", "train.batch_size=8192"),
}
SOURCES = (Source(run="two_tower", quota=300), Source(run="item_knn", quota=200))
PIPELINES = {
    "two_tower + item_knn": Pipeline(sources=SOURCES),
    "two_tower + item_knn -> dcn_v2": Pipeline(sources=SOURCES, ranking=(Rank(run="dcn_v2"),)),
    "two_tower + item_knn -> dcn_v2 -> MMR": Pipeline(
        sources=SOURCES, ranking=(Rank(run="dcn_v2"),), final=(Mmr(by="two_tower", balance=0.8),)
    ),
}
SHOWN = ("recall@10", "ndcg@10", "coverage@10", "novelty@10")
Found = dict[str, Any]


def study(work: Path) -> Found:
    """Train what is missing, bundle, judge."""
    store = work.parent / "stores" / "movielens-1m-ctr"
    runs = {model: _run(store, model, sets, work / model) for model, sets in RUNS.items()}
    found = {
        f"{model} alone, all movies": _judged(weft.evaluate(run.path, protocol="full")) for model, run in runs.items()
    }
    for number, (name, pipeline) in enumerate(PIPELINES.items()):
        out = work / f"bundle-{number}"
        if not out.is_dir():
            named = dict.fromkeys(part.run for part in (*pipeline.sources, *pipeline.ranking))
            bundle([runs[model].path for model in named], out, pipeline=pipeline, store=store)
        report = weft.evaluate(out, protocol="full")
        found[name] = _judged(report)
        if report.funnel is not None:
            found[name]["verdict"] = report.funnel.verdict()
    return found


def page(found: Found) -> list[str]:
    """The table of the study, and where the last bundle loses movies."""
    metrics = [name for name in SHOWN if any(name in one["metrics"] for one in found.values())]
    head = ["what answers", *metrics]
    rows = [[name, *(_value(one["metrics"].get(metric)) for metric in metrics)] for name, one in found.items()]
    table = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    last = list(found.values())[-1]
    return [*table, "", f"Protocol: {last['protocol']}. {last.get('verdict', '')}"]


def _run(store: Path, model: str, sets: tuple[str, ...], out: Path) -> SavedRun:
    begun = (out / "run.toml").is_file()
    return weft.train(store, model, out=out, sets=() if begun else sets, resume=begun, console=Console())


def _judged(report: Any) -> Found:
    whole = json.loads(report.json())
    return {"protocol": whole["protocol"], "metrics": whole["metrics"]}


def _value(found: Found | None) -> str:
    if found is None:
        return ""
    low, high = (found[end] for end in ("low", "high"))
    return f"{found['value']:.4f}" + ("" if low is None else f" ({low:.4f} to {high:.4f})")
