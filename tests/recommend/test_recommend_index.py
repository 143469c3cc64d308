"""Nearest items: exact ones equal brute force under any filters and changes, approximate ones keep their promises."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from weft.errors import ArtifactError, ConfigError, DataError, StaleModel
from weft.recommend import index as module
from weft.recommend.index import HNSW, IVFPQ, Auto, Exact, Filters, Index, IndexConfig, build

ITEMS, WIDTH = 12_000, 16
APPROXIMATE = {"hnsw": HNSW(), "ivfpq": IVFPQ()}

Vectors = dict[int, NDArray[np.float32]]
Floats = NDArray[np.float32]


def drawn(count: int, seed: int, *, spread: float = 0.2, width: int = WIDTH) -> Floats:
    """Vectors whose components fall off, and whose lengths differ."""
    draw = np.random.default_rng(seed)
    directions = draw.normal(size=(count, width)) / np.sqrt(np.arange(1, width + 1))
    return (directions * np.exp(spread * draw.normal(size=(count, 1)))).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return drawn(ITEMS, 0)


@pytest.fixture(scope="module")
def users() -> Floats:
    return drawn(400, 1)


@pytest.fixture(scope="module", params=list(APPROXIMATE))
def approximate(request: pytest.FixtureRequest, vectors: Floats, users: Floats) -> Index:
    return build(np.arange(2, ITEMS + 2), vectors, APPROXIMATE[request.param], model="run", queries=users)


def brute_force(items: Vectors, query: Floats, k: int, filters: Filters, hidden: list[int]) -> list[tuple[int, float]]:
    """Ids and scores, written out slowly."""
    found = []
    for id, vector in items.items():
        allowed = filters.allow is None or id in filters.allow  # type: ignore[operator]
        denied = filters.deny is not None and id in filters.deny  # type: ignore[operator]
        available = filters.available is None or (id < len(filters.available) and bool(filters.available[id]))
        if allowed and available and not denied and id not in hidden:
            found.append((id, sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]


def whole_numbers(width: int) -> st.SearchStrategy[Floats]:
    """Small whole numbers, whose products are exact and often equal."""
    numbers = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    return numbers.map(lambda row: np.array(row, np.float32))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Vectors, Index]:
    """An index after some changes, and the items that must be in it."""
    vector = whole_numbers(3)
    items: Vectors = draw(st.dictionaries(st.integers(0, 30), vector, min_size=1, max_size=20))
    index = build(list(items), np.stack(list(items.values())), Exact())
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            leaving = draw(st.lists(st.integers(-1, 40)))
            items = {id: vector for id, vector in items.items() if id not in leaving}
            index = index.without(leaving)
        else:
            arriving: Vectors = draw(st.dictionaries(st.integers(0, 40), vector, max_size=8))
            items = items | arriving
            index = index.with_items(list(arriving), np.array(list(arriving.values())).reshape(-1, 3))
    return items, index


@st.composite
def filtered(draw: st.DrawFn, queries: int) -> Filters:
    ids = st.none() | st.lists(st.integers(-2, 45))
    available = draw(st.none() | st.lists(st.booleans(), max_size=45).map(lambda mask: np.array(mask, bool)))
    hidden = draw(st.none() | st.lists(st.lists(st.integers(-2, 45)), min_size=queries, max_size=queries))
    return Filters(allow=draw(ids), deny=draw(ids), available=available, hidden=hidden)


@settings(deadline=None)
@given(world=worlds(), data=st.data(), k=st.integers(1, 25), queries=st.lists(whole_numbers(3), min_size=1, max_size=3))
def test_exact_is_brute_force_under_any_filters_and_changes(
    world: tuple[Vectors, Index], data: st.DataObject, k: int, queries: list[Floats]
) -> None:
    items, index = world
    filters = data.draw(filtered(len(queries)))
    found = index.search(np.stack(queries), k, filters)
    assert found.ids.shape == found.scores.shape == (len(queries), k)
    for place, query in enumerate(queries):
        hidden = [] if filters.hidden is None else list(filters.hidden[place])  # type: ignore[call-overload]
        wanted = brute_force(items, query, k, filters, hidden)
        left = k - len(wanted)
        assert found.ids[place].tolist() == [id for id, _ in wanted] + [-1] * left
        assert found.scores[place].tolist() == [score for _, score in wanted] + [-np.inf] * left
    assert (len(index), index.ids.tolist()) == (len(items), sorted(items))
    assert index.facts.items == len(items)
    assert all((id in index) == (id in items) for id in range(45))
    np.testing.assert_array_equal(index.vectors_of(list(items)), np.array(list(items.values())).reshape(-1, 3))


def test_items_in_many_parts_give_the_lists_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal scores fall on both sides of every border between the parts."""
    rows = np.random.default_rng(0).integers(-1, 2, (500, 4)).astype(np.float32)
    index = build(np.arange(500), rows, Exact())
    filters = Filters(deny=np.arange(0, 500, 7), hidden=[np.arange(q, 500, 5) for q in range(9)])
    whole = index.search(rows[:9], 20, filters)
    monkeypatch.setattr("weft.recommend._exact.SCORES_AT_ONCE", 9 * 30)
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 4)
    parts = index.search(rows[:9], 20, filters)
    np.testing.assert_array_equal(whole.ids, parts.ids)
    np.testing.assert_array_equal(whole.scores, parts.scores)


