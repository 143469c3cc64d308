"""How probable it is that an item stands in a batch: from known counts, or learned from the batches as they pass.

Dimension key: I items, N ids, H hash functions, S slots.
"""

from typing import final

import torch
from torch import Tensor, nn

PRIME = 2**31 - 1


@final
class ExactFrequency(nn.Module):
    """1 - (1 - n_j / n)^B: the probability that B draws from the train rows meet item j, which has n_j of the n rows.

    Args:
        count_I: n_j of each item id.
    """

    def __init__(self, count_I: Tensor) -> None:
        super().__init__()
        self.log_other_I: Tensor
        share_I = count_I.double() / count_I.sum().clamp(min=1)
        self.register_buffer("log_other_I", (-share_I).log1p(), persistent=False)

    def observe(self, item_N: Tensor) -> None:
        """Nothing to learn."""

    def forward(self, item_N: Tensor, batch_size: int) -> Tensor:
        """The probability [N] of items by their ids, for batches of a size."""
        return -(batch_size * self.log_other_I[item_N]).expm1().float()


@final
class StreamingFrequency(nn.Module):
    r"""The same from the steps that lie between two batches with an item, in memory that does not grow with the items.

    When a batch of step t holds the item with slot h, in each of H tables:

    .. math:: B_h \leftarrow (1 - \alpha) B_h + \alpha (t - A_h), \quad A_h \leftarrow t, \quad
        \hat p = 1 / \max_H B_h

    Yi et al., RecSys 2019, https://doi.org/10.1145/3298689.3346996, algorithms 2 and 3. Items that share a slot shorten
    its gaps, hence the largest. Differs: the step size is the larger of alpha and 1 / (times the slot was met), so that
    the estimate starts as a mean instead of from a guess. An item that was never met has the probability 0.

    Args:
        slots: S of each table.
        hashes: H.
        alpha: Step size in the long run.
        seed: Draws the hash functions, (a i + b) mod (2^31 - 1) mod S.
    """

    def __init__(self, slots: int, *, hashes: int = 2, alpha: float = 0.01, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self._alpha, self._slots = alpha, slots
        self.factor_H: Tensor
        self.offset_H: Tensor
        self.step: Tensor
        self.last_HS: Tensor
        self.gap_HS: Tensor
        self.met_HS: Tensor
        self.register_buffer("factor_H", torch.randint(1, PRIME, (hashes,), generator=draw), persistent=False)
        self.register_buffer("offset_H", torch.randint(PRIME, (hashes,), generator=draw), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_HS", torch.zeros(hashes, slots, dtype=torch.int64))
        self.register_buffer("gap_HS", torch.zeros(hashes, slots, dtype=torch.float64))
        self.register_buffer("met_HS", torch.zeros(hashes, slots, dtype=torch.int64))

    @torch.no_grad()
    def observe(self, item_N: Tensor) -> None:
        """Take in the items of a batch; an item counts once, however many rows it has."""
        self.step += 1
        tables = zip(self.last_HS, self.gap_HS, self.met_HS, self._places(item_N), strict=True)
        for last_S, gap_S, met_S, slot_N in tables:
            slot_U = slot_N.unique()
            met_S[slot_U] += 1
            rate_U = met_S[slot_U].double().reciprocal().clamp(min=self._alpha)
            gap_S[slot_U] = torch.lerp(gap_S[slot_U], (self.step - last_S[slot_U]).double(), rate_U)
            last_S[slot_U] = self.step

    def forward(self, item_N: Tensor, batch_size: int) -> Tensor:
        """The probability [N] of items by their ids, for batches of the size that was observed."""
        place_HN = self._places(item_N)
        gap_N = self.gap_HS.gather(1, place_HN).max(0).values
        never_N = (self.met_HS.gather(1, place_HN) == 0).any(0)
        return gap_N.clamp(min=1).reciprocal().masked_fill(never_N, 0).float()

    def _places(self, item_N: Tensor) -> Tensor:
        return (self.factor_H[:, None] * item_N + self.offset_H[:, None]) % PRIME % self._slots


def together(p: Tensor, q: Tensor) -> Tensor:
    """The probability of standing in at least one of two samples that are drawn on their own.

    >>> together(torch.tensor([0.5]), torch.tensor([0.5])).tolist()
    [0.75]
    """
    return p + q * (1 - p)
