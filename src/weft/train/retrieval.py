"""Training of retrievers by losses that set items against each other, and their validation over the whole catalogue.

What is trained on are the relevant train rows. What their items are set against are the items of the batch, items that
are drawn for the batch (`Batch.negatives`), or both.

Dimension key: B rows, N drawn items, n of them a row, C items of a sample, E width, U users, M items of users.
"""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor, nn

from weft import losses, ranking
from weft.batch import FIRST_ID, Batch, Fields
from weft.data.load import ItemSampler
from weft.data.sample import EveryItem, OtherItems, UniformItems, met_items
from weft.data.store import Store
from weft.errors import ConfigError, Unsupported, near
from weft.models import Retriever
from weft.models import _registry as registry
from weft.models._contract import roles_only, vectors_of
from weft.models._predict import autocast
from weft.scoring import Scorer
from weft.train.recipe import Recipe
from weft.transforms.rows import Rows

IN_BATCH, DRAWN, ALL, PAIRS = "softmax", "sampled_softmax", "full_softmax", "bpr"
PROTOCOL = "full: whole catalogue, items of the train rows hidden as the schema says"
SLOTS_PER_ITEM = 4  # of the streaming frequencies

Ints = NDArray[np.integer[Any]]


def loss_name(model: str, recipe: Recipe, options: Mapping[str, Any]) -> str:
    """The loss that a model is trained with: the recipe's, or where it says `auto` the model's own.

    What the options put around a model makes scores of rows, for which the labels' tasks have the loss.
    """
    if recipe.loss != "auto":
        return recipe.loss
    return "task" if options.keys() & registry.wrappers().keys() else registry.entry(model).loss


def check_loss(loss: str, model: nn.Module, store: Store, recipe: Recipe) -> None:
    """Unsupported or ConfigError where a model or a store cannot be trained with a loss."""
    name = type(model).__name__
    if loss not in (IN_BATCH, DRAWN, ALL, PAIRS):
        return
    if not isinstance(model, Retriever):
        raise Unsupported(
            f"`train.loss` = {loss!r} sets items against each other by their vectors, and {name} gives scores of rows; "
            f"set train.loss=task, or choose one of {', '.join(registry.names('retriever'))}"
        )
    roles = store.schema.roles
    if roles.user is None or roles.item is None:
        raise Unsupported(f"`train.loss` = {loss!r} needs `user` and `item` in [roles] of the schema; add them")
    if loss == ALL and not (roles_only(model) or getattr(model, "reads_graph", False)):
        raise Unsupported(
            f"`train.loss` = {loss!r} needs vectors of all items at every step, and {name} makes them from features; "
            "set train.loss=softmax, or train.loss=sampled_softmax with train.uniform_negatives"
        )
    if loss == DRAWN and not recipe.uniform_negatives:
        raise ConfigError("`train.loss` = 'sampled_softmax' needs items to draw; set train.uniform_negatives=1000")
    if recipe.hard_negatives and not (recipe.uniform_negatives or loss == PAIRS):
        raise ConfigError(
            f"`train.hard_negatives` = {recipe.hard_negatives} are chosen among drawn items, and none are drawn; "
            "set train.uniform_negatives=1000"
        )
    if recipe.keep_negatives < 1:
        raise ConfigError(f"`train.loss` = {loss!r} reads relevant rows only; leave out `train.keep_negatives`")


def relevant_rows(rows: Rows, fields: Fields) -> Rows:
    """The rows whose first label is relevant, with a user and an item that the catalogue knows; all without a label."""
    assert rows.user is not None
    assert rows.item is not None
    kept = (rows.user >= FIRST_ID) & (rows.item >= FIRST_ID)
    if rows.label is not None:
        kept &= rows.label[:, 0] >= fields.relevant
    return rows if kept.all() else rows.take(np.flatnonzero(kept))


def item_sampler(loss: str, store: Store, recipe: Recipe, seed: int) -> ItemSampler | None:
    """What draws a batch's negatives; None where the items of the batch are all there are."""
    if loss == PAIRS:
        return OtherItems(store, max(recipe.negatives, 1), seed=seed)
    if loss == ALL:
        return EveryItem(store)
    return UniformItems(store, recipe.uniform_negatives, seed=seed) if recipe.uniform_negatives else None