def test_the_score_is_the_inner_product(approximate: Index, vectors: Floats, users: Floats) -> None:
    found = approximate.search(users, 50)
    products = np.einsum("qke,qe->qk", vectors[found.ids - 2], users)
    np.testing.assert_allclose(found.scores, products, rtol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_recall_is_measured_when_it_is_built(approximate: Index, vectors: Floats, users: Floats) -> None:
    """Against NumPy; the sample of the build is other users than all of them."""
    facts = approximate.facts
    best = np.argsort(-(users @ vectors.T), axis=1)[:, :100] + 2
    found = approximate.search(users, 100).ids
    share = np.mean([len(np.intersect1d(a, b)) / 100 for a, b in zip(best, found, strict=True)])
    assert 0.95 <= share < 1
    assert facts.recall == pytest.approx(share, abs=0.01)
    assert (facts.sampled, facts.queries, facts.recall_at, facts.model) == ("users", 256, 100, "run")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (IVFPQ(nprobe=8), r"finds [\d.]+% of the 100 best items and 95.0% are asked for .* raise `nprobe` \(now 8\)"),
        (HNSW(ef_construction=8, neighbours=2, ef_search=1), r"raise `ef_search` \(now 1\)"),
        (IVFPQ(floor=1.0, rescore=1), r"100.0% are asked for .*`nprobe` \(now 55\), then `rescore` \(now 1\)"),
    ],
)
def test_below_the_floor_the_build_fails(config: IndexConfig, words: str, vectors: Floats) -> None:
    with pytest.raises(ConfigError, match=words):
        build(np.arange(ITEMS), vectors, config)


def test_an_exact_index_and_item_queries(vectors: Floats) -> None:
    exact = build(np.arange(ITEMS), vectors, Exact()).facts
    assert (exact.kind, exact.recall, exact.queries, exact.sampled) == ("exact", 1.0, 0, None)
    assert build(np.arange(ITEMS), vectors, IVFPQ()).facts.sampled == "items"


def test_exact_below_100_000_items() -> None:
    rows = drawn(100_000, 3, width=4)
    assert build(np.arange(99_999), rows[1:], Auto()).facts.kind == "exact"
    assert build(np.arange(100_000), rows).facts.kind == "ivfpq"


