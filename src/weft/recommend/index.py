"""Nearest items of a query by inner product: exact, or by faiss with exact scores, behind one immutable value.

An index holds vectors under ids of the item catalogue. Items that arrive or leave later make a new index: arrivals lie
in a small block that is searched exactly, and leavers are passed over.

index.json    what it is, and its recall as measured
ids.npy, vectors.npy                what it was built with; the vectors are memory-mapped
faiss.index                         of the kinds hnsw and ivfpq, memory-mapped
added_ids.npy, added_vectors.npy    what arrived since
gone.npy                            places of what has left since

Dimension key: I items, Q queries, E width, K length of a list, C candidates of a query.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from msgspec import Struct
from numpy.typing import ArrayLike
from torch import Tensor

from weft.artifacts import write_json
from weft.errors import ArtifactError, ConfigError, DataError, StaleModel
from weft.recommend._exact import (
    SCORES_AT_ONCE,
    Block,
    Found,
    Ids,
    Mask,
    Scores,
    merged,
    nearest,
    nothing,
    places_of,
)
from weft.recommend._faiss import HNSW, IVFPQ, Neighbours, threads
from weft.scoring import best

__all__ = ["HNSW", "IVFPQ", "Auto", "Exact", "Facts", "Filters", "Found", "Index", "IndexConfig", "build", "recall"]

EXACT_BELOW = 100_000
RECALL_AT, SAMPLE = 100, 256
QUERIES_AT_ONCE = 64
SCAN_SHARE, GROWTH = 64, 4

FACTS, GONE = "index.json", "gone.npy"
BUILT, ADDED = ("ids.npy", "vectors.npy"), ("added_ids.npy", "added_vectors.npy")


class Exact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="exact"):
    """Every item is scored."""


class Auto(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="auto"):
    """Exact below 100,000 items, IVF-PQ with its own settings from there on."""


IndexConfig = Auto | Exact | HNSW | IVFPQ
AUTO = Auto()


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which items a search may give; ids below 0 are passed over.

    Attributes:
        allow: Nothing but these ids; None allows every item.
        deny: None of these ids.
        available: Whether the item of each id may be shown; an id beyond its end may not.
        hidden: For each query, the ids that it must not get.
    """

    allow: ArrayLike | None = None
    deny: ArrayLike | None = None
    available: Mask | None = None
    hidden: Sequence[ArrayLike] | None = None


