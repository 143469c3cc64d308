"""The loader: rows a second alone, its share of the memory's bandwidth, and training on a store larger than memory.

    python benchmarks/load_speed.py [--quick] [--json FILE]

Alone: all batches of an epoch of encoded rows (13 numbers, 26 ids, a label: 160 bytes a row), shuffled over the whole
table, shuffled in blocks, and in order; in memory and memory-mapped. A row is read once and written once, so that its
share of the bandwidth is 320 bytes times rows a second over the bytes a second of a plain copy in memory, measured in
turns. A plain gather of the same rows (`numpy.take`) is the floor of a shuffled loader.

Beside training: steps of dcn_v2 and of lr, the smallest model, on batches that lie ready and with the loader, in turns.

Larger than memory: training from a memory-mapped store whose pages are taken out of memory, page cache included,
whenever more of them than the cap is there (see _eviction.py), beside the same without a cap, in turns.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _contest import Trainer
from _data import NUMBERS, TEXTS, encoded
from _records import Record, Records, run
from _timing import seconds_in_turns
from train_speed import Contest, case_of
from weft.data.load import Loader
from weft.transforms.rows import Rows

BATCH, TABLE_ROWS = 4096, 500_000
ROW_BYTES = 4 * (NUMBERS + TEXTS + 1)


def alone(rows: int, rounds: int) -> Record:
    """The loader alone, by order and by where the rows lie, and the floors, in turns."""
    folder = encoded(TABLE_ROWS, rows)
    calls: dict[str, Callable[[], object]] = {"copy": _copy(rows * ROW_BYTES), "take": _take(folder)}
    for place, mmap in (("memory", False), ("mapped", True)):
        table = Rows.load(folder, mmap=mmap)
        for order in ("none", "block", "global"):
            calls[f"{order}-{place}"] = _epoch(Loader(table, BATCH, shuffle=order))  # type: ignore[arg-type]
    seconds = seconds_in_turns(calls, rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "rows": rows,
        "row_bytes": ROW_BYTES,
        "threads": torch.get_num_threads(),
        "copy_bytes_per_second": 2 * rows * ROW_BYTES / median["copy"],
        "rows_per_second": {name: rows / s for name, s in median.items() if name != "copy"},
        "share_of_bandwidth": {
            name: statistics.median(c / s for c, s in zip(seconds["copy"], values, strict=True))
            for name, values in seconds.items()
            if name != "copy"
        },
    }


def _copy(size: int) -> Callable[[], object]:
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return lambda: target.copy_(source)


def _take(folder: Path) -> Callable[[], object]:
    table = Rows.load(folder, mmap=False)
    order = np.random.default_rng(0).permutation(len(table))

    def gather() -> None:
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            table.ids.take(part, axis=0)
            table.dense.take(part, axis=0)

    return gather


def _epoch(loader: Loader) -> Callable[[], object]:
    epochs = iter(range(1 << 30))
    return lambda: sum(len(batch) for batch in loader.batches(next(epochs)))


def beside_training(model: str, precision: str, rounds: int, steps: int, rows: int) -> Record:
    """Steps on ready batches and with the loader, in turns; one trainer does both."""
    case = case_of(Contest("", model, TABLE_ROWS), precision, rows=rows)
    with Trainer("weft", case) as trainer:
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for number in range(rounds + 1):
            for loader in seconds:
                taken = trainer.ask("steps", count=steps, loader=loader)["seconds"]
                if number:
                    seconds[loader].append(statistics.mean(taken))
    return {
        "model": model,
        "precision": precision,
        "threads": case["threads"],
        "ready_rows_per_second": BATCH / statistics.median(seconds[False]),
        "loaded_rows_per_second": BATCH / statistics.median(seconds[True]),
        "speed_kept": statistics.median(a / b for a, b in zip(seconds[False], seconds[True], strict=True)),
    }


def larger_than_memory(model: str, precision: str, rows: int, cap: int, seconds: float, rounds: int) -> Record:
    """Training from a mapped store with blocks shuffled, without and with a cap on its share of memory, in turns."""
    case = case_of(Contest("", model, TABLE_ROWS), precision, rows=rows) | {"eviction": cap, "shuffle": "block"}
    size = sum(file.stat().st_size for file in Path(case["data"]).glob("*.npy"))
    with Trainer("weft", case) as trainer:
        trainer.ask("steps", count=4, loader=True)
        free, capped, evictions, most = [], [], 0, 0
        for _ in range(rounds):
            free.append(_rows_per_second(trainer, seconds))
            trainer.ask("evict", on=True)
            capped.append(_rows_per_second(trainer, seconds))
            watch = trainer.ask("evict", on=False)
            evictions, most = evictions + watch["evictions"], max(most, watch["most"])
    return {
        "model": model,
        "precision": precision,
        "rows": rows,
        "threads": case["threads"],
        "store_mib": size / 2**20,
        "cap_mib": cap / 2**20,
        "free_rows_per_second": statistics.median(free),
        "capped_rows_per_second": statistics.median(capped),
        "speed_kept": statistics.median(b / a for a, b in zip(free, capped, strict=True)),
        "evictions": evictions,
        "most_in_memory_mib": most / 2**20,
    }


def _rows_per_second(trainer: Trainer, seconds: float) -> float:
    """Of steps with the loader for about so many seconds."""
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        steps += len(trainer.ask("steps", count=8, loader=True)["seconds"])
    return steps * BATCH / (time.perf_counter() - start)


def measure(records: Records, quick: bool) -> None:
    """All cases that have no record yet."""
    rows, rounds, steps = (1 << 16, 2, 3) if quick else (1 << 21, 7, 30)
    records.measured("alone", lambda: alone(rows, rounds))
    for model, precision in (("dcn_v2", "bf16"), ("lr", "fp32")):
        records.measured(
            f"beside-{model}", lambda m=model, p=precision: beside_training(m, p, rounds, steps, min(rows, 1 << 18))
        )
    large, cap, seconds = (1 << 18, 16 << 20, 2.0) if quick else (10_000_000, 300 << 20, 20.0)
    for model, precision in (("dcn_v2", "bf16"), ("lr", "fp32")):
        key = f"larger-than-memory-{model}"
        records.measured(
            key, lambda m=model, p=precision: larger_than_memory(m, p, large, cap, seconds, 1 if quick else 3)
        )


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    lines = []
    if (record := found.get("alone")) is not None:
        lines += [
            f"{record['rows']:,} rows of {record['row_bytes']} bytes; a plain copy moves "
            f"{record['copy_bytes_per_second'] / 1e9:.1f} GB/s. `take` is the plain gather.",
            "",
            "| order, place | rows/s | share of the bandwidth |",
            "| --- | --- | --- |",
        ]
        for name, speed in record["rows_per_second"].items():
            lines.append(f"| {name} | {speed:,.0f} | {record['share_of_bandwidth'][name]:.2f} |")
    lines += ["", "| training | rows/s without | rows/s with | speed kept | what differs |", "| --- " * 5 + "|"]
    for key, r in found.items():
        if key.startswith("beside-"):
            cells = (r["ready_rows_per_second"], r["loaded_rows_per_second"], r["speed_kept"])
            lines.append(_line(f"{r['model']} {r['precision']}", cells, "the loader"))
        if key.startswith("larger-"):
            cells = (r["free_rows_per_second"], r["capped_rows_per_second"], r["speed_kept"])
            what = (
                f"a store of {r['store_mib']:,.0f} MiB of which at most {r['cap_mib']:,.0f} MiB stay in memory (all "
                f"taken out {r['evictions']} times, at most {r['most_in_memory_mib']:,.0f} MiB found)"
            )
            lines.append(_line(f"{r['model']} {r['precision']}", cells, what))
    return lines


def _line(name: str, cells: tuple[float, float, float], what: str) -> str:
    return f"| {name} | {cells[0]:,.0f} | {cells[1]:,.0f} | {cells[2]:.2f} | {what} |"


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    kept: dict[str, Any] = {key: record.get("speed_kept") for key, record in found.items()}
    return [
        ("training with the loader, share of the speed on ready batches", kept.get("beside-dcn_v2"), 0.95),
        ("training on a store larger than memory, share of the speed", kept.get("larger-than-memory-dcn_v2"), 0.7),
    ]


if __name__ == "__main__":
    run(measure, __doc__, page)
