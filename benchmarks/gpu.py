"""Training on a GPU: dlrm, dcn_v2 and dhen with 100 M embedding rows of width 16; whole in under 8 minutes, one JSON.

    python benchmarks/gpu.py [--device cuda] [--quick] [--seconds 420] [--json FILE]

Trainers on the same encoded rows (see train_speed.py), batches 4,096 and 32,768, one model after the other: weft in
bf16 and then with its dense part compiled, without and with CUDA graphs; plain PyTorch under bf16 autocast, whose Adam
updates whole tables; and TorchRec's fused tables where it is installed (in this Python or by peers/setup.sh).

The limit of a step is its matrix products, each repeated alone, plus the bytes that the tables must move (vectors of
all ids and their gradients once, weight and two moments of each touched row once in and once out) over the bandwidth of
a plain copy in the device's memory; the fraction is that limit over the step. Without a GPU the script says so and
ends. What `--seconds` leaves no time for is skipped, and said.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _contest import CannotRun, Trainer
from _data import encoded, sizes_of
from _records import Record
from _timing import machine, median_seconds, versions
from train_speed import Contest, case_of

MODELS, BATCHES = ("dcn_v2", "dlrm", "dhen"), (4096, 32_768)
PLAIN = ("dcn_v2", "dlrm")


class Clock:
    """The time that is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()


def device_limits(device: str, size: int) -> Record:
    """Bytes a second of a plain copy, operations a second of a large bf16 product, and the device's name."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    edge = 8192 if device == "cuda" else 512
    a, b = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in range(2))
    copy = median_seconds(lambda: (target.copy_(source), wait()), 10)
    product = median_seconds(lambda: (a @ b, wait()), 10)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else machine(),
        "bytes_per_second": 2 * size / copy,
        "gemm_per_second": 2 * edge**3 / product,
    }


def bytes_of_step(case: dict[str, Any]) -> float:
    """What the tables must move in a step, see above."""
    ids = np.load(Path(case["data"]) / "ids.npy", mmap_mode="r")[: case["batch"]]
    touched = sum(len(np.unique(ids[:, i])) for i in range(ids.shape[1]))
    return 4.0 * case["width"] * (2 * ids.size + 6 * touched)


def measure_model(model: str, device: str, rows: int, batches: tuple[int, ...], steps: int, clock: Clock) -> Record:
    """All trainers and batches of one model; what did not run says why."""
    found: Record = {"trainers": [], "left_out": {}}
    names = ["weft", *(["plain"] if model in PLAIN else []), *(["torchrec"] if model in PLAIN else [])]
    for name in names:
        for batch in batches:
            if clock.left() < 40:
                found["left_out"][f"{name}, batch {batch}"] = "no time was left"
                continue
            case = case_of(Contest("", model, rows), "bf16", rows=8 * max(batches)) | {"device": device, "batch": batch}
            try:
                found["trainers"] += measure_trainer(name, case, steps, clock, found["left_out"])
            except CannotRun as reason:
                found["left_out"][f"{name}, batch {batch}"] = str(reason)
    return found


def measure_trainer(
    name: str, case: dict[str, Any], steps: int, clock: Clock, left_out: dict[str, str]
) -> list[Record]:
    """Steps of one trainer; of weft also with the dense part compiled."""
    found = []
    with Trainer(name, case) as trainer:
        found.append(_steps(trainer, name, case, steps))
        if name != "weft":
            return found
        floor = trainer.ask("floor", repeats=5)
        found[0] |= {"products_seconds": floor["alone"], "flops": floor["flops"], "table_bytes": bytes_of_step(case)}
        modes = {"compiled": "default"} | ({"CUDA graphs": "reduce-overhead"} if case["device"] == "cuda" else {})
        for words, mode in modes.items():
            if clock.left() < 60:
                left_out[f"weft, {words}, batch {case['batch']}"] = "no time was left"
                continue
            try:
                start = time.monotonic()
                trainer.ask("compile", mode=mode)
                record = _steps(trainer, f"weft, {words}", case, steps)
                found.append(record | {"start_seconds": time.monotonic() - start})
            except CannotRun as reason:
                left_out[f"weft, {words}, batch {case['batch']}"] = str(reason)
                break
    return found


def _steps(trainer: Trainer, name: str, case: dict[str, Any], steps: int) -> Record:
    trainer.ask("steps", count=max(5, steps // 4), loader=False)
    answer = trainer.ask("steps", count=steps, loader=False)
    seconds = statistics.median(answer["seconds"])
    return {
        "trainer": name,
        **trainer.about,
        "batch": case["batch"],
        "step_seconds": seconds,
        "rows_per_second": case["batch"] / seconds,
        "losses": [answer["losses"][0], answer["losses"][-1]],
    }


def with_fractions(limits: Record, models: dict[str, Record]) -> None:
    """Add to each trainer the share of the step that its limit takes."""
    for record in models.values():
        floors = {t["batch"]: t for t in record["trainers"] if "products_seconds" in t}
        for trainer in record["trainers"]:
            if (floor := floors.get(trainer["batch"])) is not None:
                limit = floor["products_seconds"] + floor["table_bytes"] / limits["bytes_per_second"]
                trainer["fraction_of_limit"] = limit / trainer["step_seconds"]


def page(whole: Record) -> list[str]:
    """The section of docs/benchmarks.md."""
    if "skipped" in whole:
        return [whole["skipped"]]
    limits = whole["limits"]
    lines = [
        f"{limits['device']}: copy {limits['bytes_per_second'] / 1e9:,.0f} GB/s, bf16 product "
        f"{limits['gemm_per_second'] / 1e12:,.3g} TFLOP/s; {whole['table_rows']:,} embedding rows of width 16; "
        f"{whole['took']:.0f} s in all.",
        "",
        "| model | trainer | batch | step ms | rows/s | share of the limit |",
        "| --- " * 6 + "|",
    ]
    for model, record in whole["models"].items():
        for t in record["trainers"]:
            lines.append(
                f"| {model} | {t['trainer']} | {t['batch']:,} | {1e3 * t['step_seconds']:.2f} | "
                f"{t['rows_per_second']:,.0f} | {t.get('fraction_of_limit', float('nan')):.2f} |"
            )
    left = [f"* {model}, {what}: {why}" for model, r in whole["models"].items() for what, why in r["left_out"].items()]
    return lines + (["", "Left out:", "", *left] if left else [])


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes; with --device cpu it needs no GPU")
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    whole: Record = {"machine": machine(), "versions": versions()}
    if arguments.device == "cuda" and not torch.cuda.is_available():
        whole["skipped"] = "No GPU was found, so this section was not measured."
    else:
        measure(whole, arguments)
    print("\n".join(page(whole)))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n")


def measure(whole: Record, arguments: argparse.Namespace) -> None:
    """Fill `whole`."""
    clock, start = Clock(arguments.seconds), time.monotonic()
    rows, batches, steps = (20_000, (1024,), 3) if arguments.quick else (100_000_000, BATCHES, 100)
    whole["limits"] = device_limits(arguments.device, 1 << (24 if arguments.quick else 30))
    whole["table_rows"] = sum(sizes_of(rows, 13))
    encoded(rows, 8 * max(batches))
    whole["models"] = {m: measure_model(m, arguments.device, rows, batches, steps, clock) for m in MODELS}
    with_fractions(whole["limits"], whole["models"])
    whole["took"] = time.monotonic() - start


if __name__ == "__main__":
    main()
