"""Speed must not cost quality: bf16 beside fp32, and touched rows only (lazy Adam) beside whole tables (exact Adam).

    WEFT_DATA=folder python benchmarks/quality.py [--quick] [--json FILE]

dcn_v2 on MovieLens-1M `ctr` with the preset `bars`, trained until validation stops it. bf16 and fp32 are compared under
the preset's own L2 of whole tables, which needs exact Adam; lazy and exact Adam under the L2 of looked-up rows, which
both can do, in both number formats. The curves are validation AUC after each epoch; the figures are of the test rows.
"""

import itertools
import json
import shutil
import statistics
from typing import NamedTuple

import weft
from _records import WORK, Record, Records, run
from _stores import MISSING, store
from weft.study.lines import Line, plot

ROWS_L2 = ("train.l2=0", "train.l2_rows=0.1")


class Setting(NamedTuple):
    """One way to train.

    Attributes:
        key: Of its records.
        precision: fp32 or bf16.
        sets: As `--set`.
    """

    key: str
    precision: str
    sets: tuple[str, ...]


SETTINGS = (
    Setting("fp32", "fp32", ("embedding_update=dense",)),
    Setting("bf16", "bf16", ("embedding_update=dense",)),
    Setting("exact-fp32", "fp32", ("embedding_update=dense", *ROWS_L2)),
    Setting("lazy-fp32", "fp32", ("embedding_update=sparse", *ROWS_L2)),
    Setting("lazy-bf16", "bf16", ("embedding_update=sparse", *ROWS_L2)),
)
PAIRS = (("bf16", "fp32"), ("lazy-fp32", "exact-fp32"), ("lazy-bf16", "exact-fp32"))


def trained(setting: Setting, seed: int, more: tuple[str, ...]) -> Record:
    """One run: its curve, its test metrics and its time."""
    data = store("movielens-1m", "ml-1m", "ctr")
    if data is None:
        return {"skipped": MISSING}
    out = WORK / f"quality-{setting.key}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    sets = [*setting.sets, *more]
    weft.train(data, "dcn_v2", out=out, preset="bars", sets=sets, seed=seed, precision=setting.precision)
    report = weft.evaluate(out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    return {
        "setting": setting.key,
        "seed": seed,
        "sets": sets,
        "curve": [line["metrics"]["auc"] for line in epochs],
        "test": {name: report.metrics[name].value for name in ("auc", "logloss")},
        "interval": [report.metrics["auc"].low, report.metrics["auc"].high],
    }


def measure(records: Records, quick: bool) -> None:
    """All runs that have no record yet, seed by seed so that an interrupted suite has pairs."""
    WORK.mkdir(exist_ok=True)
    seeds, more = (1, ("train.epochs=1", "hidden=[16]", "num_cross=1")) if quick else (3, ())
    for seed, setting in itertools.product(range(seeds), SETTINGS):
        if not quick or setting.precision == "bf16":
            records.measured(f"{setting.key}-{seed}", lambda s=setting, n=seed: trained(s, n, more))


def differences(found: dict[str, Record]) -> list[tuple[str, str, list[float]]]:
    """Test AUC of the faster way less that of the slower one, by pair and seed."""
    rows = [record for record in found.values() if "test" in record]
    by = {(record["setting"], record["seed"]): record["test"]["auc"] for record in rows}
    seeds = sorted({seed for _, seed in by})
    return [
        (fast, slow, [by[fast, seed] - by[slow, seed] for seed in seeds if {(fast, seed), (slow, seed)} <= by.keys()])
        for fast, slow in PAIRS
    ]


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    rows = [record for record in found.values() if "test" in record]
    lines = ["| setting | seed | epochs | test AUC | interval | test logloss | s |", "| --- " * 7 + "|"]
    for r in rows:
        low, high = r["interval"]
        lines.append(
            f"| {r['setting']} | {r['seed']} | {len(r['curve'])} | {r['test']['auc']:.4f} | {low:.4f} to {high:.4f} | "
            f"{r['test']['logloss']:.4f} | {r['took']:,.0f} |"
        )
    lines += ["", "Test AUC of the faster way less that of the slower one, seed by seed:", ""]
    for fast, slow, values in differences(found):
        if values:
            each = ", ".join(f"{value:+.4f}" for value in values)
            lines.append(f"* {fast} less {slow}: {each}; mean {statistics.mean(values):+.4f}")
    lines += ["", "![curves](benchmarks/quality.svg)"] if rows else []
    return lines + [f"* {key}: {r['skipped']}" for key, r in found.items() if "skipped" in r]


def plots(found: dict[str, Record]) -> dict[str, str]:
    """Validation AUC by epoch, of the first seed."""
    rows = [record for record in found.values() if "curve" in record and record["seed"] == 0]
    lines = [Line(r["setting"], range(1, 1 + len(r["curve"])), r["curve"]) for r in rows]
    title = "dcn_v2 on MovieLens-1M, first seed"
    return {"quality.svg": plot(title, "epoch", "validation AUC", lines, log=False)} if lines else {}


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    return [
        (f"test AUC of {fast} less {slow}, mean of seeds", statistics.mean(values) if values else None, -0.001)
        for fast, slow, values in differences(found)
    ]


if __name__ == "__main__":
    run(measure, __doc__, page)
