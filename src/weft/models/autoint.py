"""AutoInt: fields attend to each other, layer by layer; AutoInt+ adds the logit of a deep network.

e_m of the next layer = ReLU(e~_m + W_Res e_m), where head h of e~_m is Σ_k α^h_mk W^h_V e_k
    with α^h_mk = softmax_k <W^h_Q e_m, W^h_K e_k>
logit = w · [e_1, ..., e_N] + b   (+ v · MLP([e_1, ..., e_N] of the first layer's input), where `hidden` names layers)

Paper: Song et al., CIKM 2019, https://arxiv.org/abs/1810.11921, equations (5) to (10); residual and ReLU in every
layer, scores as they are. A number is its value times the vector of its column, a set is the mean of its vectors.
The authors' code is another form (github.com/DeepGraphLearning/RecommenderSystems, featureRec/autoint/model.py): ReLU
on queries, keys, values and the residual's projection, scores over the root of a head's width, layer norm after the
last ReLU, dropout of attention weights. Each is an option; the preset `code` sets the first three.
Differs: the projections of the form `code` have no biases, the embeddings no dropout; both logits share one bias; batch
norm in the added network by default. The preset `bars` adds that network, as AutoInt+ there.
"""

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import ConfigError
from weft.layers import FieldAttention, Head
from weft.models._contract import FieldMap
from weft.models._inputs import DeepConfig, Positive, Share, Slots, deep_part, squeezed
from weft.models._registry import register
from weft.models._search import Choice, Range, Space
from weft.models._slot_maps import names_of

PAPER = {"train": {"batch_size": 1024, "optimizer": "adam", "learning_rate": 1e-3}}
CODE = {"scaled": True, "activated": True, "layer_norm": True, **PAPER}


@register(
    "autoint",
    kinds=("ranker",),
    phases=("ranking", "final ranking"),
    paper="Song et al., CIKM 2019, AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks",
    url="https://arxiv.org/abs/1810.11921",
    year=2019,
    strengths="Its attention shows which fields it combines, row by row; few weights beside the embeddings.",
    weaknesses="Cost grows with the square of the number of fields; alone it is rarely the most accurate.",
    choose="When the model must show which fields it combined for a row, or beside a deep network (hidden=[400, 400]).",
    presets={"paper": PAPER, "code": CODE},
)
@final
class AutoInt(nn.Module):
    """Self-attention over the fields, and a deep network beside it where one is asked for."""

    class Config(DeepConfig, frozen=True):
        """Options.

        Attributes:
            hidden: Widths of the added deep network; none by default.
            num_layers: Attention layers.
            num_heads: Heads of each layer.
            attention_dim: Width of a slot after each layer, all heads together.
            scaled: Divide the scores by the square root of a head's width.
            activated: ReLU on queries, keys, values and the residual's projection.
            layer_norm: Normalise each slot after the ReLU of a layer.
            attention_dropout: Share of the attention weights set to zero in training.
        """

        SPACE: ClassVar[Space] = {
            "num_layers": Range(1, 4),
            "num_heads": Choice((1, 2, 4)),
            "attention_dim": Choice((32, 64, 128)),
            "scaled": Choice((False, True)),
            "layer_norm": Choice((False, True)),
            "hidden": Choice(((), (400, 400), (400, 400, 400))),
        }

        hidden: tuple[Positive, ...] = ()
        num_layers: Positive = 3
        num_heads: Positive = 2
        attention_dim: Positive = 32
        scaled: bool = False
        activated: bool = False
        layer_norm: bool = False
        attention_dropout: Share = 0.0

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        if config.attention_dim % config.num_heads:
            raise ConfigError(
                f"`attention_dim` is shared by the heads, got {config.attention_dim} for {config.num_heads} heads; "
                "choose a multiple of `num_heads`"
            )
        self.slots = Slots(fields, config)
        widths = (config.embedding_dim, *[config.attention_dim] * config.num_layers)
        self.attention = nn.ModuleList(
            FieldAttention(
                width,
                config.attention_dim,
                config.num_heads,
                scaled=config.scaled,
                activated=config.activated,
                layer_norm=config.layer_norm,
                dropout=config.attention_dropout,
            )
            for width in widths[:-1]
        )
        attended = len(names_of(self.slots)) * config.attention_dim
        self.deep = deep_part(self.slots.width, config) if config.hidden else None
        self.head = Head([attended] if self.deep is None else [attended, self.deep.width], fields.outputs)

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads: the slots after the last layer, and the deep part if there is one."""
        e_BNE = x_BNE = self.slots(batch)
        for layer in self.attention:
            x_BNE = layer(x_BNE)
        attended_BD = x_BNE.flatten(1)
        return (attended_BD,) if self.deep is None else (attended_BD, self.deep(e_BNE.flatten(1)))

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))

    @torch.no_grad()
    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """The attention α^h_mk of each layer and head: how much a field (a row of the map) takes of each other one."""
        names, x_BNE, maps = names_of(self.slots), self.slots(batch), []
        for number, layer in enumerate(self.attention, start=1):
            assert isinstance(layer, FieldAttention)
            for head, weights_BNN in enumerate(layer.weights(x_BNE).unbind(1), start=1):
                maps.append(FieldMap(f"attention of layer {number}, head {head}", names, names, weights_BNN.float()))
            x_BNE = layer(x_BNE)
        return maps
