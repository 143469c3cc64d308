"""Neighbours by random walks: the nodes that walks from a node visit most, each weighing its share of the visits.

Dimension key: N nodes, L links, C starts of a chunk, K walks of a chunk, V different visits.
"""

import torch
from torch import Tensor

VISITS_AT_ONCE = 1 << 22  # of one chunk of starts: bounds the memory


def visited(
    row_L: Tensor,
    column_L: Tensor,
    nodes: int,
    *,
    walks: int,
    steps: int,
    restart: float,
    top: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `top` nodes that walks from each node visit most, and the share of each in the visits of these.

    A walk goes to a neighbour drawn uniformly at every step, before which it may have begun anew from its start. The
    start itself counts as no visit; of equal counts the lower node comes first. A node without links has none.

    Ying et al., KDD 2018, https://arxiv.org/abs/1806.01973, section 3.2 (importance-based neighbourhoods).

    Args:
        row_L: Rows of the matrix of ones that links the nodes, sorted.
        column_L: Its columns.
        nodes: N.
        walks: From every node.
        steps: Of every walk.
        restart: Probability that a step begins at the walk's start.
        top: How many nodes are kept.
        generator: Draws the walks; torch's own without it.

    Returns:
        Rows, columns and weights of a matrix [N, N] whose rows sum to one, or zero without links.
    """
    degree_N = torch.bincount(row_L, minlength=nodes)
    first_N = degree_N.cumsum(0) - degree_N
    starts = degree_N.nonzero().flatten()
    chunks = torch.split(starts, max(1, VISITS_AT_ONCE // (walks * steps)))
    parts = []
    for chunk_C in chunks:
        start_K = chunk_C.repeat_interleave(walks)
        seen = _walk(start_K, column_L, first_N, degree_N, steps, restart, generator)
        parts.append(_most_visited(start_K.repeat(steps), seen, nodes, top))
    if not parts:
        return row_L[:0], column_L[:0], torch.zeros(0)
    row, column, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return row, column, weight


def _walk(
    start_K: Tensor,
    column_L: Tensor,
    first_N: Tensor,
    degree_N: Tensor,
    steps: int,
    restart: float,
    generator: torch.Generator | None,
) -> Tensor:
    """The visited nodes of all steps, the first of all walks before the second."""
    at_K, seen = start_K, []
    for _ in range(steps):
        again_K = torch.rand(len(at_K), generator=generator) < restart
        at_K = torch.where(again_K, start_K, at_K)
        draw_K = (torch.rand(len(at_K), generator=generator, dtype=torch.float64) * degree_N[at_K]).long()
        at_K = column_L[first_N[at_K] + draw_K]
        seen.append(at_K)
    return torch.cat(seen)


def _most_visited(start: Tensor, seen: Tensor, nodes: int, top: int) -> tuple[Tensor, Tensor, Tensor]:
    away = start != seen
    pair_V, count_V = torch.unique(start[away] * nodes + seen[away], return_counts=True)
    order_V = count_V.argsort(descending=True, stable=True)
    order_V = order_V[(pair_V[order_V] // nodes).argsort(stable=True)]
    start_V, seen_V, count_V = pair_V[order_V] // nodes, pair_V[order_V] % nodes, count_V[order_V]
    kept_V = _rank(start_V) < top
    start_V, seen_V, count_V = start_V[kept_V], seen_V[kept_V], count_V[kept_V].double()
    total_N = torch.zeros(nodes, dtype=torch.float64).index_add_(0, start_V, count_V)
    return start_V, seen_V, (count_V / total_N[start_V]).float()


def _rank(start_V: Tensor) -> Tensor:
    """The place of each among those of the same start, from zero.

    >>> _rank(torch.tensor([3, 3, 7])).tolist()
    [0, 1, 0]
    """
    _, place_V, count = torch.unique_consecutive(start_V, return_inverse=True, return_counts=True)
    rank_V: Tensor = torch.arange(len(start_V)) - (count.cumsum(0) - count)[place_V]
    return rank_V
