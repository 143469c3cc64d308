"""NeuMF: generalised matrix factorisation and the tower of NCF, each with its own vectors, under one output.

logit = h · [p_u ⊙ q_i, MLP([p'_u, q'_i])] + b

Paper: He et al., WWW 2017, https://arxiv.org/abs/1708.05031, equation (12). `layers` and all starting values are those
of the published code, as in gmf and ncf_mlp. Pre-training (section 3.4.1): both halves start from a gmf and an ncf_mlp
trained alone, the output from h = [α h_GMF, (1 - α) h_MLP] (equation (13), α = 1/2 in the paper) and, as in the code, b
from theirs alike, so that the first logit is the weighted mean of theirs; then plain SGD, for which there is the preset
`pretrained`.
Differs: users and items that training has not seen have zero vectors, those of the halves too.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, final

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import ConfigError
from weft.models._inputs import Positive, squeezed
from weft.models._registry import register
from weft.models._roles import (
    LAYERS,
    LAYERS_SPACE,
    NCF_PRESET,
    RoleConfig,
    check_layers,
    look_up,
    ncf_head,
    ncf_tower,
    role_ids,
    role_tables,
)
from weft.models._search import Choice, Space


class Pretrained(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs of the two halves.

    Attributes:
        gmf: A run of the model gmf.
        mlp: A run of the model ncf_mlp.
    """

    gmf: str
    mlp: str


@register(
    "neumf",
    kinds=("ranker",),
    phases=("ranking",),
    paper="He et al., WWW 2017, Neural Collaborative Filtering",
    url="https://arxiv.org/abs/1708.05031",
    year=2017,
    strengths="A dot product and a learned similarity together; better than either of its halves.",
    weaknesses="Knows ids only, and needs its halves trained first to be at its best; a tuned mf is as good.",
    choose="To compare with the literature of collaborative filtering on implicit feedback.",
    presets={
        "paper": NCF_PRESET,
        "pretrained": {"train": {**NCF_PRESET["train"], "optimizer": "sgd"}},
    },
)
@final
class NeuMF(nn.Module):
    """Weighted product and multi-layer perceptron over vectors of their own."""

    roles_only: ClassVar[bool] = True
    PARTS: ClassVar[Mapping[str, str]] = {"gmf": "gmf", "mlp": "ncf_mlp"}

    class Config(RoleConfig, frozen=True):
        """Options.

        Attributes:
            embedding_dim: Length of p_u and q_i.
            layers: Width of p'_u and q'_i together, then of the hidden layers; one number means no hidden layer.
            pretrained: Runs that training starts from; it is training that reads them.
            alpha: What the logit of the gmf run counts at the start; that of the tower counts 1 - alpha.
        """

        SPACE: ClassVar[Space] = {"embedding_dim": Choice((8, 16, 32, 64, 128)), **LAYERS_SPACE}

        embedding_dim: Positive = 8
        layers: tuple[Positive, ...] = LAYERS
        pretrained: Pretrained | None = None
        alpha: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5

        def __post_init__(self) -> None:
            check_layers(self.layers)

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        self._alpha = config.alpha
        self.gmf_embedding = role_tables(fields, config.embedding_dim, config, "neumf")
        self.mlp_embedding = role_tables(fields, config.layers[0] // 2, config, "neumf")
        self.tower = ncf_tower(config.layers)
        self.head = ncf_head([config.embedding_dim, config.layers[-1]], fields.outputs)

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads: the product [B, E] and the top of the tower [B, H]."""
        users_and_items = role_ids(batch, "neumf")
        user_BE, item_BE = look_up(self.gmf_embedding, *users_and_items)
        vectors = look_up(self.mlp_embedding, *users_and_items)
        return user_BE * item_BE, self.tower(torch.cat(vectors, dim=1))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))

    def start_from(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from a gmf and an ncf_mlp trained alone, by their weights: `parts` has the keys of `PARTS`.

        Raises:
            ConfigError: Their widths are not this model's.
        """
        gmf, mlp = parts["gmf"], parts["mlp"]
        weights = {f"gmf_{key}": value for key, value in gmf.items() if key.startswith("embedding.")}
        weights |= {f"mlp_{key}": value for key, value in mlp.items() if key.startswith("embedding.")}
        weights |= {key: value for key, value in mlp.items() if key.startswith("tower.")}
        of_gmf, of_mlp = self._alpha, 1 - self._alpha
        outputs = [of_gmf * gmf["head.linear.weight"], of_mlp * mlp["head.linear.weight"]]
        weights["head.linear.weight"] = torch.cat(outputs, dim=1)
        weights["head.linear.bias"] = of_gmf * gmf["head.linear.bias"] + of_mlp * mlp["head.linear.bias"]
        self._refuse_others(weights)
        self.load_state_dict(weights)

    def _refuse_others(self, weights: Mapping[str, Tensor]) -> None:
        own = {key: list(value.shape) for key, value in self.state_dict().items()}
        given = {key: list(value.shape) for key, value in weights.items()}
        for key in {**own, **given}:
            if own.get(key) != given.get(key):
                raise ConfigError(
                    f"the runs of `pretrained` do not fit this model: {key!r} is {given.get(key, 'missing')} there and "
                    f"{own.get(key, 'missing')} here; set `embedding_dim` and `layers` as the runs have them"
                )
