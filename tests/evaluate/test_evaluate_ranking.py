"""Rankings of the whole catalogue and of given candidates, against a loop over users written out slowly."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import camps_for_tests as camp
import weft
from weft.batch import FIRST_ID, Batch
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError
from weft.evaluate.ranking import by_novelty, candidate_values, coverage, left_out, mean_of_users, strangers
from weft.evaluate.report import Value
from weft.ranking import Ranked, full_ranking, held_out, list_values, shown
from weft.runs import SavedRun
from weft.schema import Categorical, ColumnSplit, Label, Protocol, Roles, Schema
from weft.scoring import Scorer
from weft.testing import two_camps
from weft.transforms.columns import from_values


class Table(nn.Module):
    """Scores from a table of users and items."""

    def __init__(self, score_UI: Tensor) -> None:
        super().__init__()
        self.score_UI = nn.Parameter(score_UI)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.user is not None
        assert batch.item is not None
        return self.score_UI[batch.user, batch.item]


def table_scorer(store: Store, score: Callable[[int, int], float]) -> Scorer:
    users, items = len(store.users), len(store.items)
    table = torch.tensor([[score(user, item) for item in range(items)] for user in range(users)])
    return Scorer(Table(table), store.transforms, store.items)


def ranked(store: Store, scorer: Scorer, split: str = "test", **protocol: Any) -> dict[str, Value]:
    chosen = msgspec.structs.replace(camp.PROTOCOL, kind="full", **protocol)
    catalogue = store.catalogue
    found = full_ranking(store.split(split), scorer, catalogue, store.schema, chosen, split=split, seed=0)
    of_users = mean_of_users(list_values(found, catalogue.counts, chosen), seed=0)
    return of_users | coverage(found, len(catalogue.counts), chosen)


def metrics_by_hand(lists: dict[int, list[str]], wanted: dict[int, set[str]], k: int) -> dict[str, float]:
    """Means over the users who have something to find."""
    found: dict[str, list[float]] = {name: [] for name in ("recall", "ndcg", "hr", "precision", "map", "mrr")}
    for user, relevant in wanted.items():
        if not relevant:
            continue
        hits = [item in relevant for item in lists[user][:k]]
        best = min(k, len(relevant))
        found["recall"].append(sum(hits) / len(relevant))
        found["ndcg"].append(
            sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits))
            / sum(1 / math.log2(rank + 2) for rank in range(best))
        )
        found["hr"].append(float(any(hits)))
        found["precision"].append(sum(hits) / k)
        found["map"].append(sum(sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit) / best)
        found["mrr"].append(1 / (hits.index(True) + 1) if any(hits) else 0.0)
    return {f"{name}@{k}": float(np.mean(values)) for name, values in found.items()}


def seen_by_hand(past: pl.DataFrame, protocol: Protocol, now: int) -> set[str]:
    if protocol.seen == "allow":
        return set()
    if protocol.seen_from == "relevant":
        past = past.filter(pl.col("liked") == 1)
    if protocol.seen == "window":
        past = past.filter(pl.col("time") >= now - (protocol.window or 0))
    return set(past["song"])


def rank_by_hand(store: Store, run: SavedRun, protocol: Protocol, split: str) -> dict[str, float]:
    """Score every song for each user from plain values, hide, sort, compare: nothing of the evaluation is used."""
    table, model, songs = camp.interactions(), run.load_model(), camp.songs()
    year = dict(zip(songs["song"], songs["year"], strict=True))
    earlier = {"valid": ["train"], "test": ["train", "valid"]}[split]
    lists, wanted = {}, {}
    for user in range(camp.FIRST_USER, camp.FIRST_USER + camp.USERS):
        rows = table.filter(user=user)
        mine, past = rows.filter(split=split), rows.filter(pl.col("split").is_in(earlier))
        now = int(mine["time"].min())  # type: ignore[arg-type]
        values = [{"user": user, "song": song, "year": year[song], "time": now} for song in songs["song"]]
        encoded = store.transforms.encode(from_values(store.schema, values))
        with torch.inference_mode():
            scores = model(encoded.batch()).tolist()
        hidden = seen_by_hand(past, protocol, now)
        falling = sorted(zip(scores, songs["song"], strict=True), reverse=True)
        lists[user] = [song for _, song in falling if song not in hidden]
        wanted[user] = set(mine.filter(liked=1)["song"]) - hidden
    return {key: value for k in protocol.k for key, value in metrics_by_hand(lists, wanted, k).items()}


CASES = {
    "what was seen is hidden": {"seen_from": "rows"},
    "what was liked is hidden": {},
    "all is allowed": {"seen": "allow"},
    "hidden for a window": {"seen": "window", "window": 2.5 * camp.STEP, "seen_from": "rows"},
    "liked within a window": {"seen": "window", "window": 3.5 * camp.STEP},
}


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("case", CASES)
def test_full_ranking_equals_a_loop_over_users(
    camps: Store, camp_runs: dict[str, SavedRun], case: str, split: str
) -> None:
    run = camp_runs["dcn_v2"]
    protocol = msgspec.structs.replace(camp.PROTOCOL, kind="full", **CASES[case])
    scorer = Scorer(run.load_model(), run.transforms, camps.items)
    found = ranked(camps, scorer, split, **CASES[case])
    for key, value in rank_by_hand(camps, run, protocol, split).items():
        assert found[key].value == pytest.approx(value, abs=1e-9), key


def test_history_is_read_before_the_first_row_of_the_split(camps: Store, camp_runs: dict[str, SavedRun]) -> None:
    run = camp_runs["dcn_v2"]
    scorer = Scorer(run.load_model(), run.transforms, camps.items)
    rows = camps.split("test")
    held = held_out(rows, camp.PROTOCOL)
    users = rows.take(held.first[:3])
    assert rows.time is not None
    assert not np.array_equal(scorer.catalogue(users, users.time), scorer.catalogue(users))
    of_first_user = rows.time[rows.user == held.user[0]]
    assert rows.time[held.first[0]] == of_first_user.min()


def test_an_oracle_gets_everything_that_can_be_found(camps: Store) -> None:
    rows = camps.split("test")
    held = held_out(rows, camp.PROTOCOL)
    truth = {(int(user), int(i)) for place, user in enumerate(held.user) for i in held.relevant(place) if i >= FIRST_ID}
    found = ranked(camps, table_scorer(camps, lambda user, item: float((user, item) in truth)))
    assert found["hr@1"].value == found["mrr@6"].value == 1.0
    most = 1 - 3 / camp.USERS / 2  # three users have a new song as one of their two
    assert found["recall@6"].value == pytest.approx(most)
    assert found["recall@6"].count == camp.USERS
    everything = ranked(camps, table_scorer(camps, lambda user, item: float((user, item) in truth)), seen="allow")
    assert everything["recall@6"].value == pytest.approx(most)


def test_an_unknown_song_is_a_miss_and_a_repeated_one_is_left_out(camps: Store) -> None:
    rows = camps.split("test")
    held = held_out(rows, camp.PROTOCOL)
    assert (held.items == 1).sum() == 3
    assert camps.transforms.user_ids is not None
    repeats = camps.transforms.user_ids.id_of(camp.FIRST_USER + 3)
    assert len(held.relevant(held.user.tolist().index(repeats))) == camp.LIKED_TEST + 1
    worst = ranked(camps, table_scorer(camps, lambda user, item: 0.0), k=(len(camps.items) - FIRST_ID,))
    assert worst["recall@24"].value == pytest.approx(1 - 3 / camp.USERS / 2)


def test_two_unknown_songs_are_two_misses(camps: Store) -> None:
    rows = camps.split("test")
    assert rows.item is not None
    assert rows.user is not None
    assert rows.label is not None
    user = int(rows.user[(rows.user >= FIRST_ID) & (rows.label[:, 0] == 1)][0])
    mine = np.flatnonzero((rows.user == user) & (rows.label[:, 0] == 1))
    items = np.array(rows.item)
    items[mine] = 1
    held = held_out(replace(rows, item=items), camp.PROTOCOL)
    assert held.relevant(held.user.tolist().index(user)).tolist() == [1] * len(mine)
    assert len(mine) >= 2


def test_users_that_training_does_not_know_are_left_out_and_this_is_said(camps: Store) -> None:
    rows = camps.split("test")
    assert held_out(rows, camp.PROTOCOL).user.min() >= FIRST_ID
    assert left_out(rows, camp.PROTOCOL) == ("1 relevant rows of users that training does not know are left out",)
    assert left_out(camps.split("valid"), camp.PROTOCOL) == ()


def test_equal_scores_stand_in_random_order(camps: Store) -> None:
    """The ids are sorted by popularity: their order must not help a model that says nothing."""
    scores = np.zeros((2, 50), np.float32)
    order = np.random.default_rng(0).permutation(50)
    assert shown(scores, 3, order).tolist() == [order[:3].tolist()] * 2
    constant = table_scorer(camps, lambda user, item: 0.0)
    assert ranked(camps, constant) == ranked(camps, constant)


def test_a_list_longer_than_the_catalogue_is_filled_with_nothing() -> None:
    scores = np.array([[-np.inf, -np.inf, 1.0, 2.0]], np.float32)
    assert shown(scores, 6, np.arange(4)).tolist() == [[3, 2, -1, -1, -1, -1]]


def test_long_lists_are_allowed(camps: Store) -> None:
    found = ranked(camps, table_scorer(camps, lambda user, item: float(item)), k=(100,))
    assert found["coverage@100"].value == 1.0
    assert found["hr@100"].value == 1.0


def test_nothing_relevant_is_said(camps: Store) -> None:
    with pytest.raises(ConfigError, match="label of 2 or more"):
        ranked(camps, table_scorer(camps, lambda user, item: 0.0), relevant=2.0)


@pytest.mark.parametrize("model", ["mf", "dcn_v2"])
def test_the_two_camps_are_found(model: str, tmp_path: Path) -> None:
    """Of everything that a user has not liked yet, the one withheld song of the own camp comes first."""
    world = two_camps(20)
    withheld = pl.DataFrame({"user": world.answer_U.numpy(), "song": world.answer_U.numpy()})
    pairs = world.likes_UI.numpy()
    rows = [(u, i, int(pairs[u, i]), "train") for u in range(20) for i in range(20) if u != i]
    table = pl.DataFrame(rows, schema=["user", "song", "liked", "split"], orient="row")
    test = withheld.with_columns(liked=pl.lit(1, pl.Int64), split=pl.lit("test"))
    schema = Schema(
        features=(Categorical(name="user", side="user"), Categorical(name="song", side="item")),
        roles=Roles(user="user", item="song", label=(Label(name="liked"),)),
        split=ColumnSplit(),
        protocol=Protocol(kind="full", k=(1,), seen_from="relevant"),
    )
    store = weft.prepare(schema, tmp_path / "store", interactions=pl.concat([table, test]))
    sets = ["train.batch_size=64", "train.learning_rate=0.03", "train.epochs=30", "embedding_std=0.1"]
    run = weft.train(store, model, out=tmp_path / "run", sets=sets, precision="fp32")
    assert weft.evaluate(run).metrics["hr@1"].value == 1.0


# Candidates


def candidates_of(store: Store, scores: Callable[[int, int], float], lists: list[list[int]]) -> dict[str, Value]:
    rows = store.split("test")
    held = held_out(rows, camp.PROTOCOL)
    users = held.user[: len(lists)]
    found = candidate_values(rows, table_scorer(store, scores), users, np.array(lists), Protocol(k=(10,)))
    return mean_of_users(found, seed=0)


def test_a_constant_model_finds_a_tenth_of_a_hundred(camps: Store) -> None:
    lists = np.random.default_rng(0).integers(FIRST_ID, len(camps.items), (5, 100)).tolist()
    assert candidates_of(camps, lambda user, item: 0.0, lists)["hr@10"].value == pytest.approx(0.1)


def test_padding_never_counts(camps: Store) -> None:
    lists = [[2, 3, 4] + [-1] * 97, [5] + [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19] + [-1] * 85]
    found = candidates_of(camps, lambda user, item: 0.0, lists)
    assert found["hr@10"].value == pytest.approx((1 + 10 / 15) / 2)
    assert candidates_of(camps, lambda user, item: -1.0 - item, lists)["hr@10"].value == 1.0
    assert candidates_of(camps, lambda user, item: float(item), lists)["hr@10"].value == 0.5


def test_a_list_without_a_first_item_is_refused(camps: Store) -> None:
    with pytest.raises(ConfigError, match="no first item"):
        candidates_of(camps, lambda user, item: 0.0, [[-1, 3]])


def test_candidates_of_users_without_a_row_are_refused(camps: Store) -> None:
    scorer = table_scorer(camps, lambda user, item: 0.0)
    with pytest.raises(ConfigError, match="no row in this split"):
        candidate_values(camps.split("test"), scorer, np.array([100_000]), np.array([[2, 3]]), camp.PROTOCOL)


def test_the_candidates_of_a_store_are_judged(tmp_path: Path) -> None:
    table = camp.interactions().filter(pl.col("user") < camp.FIRST_USER + 8)
    mine = table.filter(split="test", liked=1).unique("user", keep="first", maintain_order=True)
    lists = [[song, *[f"song-{i}" for i in range(12) if f"song-{i}" != song]] for song in mine["song"]]
    given = pl.DataFrame({"user": mine["user"], "candidates": lists})
    protocol = Protocol(kind="candidates", k=(1, 5), candidates="given.parquet")
    store = weft.prepare(
        camp.schema(protocol=protocol), tmp_path / "store", interactions=table, items=camp.songs(), candidates=given
    )
    run = weft.train(store, "lr", out=tmp_path / "run", sets=["train.epochs=2", "train.learning_rate=0.1"])
    report = weft.evaluate(run)
    assert report.protocol.startswith("candidates: given candidates")
    ids, items = store.candidates()
    rows, scorer = store.split("test"), Scorer(run.load_model(), run.transforms, store.items)
    ranks = []
    for user, row in zip(ids, items, strict=True):
        asked = rows.take(np.flatnonzero(rows.user == user)[:1])
        scores = scorer.candidates(asked, row[None], asked.time)[0]
        ranks.append(int((scores[1:] > scores[0]).sum()))
    assert report.metrics["hr@5"].value == pytest.approx(np.mean([rank < 5 for rank in ranks]))
    assert report.metrics["ndcg@5"].value == pytest.approx(np.mean([1 / math.log2(r + 2) * (r < 5) for r in ranks]))


def test_a_store_without_lists_is_told(camp_runs: dict[str, SavedRun]) -> None:
    with pytest.raises(ConfigError, match="no candidate lists"):
        weft.evaluate(camp_runs["lr"], protocol="candidates")


def test_lists_that_were_not_prepared_are_missed(camps: Store) -> None:
    with pytest.raises(ArtifactError, match="no candidate lists"):
        camps.candidates()


def test_new_items_are_told_from_seen_ones() -> None:
    """Items 4 and 5 have no train row. The first user wants 2, 4 and 5, the second 3, the third an unknown item."""
    counts = np.array([0, 0, 7, 3, 0, 0])
    lists = np.array([[4, 3, 2], [5, 2, 3], [2, 3, -1]])
    hits = np.array([[True, False, True], [False, False, True], [False, False, False]])
    found = by_novelty(Ranked(lists, hits, np.array([3, 1, 1]), np.array([2, 0, 1])), counts, Protocol(k=(1, 3)))
    nan = np.nan
    assert set(found) == {f"{of}.{name}@{k}" for of in ("new", "seen") for name in ("recall", "ndcg") for k in (1, 3)}
    np.testing.assert_allclose(found["new.recall@3"], [0.5, nan, 0.0])
    np.testing.assert_allclose(found["new.recall@1"], [0.5, nan, 0.0])
    np.testing.assert_allclose(found["seen.recall@3"], [1.0, 1.0, nan])
    np.testing.assert_allclose(found["seen.recall@1"], [0.0, 0.0, nan])
    np.testing.assert_allclose(found["seen.ndcg@3"], [0.5, 0.5, nan])
    np.testing.assert_allclose(found["new.ndcg@3"], [1 / (1 + 1 / math.log2(3)), nan, 0.0])


def test_a_report_without_new_items_says_nothing_of_them(camps: Store) -> None:
    counts, lists = np.array([0, 0, 7, 3]), np.array([[2, 3]])
    ranked = Ranked(lists, np.array([[True, False]]), np.array([1]), np.array([0]))
    assert by_novelty(ranked, counts, Protocol(k=(1,))) == {}
    assert strangers(ranked, nn.Identity()) == ()
    only = ranked._replace(new=np.array([1]), hits=np.array([[False, False]]))
    assert set(by_novelty(only, counts, Protocol(k=(1,)))) == {"new.recall@1", "new.ndcg@1"}


def test_relevant_items_that_training_never_saw_are_counted(camps: Store) -> None:
    rows = camps.split("test")
    protocol = msgspec.structs.replace(camp.PROTOCOL, kind="full")
    scorer = table_scorer(camps, lambda user, item: float(user + item))
    found = full_ranking(rows, scorer, camps.catalogue, camps.schema, protocol, split="test", seed=0)
    new = camp.interactions().filter(song=camp.NEW_SONG, liked=1, split="test")
    assert found.new.sum() == len(new) == 3
    assert (found.new <= found.relevant).all()
