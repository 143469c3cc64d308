"""What faiss finds: places of items that are probably the nearest, in no order that counts.

Dimension key: I items, Q queries, E width, C candidates of a query.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from weft.errors import ConfigError

FILE = "faiss.index"
FEWEST = 1_000
ROUNDS = 10
TINY = float(np.finfo(np.float32).tiny)

Scores = NDArray[np.float32]
Places = NDArray[np.int64]


class HNSW(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hnsw"):
    """A graph of near items, walked from hub to hub. Slow to build, on one thread.

    Malkov & Yashunin, TPAMI 2020, https://arxiv.org/abs/1603.09320. Items are linked by cosine and the walk is by inner
    product: linked by inner product, all links would lead to the longest vectors. They lie in the graph as bf16, and
    what it finds is scored again exactly.

    Attributes:
        neighbours: Links of an item.
        ef_construction: Candidates that are looked at for the links of a new item.
        ef_search: Candidates that a search keeps; at least as many as are asked for.
        floor: Share of the best 100 items that must be found, or the build fails.
    """

    neighbours: int = 32
    ef_construction: int = 80
    ef_search: int = 256
    floor: float = 0.95

    def __post_init__(self) -> None:
        _at_least_one(self, "neighbours", "ef_construction", "ef_search")

    def mend(self) -> str:
        """What to change when too little is found."""
        return f"raise `ef_search` (now {self.ef_search}), then `neighbours` (now {self.neighbours})"


class IVFPQ(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="ivfpq"):
    """Cells around centroids, and four bits for each component of what is left of a vector: small and quick to build.

    Jégou et al., TPAMI 2011, https://doi.org/10.1109/TPAMI.2010.57, with sub-vectors of one component. The cells are
    those of Euclidean k-means, so that long and short vectors lie apart, and are visited by inner product.

    Attributes:
        lists: Cells; without it the square root of the number of items.
        nprobe: Cells that a search visits; without it the fewest of 1/16, 1/8, 1/4, 1/2 of them to reach the floor.
        rescore: So many times the items asked for are scored again exactly.
        floor: Share of the best 100 items that must be found, or the build fails.
    """

    lists: int | None = None
    nprobe: int | None = None
    rescore: int = 3
    floor: float = 0.95

    def __post_init__(self) -> None:
        _at_least_one(self, "rescore", *(name for name in ("lists", "nprobe") if getattr(self, name) is not None))

    def mend(self) -> str:
        """What to change when too little is found."""
        return f"raise `nprobe` (now {self.nprobe}), then `rescore` (now {self.rescore})"


def _at_least_one(config: HNSW | IVFPQ, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"`{name}` of an index must be 1 or more, got {getattr(config, name)}")
    if not 0 <= config.floor <= 1:
        raise ConfigError(f"`floor` of an index must lie in 0..1, got {config.floor:g}")


@final
class Neighbours:
    """An approximate search over the places 0 to I - 1; nothing changes it."""

    def __init__(self, index: Any, config: HNSW | IVFPQ) -> None:
        self._index, self.config = index, config

    @staticmethod
    def build(vector_IE: Scores, config: HNSW | IVFPQ, *, seed: int) -> "Neighbours":
        """Build the search; ConfigError when there are too few items for it."""
        if len(vector_IE) < FEWEST:
            raise ConfigError(
                f"an approximate index needs {FEWEST:,} items or more, got {len(vector_IE):,}; take kind = exact"
            )
        scaled_IE = vector_IE / max(float(np.abs(vector_IE).max()), TINY)  # no square of it overflows
        index = _graph(scaled_IE, config, seed) if isinstance(config, HNSW) else _cells(scaled_IE, config, seed)
        return Neighbours(index, config)

    def candidates(self, query_QE: Scores, n: int) -> Places:
        """Places [Q, C] that hold most of the n nearest items of each query; -1 where it finds no more."""
        import faiss

        if isinstance(self.config, HNSW):
            count = max(n, self.config.ef_search)
            settings: Any = faiss.SearchParametersHNSW(efSearch=count)
        else:
            count = n * self.config.rescore
            settings = faiss.SearchParametersIVF(nprobe=self.config.nprobe or self._index.nlist)
        scaled_QE = query_QE / np.maximum(np.abs(query_QE).max(axis=1, keepdims=True), TINY)
        places: Places = self._index.search(scaled_QE, min(count, self._index.ntotal), params=settings)[1]
        return places

    def choices(self) -> list["Neighbours"]:
        """The same search with each setting that the build may choose from, the fastest first."""
        config = self.config
        if isinstance(config, HNSW) or config.nprobe is not None:
            return [self]
        cells = [-(-self._index.nlist // part) for part in (16, 8, 4, 2)]
        return [Neighbours(self._index, msgspec.structs.replace(config, nprobe=count)) for count in cells]

    def save(self, folder: Path) -> None:
        """Write the file."""
        import faiss

        faiss.write_index(self._index, str(folder / FILE))

    @staticmethod
    def load(folder: Path, config: HNSW | IVFPQ) -> "Neighbours":
        """Map the file."""
        import faiss

        return Neighbours(faiss.read_index(str(folder / FILE), faiss.IO_FLAG_MMAP_IFC), config)


def threads() -> int:
    """How many threads faiss has."""
    import faiss

    return int(faiss.omp_get_max_threads())


def _graph(vector_IE: Scores, config: HNSW, seed: int) -> Any:
    """Items are linked one after the other: on several threads the links depend on who comes first."""
    import faiss

    index = faiss.IndexHNSWSQ(
        vector_IE.shape[1],
        faiss.ScalarQuantizer.QT_bf16,
        config.neighbours,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.hnsw.efConstruction = config.ef_construction
    index.hnsw.rng = faiss.RandomGenerator(seed)
    length_I1 = np.linalg.norm(vector_IE, axis=1, keepdims=True)
    with _one_thread():
        index.add(vector_IE / np.maximum(length_I1, TINY))
    vectors = faiss.downcast_index(index.storage)
    vectors.reset()
    vectors.add(vector_IE)
    return index


def _cells(vector_IE: Scores, config: IVFPQ, seed: int) -> Any:
    import faiss

    count, width = vector_IE.shape
    lists = min(count, config.lists or round(count**0.5))
    means = faiss.Kmeans(width, lists, niter=ROUNDS, seed=seed, min_points_per_centroid=1)
    means.train(vector_IE)
    euclidean, inner = faiss.IndexFlatL2(width), faiss.IndexFlatIP(width)
    euclidean.add(means.centroids)
    inner.add(means.centroids)
    index = faiss.IndexIVFPQFastScan(euclidean, width, lists, width, 4, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = True
    index.train(vector_IE)
    index.add(vector_IE)
    index.quantizer = inner
    return faiss.deserialize_index(faiss.serialize_index(index))  # a copy that owns its parts


@contextmanager
def _one_thread() -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
