"""Matrix factorisation: a vector and a bias for each user and each item, folded so that the score is a dot product.

score = <p_u, q_i> + b_u + b_i + m = <[p_u, b_u + m, 1], [q_i, 1, b_i]>

Paper: Koren, Bell and Volinsky, IEEE Computer 2009, https://doi.org/10.1109/MC.2009.263, equation (4).
Differs: any loss and optimizer; the mean m is learned. Users and items that training has not seen have zero vectors.
"""

from typing import Annotated, final

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import UNKNOWN, Batch, Fields
from weft.errors import Unsupported
from weft.layers import Embedding
from weft.layers.embedding import Update
from weft.models._inputs import Positive, one_output
from weft.models._registry import register


@register(
    "mf",
    kinds=("retriever",),
    phases=("candidate generation",),
    paper="Koren, Bell and Volinsky, IEEE Computer 2009, Matrix Factorization Techniques for Recommender Systems",
    url="https://doi.org/10.1109/MC.2009.263",
    year=2009,
    strengths="Very fast to train and to search; tuned, a match for deeper models on ids alone.",
    weaknesses="Knows ids only: nothing about a user or an item without a past.",
    choose="As the first source of candidates, and for ratings.",
)
@final
class MF(nn.Module):
    """Matrix factorisation on the user and item roles."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Options.

        Attributes:
            embedding_dim: Length of p_u and q_i.
            embedding_update: Gradients of whole tables, or of touched rows only; `auto` goes by the number of rows.
            embedding_std: Vectors start from N(0, std**2), biases from zero.
            biases: Learn a bias for each user, each item and all together.
        """

        embedding_dim: Positive = 16
        embedding_update: Update = "auto"
        embedding_std: Annotated[float, Meta(ge=0.0)] = 0.01
        biases: bool = True

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "mf")
        if not (fields.users and fields.items):
            raise Unsupported(
                "model 'mf' needs a user and an item role; add `user` and `item` to [roles] of the schema"
            )
        self.embedding = Embedding(
            {"user": fields.users, "item": fields.items},
            config.embedding_dim + config.biases,
            columns=["user", "item"],
            update=config.embedding_update,
            std=config.embedding_std,
        )
        self.bias = nn.Parameter(torch.zeros(1)) if config.biases else None
        for name in ("user", "item"):
            self.embedding.table(name)[UNKNOWN] = 0
            self.embedding.table(name)[:, config.embedding_dim :] = 0

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [B, E]."""
        user_BE, item_BE = self._look_up(_ids(batch.user, "user"), _ids(batch.item, "item"))
        return self._user(user_BE), self._item(item_BE)

    def user_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's users."""
        user_B = _ids(batch.user, "user")
        return self._user(self._look_up(user_B, torch.zeros_like(user_B))[0])

    def item_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's items."""
        item_B = _ids(batch.item, "item")
        return self._item(self._look_up(torch.zeros_like(item_B), item_B)[1])

    def _look_up(self, user_B: Tensor, item_B: Tensor) -> tuple[Tensor, Tensor]:
        user_BE, item_BE = self.embedding(torch.stack([user_B, item_B], dim=1)).columns[0].unbind(1)
        return user_BE, item_BE

    def _user(self, row_BE: Tensor) -> Tensor:
        if self.bias is None:
            return row_BE
        p_BE, b_B1 = row_BE[:, :-1], row_BE[:, -1:]
        return torch.cat([p_BE, b_B1 + self.bias, torch.ones_like(b_B1)], dim=1)

    def _item(self, row_BE: Tensor) -> Tensor:
        if self.bias is None:
            return row_BE
        q_BE, b_B1 = row_BE[:, :-1], row_BE[:, -1:]
        return torch.cat([q_BE, torch.ones_like(b_B1), b_B1], dim=1)


def _ids(ids_B: Tensor | None, role: str) -> Tensor:
    if ids_B is None:
        raise Unsupported(f"model 'mf' reads the {role} role and this batch has no `{role}`; encode rows of that side")
    return ids_B
