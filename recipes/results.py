"""Make the numbers of docs/results.md: real data, three to five seeds, the published figures beside ours.

    WEFT_DATA=path/to/the/raw/files python recipes/results.py --work runs/results [--only frappe ml1m ml100k]

Resumable: a finished run is not made again, an interrupted one goes on from its checkpoint. The last step writes the
table of docs/results.md.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

import weft
from weft.data import catalog

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("<!-- results: begin -->", "<!-- results: end -->")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One model on one protocol of one data set, some seeds or folds."""

    name: str
    title: str
    data: str
    source: str
    model: str
    seeds: tuple[int, ...]
    protocol: str | None = None
    preset: str | None = None
    sets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("auc", "logloss")
    fold_is_seed: bool = False
    published: str = ""


FRAPPE: dict[str, Any] = {"data": "frappe", "source": "frappe", "preset": "bars"}
ML1M: dict[str, Any] = {"data": "movielens-1m", "source": "ml-1m", "protocol": "ctr", "preset": "bars"}
ML100K: dict[str, Any] = {
    "data": "movielens-100k",
    "source": "ml-100k",
    "protocol": "rating",
    "seeds": (1, 2, 3, 4, 5),
    "metrics": ("rmse",),
    "fold_is_seed": True,
}

SHORT = ("embedding_dim=64", "train.batch_size=1024", "train.epochs=60")

EXPERIMENTS = (
    Experiment(
        name="ml1m-dcn_v2",
        title="MovieLens-1M, clicks (rating 3 dropped, 8:1:1)",
        model="dcn_v2",
        seeds=(0, 1, 2),
        published="DCN-V2 .8950/.3170 (its paper, another split of the same rows); record of any model .9092/.2958",
        **ML1M,
    ),
    Experiment(
        name="frappe-dcn_v2",
        title="Frappe",
        model="dcn_v2",
        seeds=(0, 1, 2, 3, 4),
        sets=("num_cross=4",),
        published="DCN-V2 .98382 ± .00043/.15204 (mean of 5, official train); "
        "FuxiCTR 2.3.10 on these files .98366/.1511 and .98437/.1529",
        **FRAPPE,
    ),
    *(
        Experiment(
            name=f"ml100k-{model}", title="MovieLens-100K, ratings", model=model, published=published, **more, **ML100K
        )
        for model, published, more in (
            ("mf", "a tuned mf: about .91 to .92", {"sets": (*SHORT, "train.l2=2e-4")}),
            ("fm", "", {"sets": (*SHORT, "train.l2=5e-4", "embedding_std=0.05")}),
            ("deepfm", "", {"preset": "bars", "sets": SHORT[1:2]}),
            ("dcn_v2", "", {"preset": "bars", "sets": SHORT[1:2]}),
        )
    ),
)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results")
    parser.add_argument("--only", nargs="*", default=[], help="experiments whose names begin with one of these")
    arguments = parser.parse_args()
    for experiment in EXPERIMENTS:
        if not arguments.only or experiment.name.startswith(tuple(arguments.only)):
            for seed in experiment.seeds:
                judge(experiment, seed, arguments.work)
    write_page(arguments.work)


def judge(experiment: Experiment, seed: int, work: Path) -> None:
    """Train and evaluate one seed, unless its report is there."""
    folder = work / experiment.name / f"{seed}"
    report = folder / "report.json"
    if report.is_file():
        return
    store = store_of(experiment, seed, work)
    resume = (folder / "run" / "run.toml").is_file()
    start = time.perf_counter()
    run = weft.train(
        store,
        experiment.model,
        out=folder / "run",
        preset=None if resume else experiment.preset,
        sets=() if resume else experiment.sets,
        seed=seed,
        resume=resume,
        console=Console(),
    )
    seconds = time.perf_counter() - start
    found = json.loads(weft.evaluate(run.path).json())
    epochs = sum('"kind":"epoch"' in line for line in (run.path / "metrics.jsonl").read_text().splitlines())
    found |= {"train_seconds": seconds, "epochs": epochs, "precision": run.config.precision, "date": f"{date.today()}"}
    report.write_text(json.dumps(found, indent=1))
    print(
        experiment.name,
        seed,
        {m: found["metrics"][m]["value"] for m in experiment.metrics},
        f"{seconds:.0f} s",
        flush=True,
    )


def store_of(experiment: Experiment, seed: int, work: Path) -> Path:
    """The prepared store of an experiment; made when it is missing."""
    fold = f"-{seed}" if experiment.fold_is_seed else ""
    store = work / "stores" / f"{experiment.data}-{experiment.protocol or 'default'}{fold}"
    if not store.is_dir():
        tables = store.with_name(f"{store.name}-tables")
        if not tables.is_dir():
            catalog.get(
                experiment.data,
                tables,
                protocol=experiment.protocol,
                source=Path(os.environ["WEFT_DATA"]) / experiment.source,
                options={"fold": seed} if experiment.fold_is_seed else {},
            )
        weft.prepare(tables / "schema.toml", store)
    return store


def write_page(work: Path) -> None:
    """Fill the table between the marks in docs/results.md from the reports that are there."""
    lines = [
        "| data | model | seeds | metric | mean ± deviation | each | published or peer | train s a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for experiment in EXPERIMENTS:
        paths = [work / experiment.name / f"{seed}" / "report.json" for seed in experiment.seeds]
        reports = [json.loads(path.read_text()) for path in paths if path.is_file()]
        if reports:
            lines += rows_of(experiment, reports)
    page = ROOT / "docs" / "results.md"
    text = page.read_text()
    before, rest = text.split(MARKS[0])
    page.write_text(before + MARKS[0] + "\n" + "\n".join(lines) + "\n" + MARKS[1] + rest.split(MARKS[1])[1])


def rows_of(experiment: Experiment, reports: list[dict[str, Any]]) -> list[str]:
    """The table rows of one experiment, one a metric."""
    kind = "folds" if experiment.fold_is_seed else "seeds"
    seconds = statistics.median(report["train_seconds"] for report in reports)
    rows = []
    for metric in experiment.metrics:
        values = [report["metrics"][metric]["value"] for report in reports]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ", ".join(f"{value:.4f}" for value in values)
        rows.append(
            f"| {experiment.title} | {experiment.model} | {len(values)} {kind} | {metric} | "
            f"{statistics.mean(values):.4f} ± {deviation:.4f} | {each} | {experiment.published} | {seconds:.0f} |"
        )
    return rows


if __name__ == "__main__":
    main()
