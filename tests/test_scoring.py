"""Scores of users against items: every path gives what the model gives for full rows."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import camps_for_tests as camp
from weft import scoring
from weft.batch import Batch
from weft.data.store import Store
from weft.errors import Diverged
from weft.models import Retriever
from weft.runs import SavedRun
from weft.scoring import Scorer, best
from weft.transforms.columns import from_values


class Counters(nn.Module):
    """A retriever whose vectors are the counters: of the user, and of the song."""

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.user_vectors(batch), self.item_vectors(batch)

    def user_vectors(self, batch: Batch) -> Tensor:
        return batch.dense[:, -1:]

    def item_vectors(self, batch: Batch) -> Tensor:
        return batch.dense[:, 1:2]


def scorer_of(store: Store, run: SavedRun) -> Scorer:
    return Scorer(run.load_model(), run.transforms, store.items, intercept=0.25)


def by_hand(store: Store, run: SavedRun, user: int, time: int) -> list[float]:
    """Scores of all songs from plain values."""
    songs = camp.songs()
    values = [
        {"user": user, "song": song, "year": year, "time": time}
        for song, year in zip(songs["song"], songs["year"], strict=True)
    ]
    batch = store.transforms.encode(from_values(store.schema, values)).batch()
    model = run.load_model()
    with torch.inference_mode():
        if isinstance(model, Retriever):
            left, right = model.vectors(batch)
            return ((left * right).sum(1) + 0.25).tolist()
        return (model(batch) + 0.25).tolist()


@pytest.mark.parametrize("model", ["popularity", "item_knn", "lr", "mf", "dcn_v2"])
def test_the_catalogue_is_scored_like_full_rows(camps: Store, camp_runs: dict[str, SavedRun], model: str) -> None:
    scorer, users = scorer_of(camps, camp_runs[model]), camps.transforms.user_ids
    assert users is not None
    ids = np.array([users.id_of(camp.FIRST_USER + u) for u in range(3)])
    now = camp.START + 100 * camp.STEP
    found = scorer.catalogue(camps.users.take(ids), np.full(3, now))
    assert camps.transforms.item_ids is not None
    columns = [camps.transforms.item_ids.id_of(song) for song in camp.songs()["song"]]
    for place in range(3):
        wanted = by_hand(camps, camp_runs[model], camp.FIRST_USER + place, now)
        np.testing.assert_allclose(found[place, columns], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scorer.catalogue(camps.users.take(ids)), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["popularity", "item_knn"])
def test_a_model_that_scores_all_items_at_once_is_not_asked_row_by_row(
    camps: Store, camp_runs: dict[str, SavedRun], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, users = scorer_of(camps, camp_runs[model]), camps.users.take(np.arange(7))
    every = np.broadcast_to(np.arange(len(camps.items)), (7, len(camps.items)))
    one_by_one = scorer.candidates(users, every)
    monkeypatch.setattr(scorer, "candidates", None)
    np.testing.assert_allclose(scorer.catalogue(users), one_by_one, rtol=1e-6)


def test_some_candidates_are_scored_like_the_catalogue(
    camps: Store, camp_runs: dict[str, SavedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, users = scorer_of(camps, camp_runs["dcn_v2"]), camps.users.take(np.arange(2, 9))
    items = np.random.default_rng(0).integers(0, len(camps.items), (7, 5))
    whole = np.take_along_axis(scorer.catalogue(users), items, 1)
    np.testing.assert_allclose(scorer.candidates(users, items), whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 12)
    np.testing.assert_allclose(scorer.candidates(users, items), whole, rtol=1e-5, atol=1e-6)
    assert scorer.candidates(users, items[:, :0]).shape == (7, 0)
    assert scorer.candidates(users.take(slice(0)), items[:0]).shape == (0, 5)


def test_a_retriever_is_asked_about_the_past_as_it_was(camps: Store) -> None:
    """Vectors that read history must not come from after the row's time, as the precomputed ones do."""
    scorer = Scorer(Counters(), camps.transforms, camps.items)
    users = camps.users.take(np.arange(2, 6))
    assert not scorer._side.vectors_stay
    early, now = camp.START + 2 * camp.STEP, camp.START + 100 * camp.STEP
    for time in (early, now):
        slow = scorer.candidates(users, np.tile(np.arange(len(camps.items)), (4, 1)), np.full(4, time))
        np.testing.assert_array_equal(scorer.catalogue(users, np.full(4, time)), slow)
    np.testing.assert_array_equal(scorer.catalogue(users), scorer.catalogue(users, np.full(4, now)))
    assert not np.array_equal(scorer.catalogue(users), scorer.catalogue(users, np.full(4, early)))


def test_ids_alone_are_searched_by_one_product(camps: Store, camp_runs: dict[str, SavedRun]) -> None:
    assert scorer_of(camps, camp_runs["mf"])._side.vectors_stay


def test_of_several_outputs_the_first_ranks(camps: Store) -> None:
    class Two(nn.Module):
        def forward(self, batch: Batch) -> Tensor:
            assert batch.item is not None
            return torch.stack([batch.item, -batch.item], dim=1).float()

    scorer = Scorer(Two(), camps.transforms, camps.items)
    assert scorer.rows(camps.split("test")).shape == (len(camps.split("test")), 2)
    assert scorer.catalogue(camps.users.take(slice(2, 4)))[:, 2:].tolist() == [list(range(2, len(camps.items)))] * 2


def test_scores_that_are_not_finite_are_refused(camps: Store) -> None:
    class Broken(nn.Module):
        def forward(self, batch: Batch) -> Tensor:
            return torch.full((len(batch.ids),), torch.nan)

    with pytest.raises(Diverged, match="not finite"):
        Scorer(Broken(), camps.transforms, camps.items).catalogue(camps.users.take(slice(2, 3)))


def test_the_best_equal_a_stable_sort() -> None:
    scores = np.random.default_rng(0).integers(0, 6, (40, 30)).astype(np.float32)
    scores[3, 4:] = -np.inf
    for k in (1, 7, 30, 50):
        places, values = best(scores, k)
        wanted = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        assert np.array_equal(places, wanted)
        assert np.array_equal(values, np.take_along_axis(scores, wanted, 1))
