"""Rows a second of dcn_v2 in training, beside the machine's matrix-product rate on the model's own shapes.

    python benchmarks/train_speed.py [--rows 500000 10000000] [--precision fp32 bf16] [--json FILE]

The shape: 13 numbers as value x vector and 26 id fields of width 16 (624 wide), three full-rank cross layers beside
400-400-400, batch 4096, tables updated by touched rows only. The floor of a step is its matrix products: forward, input
gradient and weight gradient of each layer, timed in the same process between the steps; the fraction is the median over
rounds of both, so that other work on the machine falls on both alike. "Fraction" is against each product repeated
alone, "in order" against all of them once in a step's order. Each case runs in a process of its own, so that its peak
memory is its own.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from _timing import machine, median_seconds, peak_memory_mib
from weft.batch import Batch, DenseField, Field, Fields
from weft.models import create
from weft.schema import Label
from weft.train.memory import keep_freed_memory
from weft.train.objective import objective
from weft.train.optimizers import Optimizer
from weft.train.recipe import Recipe

DENSE, SPARSE, WIDTH, BATCH, CROSSES, HIDDEN = 13, 26, 16, 4096, 3, (400, 400, 400)
BATCHES, STEPS, ROUNDS = 16, 60, 12


def fields_of(rows: int) -> Fields:
    """26 id fields whose sizes fall geometrically from half of all rows, `rows` in all."""
    share = 0.7 ** np.arange(SPARSE)
    sizes = np.maximum(4, share / share.sum() * rows).astype(int)
    return Fields(
        ids=tuple(Field(name=f"c{i}", side="context", rows=int(size)) for i, size in enumerate(sizes)),
        dense=tuple(DenseField(name=f"i{i}", side="context") for i in range(DENSE)),
    )


def batches_of(fields: Fields, generator: np.random.Generator) -> list[Batch]:
    """Random rows; ids fall off as in real tables (a power law), labels are one in four."""
    found = []
    for _ in range(BATCHES):
        skewed = generator.random((BATCH, SPARSE)) ** 3
        sizes = np.array([field.rows - 2 for field in fields.ids])
        found.append(
            Batch(
                ids=torch.from_numpy((2 + skewed * sizes).astype(np.int32)),
                dense=torch.from_numpy(generator.normal(size=(BATCH, DENSE)).astype(np.float32)),
                ragged={},
                label=torch.from_numpy((generator.random((BATCH, 1)) < 0.25).astype(np.float32)),
            )
        )
    return found


def floor_seconds(width: int, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Time of a step's matrix products: each repeated alone, and all of them once in the order of a step.

    Repeated alone a product finds its operands in the cache, in a step it does not.
    """
    shapes = [(width, width)] * CROSSES + list(pairwise((width, *HIDDEN)))
    x = [torch.randn(BATCH, inputs).to(dtype) for inputs, _ in shapes]
    grad = [torch.randn(BATCH, outputs).to(dtype) for _, outputs in shapes]
    weight = [torch.randn(outputs, inputs).to(dtype) for inputs, outputs in shapes]
    calls = [partial(torch.mm, a, w.T) for a, w in zip(x, weight, strict=True)]
    for a, g, w in reversed(list(zip(x, grad, weight, strict=True))):
        calls += [partial(torch.mm, g.T, a), partial(torch.mm, g, w)]
    alone = sum(median_seconds(call, repeats) for call in calls)
    return alone, median_seconds(lambda: [call() for call in calls], repeats)


def measure(rows: int, precision: str) -> dict[str, float | str]:
    """One case, in this process."""
    keep_freed_memory()
    fields = fields_of(rows)
    options = {"embedding_dim": WIDTH, "hidden": HIDDEN, "num_cross": CROSSES, "batch_norm": False}
    model = create("dcn_v2", fields, {**options, "embedding_update": "sparse"}, seed=0).train()
    optimizer = Optimizer(model, Recipe())
    loss_of = objective([Label(name="y")], precision, {})
    batches = batches_of(fields, np.random.default_rng(0))
    width = (DENSE + SPARSE) * WIDTH
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    place = 0

    def step() -> None:
        nonlocal place
        batch = batches[place % BATCHES]
        place += 1
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.prepare()
        optimizer.step()

    rounds = np.array(
        [(*floor_seconds(width, dtype, 3), median_seconds(step, STEPS // ROUNDS, warm=1)) for _ in range(ROUNDS)]
    )
    floor, _, seconds = np.median(rounds, axis=0).tolist()
    alone, in_order = np.median(rounds[:, :2] / rounds[:, 2:], axis=0).tolist()
    products = 6 * BATCH * (CROSSES * width**2 + sum(a * b for a, b in pairwise((width, *HIDDEN))))
    return {
        "rows": rows,
        "precision": precision,
        "rows_per_second": BATCH / seconds,
        "step_ms": seconds * 1e3,
        "gemm_gflops": products / floor / 1e9,
        "fraction_of_gemm_rate": alone,
        "fraction_in_order": in_order,
        "peak_mib": peak_memory_mib(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 10_000_000])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(int(arguments.case[0]), arguments.case[1])))
        return
    cases = [(rows, precision) for precision in arguments.precision for rows in arguments.rows]
    results = []
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads; batch {BATCH}")
    print("        rows precision    rows/s  step ms GEMM GFLOP/s fraction in order  peak MiB")
    for rows, precision in cases:
        command = [sys.executable, __file__, "--case", str(rows), precision]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results.append(result)
        print(
            f"{rows:>12,} {precision:>9} {result['rows_per_second']:>9,.0f} {result['step_ms']:>8.1f} "
            f"{result['gemm_gflops']:>12.0f} {result['fraction_of_gemm_rate']:>8.2f} "
            f"{result['fraction_in_order']:>8.2f} {result['peak_mib']:>9,.0f}"
        )
    for precision in arguments.precision:
        of = [r for r in results if r["precision"] == precision]
        few, many = of[0], of[-1]
        print(
            f"{precision}: step at {many['rows']:,} rows / at {few['rows']:,} = {many['step_ms'] / few['step_ms']:.3f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
