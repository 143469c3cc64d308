"""Position bias: how likely a row was looked at, apart from how well it pleases.

Dimension key: B rows, F ids of a row (its position first), P positions, H width, T outputs.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from weft.layers.mlp import MLP, Head


def both(a: Tensor, b: Tensor) -> Tensor:
    r"""The logit of a product of two probabilities, of any shapes that broadcast.

    .. math:: \sigma(s) = \sigma(a)\,\sigma(b) \iff s = -\log(e^{-a} + e^{-b} + e^{-a-b})

    A loss on logits takes it as it is: log(σ(a) σ(b)) is then logσ(a) + logσ(b), and log(1 - σ(a) σ(b)) does not
    cancel, however near the product is to one. An infinite `b` is a certain event: s = a.

    >>> torch.sigmoid(both(torch.zeros(1), torch.zeros(1))).item()
    0.25
    """
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)


@final
class ShallowTower(nn.Module):
    """A small network over a few ids of each row: the position, and what else says how the row was shown.

    Its first layer is a sum of table rows, which is a linear map of one-hot vectors; id 0 stands for what is missing.
    Without hidden layers that sum is the output: a weight for each id. It starts flat, the same for all ids.

    Args:
        rows: Ids of each column.
        hidden: Widths of the hidden layers.
        outputs: T.
        start: The output before training.
    """

    def __init__(self, rows: Sequence[int], hidden: Sequence[int], outputs: int, *, start: float = 0.0) -> None:
        super().__init__()
        width = hidden[0] if hidden else outputs
        tables = [nn.Embedding(count, width) for count in rows]
        self.tables = nn.ModuleList(tables)
        self.deep = MLP(width, hidden[1:]) if hidden else None
        self.head = Head([hidden[-1]], outputs) if hidden else None
        if self.head is None:
            for place, table in enumerate(tables):
                nn.init.constant_(table.weight, 0.0 if place else start)
        else:
            nn.init.zeros_(self.head.linear.weight)
            nn.init.constant_(self.head.bias, start)

    def forward(self, ids_BF: Tensor) -> Tensor:
        """[B, F] -> [B, T]."""
        columns = zip(self.tables, ids_BF.unbind(1), strict=True)
        sum_BH = torch.stack([table(ids_B) for table, ids_B in columns]).sum(0)
        if self.deep is None or self.head is None:
            return sum_BH
        logit_BT: Tensor = self.head(self.deep(sum_BH.relu()))
        return logit_BT


@final
class KnownCurve(nn.Module):
    """The logit of a probability for each position that is known, from random orders for example; nothing is learned.

    Args:
        probability: Of positions 1, 2 and so on; from 0 (excluded) to 1.
    """

    def __init__(self, probability: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("logit_P", torch.tensor([1.0, *probability]).logit(), persistent=False)

    def forward(self, ids_BF: Tensor) -> Tensor:
        """[B, F] -> [B, 1]; position 0 counts as surely looked at."""
        return self.get_buffer("logit_P")[ids_BF[:, 0]][:, None]