def test_the_fewest_cells_that_reach_the_floor(vectors: Floats, users: Floats) -> None:
    """110 cells: a sixteenth, an eighth, a quarter and a half of them are tried."""
    found = [
        build(np.arange(ITEMS), vectors, IVFPQ(floor=floor), queries=users).facts.config for floor in (0, 0.95, 0.99)
    ]
    assert [config.nprobe for config in found] == [7, 28, 55]  # type: ignore[union-attr]
    assert all(replace(config, nprobe=None, floor=0.95) == IVFPQ() for config in found)


ids_of_some = st.none() | st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).choice(ITEMS + 40, np.random.default_rng(seed).integers(ITEMS))
)


@settings(deadline=None, max_examples=40)
@given(allow=ids_of_some, deny=ids_of_some, leaving=ids_of_some, seen=st.integers(0, 3_000), k=st.integers(1, 120))
def test_approximate_lists_are_full_and_hold_nothing_that_is_filtered(
    approximate: Index,
    vectors: Floats,
    users: Floats,
    allow: NDArray[np.int64] | None,
    deny: NDArray[np.int64] | None,
    leaving: NDArray[np.int64] | None,
    seen: int,
    k: int,
) -> None:
    some = users[:3]
    best = np.argsort(-(some @ vectors.T), axis=1) + 2
    hidden = [best[0, :seen], best[1, : seen // 9], []]
    index = approximate if leaving is None else approximate.without(leaving)
    index = index.with_items([ITEMS + 10], vectors[:1])
    found = index.search(some, k, Filters(allow=allow, deny=deny, hidden=hidden))
    passing = index.ids if allow is None else np.intersect1d(index.ids, allow)
    passing = passing if deny is None else np.setdiff1d(passing, deny)
    for place in range(3):
        free = np.setdiff1d(passing, hidden[place])
        got = found.ids[place]
        assert (got >= 0).sum() == min(k, len(free))
        assert len(np.unique(got[got >= 0])) == (got >= 0).sum()
        assert np.isin(got[got >= 0], free).all()
        if len(free) >= k >= 50:
            mine = np.sort(index.vectors_of(free) @ some[place])[::-1]
            assert (found.scores[place] >= mine[k - 1] - 1e-4).mean() > 0.8


def test_a_filter_that_leaves_almost_nothing(approximate: Index, vectors: Floats, users: Floats) -> None:
    """The worst items of a user are found when nothing else is allowed, and then the lists are exact."""
    worst = np.argsort(users[0] @ vectors.T)[:30] + 2
    found = approximate.search(users[:1], 50, Filters(allow=worst)).ids[0]
    np.testing.assert_array_equal(found[:30], worst[::-1])
    assert (found[30:] == -1).all()
    best = np.argsort(-(users[0] @ vectors.T)) + 2
    hidden = approximate.search(users[:1], 30, Filters(hidden=[best[:-30]])).ids[0]
    np.testing.assert_array_equal(hidden, best[-30:])


def test_arrivals_are_found_at_once_and_leavers_never(approximate: Index, users: Floats) -> None:
    before = approximate.search(users[:5], 10)
    star = users[:1] * 100
    after = approximate.with_items([5, ITEMS + 7], np.concatenate([star, -star])).without(before.ids[0, :3])
    found = after.search(users[:5], 10)
    assert found.ids[0, 0] == 5
    assert found.scores[0, 0] == pytest.approx(100 * float(users[0] @ users[0]), rel=1e-5)
    assert not np.isin(found.ids, before.ids[0, :3]).any()
    assert (after.facts.added, after.facts.items) == (2, ITEMS + 1 - 3)
    np.testing.assert_array_equal(approximate.search(users[:5], 10).ids, before.ids)
    assert 5 not in after.without([5])
    back = after.without([5]).with_items([5], users[1:2] * 100)
    assert back.search(users[1:2], 1).ids.tolist() == [[5]]


def test_an_item_that_a_mask_does_not_reach_is_not_available() -> None:
    index = build([2, 3, 9], np.ones((3, 2)), Exact())
    assert index.search(np.ones((1, 2)), 3, Filters(available=np.ones(4, bool))).ids.tolist() == [[2, 3, -1]]


@pytest.mark.parametrize("kind", list(APPROXIMATE))
def test_the_same_seed_gives_the_same_files(tmp_path: Path, vectors: Floats, kind: str) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(np.arange(4_000), vectors[:4_000], APPROXIMATE[kind], seed=seed).save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["faiss.index", "ids.npy", "index.json", "vectors.npy"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a/faiss.index").read_bytes() != (tmp_path / "c/faiss.index").read_bytes()


def test_saving_and_loading_changes_nothing(approximate: Index, users: Floats, tmp_path: Path) -> None:
    changed = approximate.with_items([1, 4], users[:2] * 10).without([9, 10])
    exact = build(np.arange(50), users[:50], Exact(), model="run")
    for name, index in (("plain", approximate), ("changed", changed), ("exact", exact)):
        index.save(tmp_path / name)
        loaded = Index.load(tmp_path / name, model="run")
        assert loaded.facts == index.facts
        for ours, theirs in zip(loaded.search(users, 40), index.search(users, 40), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        loaded.without([3]).with_items([70], users[:1]).save(tmp_path / f"{name}-again")
        assert 70 in Index.load(tmp_path / f"{name}-again")
    assert {path.name for path in (tmp_path / "exact").iterdir()} == {"index.json", "ids.npy", "vectors.npy"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
def test_vectors_and_faiss_are_mapped(approximate: Index, tmp_path: Path) -> None:
    approximate.save(tmp_path)
    loaded = Index.load(tmp_path)
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "vectors.npy") in maps
    assert str(tmp_path / "faiss.index") in maps
    assert len(loaded) == ITEMS


def test_what_it_gives_out_does_not_reach_into_it(tmp_path: Path) -> None:
    rows = np.eye(3, dtype=np.float32)
    index = build([2, 3, 4], rows, Exact())
    rows[:], index.ids[:], index.vectors_of([2])[:] = 9, 9, 9
    assert index.search(np.eye(3), 1).ids.tolist() == [[2], [3], [4]]
    index.save(tmp_path)
    loaded = Index.load(tmp_path)
    loaded.vectors_of([2])[:] = 9
    assert Index.load(tmp_path).vectors_of([2]).tolist() == [[1, 0, 0]]


def test_threads_share_an_index(approximate: Index, users: Floats) -> None:
    alone = [approximate.search(users[q : q + 1], 20).ids for q in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda q: approximate.search(users[q : q + 1], 20).ids, range(40)))
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(together))


def test_an_index_of_another_run_is_refused(tmp_path: Path) -> None:
    build([2], np.ones((1, 2)), Exact(), model="one").save(tmp_path)
    with pytest.raises(StaleModel, match="of the run 'one', not of 'two'"):
        Index.load(tmp_path, model="two")


@pytest.mark.parametrize("file", ["index.json", "ids.npy", "vectors.npy", "faiss.index"])
def test_a_folder_that_is_not_whole_is_refused(approximate: Index, tmp_path: Path, file: str) -> None:
    approximate.save(tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="is no whole index"):
        Index.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactError, match="is no whole index"):
        Index.load(tmp_path)


def test_arrays_of_another_index_are_refused(tmp_path: Path) -> None:
    build([2, 3], np.ones((2, 2)), Exact()).save(tmp_path)
    np.save(tmp_path / "ids.npy", np.array([2]))
    with pytest.raises(ArtifactError, match="do not go together"):
        Index.load(tmp_path)


@pytest.mark.parametrize(
    ("ids", "rows", "words"),
    [
        ([2, 2], np.ones((2, 2)), "each once, got 2"),
        ([-1, 2], np.ones((2, 2)), "0 or more, each once, got -1"),
        ([2], np.ones((2, 2)), r"one id for each of 2 vectors, got shape \(1,\)"),
        ([2.5], np.ones((1, 2)), "whole numbers, got float64"),
        ([], np.ones((0, 2)), "`ids` is empty"),
        ([2], np.ones(2), r"two dimensions.*shape \(2,\)"),
        ([2, 3], np.array([[1, 1], [1, np.nan]]), "`vectors` must be finite, and row 1 is not"),
    ],
)
def test_items_that_cannot_be_indexed(ids: list[float], rows: Floats, words: str) -> None:
    with pytest.raises(DataError, match=words):
        build(ids, rows)


def test_queries_and_filters_that_cannot_be_used() -> None:
    index = build([2, 3], np.ones((2, 2)))
    with pytest.raises(DataError, match="`queries` must be finite, and row 1 is not"):
        index.search([[1, 1], [np.inf, 1]], 1)
    with pytest.raises(DataError, match="must be 2 wide, as the index is, got 3"):
        index.search(np.ones((1, 3)), 1)
    with pytest.raises(ConfigError, match="`k` must be 1 or more, got 0"):
        index.search(np.ones((1, 2)), 0)
    with pytest.raises(ConfigError, match="one list for each of 1 queries, got 2"):
        index.search(np.ones((1, 2)), 1, Filters(hidden=[[2], [3]]))
    with pytest.raises(ConfigError, match="no item with the id 7"):
        index.vectors_of([2, 7])
    with pytest.raises(DataError, match="must be 2 wide"):
        index.with_items([5], np.ones((1, 4)))
    assert index.search(np.ones((0, 2)), 4).ids.shape == (0, 4)


@pytest.mark.parametrize("kind", list(APPROXIMATE))
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15, 1e30])
def test_vectors_of_any_size(vectors: Floats, kind: str, scale: float) -> None:
    some = build(np.arange(7_000), vectors[:7_000], APPROXIMATE[kind], queries=vectors)
    config = replace(some.facts.config, floor=0.0) if isinstance(some.facts.config, HNSW | IVFPQ) else Exact()
    scaled = build(np.arange(7_000), vectors[:7_000] * np.float32(scale), config, queries=vectors)
    assert scaled.facts.recall == pytest.approx(1.0 if scale == 0 else some.facts.recall, abs=0.02)


