"""A fixed sparse matrix times rows of vectors: how graph networks pass messages.

Dimension key: N nodes, M entries of the matrix, E width.
"""

from typing import Any, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CSR(NamedTuple):
    """A sparse matrix by rows: row n owns the entries offsets[n] to offsets[n + 1], in the order of their columns.

    Attributes:
        offsets: [N + 1] int64.
        columns: [M] int64.
        weights: [M] float.
    """

    offsets: Tensor
    columns: Tensor
    weights: Tensor


def csr(row_M: Tensor, column_M: Tensor, weight_M: Tensor, nodes: int) -> CSR:
    """A matrix [N, N] from its entries in any order, each place at most once.

    >>> csr(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([2.0, 3.0]), 2).weights.tolist()
    [3.0, 2.0]
    """
    order_M = (row_M * nodes + column_M).argsort()
    offsets = torch.zeros(nodes + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(row_M, minlength=nodes), 0, out=offsets[1:])
    return CSR(offsets, column_M[order_M], weight_M[order_M])


def symmetric_weights(row_M: Tensor, column_M: Tensor, nodes: int) -> Tensor:
    """D^-1/2 A D^-1/2 of a symmetric A of ones: 1 / sqrt(d_row d_column), d the entries of a row.

    >>> symmetric_weights(torch.tensor([0, 1]), torch.tensor([1, 0]), 2).tolist()
    [1.0, 1.0]
    """
    degree_N = torch.bincount(row_M, minlength=nodes).double()
    return (degree_N[row_M] * degree_N[column_M]).rsqrt().float()


def mean_weights(row_M: Tensor, nodes: int) -> Tensor:
    """D^-1 A: each row takes the mean of its columns.

    >>> mean_weights(torch.tensor([0, 0, 2]), 3).tolist()
    [0.5, 0.5, 1.0]
    """
    return torch.bincount(row_M, minlength=nodes).double().reciprocal()[row_M].float()


@final
class Propagation(nn.Module):
    """y = A x for a fixed sparse A, with the gradient A^T g; a symmetric A serves both and is kept once.

    The product is a weighted sum over bags, whose kernel fetches rows ahead: on a CPU a third of the time of torch's
    sparse product (MKL), and each row is summed in one order whatever the number of threads. A pass costs M E products,
    and the same again backward; nothing is kept in between. It stays in the precision of the weights under autocast: a
    sum over many neighbours loses what bf16 cannot hold, and rows of half the size come no faster.

    The entries are no part of the state dict.

    Args:
        row_M: Of each entry.
        column_M: Of each entry.
        weight_M: Of each entry.
        nodes: N.
    """

    def __init__(self, row_M: Tensor, column_M: Tensor, weight_M: Tensor, nodes: int) -> None:
        super().__init__()
        there, back = csr(row_M, column_M, weight_M, nodes), csr(column_M, row_M, weight_M, nodes)
        self._symmetric = all(map(torch.equal, there, back))
        self._keep("there", there)
        if not self._symmetric:
            self._keep("back", back)

    def forward(self, x_NE: Tensor) -> Tensor:
        """[N, E] -> [N, E]."""
        there = self._kept("there")
        back = there if self._symmetric else self._kept("back")
        x_NE = x_NE.to(there.weights.dtype)
        return cast(Tensor, _Product.apply(x_NE, there, back))  # type: ignore[no-untyped-call]

    def _keep(self, name: str, matrix: CSR) -> None:
        for part, tensor in matrix._asdict().items():
            self.register_buffer(f"_{name}_{part}", tensor, persistent=False)

    def _kept(self, name: str) -> CSR:
        return CSR(*(self.get_buffer(f"_{name}_{part}") for part in CSR._fields))


class _Product(torch.autograd.Function):
    """A x, and backward A^T g."""

    @staticmethod
    def forward(ctx: Any, x_NE: Tensor, there: CSR, back: CSR) -> Tensor:
        ctx.back = back
        return _times(there, x_NE)

    @staticmethod
    def backward(ctx: Any, grad_NE: Tensor) -> tuple[Tensor, None, None]:
        return _times(ctx.back, grad_NE.contiguous()), None, None


def _times(matrix: CSR, x_NE: Tensor) -> Tensor:
    """Rows without entries are zero."""
    offsets, columns, weights = matrix
    return F.embedding_bag(columns, x_NE, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
