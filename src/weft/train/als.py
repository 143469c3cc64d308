"""Implicit alternating least squares: the exact best users for fixed items, then the exact best items, in turns.

    Σ_u Σ_i c_ui (p_ui - x_u · y_i)² + λ (Σ_u |x_u|² + Σ_i |y_i|²),   c_ui = 1 + α r_ui

over all users and all items; p_ui is 1 where user u has item i, 0 elsewhere, and r_ui is the sum of the labels, times
the row weights, of the pair's relevant train rows, 0 where there is none. The best x_u solves

    (YᵀY + Yᵀ(Cᵘ - I)Y + λI) x_u = Yᵀ Cᵘ p_u

where YᵀY is made once for all users and the rest runs over the items of u only; items are solved in the same way.

Paper: Hu, Koren and Volinsky, ICDM 2008, https://doi.org/10.1109/ICDM.2008.22, equations (3) to (5).

Dimension key: R rows that are solved (users or items), O rows of the other side, M pairs, E width, L pairs of a row.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.errors import Unsupported
from weft.models import _registry as registry
from weft.models._contract import Factored
from weft.train.loop import Epoch, Progress, Step
from weft.train.recipe import Recipe
from weft.transforms.rows import Rows

LOSS = "als"
AT_ONCE = 4_000_000  # numbers of the other side, or of matrices to solve, that are held at a time


class Pairs(NamedTuple):
    """What each row of one side has of the other: row r owns offsets[r] on.

    Attributes:
        offsets: [R + 1].
        other: [M] rows of the other side.
        r: [M] how often, or how much.
    """

    offsets: Tensor
    other: Tensor
    r: Tensor

    def to(self, device: torch.device) -> "Pairs":
        """The pairs on another device."""
        return Pairs(*(part.to(device) for part in self))


def check_model(loss: str, model: nn.Module) -> None:
    """Unsupported where the loss is this one and the model is not made of free vectors."""
    if loss == LOSS and not isinstance(model, Factored):
        able = [name for name in registry.names("retriever") if hasattr(registry.entry(name).model, "factors")]
        raise Unsupported(
            f"`train.loss` = 'als' solves for a free vector of each user and item, and {type(model).__name__} has more "
            f"than these; choose the model {' or '.join(able)} without wrappers, or another loss"
        )


def pairs_of(rows: Rows, users: int, items: int) -> tuple[Pairs, Pairs]:
    """The pairs of relevant rows by their user and by their item; repeated ones are added up."""
    assert rows.user is not None
    assert rows.item is not None
    r = np.ones(len(rows)) if rows.label is None else rows.label[:, 0].astype(np.float64)
    if rows.weight is not None:
        r = r * rows.weight
    key, place = np.unique(rows.user.astype(np.int64) * items + rows.item, return_inverse=True)
    total = np.bincount(place, r, len(key)).astype(np.float64)
    user, item = np.divmod(key, items)
    return _by(user, item, total, users), _by(item, user, total, items)


def _by(own: NDArray[np.int64], other: NDArray[np.int64], r: NDArray[np.float64], rows: int) -> Pairs:
    order = np.argsort(own, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=rows))])
    return Pairs(*(torch.from_numpy(part) for part in (offsets, other[order], r[order])))


def alternate(
    model: nn.Module,
    rows: Rows,
    recipe: Recipe,
    *,
    validate: Callable[[nn.Module], dict[str, float]],
    monitor: str,
    progress: Progress | None = None,
) -> Iterator[Step | Epoch]:
    """As `loop.train`: an epoch is one step, which solves all users and then all items.

    The loss of an epoch is the objective after it, divided by the number of pairs; it never rises.

    Args:
        model: It is `Factored`.
        rows: The relevant train rows.
        recipe: Its `als_alpha` is α, its `als_l2` λ.
        validate: Gives the validation metrics.
        monitor: The metric that decides.
        progress: Where to go on from.
    """
    assert isinstance(model, Factored)
    user_UE, item_IE = model.factors()
    by_user, by_item = (part.to(user_UE.device) for part in pairs_of(rows, len(user_UE), len(item_IE)))
    progress = progress or Progress()
    while not progress.finished(recipe):
        solve(user_UE, item_IE, by_user, alpha=recipe.als_alpha, l2=recipe.als_l2)
        solve(item_IE, user_UE, by_item, alpha=recipe.als_alpha, l2=recipe.als_l2)
        loss = objective(user_UE, item_IE, by_user, alpha=recipe.als_alpha, l2=recipe.als_l2) / len(by_user.other)
        progress = progress.after_step(loss, len(rows))
        yield Step(loss, progress)
        done, metrics = progress, validate(model)
        progress = done.after_epoch(metrics, monitor, recipe)
        yield Epoch(done.epoch, done.loss, metrics, progress)


def solve(own_RE: Tensor, other_OE: Tensor, pairs: Pairs, *, alpha: float, l2: float) -> None:
    """Put the best vectors of one side in place, given the other's; a row without pairs gets zeros.

    The equations are solved in double precision. Rows of about the same number of pairs are solved together.
    """
    y_OE = other_OE.double()
    width = y_OE.shape[1]
    base_EE = y_OE.T @ y_OE + l2 * torch.eye(width, dtype=y_OE.dtype, device=y_OE.device)
    size_R = pairs.offsets.diff()
    order = size_R.argsort(descending=True, stable=True)[: int((size_R > 0).sum())]
    own_RE[size_R == 0] = 0
    for some in torch.split(order, max(1, AT_ONCE // (width * width))):
        matrix, right = _equations(some, y_OE, pairs, base_EE, alpha)
        factor = torch.linalg.cholesky(matrix)
        own_RE[some] = torch.cholesky_solve(right, factor)[:, :, 0].to(own_RE.dtype)


def _equations(some_R: Tensor, y_OE: Tensor, pairs: Pairs, base_EE: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The left sides [R, E, E] and right sides [R, E, 1] of some rows, the one with most pairs first."""
    start_R, size_R = pairs.offsets[some_R], pairs.offsets.diff()[some_R]
    matrix = base_EE.expand(len(some_R), -1, -1).clone()
    right = matrix.new_zeros(len(some_R), matrix.shape[1], 1)
    rows, done, most = len(some_R), 0, int(size_R[0])
    while done < most:
        rows = int((size_R > done).sum())  # rows are sorted by size: the first ones have more
        wide = max(1, AT_ONCE // (rows * y_OE.shape[1]))
        column_L = torch.arange(done, min(done + wide, most), device=some_R.device)
        there_RL = column_L < size_R[:rows, None]
        place_RL = torch.where(there_RL, start_R[:rows, None] + column_L, 0)
        y_RLE = y_OE[pairs.other[place_RL]]
        extra_RL = torch.where(there_RL, alpha * pairs.r[place_RL], 0)
        matrix[:rows] += y_RLE.mT @ (y_RLE * extra_RL[:, :, None])
        right[:rows] += y_RLE.mT @ (extra_RL + there_RL)[:, :, None]
        done += wide
    return matrix, right


def objective(user_UE: Tensor, item_IE: Tensor, by_user: Pairs, *, alpha: float, l2: float) -> float:
    """The sum that is minimised: all pairs through the Gram matrices, and what those that are there differ by."""
    x_UE, y_IE = user_UE.double(), item_IE.double()
    total = ((x_UE.T @ x_UE) * (y_IE.T @ y_IE)).sum() + l2 * (x_UE.square().sum() + y_IE.square().sum())
    user_M = torch.repeat_interleave(by_user.offsets.diff())
    for some in torch.split(torch.arange(len(user_M), device=user_M.device), max(1, AT_ONCE // x_UE.shape[1])):
        s = (x_UE[user_M[some]] * y_IE[by_user.other[some]]).sum(1)
        total = total + ((1 + alpha * by_user.r[some]) * (1 - s).square() - s.square()).sum()
    return float(total)
