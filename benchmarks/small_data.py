"""Small data: an epoch of Frappe beside FuxiCTR's, what it learns, and the fixed costs of a process.

    WEFT_DATA=folder python benchmarks/small_data.py [--quick] [--json FILE]

Epochs: 202,027 rows of ten fields, dcn_v2 of four crosses beside 400-400-400, width 10, batch norm, dropout .4 and L2
.05 of the whole tables (the settings that won at BARS), through each library's own loader, without validation; the
trainers take turns epoch by epoch.

Quality: the same settings until validation stops either library, and what each finds on the test rows.

Fixed costs: whole processes, in turns, beside a Python process that does nothing.
"""

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import weft
from _contest import CannotRun, Trainer, environment, ratio, start
from _records import WORK, Record, Records, run
from _stores import MISSING, store
from _timing import seconds_in_turns
from weft.data.store import Store

SETS = ("num_cross=4", "train.l2=0.05", "dropout=0.4")
KEYS = {"weft-bf16": "weft", "weft-fp32": "weft", "fuxictr": "fuxictr"}


def case_of(data: Store, precision: str, threads: int, split: str = "train") -> dict[str, Any]:
    """What a trainer must know."""
    return {
        "model": "dcn_v2",
        "width": 10,
        "cross": 4,
        "hidden": [400, 400, 400],
        "bottom": [],
        "top": [],
        "batch_norm": True,
        "dropout": 0.4,
        "l2": 0.05,
        "data": str(data.path / split),
        "sizes": [field.rows for field in data.fields.ids],
        "numbers": 0,
        "update": "dense",
        "batch": 4096,
        "precision": precision,
        "threads": threads,
        "device": "cpu",
        "learning_rate": 1e-3,
    }


def epochs(threads: int, rounds: int) -> Record:
    """Epochs of all trainers in turn."""
    data = store("frappe", "frappe")
    if data is None:
        return {"skipped": MISSING}
    precisions = {key: key.removeprefix("weft-") if key != "fuxictr" else "fp32" for key in KEYS}
    running, left_out = start(KEYS, {key: case_of(data, precisions[key], threads) for key in KEYS})
    seconds: dict[str, list[float]] = {key: [] for key in running}
    floors: dict[str, list[float]] = {key: [] for key in running if key != "fuxictr"}
    losses: dict[str, list[float]] = {key: [] for key in running}
    steps = 0
    try:
        for number in range(rounds + 1):
            for key, trainer in running.items():
                answer = trainer.ask("epoch")
                losses[key].append(answer["loss"])
                steps = answer["steps"]
                if number:
                    seconds[key].append(answer["seconds"])
                    if key in floors:
                        floors[key].append(trainer.ask("floor", repeats=5)["alone"] * steps)
        about = {key: trainer.about for key, trainer in running.items()}
    finally:
        for trainer in running.values():
            trainer.close()
    return {
        "threads": threads,
        "rows": data.rows["train"],
        "steps": steps,
        "left_out": left_out,
        "about": about,
        "seconds": {key: statistics.median(values) for key, values in seconds.items()},
        "losses": losses,
        "fraction": {
            key: statistics.median(f / s for f, s in zip(values, seconds[key], strict=True))
            for key, values in floors.items()
        },
        "ratio": {key: ratio(seconds["fuxictr"], seconds[key]) for key in floors if "fuxictr" in seconds},
    }


def quality(seeds: int, epochs: int) -> Record:
    """Test metrics of both libraries with the same settings, each stopped by its own validation."""
    data = store("frappe", "frappe")
    if data is None:
        return {"skipped": MISSING}
    found: Record = {"left_out": {}, "weft": [], "fuxictr": []}
    for seed in range(seeds):
        out = WORK / f"frappe-run-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        sets = [*SETS, f"train.epochs={epochs}"]
        trained = weft.train(data, "dcn_v2", out=out, preset="bars", sets=sets, seed=seed)
        report = weft.evaluate(trained)
        found["weft"].append({name: report.metrics[name].value for name in ("auc", "logloss")})
        case = case_of(data, "fp32", torch.get_num_threads()) | {"seed": seed}
        try:
            with Trainer("fuxictr", case) as peer:
                fitted = peer.ask("fit", valid=str(data.path / "valid"), test=str(data.path / "test"), epochs=epochs)
            found["fuxictr"].append({"auc": fitted["test"]["AUC"], "logloss": fitted["test"]["logloss"]})
        except CannotRun as reason:
            found["left_out"]["fuxictr"] = str(reason)
    return found