@final
class RetrievalLoss(nn.Module):
    """A loss over a model's vectors. Its state is that of the streaming frequencies, where it has them.

    Args:
        loss: softmax, sampled_softmax or bpr.
        recipe: For the correction and the hard negatives.
        store: For how often items stand in the train rows, and what each user has.
        precision: Of the forward pass and of the products of vectors; sums are in single precision.
    """

    def __init__(self, loss: str, recipe: Recipe, store: Store, precision: str) -> None:
        super().__init__()
        self._loss, self._recipe, self._precision = loss, recipe, precision
        self._products = torch.bfloat16 if precision == "bf16" else None
        counts = torch.from_numpy(np.array(store.catalogue.positives))
        self.frequency = losses.ExactFrequency(counts) if recipe.frequencies == "exact" else _streaming(len(counts))
        self._drawable = len(met_items(store))
        self._had = Had.of(store) if recipe.hard_negatives and loss != PAIRS else None

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch of relevant rows."""
        assert isinstance(model, Retriever)
        with autocast(self._precision, batch.ids.device):
            user_BE, item_BE, drawn_NE = vectors_of(model, batch)
        user_BE, item_BE = _precise(user_BE), _precise(item_BE)
        drawn_NE = None if drawn_NE is None else _precise(drawn_NE)
        if self._loss in (IN_BATCH, DRAWN):
            return self._softmax(user_BE, item_BE, drawn_NE, batch)
        assert drawn_NE is not None
        if self._loss == ALL:
            return self._full(user_BE, item_BE, drawn_NE, batch)
        return self._bpr(user_BE, item_BE, drawn_NE, batch)

    def _full(self, user_BE: Tensor, item_BE: Tensor, every_IE: Tensor, batch: Batch) -> Tensor:
        """Each user once: the model makes the same vector for all rows of a user."""
        assert batch.user is not None
        user_U, place_B = torch.unique(batch.user, return_inverse=True)
        first_U = torch.full_like(user_U, len(batch)).scatter_reduce_(
            0, place_B, torch.arange(len(batch), device=place_B.device), "amin"
        )
        positive_B = (user_BE * item_BE).sum(1)
        user_UE = user_BE.index_select(0, first_U)
        return losses.full_softmax(positive_B, user_UE, every_IE, place_B, batch.weight, products=self._products)

    def _bpr(self, user_BE: Tensor, item_BE: Tensor, drawn_NE: Tensor, batch: Batch) -> Tensor:
        drawn_BnE = drawn_NE.view(len(user_BE), -1, drawn_NE.shape[1])
        negative_Bn = (drawn_BnE @ user_BE[:, :, None])[:, :, 0]
        if self._recipe.hard_negatives:
            negative_Bn = losses.hardest(negative_Bn, self._recipe.hard_negatives)
        return losses.bpr((user_BE * item_BE).sum(1), negative_Bn, batch.weight)

    def _softmax(self, user_BE: Tensor, item_BE: Tensor, drawn_NE: Tensor | None, batch: Batch) -> Tensor:
        assert batch.item is not None
        positive_B = (user_BE * item_BE).sum(1)
        vectors, items = self._sample(item_BE, drawn_NE, batch)
        log_q_C = torch.zeros_like(vectors[:, 0])
        if self._recipe.log_q != "none":
            q_B, q_C = self._probabilities(batch.item, items, batch)
            log_q_C = q_C.log() + losses.twins(items).log()
            positive_B = losses.corrected(positive_B, q_B.log()) if self._recipe.log_q == "paper" else positive_B
        refined = self._recipe.log_q == "refined"
        if self._had is None:
            hidden, low = losses.same_items(batch.item, items), self._products
            return losses.softmax_of_vectors(
                positive_B, user_BE, vectors, -log_q_C, hidden, batch.weight, refined=refined, products=low
            )
        negative_BC = losses.corrected(user_BE @ vectors.T, log_q_C)
        negative_BC = losses.without(negative_BC, losses.accidental_hits(batch.item, items))
        loss = losses.refined_softmax if refined else losses.sampled_softmax
        return loss(positive_B, self._hardest(negative_BC, batch), batch.weight)

    def _sample(self, item_BE: Tensor, drawn_NE: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors [C, E] and ids [C] of what rows are set against: the batch's items, then the drawn ones."""
        assert batch.item is not None
        parts = [(item_BE, batch.item)] if self._loss == IN_BATCH else []
        if drawn_NE is not None:
            assert batch.negatives is not None
            assert batch.negatives.item is not None
            parts.append((drawn_NE, batch.negatives.item))
        vectors, items = zip(*parts, strict=True)
        return torch.cat(vectors), torch.cat(items)

    def _probabilities(self, item_B: Tensor, item_C: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The probability of each row's item [B] and of each item of the sample [C] to stand in the sample."""
        drawn = 0 if batch.negatives is None else len(batch.negatives) / self._drawable
        if self._loss == IN_BATCH:
            self.frequency.observe(item_B)
        return self._probability(item_B, len(batch), drawn), self._probability(item_C, len(batch), drawn)

    def _probability(self, item_N: Tensor, batch_size: int, drawn: float) -> Tensor:
        drawn_N = torch.full_like(item_N, drawn, dtype=torch.float32)
        if self._loss == DRAWN:
            return drawn_N
        return losses.together(self.frequency(item_N, batch_size), drawn_N)

    def _hardest(self, negative_BC: Tensor, batch: Batch) -> Tensor:
        """The items of the batch, and the best scored of the drawn ones that the row's user does not have."""
        assert self._had is not None
        assert batch.user is not None
        assert batch.negatives is not None
        assert batch.negatives.item is not None
        drawn = len(batch.negatives)
        batch_BC, drawn_BN = negative_BC[:, :-drawn], negative_BC[:, -drawn:]
        drawn_BN = losses.without(drawn_BN, self._had.among(batch.user, batch.negatives.item))
        return torch.cat([batch_BC, losses.hardest(drawn_BN, self._recipe.hard_negatives)], dim=1)


@final
class Had(nn.Module):
    """What each user has among the relevant train rows.

    Args:
        offsets_U: [U + 1]; user u owns items offsets[u] on.
        item_M: Their ids.
        items: Rows of the catalogue.
    """

    def __init__(self, offsets_U: Tensor, item_M: Tensor, items: int) -> None:
        super().__init__()
        self.offsets_U: Tensor
        self.item_M: Tensor
        self.register_buffer("offsets_U", offsets_U, persistent=False)
        self.register_buffer("item_M", item_M, persistent=False)
        self._items = items

    @staticmethod
    def of(store: Store) -> "Had":
        """From a store."""
        seen = store.catalogue.seen
        kept = (np.asarray(seen.split) == 0) & np.asarray(seen.relevant)
        before = np.append(0, np.cumsum(kept))
        offsets = torch.from_numpy(before[np.asarray(seen.offsets)])
        return Had(offsets, torch.from_numpy(np.asarray(seen.item)[kept].astype(np.int64)), len(store.items))

    def among(self, user_B: Tensor, item_N: Tensor) -> Tensor:
        """[B, N], whether the row's user has the item; the items are distinct."""
        column_I = item_N.new_full((self._items,), -1)
        column_I[item_N] = torch.arange(len(item_N), device=item_N.device)
        start_B, count_B = self.offsets_U[user_B], self.offsets_U[user_B + 1] - self.offsets_U[user_B]
        row_K = torch.repeat_interleave(torch.arange(len(user_B), device=user_B.device), count_B)
        first_B = count_B.cumsum(0) - count_B
        place_K = torch.arange(len(row_K), device=user_B.device) + (start_B - first_B)[row_K]
        column_K = column_I[self.item_M[place_K]]
        had_BN = torch.zeros(len(user_B), len(item_N), dtype=torch.bool, device=user_B.device)
        had_BN[row_K[column_K >= 0], column_K[column_K >= 0]] = True
        return had_BN


def _precise(vector: Tensor) -> Tensor:
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


def _streaming(items: int) -> losses.StreamingFrequency:
    return losses.StreamingFrequency(SLOTS_PER_ITEM * items)


def metric_names(store: Store) -> list[str]:
    """The validation metrics, the one that decides first: NDCG at the protocol's longest list."""
    lengths = sorted(store.schema.protocol.k, reverse=True)
    return [f"{name}@{k}" for k in lengths for name in ("ndcg", "recall")]


def monitored(store: Store, wanted: str | None) -> str:
    """The metric that decides; ConfigError when there is none of that name."""
    names = metric_names(store)
    if wanted is not None and wanted not in names:
        raise ConfigError(f"`train.monitor` names no validation metric: {wanted!r}; {near(wanted, names)}")
    return wanted or names[0]


def validate(model: nn.Module, store: Store, *, seed: int) -> dict[str, float]:
    """Recall and NDCG of the validation rows over the whole catalogue, as `weft evaluate --protocol full` takes them.

    What users have in the train rows is hidden, as the schema's protocol says. No metric where there is no row.
    """
    model.eval()
    rows = store.split("valid")
    if not len(rows):
        return {}
    scorer = Scorer(model, store.transforms, store.items)
    protocol = replace(store.schema.protocol, kind="full")
    ranked = ranking.full_ranking(rows, scorer, store.catalogue, store.schema, protocol, split="valid", seed=seed)
    values = ranking.list_values(ranked, store.catalogue.counts, protocol)
    return {name: float(np.nanmean(values[name])) for name in metric_names(store)}
