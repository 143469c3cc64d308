"""Propagation over a graph: forward and backward of three layers, against an edge list and torch's sparse product.

    python benchmarks/propagation_speed.py [--quick] [--json FILE]

A random bipartite graph as large as Gowalla's (29,858 users, 40,981 items, 810,000 edges; degrees fall like a power),
normalised as in LightGCN. `edge list` gathers the rows of all edges, weighs them and adds them up by `index_add_`, with
the gradient of autograd, as graph libraries without a compiled kernel do. `sparse` is torch's CSR product with the
same symmetric gradient as ours. All ways give the same result, which is checked, and take turns.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from _records import Record, Records, run
from _timing import seconds_of
from weft.layers import Propagation, symmetric_weights

USERS, ITEMS, EDGES, LAYERS = 29_858, 40_981, 810_000, 3

Way = Callable[[Tensor], Tensor]


def links(users: int, items: int, edges: int) -> tuple[Tensor, Tensor, int]:
    """Rows and columns of the symmetric matrix of a random graph, and its nodes."""
    draw = torch.Generator().manual_seed(0)
    pairs = torch.empty(0, dtype=torch.int64)
    while len(pairs) < edges:
        user, item = (_falling(count, edges, draw) for count in (users, items))
        pairs = torch.cat([pairs, user * items + item]).unique()
    pairs = pairs[torch.randperm(len(pairs), generator=draw)[:edges]]
    user, item, nodes = pairs // items, pairs % items + users, users + items
    row, column = torch.cat([user, item]), torch.cat([item, user])
    order = (row * nodes + column).argsort()
    return row[order], column[order], nodes


def _falling(count: int, draws: int, draw: torch.Generator) -> Tensor:
    weight = torch.arange(10.0, count + 10.0).pow(-0.7)
    return torch.multinomial(weight, draws, replacement=True, generator=draw)


class _Sparse(torch.autograd.Function):
    """A symmetric matrix of torch's in CSR times rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix @ grad, None


def ways(row: Tensor, column: Tensor, nodes: int) -> dict[str, Way]:
    """One layer, three times the same."""
    weight = symmetric_weights(row, column, nodes)
    crow = torch.zeros(nodes + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(row, minlength=nodes), 0, out=crow[1:])
    with torch.sparse.check_sparse_tensor_invariants():
        matrix = torch.sparse_csr_tensor(crow, column, weight, (nodes, nodes))
    ours = Propagation(row, column, weight, nodes)
    return {
        "weft": ours,
        "sparse": lambda x: _Sparse.apply(x, matrix),
        "edge list": lambda x: torch.zeros_like(x).index_add_(0, row, x[column] * weight[:, None]),
    }


def there_and_back(way: Way, x: Tensor) -> Tensor:
    """The gradient of three layers for a fixed gradient of their output."""
    x = x.detach().requires_grad_()
    y = x
    for _ in range(LAYERS):
        y = way(y)
    y.backward(x.detach())
    assert x.grad is not None
    return x.grad


def compared(users: int, items: int, edges: int, width: int, threads: int, rounds: int) -> Record:
    """Seconds of each way, in turns, and how many times ours the others take."""
    torch.set_num_threads(threads)
    row, column, nodes = links(users, items, edges)
    x = torch.randn(nodes, width, generator=torch.Generator().manual_seed(1))
    every = ways(row, column, nodes)
    wanted = there_and_back(every["edge list"], x)
    for name, way in every.items():
        torch.testing.assert_close(there_and_back(way, x), wanted, rtol=1e-3, atol=1e-4, msg=f"{name} is not the same")
    taken: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(rounds):
        for name, way in every.items():
            taken[name].append(seconds_of(lambda way=way: there_and_back(way, x)))
    seconds = {name: statistics.median(found) for name, found in taken.items()}
    return {
        "edges": edges,
        "nodes": nodes,
        "width": width,
        "layers": LAYERS,
        "threads": threads,
        "seconds": seconds,
        "times_ours": {name: value / seconds["weft"] for name, value in seconds.items()},
        "products_per_second": 2 * 2 * edges * width * LAYERS / seconds["weft"],
    }


def measure(records: Records, quick: bool) -> None:
    """All sizes; the first is the one that DESIGN names."""
    if quick:
        records.measured("quick", lambda: compared(300, 400, 8_000, 8, 1, 1))
        return
    for threads in (1, 2):
        for width in (64, 16, 128):
            key = f"gowalla-{width}-{threads}"
            records.measured(key, lambda w=width, t=threads: compared(USERS, ITEMS, EDGES, w, t, 5))
    records.measured("ten-times-64-2", lambda: compared(10 * USERS, 10 * ITEMS, 10 * EDGES, 64, 2, 3))


def page(found: dict[str, Record]) -> list[str]:
    """The table of the page of benchmarks."""
    lines = [
        "| edges | width | threads | weft, s | sparse product / weft | edge list / weft |",
        "| --- " * 6 + "|",
    ]
    for r in found.values():
        others = r["times_ours"]
        lines.append(
            f"| {r['edges']:,} | {r['width']} | {r['threads']} | {r['seconds']['weft']:.3f} | {others['sparse']:.1f} | "
            f"{others['edge list']:.1f} |"
        )
    return lines


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    record = found.get("gowalla-64-2")
    times = None if record is None else record["times_ours"]["edge list"]
    return [("propagation, 3 layers of width 64 over 810,000 edges: edge list over weft", times, 20.0)]


if __name__ == "__main__":
    run(measure, __doc__)
