"""Several labels on one ranker: the last linear map gives way to a tower for each label.

x is what the ranker's head reads, the same for all labels:
shared bottom: logit_t = h_t(x);  mixture of experts: logit_t = h_t(Σ_k g^t(x)_k f_k(x)), g^t(x) = softmax(W_t x).

Paper: Ma et al., KDD 2018, https://doi.org/10.1145/3219819.3220007, equation (1) for the shared bottom, (6) to (8) for
the multi-gate mixture of experts.
Differs: the paper's experts read the input features; here they and the gates read a ranker's representation, so that
its crosses serve all labels. The ranker's own head is taken out.

Dimension key: B rows, D width of the representation, T labels.
"""

from typing import Annotated, ClassVar, Literal, cast, final

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import Unsupported
from weft.layers import Head, MixtureOfExperts, Towers, lowered
from weft.models._contract import Represents
from weft.models._inputs import Positive, Share
from weft.models._parts import Part, SplitsRepresentation
from weft.models._registry import name_of, register_wrapper, representing


@register_wrapper("tasks")
@final
class Tasks(nn.Module):
    """A ranker's representation and a tower for each label."""

    roles_only: ClassVar[bool] = True

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Options.

        Attributes:
            kind: The towers read the representation itself, or each its own mixture of experts that read it.
            hidden: Widths of a tower's hidden layers; without any a tower is one linear map.
            experts: Number of experts, of `mmoe`.
            expert_hidden: Widths of an expert's layers, of `mmoe`.
            dropout: Share of the activations of towers and experts set to zero in training.
        """

        kind: Literal["shared_bottom", "mmoe"]
        hidden: tuple[Positive, ...] = (64,)
        experts: Annotated[int, Meta(ge=2)] = 4
        expert_hidden: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (64,)
        dropout: Share = 0.0

    def __init__(self, model: nn.Module, fields: Fields, config: Config) -> None:
        super().__init__()
        _check(model, fields)
        width, self.labels = sum(cast(Head, model.head).widths), fields.outputs
        self.model = model
        del model.head
        self.mixture: MixtureOfExperts | None = None
        if config.kind == "mmoe":
            self.mixture = MixtureOfExperts(
                width, config.expert_hidden, experts=config.experts, tasks=self.labels, dropout=config.dropout
            )
            width = self.mixture.width
        self.head = Towers(width, config.hidden, tasks=self.labels, dropout=config.dropout)

    def inner(self) -> nn.Module:
        """The ranker, without its head."""
        return self.model

    def served(self) -> nn.Module:
        """Itself: the towers score."""
        return self

    def _read(self, parts: tuple[Tensor, ...]) -> Tensor:
        """What the towers read, [B, T, D]."""
        x_BD = torch.cat([lowered(part) for part in parts], dim=1)
        if self.mixture is None:
            return x_BD[:, None].expand(-1, self.labels, -1)
        mixed_BTD: Tensor = self.mixture(x_BD)
        return mixed_BTD

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, T]."""
        logit_BT: Tensor = self.head(self._read(cast(Represents, self.model).represent(batch)))
        return logit_BT

    def user_part(self, batch: Batch) -> Part:
        """The user's part of the ranker."""
        return cast(SplitsRepresentation, self.model).user_part(batch)

    def item_part(self, batch: Batch) -> Part:
        """The item's part of the ranker."""
        return cast(SplitsRepresentation, self.model).item_part(batch)

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        """Logits [N, T]."""
        parts = cast(SplitsRepresentation, self.model).represent_join(user, item, pair)
        logit_NT: Tensor = self.head(self._read(parts))
        return logit_NT


def _check(model: nn.Module, fields: Fields) -> None:
    """Unsupported where there are no several labels, or no representation for their heads to read."""
    if fields.outputs == 1 or fields.task == "multiclass":
        what = "a multiclass label, which is the only one" if fields.task == "multiclass" else "one label"
        raise Unsupported(f"`tasks` gives each of several labels a tower, and the schema has {what}; leave out `tasks`")
    if not isinstance(model, Represents):
        raise Unsupported(
            f"`tasks` puts towers on a ranker's representation, and model {name_of(model)!r} has none; "
            f"choose one of {', '.join(representing())}"
        )
