"""The recommender: k items, none of the hidden, sorted, under the ids of the tables."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

import camps_for_tests as camp
import weft
from weft.data.store import Store
from weft.errors import ConfigError, DataError, Unsupported
from weft.recommend.commands import user_lines
from weft.recommend.recommender import Item, Recommendation, Recommender, render
from weft.runs import SavedRun
from weft.schema import Categorical, Label, Protocol, Roles, Schema
from weft.transforms.columns import from_values

NOW = camp.START + 100 * camp.STEP
USERS = [camp.FIRST_USER + place for place in range(camp.USERS)]


@pytest.fixture(scope="module")
def recommender(camp_runs: dict[str, SavedRun]) -> Recommender:
    return Recommender.load(camp_runs["dcn_v2"].path)


def had(user: int, liked_only: bool = True) -> set[str]:
    rows = camp.interactions().filter(user=user)
    return set((rows.filter(liked=1) if liked_only else rows)["song"])


@pytest.mark.parametrize("model", ["popularity", "lr", "mf", "dcn_v2"])
def test_k_sorted_items_and_none_that_is_hidden(camp_runs: dict[str, SavedRun], model: str) -> None:
    recommender = Recommender.load(camp_runs[model].path)
    for answer in recommender.recommend_many(USERS[:6], k=5):
        assert answer.known
        assert answer.model == model
        assert len({item.id for item in answer.items}) == 5
        assert not had(int(answer.user)) & {item.id for item in answer.items}
        scores = [item.score for item in answer.items]
        assert scores == sorted(scores, reverse=True)


def test_scores_are_those_of_the_same_pairs_as_full_rows(camps: Store, camp_runs: dict[str, SavedRun]) -> None:
    songs = camp.songs()
    year = dict(zip(songs["song"], songs["year"], strict=True))
    run = camp_runs["dcn_v2"]
    answer = Recommender.load(run.path).recommend(USERS[0], k=8)
    values = [{"user": USERS[0], "song": item.id, "year": year[str(item.id)], "time": NOW} for item in answer.items]
    with torch.inference_mode():
        scores = run.load_model()(camps.transforms.encode(from_values(camps.schema, values)).batch())
    np.testing.assert_allclose([item.score for item in answer.items], scores.numpy(), rtol=1e-4, atol=1e-5)


def test_external_ids_and_titles(recommender: Recommender) -> None:
    """Users are integers and songs are text; a song without a title has none."""
    titles = dict(camp.songs().select("song", "title").iter_rows())
    everything = recommender.recommend(USERS[0], k=100, seen="allow")
    assert {item.id: item.title for item in everything.items} == titles
    assert recommender.recommend(str(USERS[0]), k=3).items == recommender.recommend(USERS[0], k=3).items
    recent = camp.interactions().filter(user=USERS[0], liked=1).sort("time", descending=True)
    known = recent.filter(pl.col("song") != camp.NEW_SONG)
    assert [item.id for item in everything.recent] == known["song"].to_list()[:10]


def test_integer_items_and_text_users(tmp_path: Path) -> None:
    table = pl.DataFrame({"who": ["ann", "bob", "007"] * 40, "what": [7, 8, 9, 10] * 30, "y": [0, 1, 1] * 40})
    schema = Schema(
        features=(Categorical(name="who", side="user"), Categorical(name="what", side="item")),
        roles=Roles(user="who", item="what", label=(Label(name="y"),)),
        protocol=Protocol(seen="allow"),
    )
    store = weft.prepare(schema, tmp_path / "store", interactions=table)
    run = weft.train(store, "mf", out=tmp_path / "run", sets=["train.epochs=1"])
    answer = Recommender.load(run.path).recommend("007")
    assert answer.known
    assert {item.id for item in answer.items} == {7, 8, 9, 10}
    assert {item.title for item in answer.items} == {None}
    assert not Recommender.load(run.path).recommend("7").known


def test_an_unknown_user_gets_what_is_popular_and_it_says_so(camps: Store, recommender: Recommender) -> None:
    likes = camp.interactions().filter(split="train", liked=1)["song"].value_counts()
    most = dict(likes.iter_rows())
    for user in ("nobody", 5, camp.STRANGER):
        answer = recommender.recommend(user, k=4)
        assert (answer.known, answer.model, answer.recent) == (False, "popularity", ())
        assert [most[item.id] for item in answer.items] == sorted(most.values(), reverse=True)[:4]


def test_many_users_are_answered_in_order_and_as_one_by_one(recommender: Recommender) -> None:
    asked = [USERS[3], "nobody", *USERS[:2], USERS[3]] * 20
    together = list(recommender.recommend_many(asked, k=3))
    assert [answer.user for answer in together] == asked
    for answer in together[:5]:
        alone = recommender.recommend(answer.user, k=3)
        assert [item.id for item in alone.items] == [item.id for item in answer.items]
        np.testing.assert_allclose([i.score for i in alone.items], [i.score for i in answer.items], rtol=1e-5)
    assert list(recommender.recommend_many([], k=3)) == []


def test_seen_items_are_hidden_allowed_or_hidden_for_a_window(tmp_path: Path) -> None:
    window = 3.5 * camp.STEP  # back from the newest row of a user and a song that training knows
    protocol = Protocol(seen="window", window=window)
    schema = camp.schema(protocol=protocol)
    store = weft.prepare(schema, tmp_path / "store", interactions=camp.interactions(), items=camp.songs())
    recommender = Recommender.load(weft.train(store, "popularity", out=tmp_path / "run").path)
    rows = camp.interactions().filter(user=USERS[10])
    known = camp.interactions().filter((pl.col("user") != camp.STRANGER) & (pl.col("song") != camp.NEW_SONG))
    late = rows.filter(pl.col("time") >= known["time"].max() - window)
    songs = set(camp.songs()["song"])
    assert 0 < late.height < rows.height
    wanted = {"hide": songs - set(rows["song"]), "allow": songs, "window": songs - set(late["song"])}
    for seen, left in {**wanted, None: wanted["window"]}.items():
        assert {item.id for item in recommender.recommend(USERS[10], k=100, seen=seen).items} == left


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "`k` must be 1 or more, got 0"),
        ({"seen": "hidden"}, "got 'hidden'; did you mean hide"),
        ({"seen": "window"}, "needs `window`"),
    ],
)
def test_wrong_arguments(recommender: Recommender, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recommender.recommend(USERS[0], **arguments)  # type: ignore[arg-type]


def test_recommending_needs_users_items_and_one_score(tmp_path: Path) -> None:
    table = camp.interactions()
    roles = {
        "item": Roles(user="user", time="time", label=(Label(name="liked"),)),
        "multiclass": Roles(user="user", item="song", label=(Label(name="liked", task="multiclass", classes=2),)),
    }
    for words, role in roles.items():
        schema = camp.schema(roles=role, features=camp.schema().features[:1])
        store = weft.prepare(schema, tmp_path / f"store-{words}", interactions=table)
        run = weft.train(store, "lr", out=tmp_path / f"run-{words}", sets=["train.epochs=1"])
        with pytest.raises(Unsupported, match=words):
            Recommender.load(run.path)


def test_the_busiest_user(recommender: Recommender) -> None:
    rows = camp.interactions().filter((pl.col("user") != camp.STRANGER) & (pl.col("song") != camp.NEW_SONG))
    counts = dict(rows["user"].value_counts().iter_rows())
    assert counts[recommender.most_active_user()] == max(counts.values())


def test_the_users_of_a_command(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("7\n\n  nobody \n7\n", encoding="utf-8")
    assert list(user_lines(str(path))) == ["7", "nobody", "7"]
    with pytest.raises(DataError, match="one id a line"):
        list(user_lines(str(tmp_path / "nothing.txt")))


def test_a_list_is_printed_with_what_was_had_before() -> None:
    first, second = (Item(id=i, title=t, score=s) for i, t, s in ((7, "[b]x[/y]", 1.5), ("eight", None, -0.25)))
    answer = Recommendation(user="[u]", known=True, items=(first, second), recent=(second,), model="lr")
    console = Console(file=io.StringIO(), width=100)
    render(answer, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("for user [u]", "[b]x[/y] (7)", "1.500", "eight", "-0.250", "had before, newest first"):
        assert part in text
    console = Console(file=io.StringIO(), width=100)
    render(Recommendation(user="[u]", known=False, items=(first,), recent=(), model="popularity"), console)
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "user [u] is unknown: the most popular items" in text
    assert "had before" not in text


def test_recommending_loads_neither_tables_nor_training(camp_runs: dict[str, SavedRun]) -> None:
    code = (
        "import sys\n"
        "from weft.recommend.recommender import Recommender\n"
        f"Recommender.load({str(camp_runs['dcn_v2'].path)!r}).recommend({USERS[0]})\n"
        "rooms = ('polars', 'pandas', 'pyarrow', 'weft.data', 'weft.train', 'weft.losses', 'weft.metrics')\n"
        "found = [name for name in rooms if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
