"""Matrix factorisation: a vector and a bias for each user and each item, folded so that the score is a dot product.

score = <p_u, q_i> + b_u + b_i + m = <[p_u, b_u + m, 1], [q_i, 1, b_i]>

Paper: Koren, Bell and Volinsky, IEEE Computer 2009, https://doi.org/10.1109/MC.2009.263, equation (4).
Differs: any loss and optimizer; the mean m is learned. Users and items that training has not seen have zero vectors.
"""

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.models._inputs import Positive, one_output
from weft.models._registry import register
from weft.models._roles import RoleConfig, look_up, role_id, role_ids, role_tables
from weft.models._search import Choice, Space


@register(
    "mf",
    kinds=("retriever",),
    phases=("candidate generation", "ranking"),
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

    roles_only: ClassVar[bool] = True

    class Config(RoleConfig, frozen=True):
        """Options.

        Attributes:
            embedding_dim: Length of p_u and q_i.
            biases: Learn a bias, from zero, for each user, each item and all together.
        """

        SPACE: ClassVar[Space] = {"embedding_dim": Choice((16, 32, 64, 128, 192))}

        embedding_dim: Positive = 16
        biases: bool = True

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        one_output(fields, "mf")
        self.embedding = role_tables(fields, config.embedding_dim + config.biases, config, "mf")
        self.bias = nn.Parameter(torch.zeros(1)) if config.biases else None
        for name in ("user", "item"):
            self.embedding.table(name)[:, config.embedding_dim :] = 0

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [B, E]."""
        user_BE, item_BE = look_up(self.embedding, *role_ids(batch, "mf"))
        return self._user(user_BE), self._item(item_BE)

    def user_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's users."""
        user_B = role_id(batch.user, "user", "mf")
        return self._user(look_up(self.embedding, user_B, torch.zeros_like(user_B))[0])

    def item_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of the batch's items."""
        item_B = role_id(batch.item, "item", "mf")
        return self._item(look_up(self.embedding, torch.zeros_like(item_B), item_B)[1])

    @torch.no_grad()
    def factors(self) -> tuple[Tensor, Tensor]:
        """All p_u [U, E] and q_i [I, E], to be written to; the biases become 0."""
        tables = [self.embedding.table(name) for name in ("user", "item")]
        if self.bias is None:
            return tables[0], tables[1]
        self.bias.zero_()
        for table in tables:
            table[:, -1] = 0
        return tables[0][:, :-1], tables[1][:, :-1]

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
