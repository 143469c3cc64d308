"""Generalised matrix factorisation: a dot product whose dimensions have weights.

logit = h · (p_u ⊙ q_i) + b

Paper: He et al., WWW 2017, https://arxiv.org/abs/1708.05031, equation (9) with the sigmoid as its activation. Starting
values and the bias are those of the published code: vectors N(0, 0.01²), h LeCun-uniform, b zero.
Differs: users and items that training has not seen have zero vectors. An L2 on p and q alone does nothing (`train.l2`
is one): h, which has none, grows as they shrink (Rendle et al., RecSys 2020).
"""

from typing import ClassVar, final

from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.models._inputs import Positive, squeezed
from weft.models._registry import register
from weft.models._roles import NCF_PRESET, RoleConfig, look_up, ncf_head, role_ids, role_tables
from weft.models._search import Choice, Space


@register(
    "gmf",
    kinds=("ranker",),
    phases=("ranking",),
    paper="He et al., WWW 2017, Neural Collaborative Filtering",
    url="https://arxiv.org/abs/1708.05031",
    year=2017,
    strengths="As fast as matrix factorisation, with a weight for each dimension.",
    weaknesses="Knows ids only; a tuned mf does at least as well and can be searched as a retriever.",
    choose="As the linear half of neumf, and to compare with it.",
    presets={"paper": NCF_PRESET},
)
@final
class GMF(nn.Module):
    """Weighted product of a user's and an item's vector."""

    roles_only: ClassVar[bool] = True

    class Config(RoleConfig, frozen=True):
        """Options.

        Attributes:
            embedding_dim: Length of p_u and q_i, the "predictive factors" of the paper.
        """

        SPACE: ClassVar[Space] = {"embedding_dim": Choice((8, 16, 32, 64, 128))}

        embedding_dim: Positive = 8

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self.embedding = role_tables(fields, config.embedding_dim, config, "gmf")
        self.head = ncf_head([config.embedding_dim], fields.outputs)

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads: p_u ⊙ q_i, [B, E]."""
        user_BE, item_BE = look_up(self.embedding, *role_ids(batch, "gmf"))
        return (user_BE * item_BE,)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))
