"""The evaluator: which store, which protocol, which split, and what a report holds."""

import io
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

import camps_for_tests as camp
import weft
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, StaleModel
from weft.evaluate import report as reports
from weft.evaluate.evaluator import in_words, resolve
from weft.evaluate.report import Report, Value
from weft.runs import SavedRun
from weft.schema import Label, Protocol, RandomSplit, Roles

KEYS = {"model", "data", "split", "rows", "protocol", "metrics", "parameters", "seconds", "notes"}


def test_the_report_has_the_keys_that_are_promised(camp_runs: dict[str, SavedRun]) -> None:
    found = json.loads(weft.evaluate(camp_runs["dcn_v2"], protocol="full").json())
    assert set(found) == KEYS
    assert all(set(value) == {"value", "low", "high", "count"} for value in found["metrics"].values())
    assert (found["model"], found["data"], found["split"]) == ("dcn_v2", "camps", "test")
    assert found["parameters"] == sum(p.numel() for p in camp_runs["dcn_v2"].load_model().parameters())
    assert found["notes"] == [
        "1 relevant rows of users that training does not know are left out",
        "3 relevant items are new to training: those of the catalogue are ranked by their features, others are missed",
    ]
    assert found["metrics"]["ndcg@6"]["count"] == camp.USERS
    assert {name.split("@")[0] for name in found["metrics"]} == {
        *("recall", "ndcg", "hr", "precision", "map", "mrr", "novelty", "coverage"),
        *("new.recall", "new.ndcg", "seen.recall", "seen.ndcg"),
    }


def test_two_evaluations_agree(camp_runs: dict[str, SavedRun]) -> None:
    one, two = (weft.evaluate(camp_runs["mf"].path, protocol="full") for _ in range(2))
    assert one.metrics == two.metrics


def test_each_split_is_judged_by_its_own_rows(camps: Store, camp_runs: dict[str, SavedRun]) -> None:
    for split in ("train", "valid", "test"):
        assert weft.evaluate(camp_runs["lr"], split=split).rows == len(camps.split(split))
    auc = weft.evaluate(camp_runs["lr"], split="valid").metrics["auc"].value
    assert auc == pytest.approx(camp_runs["lr"].validation["auc"])


def test_a_store_that_was_made_anew_from_other_data_is_refused(camps: Store, tmp_path: Path) -> None:
    shutil.copytree(camps.path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    run = weft.train(store, "popularity", out=tmp_path / "run")
    other = camp.interactions(seed=1)
    weft.prepare(camp.schema(), tmp_path / "store", interactions=other, items=camp.songs(), overwrite=True)
    with pytest.raises(StaleModel, match="trained on another store"):
        weft.evaluate(run)
    with pytest.raises(StaleModel, match="trained on another store"):
        weft.Recommender.load(run.path)
    assert weft.evaluate(run, store=camps.path).rows == len(camps.split("test"))


def test_a_store_that_was_moved_is_given(camps: Store, tmp_path: Path) -> None:
    shutil.copytree(camps.path, tmp_path / "store")
    run = weft.train(tmp_path / "store", "popularity", out=tmp_path / "run")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="store"):
        weft.evaluate(run)
    assert weft.evaluate(run, store=tmp_path / "elsewhere").rows > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocol": "ful"}, "did you mean full"),
        ({"protocol": "nothing"}, "known: candidates, full, pointwise"),
        ({"split": "tset"}, "did you mean test"),
    ],
)
def test_unknown_names_answer_with_near_ones(
    camp_runs: dict[str, SavedRun], arguments: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        weft.evaluate(camp_runs["lr"], **arguments)


def test_a_split_without_rows_is_said(tmp_path: Path) -> None:
    schema = camp.schema(split=RandomSplit(valid=0.0, test=0.0))
    store = weft.prepare(schema, tmp_path / "store", interactions=camp.interactions(), items=camp.songs())
    run = weft.train(store, "popularity", out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"'test' of .* has no rows"):
        weft.evaluate(run)


def test_ranking_needs_users_and_items(tmp_path: Path) -> None:
    schema = camp.schema(
        features=tuple(f for f in camp.schema().features if f.name in ("song", "year")),
        roles=Roles(item="song", label=(Label(name="liked"),)),
    )
    assert resolve(schema, None).kind == "pointwise"
    with pytest.raises(ConfigError, match="needs `user` and `item`"):
        resolve(schema, "full")


def test_ranking_needs_one_score() -> None:
    label = Label(name="liked", task="multiclass", classes=2)
    schema = camp.schema(roles=Roles(user="user", item="song", time="time", label=(label,)))
    with pytest.raises(ConfigError, match="multiclass"):
        resolve(schema, "full")


def test_the_protocol_is_said_in_words() -> None:
    full = Protocol(kind="full", seen="window", window=60.0, seen_from="relevant")
    assert in_words(camp.schema(), full) == (
        "full: whole catalogue, column split, relevant from 0.5, seen items hidden for 60 s (relevant ones), "
        "equal scores in random order"
    )
    assert "seen items allowed," in in_words(camp.schema(), Protocol(kind="full", seen="allow", seen_from="relevant"))
    assert in_words(camp.schema(), camp.PROTOCOL).startswith("camps, pointwise: rows as they are")
    roles = Roles(user="user", item="song", time="time", position="slot", label=(Label(name="liked"),))
    assert in_words(camp.schema(roles=roles), Protocol()).endswith("position not given")


def test_another_protocol_loses_the_name_of_the_schemas_own() -> None:
    assert resolve(camp.schema(), "full").name is None
    assert resolve(camp.schema(), "pointwise").name == "camps"


VALUE = Value(value=0.75, low=0.5, high=None, count=1234)
REPORT = Report(
    model="lr",
    data="[red]odd[/name]",
    split="test",
    rows=10,
    protocol="a [b]",
    metrics={"auc": VALUE},
    parameters=3,
    seconds=0.1,
    notes=("mind [this]",),
)


def test_a_report_is_saved_and_read_back(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    assert reports.load(tmp_path / "report.json") == REPORT
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ArtifactError, match="is no report"):
        reports.load(tmp_path / "report.json")
    with pytest.raises(ArtifactError, match="is no report"):
        reports.load(tmp_path / "nothing.json")


def test_a_report_is_printed_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=100)
    REPORT.render(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "lr on [red]odd[/name] test (10 rows)",
        "0.7500",
        "0.5000 to -",
        "1,234",
        "a [b]",
        "note: mind [this]",
    ):
        assert part in text


def test_music_ranks_what_was_not_played_lately(tmp_path: Path) -> None:
    """A window needs times in the schema's unit: the same world in milliseconds gives the same numbers."""
    protocol = Protocol(kind="full", k=(6,), seen="window", window=2.5 * camp.STEP)
    found = []
    for name, unit, times in (("s", "s", 1), ("ms", "ms", 1000)):
        roles = Roles(user="user", item="song", time="time", time_unit=unit, label=(Label(name="liked"),))
        table = camp.interactions().with_columns(pl.col("time") * times)
        schema = camp.schema(roles=roles, protocol=protocol)
        store = weft.prepare(schema, tmp_path / name, interactions=table, items=camp.songs())
        run = weft.train(store, "popularity", out=tmp_path / f"run-{name}")
        found.append(weft.evaluate(run).metrics)
    assert found[0] == found[1]
