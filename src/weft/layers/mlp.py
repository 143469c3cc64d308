"""Deep parts: linear maps with the initialisation of the recipe, a multi-layer perceptron, and the output head.

Dimension key: B rows, D width in, C of its columns, H width out, T outputs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.layers import native
from weft.layers.dropout import Dropout

Columns = Tensor | slice
ALL = slice(None)

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "silu", "leaky_relu"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear map with Xavier-normal weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


@final
class BatchNorm(nn.Module):
    """Batch norm that takes a training batch of one row as well: it has no spread, so the running one is used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x_BH: Tensor) -> Tensor:
        """[B, H] -> [B, H]."""
        if self.training and len(x_BH) == 1:
            norm = self.norm
            return F.batch_norm(x_BH, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        normal_BH: Tensor = self.norm(x_BH)
        return normal_BH


@final
class MLP(nn.Module):
    """Linear, batch norm, activation, dropout; once per hidden width.

    With batch norm the linear maps have no bias: the norm would take it away again.

    Args:
        inputs: D.
        hidden: Widths of the hidden layers; without any the input passes through.
        activation: Name of the non-linearity.
        batch_norm: Normalise before the activation.
        dropout: Share of the activations set to zero in training.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        *,
        activation: Activation = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((inputs, *hidden), hidden, strict=False):
            layers.append(linear(before, after, bias=not batch_norm))
            layers += [BatchNorm(after)] if batch_norm else []
            layers.append(_ACTIVATIONS[activation]())
            layers += [Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers)
        self.width = hidden[-1] if hidden else inputs

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, H]."""
        h_BH: Tensor = self.layers(x_BD)
        return h_BH

    def first(self, x_BC: Tensor, columns: Columns = ALL) -> Tensor:
        """The first linear map of some columns of the input, without its bias, [B, C] -> [B, H_1].

        The sum over all columns is what `after` takes. An MLP without hidden layers has no first map.
        """
        return F.linear(x_BC, self._first().weight[:, columns])

    def after(self, z_BH: Tensor) -> Tensor:
        """[B, H_1], the first linear map without its bias, -> [B, H]; may overwrite it."""
        bias_H, (_, *others) = self._first().bias, self.layers
        z_BH = z_BH if bias_H is None else z_BH + bias_H
        for layer in others:
            z_BH = layer(z_BH)
        return z_BH

    def _first(self) -> nn.Linear:
        layer = self.layers[0]
        assert isinstance(layer, nn.Linear)
        return layer


class _Product(torch.autograd.Function):
    """x W^T in the precision of W; its gradients in the precision of x."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, weight_TD: Tensor) -> Tensor:
        ctx.save_for_backward(x_BD, weight_TD)
        fast_B = native.dot(x_BD, weight_TD)
        ctx.fast = fast_B is not None
        return F.linear(x_BD.to(weight_TD.dtype), weight_TD) if fast_B is None else fast_B[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BT: Tensor) -> tuple[Tensor, Tensor]:
        x_BD, weight_TD = ctx.saved_tensors
        if ctx.fast:
            return native.dot_backward(x_BD, weight_TD, grad_BT)
        grad_BT = grad_BT.to(x_BD.dtype)
        return grad_BT @ weight_TD.to(x_BD.dtype), (grad_BT.T @ x_BD).to(weight_TD.dtype)


@final
class Head(nn.Module):
    """The last linear map, over the concatenation of its parts, computed in full precision.

    In bf16 a logit has eight bits: different rows would tie. The gradients are computed in the precision of the parts.
    The parts are multiplied apart, which saves the copy that concatenates them.

    Args:
        widths: Of each part.
        outputs: T.
    """

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.linear = linear(sum(widths), outputs)

    @property
    def bias(self) -> Tensor:
        """The output bias [T]."""
        return self.linear.bias

    def forward(self, *parts: Tensor) -> Tensor:
        """Parts [B, D_i] -> [B, T]."""
        weights = torch.split(self.linear.weight, list(self.widths), dim=1)
        with torch.autocast(parts[0].device.type, enabled=False):
            logit_BT: Tensor = self.linear.bias
            for part_BD, weight_TD in zip(parts, weights, strict=True):
                product_BT: Tensor = _Product.apply(part_BD, weight_TD)  # type: ignore[no-untyped-call]
                logit_BT = logit_BT + product_BT
        return logit_BT
