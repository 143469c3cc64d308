import threading
from dataclasses import replace
from itertools import chain, groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tables_for_tests import schema, tables

from weft.data import load
from weft.data.load import Loader
from weft.data.store import prepare
from weft.errors import ConfigError
from weft.transforms.rows import RaggedArrays, Rows


def rows(count: int = 10) -> Rows:
    place = np.arange(count, dtype=np.int32)
    return Rows(
        ids=place[:, None],
        dense=np.zeros((count, 0), np.float32),
        ragged={"set": RaggedArrays(place, np.arange(count + 1, dtype=np.int64))},
        keys=np.zeros((count, 0), np.uint64),
        label=place[:, None].astype(np.float32),
    )


def seen(loader: Loader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.ids[:, 0].tolist() for batch in loader.batches(epoch, start)]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_every_row_once_an_epoch(prefetch: int) -> None:
    loader = Loader(rows(), 4, seed=3, prefetch=prefetch)
    first = seen(loader)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert len(loader) == 3
    assert sorted(chain.from_iterable(first)) == list(range(10))
    assert first == seen(Loader(rows(), 4, seed=3))
    assert first != seen(loader, epoch=1)
    assert first != seen(Loader(rows(), 4, seed=4))


def test_an_epoch_can_be_entered_in_its_middle() -> None:
    loader = Loader(rows(), 3)
    assert seen(loader, start=2) == seen(loader)[2:]
    assert seen(loader, start=4) == []


def test_columns_stay_together() -> None:
    for batch in Loader(rows(), 4).batches():
        assert batch.label is not None
        assert torch.equal(batch.ids[:, 0].float(), batch.label[:, 0])
        assert torch.equal(batch.ids[:, 0], batch.ragged["set"].values)
        assert batch.ids.is_contiguous()


def test_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(Loader(rows(), 4, shuffle="none")) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seen(Loader(rows(), 4, shuffle="none", drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    monkeypatch.setattr(load, "BLOCK", 4)
    order = Loader(rows(), 4, shuffle="block").order(0)
    assert order is not None
    assert sorted(order.tolist()) == list(range(10))
    blocks = [block // 4 for block in order]
    assert len([b for a, b in pairwise(blocks) if a != b]) == 2
    with pytest.raises(ConfigError, match=r"`shuffle` must be one of global, block, users, none, got 'all'"):
        Loader(rows(), 4, shuffle="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"`batch_size` must be at least 1, got 0"):
        Loader(rows(), 0)


def test_users_are_shuffled_and_their_rows_stay_together() -> None:
    users = np.array([5, 2, 5, 9, 2, 5, 7, 9, 2, 3], np.int32)
    orders = [Loader(replace(rows(), user=users), 4, shuffle="users").order(epoch) for epoch in range(20)]
    for order in orders:
        assert order is not None
        runs = [user for user, _ in groupby(users[order])]
        assert sorted(order.tolist()) == list(range(10))
        assert len(runs) == 5, "each user's rows are one run"
    assert len({tuple(users[order].tolist()) for order in orders if order is not None}) > 10
    with pytest.raises(ConfigError, match="`shuffle` = 'users' keeps rows of a user together, and the rows say none"):
        Loader(rows(), 4, shuffle="users").order(0)


def loaders() -> int:
    return sum(thread.name == "weft-loader" for thread in threading.enumerate())


def test_the_thread_ends_with_its_reader() -> None:
    reading = Loader(rows(1000), 1).batches()
    next(reading)
    assert loaders() == 1
    reading.close()  # type: ignore[attr-defined]
    assert loaders() == 0
    assert len(seen(Loader(rows(), 1))) == 10
    assert loaders() == 0


def test_a_failure_in_the_thread_reaches_the_reader() -> None:
    def broken(rows: Rows, *, epoch: int, step: int) -> Rows:
        if step == 1:
            raise RuntimeError("no more")
        return rows

    reading = Loader(rows(), 4, sampler=broken).batches()
    next(reading)
    with pytest.raises(RuntimeError, match="no more"):
        next(reading)
    assert loaders() == 0


def test_a_store_is_read_from_its_memory_map(tmp_path: Path) -> None:
    store = prepare(schema(), tmp_path / "s", **tables())
    train = store.split("train")
    assert not train.ids.flags.writeable
    loader = Loader(train, 50)
    order = loader.order(0)
    for step, batch in enumerate(loader.batches()):
        assert order is not None
        assert torch.equal(batch.ids, torch.from_numpy(train.ids[order[step * 50 : step * 50 + 50]]))
