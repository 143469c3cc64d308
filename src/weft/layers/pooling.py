"""Pooling of sets and sequences: many rows a field become one.

Dimension key: B rows of a batch, V values of a ragged field, E width.
"""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "sum", "max"]


def pool(rows_VE: Tensor, offsets: Tensor, weights_V: Tensor, how: Pooling) -> Tensor:
    """Pool the rows of each set; a set that is empty or weighs nothing gives zero.

    sum = Σ w v, mean = Σ w v / Σ w, max = the largest v of those with w != 0, coordinate by coordinate.

    Args:
        rows_VE: The rows of all sets, one after the other.
        offsets: [B + 1] int64; set b owns rows offsets[b] to offsets[b + 1].
        weights_V: One weight a row; zero leaves the row out.
        how: mean, sum or max.

    Returns:
        [B, E].

    >>> rows = torch.tensor([[1.0], [3.0], [8.0]])
    >>> pool(rows, torch.tensor([0, 2, 2, 3]), torch.ones(3), "mean").flatten().tolist()
    [2.0, 0.0, 8.0]
    """
    if not (len(rows_VE) or rows_VE.requires_grad or weights_V.requires_grad):
        return rows_VE.new_zeros(len(offsets) - 1, rows_VE.shape[1])
    if how == "max":
        return _largest(rows_VE, offsets, weights_V)
    set_V, weights_V = set_of(offsets), weights_V.to(rows_VE.dtype)
    sum_BE = rows_VE.new_zeros(len(offsets) - 1, rows_VE.shape[1]).index_add(0, set_V, rows_VE * weights_V[:, None])
    if how == "sum":
        return sum_BE
    total_B = weights_V.new_zeros(len(offsets) - 1).index_add(0, set_V, weights_V)
    return sum_BE / total_B.masked_fill(total_B == 0, 1)[:, None]


def set_of(offsets: Tensor) -> Tensor:
    """The number of the set that owns each row, [V].

    >>> set_of(torch.tensor([0, 2, 2, 3])).tolist()
    [0, 0, 2]
    """
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())


def filled(rows_VE: Tensor, offsets: Tensor) -> Tensor:
    """The rows of each set, filled up with zeros to the longest one: [V, ...] -> [B, L, ...].

    >>> filled(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([0, 2, 2, 3])).tolist()
    [[1.0, 3.0], [0.0, 0.0], [8.0, 0.0]]
    """
    set_V, lengths = set_of(offsets), offsets.diff()
    place_V = torch.arange(len(rows_VE), device=offsets.device) - offsets[set_V]
    longest = int(lengths.max()) if len(lengths) else 0
    filled_BLE = rows_VE.new_zeros(len(lengths), longest, *rows_VE.shape[1:])
    filled_BLE[set_V, place_V] = rows_VE
    return filled_BLE


def _largest(rows_VE: Tensor, offsets: Tensor, weights_V: Tensor) -> Tensor:
    shown_VE = rows_VE.masked_fill((weights_V == 0)[:, None], -torch.inf)
    largest_BE = torch.segment_reduce(shown_VE, "max", offsets=offsets, axis=0, initial=-torch.inf)
    return largest_BE.masked_fill(largest_BE == -torch.inf, 0)
