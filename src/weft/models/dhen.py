"""DHEN: layers of several interaction modules side by side, so that deeper layers cross the crosses of each kind.

X_0 = [MLP(dense), e_1, ..., e_F], as DLRM has it
X_{n+1} = LayerNorm(Ensemble_i Interaction_i(X_n) + ShortCut(X_n))
logit = w · X_N + b over all slots, or w · MLP(X_N) + b where `hidden` names layers

The modules, each giving `slots` slots of the same width:
dot           W {<x_i, x_j> : i > j} + b, cut into slots (AdvancedDLRM)
attention     W Encoder(X), the encoder layer of a transformer
convolution   W Conv(X), 3 x 3 filters over slots and coordinates
linear        W X
cross         (X X^T) W + b without a skip: the layer's shortcut plays that part
Maps between numbers of slots, the shortcut's too, act on the slots and never on their coordinates. k modules in N
layers are k^N chains of interactions.

Paper: Zhang et al., 2022, https://arxiv.org/abs/2203.11014, section 3; there is no code by the authors.
Differs: what the paper leaves open is chosen here: the encoder's hidden layer is four times as wide as a slot, the norm
is over each slot, a weighted sum has one weight a module, starting at one. The coordinates of the convolution's filters
are neighbours in the order of the schema.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle, islice
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import ConfigError, Unsupported
from weft.layers import Head
from weft.layers.dhen import AttentionSlots, ConvolutionSlots, CrossSlots, DHENLayer, DotSlots, Ensemble
from weft.layers.slot_linear import SlotLinear
from weft.models._bottom import BottomConfig, BottomSlots
from weft.models._contract import FieldMap
from weft.models._inputs import Positive, deep_part, squeezed
from weft.models._registry import register
from weft.models._search import Choice, Range, Space
from weft.models._slot_maps import dot_map

Module = Literal["dot", "attention", "convolution", "linear", "cross"]
Modules = Annotated[tuple[Module, ...], Meta(min_length=1)]


@register(
    "dhen",
    kinds=("ranker",),
    phases=("final ranking",),
    paper="Zhang et al., 2022, DHEN: A Deep and Hierarchical Ensemble Network for Large-Scale Click-Through Rate "
    "Prediction",
    url="https://arxiv.org/abs/2203.11014",
    year=2022,
    strengths="Several kinds of interaction at once, crossed again by every layer; gains with depth and data.",
    weaknesses="Many choices and no published figure on public data; attention and convolution make it slow.",
    choose="When there is much data and the last thousandth is worth a search over modules and depth.",
)
@final
class DHEN(nn.Module):
    """Hierarchy of ensembles of interactions."""

    class Config(BottomConfig, frozen=True):
        """Options.

        Attributes:
            hidden: Widths of the network between the last layer and the head; none by default.
            modules: What stands in each layer, one list a layer; where there are more layers it starts again.
            num_layers: Layers.
            slots: Slots that each module gives.
            ensemble: The modules' slots one below the other, added up, or added up with a learned weight each.
            num_heads: Heads of `attention`; they share the width of a slot.
            channels: Filters of `convolution`.
        """

        SPACE: ClassVar[Space] = {
            "modules": Choice(
                (
                    (("dot", "linear"),),
                    (("attention", "linear"),),
                    (("dot", "attention", "linear"),),
                    (("dot", "cross", "linear"),),
                )
            ),
            "num_layers": Range(1, 5),
            "slots": Choice((4, 8, 16)),
            "ensemble": Choice(("concat", "sum")),
            "hidden": Choice(((), (200,), (400, 400))),
            "bottom": Choice(((64,), (400, 400), (512, 256, 64))),
        }

        hidden: tuple[Positive, ...] = ()
        modules: Annotated[tuple[Modules, ...], Meta(min_length=1)] = (("dot", "linear"),)
        num_layers: Positive = 3
        slots: Positive = 8
        ensemble: Ensemble = "concat"
        num_heads: Positive = 2
        channels: Positive = 4

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        _check(config)
        self.slots = BottomSlots(fields, config)
        self.layers = nn.Sequential()
        slots = len(self.slots.names)
        for modules in islice(cycle(config.modules), config.num_layers):
            layer = _layer(slots, modules, config)
            self.layers.append(layer)
            slots = layer.slots
        self.top = deep_part(slots * config.embedding_dim, config)
        self.head = Head([self.top.width], fields.outputs)

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the head reads: the slots after the last layer, through the top network if there is one."""
        x_BNE = self.layers(self.slots(batch))
        return (self.top(x_BNE.flatten(1)),)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B] or [B, T]."""
        return squeezed(self.head(*self.represent(batch)))

    @torch.no_grad()
    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """What each pair brings to the modules `dot` of the first layer; above it slots are mixtures of fields."""
        dots = [m for m in self.layers[0].modules() if isinstance(m, DotSlots)]
        x_BNE = self.slots(batch) if dots else torch.empty(0)
        return [dot_map(self.slots.names, x_BNE, module.linear.weight) for module in dots]


def _check(config: DHEN.Config) -> None:
    if len(config.modules) > config.num_layers:
        raise ConfigError(
            f"`modules` describes {len(config.modules)} layers and `num_layers` is {config.num_layers}; "
            f"set num_layers={len(config.modules)}"
        )
    if config.embedding_dim % config.num_heads and any("attention" in modules for modules in config.modules):
        raise ConfigError(
            f"the heads of `attention` share the width of a slot, got embedding_dim {config.embedding_dim} for "
            f"{config.num_heads} heads; choose a multiple of `num_heads`"
        )


def _layer(slots: int, modules: Iterable[Module], config: DHEN.Config) -> DHENLayer:
    width, outputs = config.embedding_dim, config.slots
    make: Mapping[Module, Callable[[], nn.Module]] = {
        "dot": lambda: DotSlots(slots, outputs, width),
        "attention": lambda: AttentionSlots(slots, outputs, width, config.num_heads),
        "convolution": lambda: ConvolutionSlots(slots, outputs, config.channels),
        "linear": lambda: SlotLinear(slots, outputs),
        "cross": lambda: CrossSlots(outputs, width),
    }
    if slots == 1 and "dot" in modules:
        raise Unsupported(
            "module 'dot' of model 'dhen' multiplies pairs of slots and gets one slot; add features to the schema, "
            "raise `slots`, or leave 'dot' out of `modules`"
        )
    return DHENLayer(slots, outputs, width, [make[name]() for name in modules], config.ensemble)
