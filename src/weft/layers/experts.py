"""Parts of networks for several tasks: experts that all tasks share, gates that mix them, a tower for each task.

Paper: Ma et al., KDD 2018, https://doi.org/10.1145/3219819.3220007, equations (6) to (8); the gates have no bias.

Dimension key: B rows, D width in, K experts, T tasks, H width out of an expert or of a tower's hidden layers.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from weft.layers.mlp import MLP, linear


@final
class MixtureOfExperts(nn.Module):
    """f^t(x) = Σ_k g^t(x)_k f_k(x), g^t(x) = softmax(W_t x); the experts f_k are multi-layer perceptrons.

    Args:
        inputs: D.
        hidden: Widths of the layers of an expert, the last is H.
        experts: K.
        tasks: T.
        dropout: Share of an expert's activations set to zero in training.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], *, experts: int, tasks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = nn.ModuleList(MLP(inputs, hidden, dropout=dropout) for _ in range(experts))
        self.gates = nn.ModuleList(linear(inputs, experts, bias=False) for _ in range(tasks))
        self.width = hidden[-1] if hidden else inputs

    def shares(self, x_BD: Tensor) -> Tensor:
        """How much of each expert a task takes: g [B, T, K]."""
        return torch.stack([gate(x_BD) for gate in self.gates], dim=1).softmax(-1)

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, T, H]."""
        expert_BKH = torch.stack([expert(x_BD) for expert in self.experts], dim=1)
        return torch.bmm(self.shares(x_BD).to(expert_BKH.dtype), expert_BKH)


@final
class Towers(nn.Module):
    """logit_t = w_t · MLP_t(x_t) + b_t: a network for each task, the last map in full precision (see `Head`).

    Args:
        inputs: D.
        hidden: Widths of a tower's hidden layers, the last is H; without any a tower is its last map.
        tasks: T.
        dropout: Share of a tower's activations set to zero in training.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], *, tasks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.towers = nn.ModuleList(MLP(inputs, hidden, dropout=dropout) for _ in range(tasks))
        last = [linear(hidden[-1] if hidden else inputs, 1).weight.detach() for _ in range(tasks)]
        self.weight = nn.Parameter(torch.cat(last))
        self.bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T]."""
        h_BTH = torch.stack([tower(x_BD) for tower, x_BD in zip(self.towers, x_BTD.unbind(1), strict=True)], dim=1)
        with torch.autocast(x_BTD.device.type, enabled=False):
            return (h_BTH.to(self.weight.dtype) * self.weight).sum(-1) + self.bias
