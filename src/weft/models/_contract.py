"""What a model is: contracts without a base class, and what the rooms above need to know of any model.

Dimension key: B rows, T outputs, E width, H width of a representation, U users, K candidates, R and C sides of a map.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from weft.batch import Batch
from weft.layers import Embedding, Numeric

INSIDE = "model"  # the submodule of a wrapper that is the network inside


@runtime_checkable
class Ranker(Protocol):
    """Scores rows."""

    def forward(self, batch: Batch) -> Tensor:
        """Raw logits, [B] or [B, T]; never a sigmoid."""
        ...


@runtime_checkable
class Represents(Protocol):
    """A ranker whose logits are one linear map of what `represent` gives: others may put their own heads on it.

    That map is its submodule `head`, a `Head`.
    """

    def represent(self, batch: Batch) -> tuple[Tensor, ...]:
        """The parts that the head reads, [B, H_i] of widths `head.widths`."""
        ...


class FieldMap(NamedTuple):
    """A picture of what a model does with its fields.

    Attributes:
        title: What the numbers are.
        rows: Names along R: fields, or layers.
        columns: Names along C: fields.
        value_BRC: One map a row of the batch [B, R, C], or one for all [1, R, C].
        signed: Values go both ways around what is usual, so their strength over many rows is their deviation; else it
            is their mean.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    value_BRC: Tensor
    signed: bool = False


@runtime_checkable
class Explains(Protocol):
    """A model that can show how its fields work together."""

    def field_maps(self, batch: Batch) -> list[FieldMap]:
        """Maps for these rows, without gradient."""
        ...


@runtime_checkable
class Advises(Protocol):
    """A model that may know how the schema could serve it better."""

    def advice(self) -> list[str]:
        """Sentences for the person who trains it."""
        ...


@runtime_checkable
class Wraps(Protocol):
    """A network around another."""

    def inner(self) -> nn.Module:
        """The network inside, the submodule `model`."""
        ...

    def served(self) -> nn.Module:
        """What scores as this one does where the position is not known; itself, unless less will do."""
        ...


@runtime_checkable
class Assembled(Protocol):
    """A model that can start from others, each trained alone, by an option `pretrained` with a run for each part."""

    PARTS: ClassVar[Mapping[str, str]]
    """The registered model of each part."""

    def start_from(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over the weights of the parts, in place; ConfigError where they do not fit."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """Maps users and items into one space; their dot product is the score."""

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users [B, E] and items [B, E] of full rows."""
        ...

    def user_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of rows that have the user's side."""
        ...

    def item_vectors(self, batch: Batch) -> Tensor:
        """[B, E] of rows that have the item's side."""
        ...


@runtime_checkable
class Together(Retriever, Protocol):
    """A retriever for which the vectors of a batch and of its negatives are one piece of work."""

    def vectors_with_negatives(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Users [B, E] and items [B, E] of full rows, and items [N, E] of `batch.negatives`; None where it has none."""
        ...


@runtime_checkable
class Factored(Retriever, Protocol):
    """A retriever that is no more than a free vector for each user and each item: exact solvers may set them."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """The vectors of users [U, E] and of items [I, E], to be written to; biases, which they leave out, become 0."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """Learns in one pass over the train rows, without gradients."""

    def fit(self, batches: Iterable[Batch]) -> None:
        """Forget what was learned before and learn from these rows."""
        ...


@runtime_checkable
class Source(Protocol):
    """Proposes items."""

    def candidates(self, user_U: Tensor, k: int) -> Tensor:
        """Item ids [U, K], best first, for user ids; K is the smaller of `k` and the number of items."""
        ...


@runtime_checkable
class ScoresAll(Protocol):
    """Scores the whole catalogue for users that it knows by their ids, cheaper than row by row."""

    def scores(self, user_U: Tensor) -> Tensor:
        """The scores [U, I] of all items, the same as those of rows."""
        ...


def score(model: nn.Module, batch: Batch) -> Tensor:
    """Logits [B] or [B, T] of a ranker; of a retriever, the dot products [B]."""
    if isinstance(model, Retriever):
        user_BE, item_BE = model.vectors(batch)
        return (user_BE * item_BE).sum(-1)
    logits: Tensor = model(batch)
    return logits


def vectors_of(model: Retriever, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Users [B, E], items [B, E] and the items [N, E] of the batch's negatives, None where it has none."""
    if isinstance(model, Together):
        return model.vectors_with_negatives(batch)
    user_BE, item_BE = model.vectors(batch)
    return user_BE, item_BE, None if batch.negatives is None else model.item_vectors(batch.negatives)


def advice(model: nn.Module) -> list[str]:
    """What a model, or one inside it, advises the person who trains it."""
    return [text for module in model.modules() if isinstance(module, Advises) for text in module.advice()]


def roles_only(model: nn.Module) -> bool:
    """Whether a model reads no feature of a batch: it says `roles_only = True`, and so does each wrapper around it."""
    own = getattr(model, "roles_only", False) is True
    return own and (not isinstance(model, Wraps) or roles_only(model.inner()))


def embeddings(model: nn.Module) -> list[Embedding]:
    """The embedding layers of a model, in order of definition."""
    return [module for module in model.modules() if isinstance(module, Embedding)]


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters by group: `wide` under a module of that name, `embedding` in tables, `dense` the rest.

    The vectors of numeric columns count as a table, of one row a column.
    Stacked weights with sparse updates are in their group as well; they do not require a gradient.
    """
    groups: dict[str, list[nn.Parameter]] = {"wide": [], "embedding": [], "dense": []}
    for path, module in model.named_modules():
        wide = "wide" in path.split(".")
        group = "wide" if wide else "embedding" if isinstance(module, Embedding | Numeric) else "dense"
        groups[group] += module.parameters(recurse=False)
    return groups


def set_output_bias(model: nn.Module, tasks: Sequence[str], means: Sequence[float]) -> None:
    """Start each output of a model at its label's mean in the train rows, so that it need not walk there.

    The bias is `model.bias` or `model.head.bias`; a model without one, or a multiclass task, is left as it is.

    Args:
        model: Any model with gradients.
        tasks: Of each label.
        means: Of each label.
    """
    bias = output_bias(model)
    if bias is not None and "multiclass" not in tasks:
        starts = [link(task, mean) for task, mean in zip(tasks, means, strict=True)]
        bias.detach().copy_(bias.new_tensor(starts))


def output_bias(model: nn.Module) -> Tensor | None:
    """`model.bias`, or else `model.head.bias`; None where there is neither."""
    bias: Tensor | None = getattr(model, "bias", None)
    return getattr(getattr(model, "head", None), "bias", None) if bias is None else bias


def unwrapped(model: nn.Module) -> nn.Module:
    """The architecture itself, without what the options put around it."""
    while isinstance(model, Wraps):
        model = model.inner()
    return model


def served(model: nn.Module) -> nn.Module:
    """What scores rows whose position is not known: the same numbers, with less work where a wrapper has no part."""
    while isinstance(model, Wraps) and model.served() is not model:
        model = model.served()
    return model


def link(task: str, mean: float) -> float:
    """The score at which a model predicts this mean: the logit of a share, the log of a count, the mean itself.

    >>> link("binary", 0.5), link("regression", 3.5)
    (0.0, 3.5)
    """
    if task == "binary":
        share = min(max(mean, 1e-6), 1 - 1e-6)
        return math.log(share / (1 - share))
    return math.log(max(mean, 1e-6)) if task == "count" else mean