class Facts(Struct, frozen=True, kw_only=True):
    """What an index is.

    Attributes:
        config: Kind and settings.
        model: Id of the run whose vectors these are.
        items: Items that can be found.
        added: Of these, how many arrived since the index was built.
        gone: Of those that it was built with, how many have left or were replaced.
        width: Of the vectors.
        recall: Share of the best items that it finds, measured when it was built; 1 where every item is scored.
        recall_at: Length of the lists that the recall was measured on.
        queries: Sampled queries of the measurement.
        sampled: Whose vectors these were: users, or items where no user vectors were given.
        seed: Of the sample and of the training of the index.
        threads: Of the build; the same seed and threads give the same index.
    """

    config: Exact | HNSW | IVFPQ
    model: str
    items: int
    added: int = 0
    gone: int = 0
    width: int
    recall: float = 1.0
    recall_at: int = RECALL_AT
    queries: int = 0
    sampled: Literal["users", "items"] | None = None
    seed: int
    threads: int = 1

    @property
    def kind(self) -> str:
        """exact, hnsw or ivfpq."""
        return str(self.config.__struct_config__.tag)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Items by nearness. Nothing changes it, and threads may share it; `build` and `Index.load` make one.

    Attributes:
        facts: What it is; part of the manifest of a bundle.
    """

    facts: Facts
    _built: Block
    _alive: Mask
    _added: Block
    _neighbours: Neighbours | None

    def __len__(self) -> int:
        return self.facts.items

    def __contains__(self, id: int) -> bool:
        wanted = np.array([id])
        return bool(self._alive[places_of(self._built.ids, wanted)].any() or len(places_of(self._added.ids, wanted)))

    @property
    def ids(self) -> Ids:
        """The ids that can be found [I], ascending."""
        return np.sort(np.concatenate([self._built.ids[self._alive], self._added.ids]))

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.facts.width

    @property
    def model(self) -> str:
        """Id of the run whose vectors these are."""
        return self.facts.model

    def search(self, queries: ArrayLike, k: int, filters: Filters | None = None) -> Found:
        """The k items of each query with the largest inner products, best first; equal scores by id.

        A list is full whenever k items pass the filters: where the approximate search does not find so many, every
        item is scored.

        Args:
            queries: [Q, E] user vectors.
            k: Length of the lists.
            filters: Which items may be given.

        Returns:
            Ids and scores [Q, K]; -1 and -inf where nothing is left.

        Raises:
            ConfigError: `k` is below 1, or `hidden` has another length than the queries.
            DataError: A query is not finite or has another width than the index.
        """
        if k < 1:
            raise ConfigError(f"`k` must be 1 or more, got {k}")
        query_QE = self._checked(queries, "queries")
        filters = filters or Filters()
        hidden = _hidden(filters.hidden, len(query_QE))
        mask = _mask(filters, 1 + int(max(self._built.ids[-1], self._added.ids[-1:].max(initial=0))))
        parts = [slice(start, start + QUERIES_AT_ONCE) for start in range(0, max(1, len(query_QE)), QUERIES_AT_ONCE)]
        found = [self._some(query_QE[part], k, mask, hidden[part]) for part in parts]
        return Found(np.concatenate([part.ids for part in found]), np.concatenate([part.scores for part in found]))

    def vectors_of(self, ids: ArrayLike) -> Scores:
        """The vectors of some items [n, E]; ConfigError names an id that is not there."""
        asked = np.asarray(ids, np.int64)
        found = torch.empty(len(asked), self.width)
        missing = np.ones(len(asked), bool)
        for block, alive in ((self._built, self._alive), (self._added, np.ones(len(self._added.ids), bool))):
            there = np.isin(asked, block.ids[alive])
            found[torch.from_numpy(there)] = block.vector_IE[torch.from_numpy(places_of(block.ids, asked[there]))]
            missing &= ~there
        if missing.any():
            raise ConfigError(f"the index has no item with the id {asked[missing][0]}; `index.ids` lists those it has")
        return found.numpy()

    def with_items(self, ids: ArrayLike, vectors: ArrayLike) -> "Index":
        """An index with more items; an id that is there already gets the new vector.

        Each of them is scored by every search: build the index anew when they are many.

        Args:
            ids: [n] of the catalogue, 0 or more, each once.
            vectors: [n, E].

        Raises:
            DataError: The ids or vectors cannot be used.
        """
        new = _block(ids, self._checked(vectors, "vectors"))
        left = self.without(new.ids)
        return left._changed(left._alive, left._added.joined(new))

    def without(self, ids: ArrayLike) -> "Index":
        """An index without some items; ids that are not there are passed over."""
        leaving = np.asarray(ids, np.int64)
        alive = self._alive.copy()
        alive[places_of(self._built.ids, leaving)] = False
        return self._changed(alive, self._added.take(~np.isin(self._added.ids, leaving)))

    def save(self, folder: str | Path) -> None:
        """Write the files into a folder, which is made where it is missing; its owner's manifest hashes them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._built.save(*(folder / name for name in BUILT))
        if self._neighbours is not None:
            self._neighbours.save(folder)
        if len(self._added.ids):
            self._added.save(*(folder / name for name in ADDED))
        if not self._alive.all():
            np.save(folder / GONE, np.flatnonzero(~self._alive))
        write_json(folder / FACTS, self.facts)

    @staticmethod
    def load(folder: str | Path, *, model: str | None = None) -> "Index":
        """Read an index; its vectors stay on disk until they are needed.

        Args:
            folder: As `save` wrote it; whoever owns it checks the files against their hashes.
            model: Id of the run that the index must be of.

        Raises:
            ArtifactError: A file is missing or damaged.
            StaleModel: The index is of another run.
        """
        folder = Path(folder)
        try:
            index = _read(folder)
        except (OSError, ValueError, RuntimeError, IndexError, msgspec.DecodeError) as error:
            raise ArtifactError(f"{str(folder)!r} is no whole index ({error}); build it again") from error
        if model is not None and index.model != model:
            raise StaleModel(
                f"the index {str(folder)!r} is of the run {index.model!r}, not of {model!r}; build it from this run"
            )
        return index

    def _some(self, query_QE: Tensor, k: int, mask: Mask | None, hidden: list[Ids]) -> Found:
        if self._neighbours is None:
            built = self._every(query_QE, k, mask, hidden)
        else:
            built = self._probable(self._neighbours, query_QE, k, mask, hidden)
        if not len(self._added.ids):
            return built
        kept = None if mask is None else mask[self._added.ids]
        return merged(built, nearest(self._added, query_QE, k, kept=kept, hidden=hidden), k)

    def _every(self, query_QE: Tensor, k: int, mask: Mask | None, hidden: list[Ids]) -> Found:
        kept = self._alive if mask is None else mask[self._built.ids] & self._alive
        return nearest(self._built, query_QE, k, kept=None if kept.all() else kept, hidden=hidden)

    def _probable(
        self, neighbours: Neighbours, query_QE: Tensor, k: int, mask: Mask | None, hidden: list[Ids]
    ) -> Found:
        """Of the n nearest, those that pass; where these are not k, of more; in the end, of every item."""
        total = len(self._built.ids)
        found = nothing(len(query_QE), k)
        n = k if mask is None else int(k / max(mask.mean(), 1e-9))
        short = np.arange(len(query_QE))
        while len(short) and n <= total // SCAN_SHARE:
            some = self._near(neighbours, query_QE[short], n, mask, [hidden[query] for query in short])
            full = (some.scores > -np.inf).sum(1) >= k
            found.ids[short[full]], found.scores[short[full]] = some.ids[full, :k], some.scores[full, :k]
            short, n = short[~full], GROWTH * n
        if len(short):
            rest = self._every(query_QE[short], k, mask, [hidden[query] for query in short])
            found.ids[short], found.scores[short] = rest
        return found

    def _near(self, neighbours: Neighbours, query_QE: Tensor, n: int, mask: Mask | None, hidden: list[Ids]) -> Found:
        """Those of the n nearest items [Q, n] that pass the filters, with exact scores."""
        place_QC = np.sort(neighbours.candidates(query_QE.numpy(), n), axis=1)
        columns, scores = best(_scores(query_QE, self._built.vector_IE, place_QC), n)
        place_QN = np.take_along_axis(place_QC, columns, 1)
        ids = self._built.ids[place_QN]
        passes = (place_QN >= 0) & self._alive[place_QN]
        if mask is not None:
            passes &= mask[ids]
        for query, seen in enumerate(hidden):
            if len(seen):
                passes[query] &= ~np.isin(ids[query], seen)
        order = np.argsort(~passes, axis=1, kind="stable")
        scores = np.where(passes, scores, np.float32(-np.inf))
        return Found(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))

    def _changed(self, alive: Mask, added: Block) -> "Index":
        gone = int((~alive).sum())
        items = len(alive) - gone + len(added.ids)
        facts = msgspec.structs.replace(self.facts, items=items, added=len(added.ids), gone=gone)
        return replace(self, facts=facts, _alive=alive, _added=added)

    def _checked(self, values: ArrayLike, name: str) -> Tensor:
        vectors = _vectors(values, name)
        if vectors.shape[1] != self.width:
            raise DataError(
                f"`{name}` must be {self.width} wide, as the index is, got {vectors.shape[1]}; use the model's own"
            )
        return vectors


