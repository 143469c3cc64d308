"""What each user has had, and what a protocol hides of it."""

from pathlib import Path

import numpy as np
import pytest

import camps_for_tests as camp
from weft.data.store import Store
from weft.schema import Protocol
from weft.transforms.catalogue import SPLITS, Catalogue, Seen

SEEN = Seen(
    offsets=np.array([0, 0, 0, 5, 6]),
    item=np.array([7, 8, 9, 7, 5, 6], np.int32),
    time=np.array([10, 20, 30, 40, 50, 100]),
    split=np.array([0, 0, 1, 1, 2, 0], np.int8),
    relevant=np.array([True, False, True, False, True, True]),
)
WINDOW = Protocol(seen="window", window=25.0)


def hidden(protocol: Protocol, user: int = 2, **when: object) -> list[int]:
    return SEEN.hidden(user, protocol, **when).tolist()  # type: ignore[arg-type]


def test_all_is_hidden_unless_a_split_is_named() -> None:
    assert hidden(Protocol()) == [7, 8, 9, 7, 5]
    assert hidden(Protocol(), before="test") == [7, 8, 9, 7]
    assert hidden(Protocol(), before="valid") == [7, 8]
    assert hidden(Protocol(), before="train") == []
    assert hidden(Protocol(), user=3) == [6]


def test_only_relevant_rows_may_count() -> None:
    assert hidden(Protocol(seen_from="relevant")) == [7, 9, 5]
    assert hidden(Protocol(seen_from="relevant"), before="test") == [7, 9]


def test_allowed_hides_nothing() -> None:
    assert hidden(Protocol(seen="allow")) == []


def test_users_without_a_row_have_seen_nothing() -> None:
    assert hidden(Protocol(), user=0) == hidden(Protocol(), user=1) == []


def test_a_window_counts_back_from_the_time_of_asking() -> None:
    assert hidden(WINDOW, time=50) == [9, 7, 5]
    assert hidden(WINDOW, time=75) == [5]
    assert hidden(WINDOW, time=76) == []
    assert hidden(WINDOW) == []
    assert hidden(WINDOW, user=3) == [6]
    assert hidden(WINDOW, time=75, before="test") == []
    assert hidden(Protocol(seen="window", window=0.025), time=50, unit=1000) == [9, 7, 5]


def test_a_catalogue_is_saved_and_read_back(camps: Store, tmp_path: Path) -> None:
    before = camps.catalogue
    before.save(tmp_path)
    after = Catalogue.load(tmp_path)
    for name, column in before.items.columns().items():
        assert np.array_equal(column, after.items.columns()[name]), name
    assert len(after.users) == len(before.users)
    assert all(np.array_equal(one, two) for one, two in zip(before.seen, after.seen, strict=True))
    assert before.titles is not None
    assert after.titles is not None
    assert after.titles.tolist() == before.titles.tolist()
    assert np.array_equal(after.counts, before.counts)
    assert np.array_equal(after.positives, before.positives)


def test_the_store_keeps_every_event_of_the_known(camps: Store) -> None:
    table = camp.interactions().filter(camp.interactions()["song"] != camp.NEW_SONG)
    assert camps.transforms.user_ids is not None
    assert camps.transforms.item_ids is not None
    for user in (camp.FIRST_USER, camp.FIRST_USER + 5):
        mine = table.filter(user=user)
        events = camps.catalogue.seen.of(camps.transforms.user_ids.id_of(user))
        assert [camps.transforms.item_ids.value_of(i) for i in camps.catalogue.seen.item[events]] == mine[
            "song"
        ].to_list()
        assert camps.catalogue.seen.time[events].tolist() == mine["time"].to_list()
        assert [SPLITS[code] for code in camps.catalogue.seen.split[events]] == mine["split"].to_list()
        assert camps.catalogue.seen.relevant[events].tolist() == (mine["liked"] == 1).to_list()


def test_items_are_counted_in_the_train_rows(camps: Store) -> None:
    train = camp.interactions().filter(split="train")
    assert camps.catalogue.counts.sum() == train.height
    assert camps.catalogue.positives.sum() == train["liked"].sum()


@pytest.mark.parametrize("rows", [0, 3])
def test_the_newest_time(camps: Store, rows: int) -> None:
    cut = Seen(*(column[:rows] if name != "offsets" else column for name, column in SEEN._asdict().items()))
    known = camps.catalogue
    catalogue = Catalogue(
        users=known.users,
        items=known.items,
        titles=None,
        seen=cut,
        counts=known.counts,
        positives=known.positives,
    )
    assert catalogue.newest == (30 if rows else 0)
