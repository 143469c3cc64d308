from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from weft.transforms.rows import RaggedArrays, Rows, RowsWriter, concat, offsets_of


def make(n: int, *, seed: int = 0, full: bool = True) -> Rows:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, n)
    total = int(lengths.sum())
    ragged = {
        "../tags": RaggedArrays(rng.integers(1, 9, total).astype(np.int32), offsets_of(lengths)),
        "recent": RaggedArrays(
            rng.integers(1, 9, total).astype(np.int32), offsets_of(lengths), rng.random(total).astype(np.float32)
        ),
    }
    rows = Rows(
        ids=rng.integers(0, 9, (n, 3)).astype(np.int32),
        dense=rng.random((n, 2)).astype(np.float32),
        ragged=ragged if full else {},
        keys=rng.integers(0, 9, (n, 1)).astype(np.uint64),
    )
    if not full:
        return replace(rows, dense=np.zeros((n, 0), np.float32), sides=("item",))
    return replace(
        rows,
        label=rng.random((n, 1)).astype(np.float32),
        position=rng.integers(1, 9, n).astype(np.int32),
        weight=rng.random(n).astype(np.float32),
        user=rng.integers(0, 9, n).astype(np.int32),
        group=rng.integers(0, 9, n),
        time=rng.integers(0, 9, n),
    )


def assert_equal(first: Rows, second: Rows) -> None:
    assert list(first.columns()) == list(second.columns())
    assert first.sides == second.sides
    for name, column in first.columns().items():
        assert column.dtype == second.columns()[name].dtype
        np.testing.assert_array_equal(column, second.columns()[name])
    assert list(first.ragged) == list(second.ragged)
    for name, sets in first.ragged.items():
        for one, two in zip(sets, second.ragged[name], strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("n", [0, 7])
def test_save_and_load(tmp_path: Path, n: int, full: bool, mmap: bool) -> None:
    rows = make(n, full=full)
    rows.save(tmp_path / "rows")
    loaded = Rows.load(tmp_path / "rows", mmap=mmap)
    assert_equal(rows, loaded)
    assert len(loaded.batch()) == n


def test_chunks_give_the_files_of_the_whole(tmp_path: Path) -> None:
    rows = make(11)
    rows.save(tmp_path / "whole")
    with RowsWriter(tmp_path / "chunks") as writer:
        for start, stop in ((0, 4), (4, 4), (4, 5), (5, 11)):
            writer.add(rows.take(slice(start, stop)))
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert len(files) == 15
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "chunks" / name).read_bytes()


def test_take_agrees_for_all_kinds_of_index() -> None:
    rows = make(9)
    mask = np.zeros(9, bool)
    mask[[2, 3, 4]] = True
    expected = rows.take(np.array([2, 3, 4], np.int32))
    assert_equal(rows.take(mask), expected)
    assert_equal(rows.take(slice(2, 5)), expected)
    assert_equal(rows.take(slice(2, 5, 1)).take(slice(None)), expected)
    assert_equal(rows.take(slice(4, None, -2)), rows.take(np.array([4, 2, 0])))
    assert_equal(rows.take(np.array([-1])), rows.take(np.array([8])))
    assert len(rows.take(slice(7, 3))) == 0


def test_concat_is_the_inverse_of_cutting() -> None:
    rows = make(9)
    assert_equal(concat([rows.take(slice(0, 4)), rows.take(slice(4, 4)), rows.take(slice(4, 9))]), rows)


@pytest.mark.parametrize("index", [slice(1, 4), np.array([1, 2, 3])])
def test_batches_are_contiguous_and_typed(tmp_path: Path, index: slice | NDArray[np.int64]) -> None:
    rows = make(6)
    rows.save(tmp_path / "rows")
    for source in (rows, Rows.load(tmp_path / "rows")):
        batch = source.batch(index)
        assert batch.ids.dtype == torch.int32
        assert batch.ids.is_contiguous()
        assert batch.user is not None
        assert batch.position is not None
        assert batch.label is not None
        assert (batch.user.dtype, batch.position.dtype, batch.label.dtype) == (torch.int64, torch.int64, torch.float32)
        assert batch.item is None
        assert batch.ids.tolist() == rows.ids[1:4].tolist()
        assert batch.ragged["recent"].offsets[0] == 0
        sets = rows.ragged["recent"].take(index)
        assert batch.ragged["recent"].values.tolist() == sets.values.tolist()
        assert batch.ragged["recent"].weights is not None


def fail_half_way(folder: Path) -> None:
    with RowsWriter(folder) as writer:
        writer.add(make(2))
        raise RuntimeError("cut")


def test_nothing_is_finished_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cut"):
        fail_half_way(tmp_path / "rows")
    assert not (tmp_path / "rows" / "rows.json").exists()
