"""Weights without symmetry: with ones or identities a transposed matrix passes every test."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def make_lopsided(module: M) -> M:
    """Set every weight to sin(1), sin(2), ... in order, padding rows of tables to zero; in double precision.

    >>> make_lopsided(nn.Linear(2, 1)).weight.tolist()[0][1] == torch.tensor(2.0).sin().item()
    True
    """
    for weight in module.parameters():
        weight.copy_(torch.arange(1.0, weight.numel() + 1).sin().view_as(weight))
    for name, table in module.state_dict().items():
        if name.endswith(".weight") and _is_table(module, name):
            table[0] = 0
    return module.double()


def _is_table(module: nn.Module, name: str) -> bool:
    return name not in dict(module.named_parameters())