def build(
    ids: ArrayLike,
    vectors: ArrayLike,
    config: IndexConfig = AUTO,
    *,
    model: str = "",
    queries: ArrayLike | None = None,
    seed: int = 0,
) -> Index:
    """Build an index, and measure how much an approximate one finds.

    Args:
        ids: [I] of the catalogue, 0 or more, each once.
        vectors: [I, E]; the score of an item is its inner product with a query.
        config: Kind and settings.
        model: Id of the run whose vectors these are.
        queries: [n, E] user vectors to measure with; item vectors without.
        seed: Of the sample and of the training of the index.

    Raises:
        ConfigError: It finds less than its floor, or there are too few items for its kind.
        DataError: The ids or vectors cannot be used.
    """
    block = _block(ids, _vectors(vectors, "vectors"))
    if not len(block.ids):
        raise DataError("`ids` is empty, and an index needs an item; give the items that may be shown")
    count, width = block.vector_IE.shape
    if isinstance(config, Auto):
        config = Exact() if count < EXACT_BELOW else IVFPQ()
    index = Index(
        facts=Facts(config=config, model=model, items=count, width=width, seed=seed),
        _built=block,
        _alive=np.ones(count, bool),
        _added=Block(np.zeros(0, np.int64), torch.zeros(0, width)),
        _neighbours=None,
    )
    if isinstance(config, Exact):
        return index
    return _measured(index, Neighbours.build(block.vector_IE.numpy(), config, seed=seed), queries)


def recall(exact: Found, found: Found) -> float:
    """Share of the best items that were found; one of the same score as the last of the best counts as found."""
    last = exact.scores[:, -1:]
    return float((found.scores >= last - 1e-5 * np.abs(last)).mean())


