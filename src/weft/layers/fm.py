"""Factorisation machine: all products of two fields, in linear time.

Dimension key: B rows, N fields, E width.
"""

from torch import Tensor


def pairwise(e_BNE: Tensor) -> Tensor:
    r"""Sum of the dot products of all pairs of fields.

    .. math:: \sum_{i<j} \langle e_i, e_j \rangle = \tfrac12 \sum_k \big[(\sum_i e_{ik})^2 - \sum_i e_{ik}^2\big]

    Rendle, ICDM 2010, lemma 3.1. Computed in full precision: the two squares nearly cancel.

    Returns:
        [B].
    """
    if e_BNE.dtype.itemsize < 4:
        e_BNE = e_BNE.float()
    return 0.5 * (e_BNE.sum(1).square() - e_BNE.square().sum(1)).sum(-1)
