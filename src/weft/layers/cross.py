"""Full-rank cross layers of DCN-V2 (flat family: [B, D] -> [B, D]).

Dimension key: B rows, D width, C of its columns.
"""

from typing import Any, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weft.layers import native
from weft.layers.mlp import ALL, Columns, linear
from weft.layers.precision import lowered


@final
class Cross(nn.Module):
    """One cross step: x' = x0 * (W x + b) + x.

    Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535, equation (1): the bias is inside the product, where DCN of
    2017 has it outside.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = linear(width, width)

    def forward(self, x0_BD: Tensor, x_BD: Tensor) -> Tensor:
        """[B, D], [B, D] -> [B, D]."""
        return torch.addcmul(x_BD, x0_BD, self.linear(x_BD))


@final
class CrossNet(nn.Module):
    """Cross steps one after the other: `depth` of them reach products of `depth` + 1 features.

    The same as `Cross` after `Cross`, with one backward pass for all of them: see `_Crosses`.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Cross(width) for _ in range(depth))

    def forward(self, x0_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        x0_BD = lowered(x0_BD)
        parameters = [lowered(p) for layer in self.layers for p in layer.parameters()]
        return cast(Tensor, _Crosses.apply(x0_BD, *parameters))  # type: ignore[no-untyped-call]

    def first(self, x_BC: Tensor, columns: Columns = ALL) -> Tensor:
        """W_0 x of some columns of the block, [B, C] -> [B, D]; the sum over all columns is what `after` takes."""
        return F.linear(x_BC, self._layer(0).linear.weight[:, columns])

    def after(self, z_BD: Tensor, x0_BD: Tensor) -> Tensor:
        """W_0 x_0 [B, D] and x_0 [B, D] -> [B, D]."""
        x_BD = torch.addcmul(x0_BD, x0_BD, z_BD + self._layer(0).linear.bias)
        for place in range(1, len(self.layers)):
            x_BD = self._layer(place)(x0_BD, x_BD)
        return x_BD

    def _layer(self, place: int) -> Cross:
        return cast(Cross, self.layers[place])


class _Crosses(torch.autograd.Function):
    """x_{l+1} = x_0 * u_l + x_l with u_l = W_l x_l + b_l, over all l; parameters are W_0, b_0, W_1, b_1, ...

    With g the gradient of x_{l+1}: du = g * x_0, dW = du^T x_l, db = sum of du, and g <- g + du W is that of x_l.
    The gradient of x_0 is the sum of g * u_l over l, and of the last g; it is added up in one tensor. Autograd's own
    way is a new tensor for each addition, and a product with 1 for each factor of `addcmul`.
    """

    @staticmethod
    def forward(ctx: Any, x0_BD: Tensor, *parameters: Tensor) -> Tensor:
        x_BD, steps = x0_BD, []
        for weight_DD, bias_D in zip(parameters[::2], parameters[1::2], strict=True):
            u_BD = F.linear(x_BD, weight_DD, bias_D)
            steps += [weight_DD, x_BD, u_BD]
            x_BD = torch.addcmul(x_BD, x0_BD, u_BD)
        ctx.save_for_backward(x0_BD, *steps)
        return x_BD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BD: Tensor) -> tuple[Tensor, ...]:
        x0_BD, *steps = ctx.saved_tensors
        grad_BD, owned = grad_BD.contiguous(), False
        x0_grad_BD: Tensor | None = None
        parameters: list[Tensor] = []
        for weight_DD, x_BD, u_BD in zip(steps[-3::-3], steps[-2::-3], steps[-1::-3], strict=True):
            u_grad_BD, bias_grad_D, x0_grad_BD = _product_gradients(grad_BD, x0_BD, u_BD, x0_grad_BD)
            parameters = [u_grad_BD.T @ x_BD, bias_grad_D, *parameters]
            grad_BD = grad_BD.addmm_(u_grad_BD, weight_DD) if owned else torch.addmm(grad_BD, u_grad_BD, weight_DD)
            owned = True
        assert x0_grad_BD is not None
        return x0_grad_BD.add_(grad_BD), *parameters


def _product_gradients(
    grad_BD: Tensor, x0_BD: Tensor, u_BD: Tensor, x0_grad_BD: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x_0 * u: the gradients of u and of its bias, and that of x_0 added to what is there, in place."""
    found = native.cross_backward(grad_BD, x0_BD, u_BD, x0_grad_BD)
    if found is not None:
        return found
    x0_grad_BD = grad_BD * u_BD if x0_grad_BD is None else x0_grad_BD.addcmul_(grad_BD, u_BD)
    u_grad_BD = grad_BD * x0_BD
    return u_grad_BD, u_grad_BD.sum(0), x0_grad_BD