def _measured(index: Index, neighbours: Neighbours, queries: ArrayLike | None) -> Index:
    """The index with the first of the choices that finds enough, and what was measured; ConfigError where none does."""
    vectors = index._built.vector_IE if queries is None else index._checked(queries, "queries")
    sample = np.random.default_rng(index.facts.seed).permutation(len(vectors))[:SAMPLE]
    query_QE, k = vectors[torch.from_numpy(sample)].numpy(), min(RECALL_AT, len(index))
    exact = index.search(query_QE, k)
    for choice in neighbours.choices():
        index, config = replace(index, _neighbours=choice), choice.config
        found = recall(exact, index.search(query_QE, k))
        if found >= config.floor:
            facts = msgspec.structs.replace(
                index.facts,
                config=config,
                recall=found,
                recall_at=k,
                queries=len(sample),
                sampled="items" if queries is None else "users",
                threads=threads(),
            )
            return replace(index, facts=facts)
    raise ConfigError(
        f"the index finds {found:.1%} of the {k} best items and {config.floor:.1%} are asked for (`floor`); "
        f"{config.mend()}, or take kind = exact"
    )


def _scores(query_QE: Tensor, vector_IE: Tensor, place_QC: Ids) -> Scores:
    """Inner products [Q, C] of the items at some places; -inf at negative places."""
    step = max(1, SCORES_AT_ONCE // max(1, place_QC.shape[1] * vector_IE.shape[1]))
    parts = []
    for start in range(0, len(query_QE), step):
        place = torch.from_numpy(place_QC[start : start + step].clip(min=0))
        parts.append(torch.einsum("qce,qe->qc", vector_IE[place], query_QE[start : start + step]).numpy())
    return np.where(place_QC < 0, np.float32(-np.inf), np.concatenate(parts))


def _mask(filters: Filters, size: int) -> Mask | None:
    """[size] whether the item of each id may be given to any query; None where all may."""
    if filters.allow is None and filters.deny is None and filters.available is None:
        return None
    mask = np.full(size, filters.allow is None)
    if filters.allow is not None:
        mask[_below(filters.allow, size)] = True
    if filters.available is not None:
        mask[: len(filters.available)] &= filters.available[:size]
        mask[len(filters.available) :] = False
    if filters.deny is not None:
        mask[_below(filters.deny, size)] = False
    return mask


def _below(ids: ArrayLike, size: int) -> Ids:
    given = np.asarray(ids, np.int64)
    return given[(given >= 0) & (given < size)]


def _hidden(hidden: Sequence[ArrayLike] | None, queries: int) -> list[Ids]:
    if hidden is None:
        return [np.zeros(0, np.int64)] * queries
    if len(hidden) != queries:
        raise ConfigError(f"`hidden` must have one list for each of {queries} queries, got {len(hidden)}; align them")
    return [np.asarray(ids, np.int64) for ids in hidden]


def _block(ids: ArrayLike, vectors: Tensor) -> Block:
    given = np.asarray(ids)
    if given.dtype.kind not in "iu" and given.size:
        raise DataError(f"`ids` must be whole numbers, got {given.dtype}; give ids of the item catalogue")
    given = given.astype(np.int64)
    if given.shape != (len(vectors),):
        raise DataError(
            f"`ids` must have one id for each of {len(vectors)} vectors, got shape {given.shape}; align them"
        )
    order = np.argsort(given, kind="stable")
    ordered = given[order]
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice) or (ordered[:1] < 0).any():
        wrong = ordered[0] if (ordered[:1] < 0).any() else twice[0]
        raise DataError(f"`ids` must be 0 or more, each once, got {wrong}; give each item of the catalogue once")
    return Block(ordered, vectors[torch.from_numpy(order)])


def _vectors(values: ArrayLike, name: str) -> Tensor:
    array = np.array(np.asarray(values), np.float32, order="C")
    if array.ndim != 2:
        raise DataError(f"`{name}` must have two dimensions, one row a vector, got shape {array.shape}; reshape it")
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(wrong):
        raise DataError(f"`{name}` must be finite, and row {wrong[0]} is not; look at the weights of the model")
    return torch.from_numpy(array)


def _read(folder: Path) -> Index:
    facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=Facts)
    built = Block.load(*(folder / name for name in BUILT))
    alive = np.ones(len(built.ids), bool)
    if (folder / GONE).is_file():
        alive[np.load(folder / GONE, allow_pickle=False)] = False
    added = Block(np.zeros(0, np.int64), torch.zeros(0, facts.width))
    if (folder / ADDED[0]).is_file():
        added = Block.load(*(folder / name for name in ADDED))
    if facts.items != int(alive.sum()) + len(added.ids):
        raise ValueError(f"{FACTS} tells of {facts.items} items, the arrays hold {int(alive.sum()) + len(added.ids)}")
    neighbours = None if isinstance(facts.config, Exact) else Neighbours.load(folder, facts.config)
    return Index(facts=facts, _built=built, _alive=alive, _added=added, _neighbours=neighbours)
