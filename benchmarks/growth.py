"""How cost grows: with the rows of a table, of an embedding table, with features and with the batch.

    python benchmarks/growth.py [--quick] [--json FILE]

Each case is a line of measurements; the fitted exponent is the slope of a straight line through the logarithms (least
squares), 1 where cost is proportional and 0 where it does not grow. The slopes between neighbours show where a line
bends. Training is dcn_v2 and dlrm in bf16 as in train_speed.py; all points of a line take turns.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from _contest import start, take_turns
from _data import NUMBERS, encoded, raw, sizes_of, table_sizes, write_encoded
from _records import WORK, Record, Records, run
from prepare_speed import prepared
from train_speed import Contest, case_of
from weft import metrics
from weft.study.lines import Line, plot

ROWS = 1 << 18

# What bends a line, to be read beside its numbers; the numbers say by how much.
WHY = {
    "prepare": "Below some 100,000 rows the fixed cost of a preparation shows: starting polars' threads, writing the "
    "manifest. Above it every step is one pass over the rows; distinct values grow with the rows here, and sorting "
    "them adds a logarithm.",
    "table": "A step touches the rows of its batch and no others, so its cost should not grow. What is left of a slope "
    "is memory: rows of a large table are no longer in the caches, and its pages need more entries of the TLB. A batch "
    "also repeats fewer ids where tables are larger.",
    "features": "Up to some 20 fields a step is mostly fixed work and the deep network; full-rank crosses cost the "
    "square of the width, so that the slope of dcn_v2 rises towards 2; the dot products of dlrm and their network rise "
    "towards 2 as well, from less.",
    "batch": "Small batches pay the fixed cost of a step (the optimizer's passes over the dense weights, the calls of "
    "torch); above some thousand rows cost is proportional, until activations leave the caches.",
    "auc": "Sorting: n log n.",
}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """The slopes between neighbours."""
    pairs = itertools.pairwise(zip(x, y, strict=True))
    return [float(np.log(d / b) / np.log(c / a)) for (a, b), (c, d) in pairs]


def line(what: str, unit: str, x: Sequence[float], seconds: Sequence[float]) -> Record:
    """The record of one line."""
    return {
        "what": what,
        "unit": unit,
        "threads": torch.get_num_threads(),
        "x": list(x),
        "seconds": list(seconds),
        "exponent": exponent(x, seconds),
        "slopes": slopes(x, seconds),
    }


def prepare_line(sizes: Sequence[int]) -> Record:
    """Preparation over rows; distinct values grow with them."""
    return line("prepare", "rows", sizes, [prepared(raw(n, n))["prepare_seconds"] for n in sizes])


def auc_line(sizes: Sequence[int]) -> Record:
    """The exact AUC over rows."""
    generator = np.random.default_rng(0)
    seconds = []
    for n in sizes:
        label, score = generator.random(n) < 0.3, generator.standard_normal(n).astype(np.float32)
        seconds.append(_median(lambda a=label, b=score: metrics.auc(a, b)))
    return line("auc", "rows", sizes, seconds)


def _median(call: Callable[[], object]) -> float:
    from _timing import median_seconds

    return median_seconds(call, 3, warm=1)


def steps_line(what: str, unit: str, points: dict[float, dict[str, Any]], rounds: int, steps: int) -> Record:
    """Steps of cases by x, all in turns."""
    running, left_out = start(dict.fromkeys(map(str, points), "weft"), {str(x): case for x, case in points.items()})
    everyone = list(running.values())
    try:
        seconds, _, _ = take_turns(running, rounds=rounds, steps=steps, loader=False, warm=2 * steps)
    finally:
        for trainer in everyone:
            trainer.close()
    if left_out:
        raise RuntimeError(f"a case did not run: {left_out}")
    return line(what, unit, list(points), [statistics.median(seconds[str(x)]) for x in points])


def table_cases(model: str, sizes: Sequence[int], rows: int) -> dict[float, dict[str, Any]]:
    """Cases by the rows of all embedding tables."""
    return {float(n): case_of(Contest("", model, n), "bf16", rows=rows) for n in sizes}


def feature_cases(model: str, counts: Sequence[int], rows: int) -> dict[float, dict[str, Any]]:
    """Cases by the number of id fields, half a million rows of tables in all."""
    found: dict[float, dict[str, Any]] = {}
    for count in counts:
        sizes = table_sizes(500_000, fields=count, fall=0.9)
        folder = WORK / f"features-{count}-{rows}"
        if not (folder / "rows.json").is_file():
            write_encoded(folder, sizes, rows, NUMBERS)
        found[float(count)] = case_of(Contest("", model, 500_000), "bf16", rows=rows) | {
            "sizes": sizes,
            "data": str(folder),
        }
    return found


def batch_cases(model: str, batches: Sequence[int], rows: int) -> dict[float, dict[str, Any]]:
    """Cases by the rows of a batch."""
    base = case_of(Contest("", model, 500_000), "bf16", rows=rows)
    assert base["sizes"] == sizes_of(500_000, NUMBERS)
    assert str(encoded(500_000, rows)) == base["data"]
    return {float(n): base | {"batch": n} for n in batches}


def measure(records: Records, quick: bool) -> None:
    """All lines that have no record yet."""
    rounds, steps, rows = (1, 2, 1 << 14) if quick else (5, 6, ROWS)
    few = (2_000, 8_000) if quick else (30_000, 100_000, 300_000, 1_000_000, 3_000_000)
    many = (10_000, 100_000) if quick else (100_000, 1_000_000, 10_000_000, 50_000_000)
    tables = (5_000, 20_000) if quick else (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
    counts = (5, 10) if quick else (6, 13, 26, 52, 104)
    batches = (256, 1024) if quick else (256, 512, 1024, 2048, 4096, 8192, 16384)
    WORK.mkdir(exist_ok=True)
    records.measured("prepare", lambda: prepare_line(few))
    records.measured("auc", lambda: auc_line(many))
    for model in ("dcn_v2", "dlrm"):
        cases: dict[str, tuple[str, Callable[[str], dict[float, dict[str, Any]]]]] = {
            "table": ("rows of the tables", lambda m: table_cases(m, tables, rows)),
            "features": ("id fields", lambda m: feature_cases(m, counts, rows)),
            "batch": ("rows of a batch", lambda m: batch_cases(m, batches, rows)),
        }
        for what, (unit, make) in cases.items():
            key = f"{what}-{model}"
            records.measured(key, lambda w=what, u=unit, f=make, m=model: steps_line(w, u, f(m), rounds, steps))


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    lines = [
        "| line | over | from | to | seconds from | to | exponent | slopes between neighbours |",
        "| --- " * 8 + "|",
    ]
    for key, r in found.items():
        steps = ", ".join(f"{slope:.2f}" for slope in r["slopes"])
        lines.append(
            f"| {key} | {r['unit']} | {r['x'][0]:,.0f} | {r['x'][-1]:,.0f} | {r['seconds'][0]:.4g} | "
            f"{r['seconds'][-1]:.4g} | {r['exponent']:.2f} | {steps} |"
        )
    lines.append("")
    for what in dict.fromkeys(r["what"] for r in found.values()):
        lines += [f"![{what}](benchmarks/growth-{what}.svg)", "", WHY[what], ""]
    return lines


def plots(found: dict[str, Record]) -> dict[str, str]:
    """One plot for each kind of line, by file name."""
    pictures = {}
    for what in dict.fromkeys(r["what"] for r in found.values()):
        some = {key: r for key, r in found.items() if r["what"] == what}
        lines = [Line(f"{key} ^ {r['exponent']:.2f}", r["x"], r["seconds"]) for key, r in some.items()]
        unit = next(iter(some.values()))["unit"]
        pictures[f"growth-{what}.svg"] = plot(f"Cost over {unit}", unit, "seconds", lines)
    return pictures


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    record = found.get("table-dcn_v2")
    flat = None if record is None else record["seconds"][0] / record["seconds"][-1]
    return [("dcn_v2, step at the smallest table over step at the largest", flat, 0.9)]


if __name__ == "__main__":
    run(measure, __doc__, page)
