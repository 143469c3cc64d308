"""Widths of fields in a flat block: what a matrix or a vector over D says of each field.

Dimension key: D width, N fields.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def block_norms(matrix_DD: Tensor, widths: Sequence[int]) -> Tensor:
    """Frobenius norms of the blocks of matrices [..., D, D] -> [..., N, N].

    >>> block_norms(torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), [2, 1]).tolist()
    [[5.0, 1.0], [2.0, 0.0]]
    """
    member_DN = _members(matrix_DD, widths)
    return (member_DN.T @ matrix_DD.square() @ member_DN).sqrt()


def field_means(x_D: Tensor, widths: Sequence[int]) -> Tensor:
    """Mean over the coordinates of each field, [..., D] -> [..., N].

    >>> field_means(torch.tensor([1.0, 3.0, 7.0]), [2, 1]).tolist()
    [2.0, 7.0]
    """
    return x_D @ _members(x_D, widths) / x_D.new_tensor(list(widths))


def _members(like: Tensor, widths: Sequence[int]) -> Tensor:
    """[D, N], 1 where a coordinate belongs to a field."""
    repeats = torch.tensor(list(widths), device=like.device)
    return torch.eye(len(widths), dtype=like.dtype, device=like.device).repeat_interleave(repeats, dim=0)
