"""Make the numbers of docs/results.md: real data, some seeds each, the published figures beside ours.

    WEFT_DATA=path/to/the/raw/files python recipes/results.py [--only frappe ml1m-dcn_v2] [--page]

Resumable: each finished run leaves one line in docs/results/runs.jsonl, from which the tables of the page are written;
a run that has its line is not made again, an interrupted one goes on from its checkpoint. `recipes/experiments.py` says
what is run. Studies with questions of their own (`position.py`, `autoint_fields.py`) leave a JSON file beside it.
"""

import argparse
import json
import platform
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import adult_gain
import autoint_fields
import depth_plot
import position
import staged
import torch
import tuning
from experiments import EXPERIMENTS, Experiment
from training import trained

import weft

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
RECORDS = ROOT / "docs" / "results" / "runs.jsonl"
STUDIES = {
    "adult-gain": adult_gain,
    "position": position,
    "staged-ml1m": staged,
    "autoint-fields": autoint_fields,
    "tuned-frappe": tuning,
}
Record = dict[str, Any]


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results", help="where stores and runs lie")
    parser.add_argument("--only", nargs="*", default=[], help="experiments whose names begin with one of these")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="of their seeds only these")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    wanted = tuple(arguments.only) or ("",)
    for experiment in () if arguments.page else EXPERIMENTS:
        for seed in experiment.seeds if experiment.name.startswith(wanted) else ():
            if not arguments.seeds or seed in arguments.seeds:
                judge(experiment, seed, arguments.work, arguments.records, arguments.precision)
    for name, study in () if arguments.page else STUDIES.items():
        place = arguments.records.with_name(f"{name}.json")
        if name.startswith(wanted) and not place.is_file():
            place.write_text(json.dumps(study.study(arguments.work / name), indent=1) + "\n")
    write_page(arguments.records)


def judge(experiment: Experiment, seed: int, work: Path, records: Path, precision: str) -> None:
    """Train and evaluate one seed and add its record, unless it is there."""
    if any(r["experiment"] == experiment.name and r["seed"] == seed for r in read_records(records)):
        return
    run, seconds = trained(experiment, seed, work, precision)
    report = json.loads(weft.evaluate(run.path).json())
    told = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in told if line["kind"] == "epoch"]
    record = {
        "experiment": experiment.name,
        "seed": seed,
        "model": experiment.model,
        "protocol": report["protocol"],
        "rows": report["rows"],
        "metrics": report["metrics"],
        "parameters": report["parameters"],
        "best_epoch": run.report.epoch,
        "epochs": len(epochs),
        "seconds": round(seconds, 1),
        "rows_per_second": round(max((epoch["rows_per_second"] for epoch in epochs), default=0)),
        "precision": run.config.precision,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "date": f"{date.today()}",
    }
    with records.open("a") as file:
        file.write(json.dumps(record) + "\n")
    shown = {metric: round(report["metrics"][metric]["value"], 5) for metric in experiment.metrics}
    print(experiment.name, seed, shown, f"{len(epochs)} epochs, {seconds:.0f} s", flush=True)


def read_records(path: Path) -> list[Record]:
    """All records, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_page(records: Path) -> None:
    """Fill the tables of docs/results.md from the records that are there."""
    found = read_records(records)
    tables = {
        table: table_of([e for e in EXPERIMENTS if e.table == table], found)
        for table in dict.fromkeys(experiment.table for experiment in EXPERIMENTS)
    }
    for name, study in STUDIES.items():
        place = records.with_name(f"{name}.json")
        tables[name] = study.page(json.loads(place.read_text())) if place.is_file() else []
    text = PAGE.read_text()
    for table, lines in tables.items():
        begin, end = f"<!-- {table}: begin -->", f"<!-- {table}: end -->"
        if begin in text:
            before, rest = text.split(begin)
            text = before + "\n".join([begin, *(lines or ["Not run yet."]), end]) + rest.split(end)[1]
    PAGE.write_text(text)
    (RECORDS.parent / "depth.svg").write_text(depth_plot.drawn(found))


def table_of(experiments: list[Experiment], records: list[Record]) -> list[str]:
    """The lines of one table, best first unless the experiments have an order of their own."""
    metrics = experiments[0].metrics
    unit = "folds" if experiments[0].fold_is_seed else "seeds"
    head = ["model", "setting", unit, *metrics, "parameters", "epochs", "train s", "rows/s", "published"]
    rows = []
    for experiment in experiments:
        mine = [r for r in records if r["experiment"] == experiment.name and r["seed"] in experiment.seeds]
        if mine:
            values = [[r["metrics"][metric] for r in mine] for metric in metrics]
            row = [
                experiment.model,
                experiment.setting,
                str(len(mine)),
                *(spread(found) for found in values),
                f"{mine[0]['parameters']:,}",
                f"{statistics.median(r['epochs'] for r in mine):.0f}",
                f"{statistics.median(r['seconds'] for r in mine):.0f}",
                rate(mine),
                experiment.published,
            ]
            rows.append((statistics.mean(found["value"] for found in values[0]), row))
    if not rows:
        return []
    lower = metrics[0] in ("rmse", "logloss", "ne", "poisson_deviance")
    if not experiments[0].in_order:
        rows.sort(key=lambda row: row[0], reverse=not lower)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *(row for _, row in rows))]


def rate(mine: list[Record]) -> str:
    """Train rows a second in the fastest epoch of all runs, validation not counted: other work slows the rest."""
    known = [r["rows_per_second"] for r in mine if r.get("rows_per_second")]
    return f"{max(known):,}" if known else ""


def spread(found: list[Record]) -> str:
    """Mean and deviation over runs; of a single one the value and the bootstrap interval of its test rows.

    >>> spread([{"value": 0.5}, {"value": 0.7}]), spread([{"value": 0.5, "low": 0.4, "high": 0.6}])
    ('0.6000 ± 0.1414', '0.5000 (.4000 to .6000)')
    """
    values = [one["value"] for one in found]
    if len(values) > 1:
        return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
    low, high = (f"{found[0][end]:.4f}".removeprefix("0") for end in ("low", "high"))
    return f"{values[0]:.4f} ({low} to {high})"


if __name__ == "__main__":
    main()