def fixed_costs(rounds: int) -> Record:
    """Wall time of whole processes, in turns."""
    weft_command = shutil.which("weft", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import weft": [sys.executable, "-c", "import weft"],
        "weft --help": [weft_command or "weft", "--help"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    if (data := store("frappe", "frappe")) is not None:
        commands["first batch"] = [sys.executable, "-c", _first_batch(data.path)]
    seconds = seconds_in_turns({name: lambda c=command: _run(c) for name, command in commands.items()}, rounds)
    return {
        "median": {name: statistics.median(values) for name, values in seconds.items()},
        "left_out": {} if data is not None else {"first batch": MISSING},
    }


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, env=environment(torch.get_num_threads()))


def _first_batch(path: Path) -> str:
    return (
        "from weft.data.load import Loader; from weft.data.store import Store;"
        f"next(iter(Loader(Store.open({str(path)!r}).split('train'), 4096).batches()))"
    )


def measure(records: Records, quick: bool) -> None:
    """All cases that have no record yet."""
    rounds = 1 if quick else 5
    for threads in (1,) if quick else (1, 2):
        records.measured(f"frappe-epoch-{threads}", lambda n=threads: epochs(n, rounds))
    records.measured("fixed-costs", lambda: fixed_costs(1 if quick else 9))
    if not quick:
        records.measured("frappe-quality", lambda: quality(2, 100))


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    head = "| Frappe, threads | trainer | parameters | epoch s | rows/s | fraction of its products | FuxiCTR / this |"
    lines = [head, "| --- " * 7 + "|"]
    for key, record in found.items():
        if not key.startswith("frappe-epoch") or "skipped" in record:
            continue
        for name, seconds in record["seconds"].items():
            fraction, times = (record[part].get(name) for part in ("fraction", "ratio"))
            lines.append(
                f"| {record['threads']} | {name} | {record['about'][name]['parameters']:,} | {seconds:.2f} | "
                f"{record['rows'] / seconds:,.0f} | {_shown(fraction)} | {_shown(times)} |"
            )
    if "weft" in (record := found.get("frappe-quality", {})):
        lines += ["", "Test rows of Frappe after training with validation: AUC/logloss by seed.", ""]
        for name in ("weft", "fuxictr"):
            lines.append(f"* {name}: " + ", ".join(f"{one['auc']:.4f}/{one['logloss']:.4f}" for one in record[name]))
    if "median" in (record := found.get("fixed-costs", {})):
        lines += ["", "| process | s |", "| --- | --- |"]
        lines += [f"| {name} | {seconds:.3f} |" for name, seconds in record["median"].items()]
    left = [f"* {key}: {why}" for key, r in found.items() for why in r.get("left_out", {}).values()]
    left += [f"* {key}: {r['skipped']}" for key, r in found.items() if "skipped" in r]
    return lines + (["", "Left out:", "", *left] if left else [])


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    asked: list[tuple[str, float | None, float]] = []
    for threads in (1, 2):
        record = found.get(f"frappe-epoch-{threads}", {})
        times, fraction = (record.get(part, {}).get("weft-bf16") for part in ("ratio", "fraction"))
        asked.append((f"epoch of Frappe against FuxiCTR, threads {threads} (or .85 of the next line)", times, 2.2))
        asked.append((f"epoch of Frappe, share of the rate of its products, threads {threads}", fraction, 0.85))
    median = found.get("fixed-costs", {}).get("median", {})
    for name, limit in (("import weft", 0.3), ("weft --help", 0.5)):
        asked.append((f"{name}: {limit} s over its time", limit / median[name] if name in median else None, 1.0))
    return asked


if __name__ == "__main__":
    run(measure, __doc__, page)