@pytest.mark.parametrize("width", [1, 3, 67, 300])
def test_vectors_of_any_width(width: int) -> None:
    rows = drawn(2_000, 0, width=width)
    for config in (HNSW(floor=0.0), IVFPQ(floor=0.0)):
        found = build(np.arange(2_000), rows, config).search(rows[:3], 20)
        np.testing.assert_allclose(found.scores, np.einsum("qke,qe->qk", rows[found.ids], rows[:3]), rtol=1e-4)


def test_too_few_items_for_an_approximate_index() -> None:
    with pytest.raises(ConfigError, match="needs 1,000 items or more, got 999; take kind = exact"):
        build(np.arange(999), np.ones((999, 2)), IVFPQ())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "ivfpq", "nprobe": 0}, "`nprobe` of an index must be 1 or more, got 0"),
        ({"kind": "hnsw", "floor": 1.5}, r"must lie in 0\.\.1, got 1\.5"),
        ({"kind": "exact", "nprobe": 3}, "unknown field `nprobe`"),
        ({"kind": "annoy"}, "Invalid value 'annoy'"),
    ],
)
def test_settings_that_do_not_exist(settings: dict[str, object], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(settings, IndexConfig)  # type: ignore[arg-type]


def test_faiss_is_loaded_by_approximate_indexes_only() -> None:
    code = (
        "import sys, numpy as np\n"
        "from weft.recommend.index import build, Exact, Index\n"
        "build([2, 3], np.ones((2, 2)), Exact()).search(np.ones((1, 2)), 1)\n"
        "assert 'faiss' not in sys.modules and 'polars' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
