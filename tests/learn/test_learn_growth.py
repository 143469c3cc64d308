"""Who gets an id, who loses it, and rows read with other ids."""

import numpy as np
import pytest

from weft.data.store import Store
from weft.learn.growth import Policy, admit, grown, named, translated
from weft.transforms.vocabulary import Vocabulary


def vocabulary(**counts: int) -> Vocabulary:
    return Vocabulary(np.array(list(counts), object), np.array(list(counts.values())))


def test_a_value_waits_until_it_was_met_often_enough() -> None:
    after, waiting = admit(vocabulary(a=5), ["b", "b", "a"], {}, Policy(least=3))
    assert after.values.tolist() == ["a"]
    assert waiting == {"b": 2}
    after, waiting = admit(after, ["b"], waiting, Policy(least=3))
    assert after.values.tolist() == ["a", "b"]
    assert after.counts.tolist() == [(5 * 7 // 8 + 1) * 7 // 8, 3]
    assert waiting == {}


def test_the_most_frequent_newcomers_come_first() -> None:
    met = ["x"] * 3 + ["y"] * 5 + ["z"] * 4
    after, waiting = admit(vocabulary(a=900), met, {}, Policy(least=3, most=3))
    assert after.values.tolist() == ["a", "y", "z"]
    assert waiting == {"x": 3}


def test_a_full_table_evicts_what_is_rarest_and_was_not_met() -> None:
    old = vocabulary(often=100, rare=4, met=1, middle=30)
    after, _ = admit(old, ["new"] * 9 + ["met"], {}, Policy(least=2, most=4))
    assert after.values.tolist() == ["often", "new", "met", "middle"]


def test_a_newcomer_that_is_rarer_than_all_waits() -> None:
    after, waiting = admit(vocabulary(a=100, b=90), ["new"] * 5, {}, Policy(least=2, most=2))
    assert after.values.tolist() == ["a", "b"]
    assert waiting == {"new": 5}


def test_unused_counts_die_out() -> None:
    after = vocabulary(a=100)
    for _ in range(40):
        after, _ = admit(after, [], {}, Policy())
    assert after.counts.tolist() == [0]


@pytest.mark.parametrize("name", ["1x", "", "9" * 30, "1.5"])
def test_text_is_no_value_of_a_table_of_integers(name: str) -> None:
    after, waiting = admit(Vocabulary(np.array([1]), np.array([1])), [name] * 9, {}, Policy())
    assert after.values.tolist() == [1]
    assert waiting == {}


def test_rows_mean_the_same_after_growth_and_eviction(camps: Store) -> None:
    old = camps.transforms
    size = len(old.vocabularies["song"])
    met = {"user": ["7777"] * 50, "item": ["song-9999"] * 50}
    more = grown(old, met, {}, Policy(least=2, most=size))
    new = more.transforms
    assert more.evicted == {"user": 1, "song": 1}, "there are more users than `most`"
    rows = camps.split("train")
    read = translated(rows, old, new)
    column = old.fields.column("song")
    gone = set(old.vocabularies["song"].values.tolist()) - set(new.vocabularies["song"].values.tolist())
    assert len(gone) == 1
    for before, after in zip(rows.ids[:, column].tolist(), read.ids[:, column].tolist(), strict=True):
        value = old.vocabularies["song"].value_of(before)
        assert new.vocabularies["song"].value_of(after) == (None if value in gone else value)
    sequences = zip(rows.ragged["recent"].values.tolist(), read.ragged["recent"].values.tolist(), strict=True)
    for before, after in sequences:
        value = old.vocabularies["song"].value_of(before)
        assert new.vocabularies["song"].value_of(after) == (None if value in gone else value)
    assert rows.user is not None
    assert np.array_equal(rows.user, read.user)
    assert np.array_equal(rows.dense, read.dense)


def test_histories_forget_values_that_lost_their_id(camps: Store) -> None:
    old = camps.transforms
    size = len(old.vocabularies["song"])
    new = grown(old, {"user": [], "item": ["song-9999"] * 50}, {}, Policy(least=2, most=size)).transforms
    before, after = (t.history["recent"].events for t in (old, new))
    assert before.value is not None
    assert after.value is not None
    changed = before.value != after.value
    assert set(after.value[changed].tolist()) == {1}
    fresh = new.vocabularies["song"].id_of("song-9999")
    assert set(before.value[changed].tolist()) == {fresh}


def test_rows_of_newcomers_get_their_own_ids(camps: Store) -> None:
    old = camps.transforms
    new = grown(old, {"user": ["7777"] * 3, "item": ["song-9999"] * 3}, {}, Policy()).transforms
    rows = named(camps.split("train").take(slice(0, 1)), new, {"user": ["7777"], "item": ["song-9999"]})
    assert new.user_ids is not None
    assert new.item_ids is not None
    assert rows.user is not None
    assert rows.item is not None
    assert rows.user[0] == new.user_ids.rows - 1
    assert rows.item[0] == new.item_ids.rows - 1
    assert rows.ids[0, new.fields.column("song")] == new.vocabularies["song"].rows - 1
