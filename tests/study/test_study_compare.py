"""Comparisons: who is in, who is skipped and why, what goes on after an interruption, what is refused."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

import camps_for_tests as camp
import weft
from weft import cli
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, Diverged
from weft.models import names
from weft.models._search import Range
from weft.runs import SavedRun
from weft.schema import Label, Protocol, Roles
from weft.study import compare as comparing
from weft.study import tune as tuning
from weft.study.compare import BOARD, PAGE, baselines, compare
from weft.study.leaderboard import Leaderboard, cells, columns

QUICK = ("train.epochs=3", "train.batch_size=64", "train.learning_rate=0.02", "embedding_dim=4", "hidden=[8]")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def without_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boosted trees are slow to begin, and only one test is about them."""
    monkeypatch.setattr(comparing, "find_spec", lambda name: None)


def run(store: Store, out: Path, *models: str, **changes: Any) -> Leaderboard:
    options: dict[str, Any] = {"sets": QUICK, "precision": "fp32", **changes}
    return compare(store, models or ("mf", "mlp"), out=out, **options)


def numbers(board: Leaderboard) -> list[Any]:
    """All of it but the times."""
    return [(e.model, e.state, e.reason, e.values, e.difference, e.parameters, e.metrics) for e in board.entries]


def test_models_are_sorted_and_the_baselines_are_always_in(camps: Store, tmp_path: Path) -> None:
    board = run(camps, tmp_path / "c", seeds=2)
    assert {entry.model for entry in board.entries} == {"popularity", "item_knn", "lr", "mf", "mlp"}
    means = [entry.mean or 0 for entry in board.entries]
    assert means == sorted(means, reverse=True)
    assert board.entries[0].difference is None
    for entry in board.entries[1:]:
        assert entry.difference is not None
        assert entry.difference.value == pytest.approx((entry.mean or 0) - means[0])
        assert entry.difference.low <= entry.difference.value <= entry.difference.high
    fitted = {"popularity": 1, "item_knn": 1}
    assert {entry.model: len(entry.values) for entry in board.entries} == {**fitted, "lr": 2, "mf": 2, "mlp": 2}
    assert (board.metric, board.drawn, board.units, board.rows) == ("auc", "rows", board.rows, 167)
    assert "2 seeds" in board.notes[-1]


def test_an_entry_is_what_its_runs_say(camps: Store, tmp_path: Path) -> None:
    board = run(camps, tmp_path / "c", "mlp", seeds=2)
    entry = next(entry for entry in board.entries if entry.model == "mlp")
    runs = [SavedRun.open(tmp_path / "c" / "runs" / "mlp" / str(seed)) for seed in (0, 1)]
    reports = [weft.evaluate(one) for one in runs]
    assert [one.config.seed for one in runs] == [0, 1]
    assert entry.values == pytest.approx([report.metrics["auc"].value for report in reports])
    assert entry.metrics["logloss"] == pytest.approx(sum(r.metrics["logloss"].value or 0 for r in reports) / 2)
    assert entry.best == max(entry.values)
    assert entry.parameters == reports[0].parameters
    assert entry.seconds == pytest.approx(sum(one.report.seconds for one in runs) / 2)
    assert entry.rows_per_second is not None


def test_all_means_every_model(camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert comparing._models(("all",)) == tuple(dict.fromkeys(("popularity", "item_knn", "lr", *names())))
    assert comparing._models(("mf", "lr", "mf")) == ("popularity", "item_knn", "lr", "mf")
    monkeypatch.setattr(comparing, "find_spec", lambda name: name)
    monkeypatch.setattr(comparing, "names", lambda: ("gbdt", "lr"))
    assert baselines() == ("popularity", "item_knn", "lr", "gbdt")


def test_a_model_that_does_not_fit_is_skipped_with_the_reason(tmp_path: Path) -> None:
    roles = Roles(user="user", item="song", time="time", label=(Label(name="liked"), Label(name="again")))
    table = camp.interactions().with_columns(again=pl.col("liked"))
    store = weft.prepare(camp.schema(roles=roles), tmp_path / "s", interactions=table, items=camp.songs())
    screen = Console(file=io.StringIO(), width=200)
    board = run(store, tmp_path / "c", console=screen)
    assert board.metric == "liked.auc"
    skipped = {entry.model: entry.reason for entry in board.entries if entry.state == "skipped"}
    assert set(skipped) == {"popularity", "item_knn", "mf"}
    assert all("one number a row" in reason for reason in skipped.values())
    found = json.loads((tmp_path / "c" / BOARD).read_text())["entries"]
    assert [entry["model"] for entry in found if entry["reason"] == skipped["mf"]] == ["mf"]
    assert f"mf: skipped: {skipped['mf']}" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert skipped["mf"].split(";")[0].replace("'", "&#39;") in (tmp_path / "c" / PAGE).read_text()


def failing(real: Callable[..., Any], failures: dict[tuple[str, int], BaseException], calls: list[str]) -> Any:
    """Training that fails for some models and seeds, and remembers what was trained."""

    def train(store: Store, model: str, **options: Any) -> Any:
        calls.append(f"{model} {options['seed']}")
        if (model, options["seed"]) in failures:
            raise failures[model, options["seed"]]
        return real(store, model, **options)

    return train


def test_a_model_that_diverges_is_reported_and_the_others_go_on(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    train = failing(comparing.train, {("mf", 1): Diverged("the sky fell")}, calls)
    monkeypatch.setattr(comparing, "train", train)
    board = run(camps, tmp_path / "c", seeds=2)
    assert (board.entries[-1].model, board.entries[-1].state) == ("mf", "failed")
    assert board.entries[-1].reason == "seed 1: the sky fell"
    assert [entry.model for entry in board.compared if entry.model == "mlp"] == ["mlp"]
    calls.clear()
    assert numbers(run(camps, tmp_path / "c", seeds=2)) == numbers(board)
    assert calls == []


def test_an_interrupted_comparison_goes_on(camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(camps, tmp_path / "whole", seeds=2)
    real, calls = comparing.train, list[str]()
    monkeypatch.setattr(comparing, "train", failing(real, {("mf", 1): KeyboardInterrupt()}, calls))
    with pytest.raises(KeyboardInterrupt):
        run(camps, tmp_path / "cut", seeds=2)
    assert calls == ["popularity 0", "item_knn 0", "lr 0", "lr 1", "mf 0", "mf 1"]
    assert not (tmp_path / "cut" / BOARD).exists()
    calls.clear()
    monkeypatch.setattr(comparing, "train", failing(real, {}, calls))
    assert numbers(run(camps, tmp_path / "cut", seeds=2)) == numbers(whole)
    assert calls == ["mf 1", "mlp 0", "mlp 1"]


KILLED = """
import sys
from weft.study import compare as comparing
comparing.baselines = lambda: ("popularity", "lr")
comparing.compare(sys.argv[1], ("mf", "mlp"), out=sys.argv[2], sets={QUICK}, precision="fp32")
"""


def test_a_killed_run_goes_on(camps: Store, tmp_path: Path) -> None:
    whole, killed = run(camps, tmp_path / "whole"), tmp_path / "killed"
    code = KILLED.format(QUICK=repr(QUICK))
    process = subprocess.Popen([sys.executable, "-c", code, str(camps.path), str(killed)])
    deadline = time.monotonic() + 60
    while not (killed / "runs" / "mf" / "0" / "checkpoint" / "latest").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert numbers(run(camps, killed)) == numbers(whole)


def test_more_may_be_asked_for_in_the_same_folder_but_nothing_else(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(camps, tmp_path / "c", "mlp")
    calls: list[str] = []
    monkeypatch.setattr(comparing, "train", failing(comparing.train, {}, calls))
    board = run(camps, tmp_path / "c", "mlp", "mf", seeds=2, metric="logloss")
    assert calls == ["lr 1", "mlp 1", "mf 0", "mf 1"]
    means = [entry.mean or 0 for entry in board.entries]
    assert (board.metric, means) == ("logloss", sorted(means))
    assert all((entry.difference.value if entry.difference else 0) >= 0 for entry in board.entries)
    for changes, words in (
        ({"preset": "bars"}, "begun with preset None, not with 'bars'; ask the same again to go on with it"),
        ({"sets": ()}, "begun with settings"),
        ({"trials": 2}, "begun with trials 0"),
        ({"protocol": "full"}, "begun with protocol 'pointwise'"),
        ({"precision": "bf16"}, "begun with precision 'fp32'"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(camps, tmp_path / "c", "mlp", **changes)
    calls.clear()
    run(camps, tmp_path / "c", "mlp")
    assert calls == []


def test_what_does_not_exist_is_said_before_anything_is_trained(camps: Store, tmp_path: Path) -> None:
    for models, changes, words in (
        (("mff",), {}, "no model named 'mff'; did you mean mf"),
        (("all", "mff"), {}, "no model named 'mff'"),
        ((), {}, "give models to compare, or 'all'"),
        (("mf",), {"metric": "aux"}, "cannot be compared by 'aux' here; did you mean auc"),
        (("mf",), {"sets": ("dropuot=1",)}, "none of the models has an option 'dropuot'"),
        (("mf",), {"sets": ("dropout=0.1",)}, "none of the models has an option 'dropout'"),
        (("mf",), {"preset": "bar"}, "no preset of these models is named 'bar'; did you mean bars"),
        (("mf",), {"seeds": 0}, "`seeds` must be 1 or more and `tune` 0 or more, got 0 and 0"),
        (("mf",), {"protocol": "ful"}, "did you mean full"),
    ):
        with pytest.raises(ConfigError, match=words):
            compare(camps, models, out=tmp_path / "c", **changes)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("my only copy")
    with pytest.raises(ArtifactError, match="exists already"):
        run(camps, tmp_path / "d")
    assert not (tmp_path / "c").exists()


def test_settings_reach_the_models_that_have_them(camps: Store, tmp_path: Path) -> None:
    run(camps, tmp_path / "c", sets=(*QUICK, "dropout=0.3"))
    options = {model: SavedRun.open(tmp_path / "c" / "runs" / model / "0").config.options for model in ("mf", "mlp")}
    assert options["mlp"]["dropout"] == 0.3
    assert "dropout" not in options["mf"]
    assert options["mf"]["embedding_dim"] == options["mlp"]["embedding_dim"] == 4


def test_a_value_that_a_baseline_does_not_take_is_left_out_for_it(camps: Store, tmp_path: Path) -> None:
    board = run(camps, tmp_path / "c", "mlp", sets=(*QUICK, "pooling=target"))
    notes = {entry.model: entry.notes for entry in board.compared}
    refused = ("without `pooling=target`, which it does not take",)
    assert notes == {"popularity": (), "item_knn": (), "lr": refused, "mlp": ()}
    options = {model: SavedRun.open(tmp_path / "c" / "runs" / model / "0").config.options for model in ("lr", "mlp")}
    assert (options["lr"]["pooling"], options["mlp"]["pooling"]) == ("mean", "target")
    for models, value in ((("mlp",), "meen"), (("mf",), "target")):
        with pytest.raises(ConfigError, match=f"none of the models takes 'pooling={value}'; options of model"):
            run(camps, tmp_path / "d", *models, sets=(f"pooling={value}",))
    assert not (tmp_path / "d").exists()


def test_a_model_that_is_fitted_in_one_pass_is_not_said_to_weigh_nothing(camps: Store, tmp_path: Path) -> None:
    board = run(camps, tmp_path / "c", "mlp")
    parameters = {entry.model: entry.parameters for entry in board.entries}
    assert parameters["popularity"] is None
    assert parameters["lr"]
    assert parameters["mlp"]
    found = {entry["model"]: entry["parameters"] for entry in json.loads(board.json())["entries"]}
    assert found == parameters
    shown = {entry.model: cells(board, entry)[columns(board).index("weights")] for entry in board.entries}
    assert (shown["popularity"], shown["lr"]) == ("-", f"{parameters['lr']:,}")
    assert weft.evaluate(tmp_path / "c" / "runs" / "popularity" / "0").parameters == 0


def test_a_wrapper_reaches_the_models_that_can_carry_it(tmp_path: Path) -> None:
    table = camp.interactions().with_columns(place=1 + pl.int_range(pl.len()) % 5)
    roles = Roles(user="user", item="song", time="time", position="place", label=(Label(name="liked"),))
    store = weft.prepare(camp.schema(roles=roles), tmp_path / "s", interactions=table, items=camp.songs())
    board = run(store, tmp_path / "c", "mlp", sets=(*QUICK, "position.kind=pal"))
    alone = ("without `position`, which cannot stand around it",)
    assert {entry.model: entry.notes for entry in board.entries} == {
        "popularity": alone,
        "item_knn": alone,
        "lr": (),
        "mlp": (),
    }
    assert "position" in SavedRun.open(tmp_path / "c" / "runs" / "mlp" / "0").config.options
    assert comparing._cannot_carry("mf") == {"tasks"}
    assert comparing._cannot_carry("dcn_v2") == set()


def test_a_preset_reaches_the_models_that_have_it(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = {"mf": {"bars"}}
    monkeypatch.setattr(comparing, "_presets", lambda model, store: only.get(model, set()))
    board = run(camps, tmp_path / "c", preset="bars")
    notes = {entry.model: entry.notes for entry in board.entries}
    assert notes["mf"] == ()
    assert notes["lr"] == notes["mlp"] == ("has no preset 'bars': its defaults",)
    presets = {model: SavedRun.open(tmp_path / "c" / "runs" / model / "0").config.preset for model in ("mf", "mlp")}
    assert presets == {"mf": "bars", "mlp": None}


def test_the_whole_catalogue_is_compared_user_by_user(camps: Store, tmp_path: Path) -> None:
    board = run(camps, tmp_path / "c", protocol="full", metric="recall@6")
    assert (board.metric, board.drawn, board.units) == ("recall@6", "users", camp.USERS)
    assert board.entries[0].mean == board.entries[0].metrics["recall@6"]
    assert "1 relevant rows of users that training does not know are left out" in board.notes
    board = run(camps, tmp_path / "c", protocol="full")
    assert board.metric == "ndcg@1"


def test_given_candidates_are_compared_user_by_user(tmp_path: Path) -> None:
    table = camp.interactions().filter(pl.col("user") < camp.FIRST_USER + 8)
    mine = table.filter(split="test", liked=1).unique("user", keep="first", maintain_order=True)
    lists = [[song, *[f"song-{i}" for i in range(12) if f"song-{i}" != song]] for song in mine["song"]]
    given = pl.DataFrame({"user": mine["user"], "candidates": lists})
    protocol = Protocol(kind="candidates", k=(1, 10), candidates="given.parquet")
    schema = camp.schema(protocol=protocol)
    store = weft.prepare(schema, tmp_path / "s", interactions=table, items=camp.songs(), candidates=given)
    board = run(store, tmp_path / "c")
    assert (board.metric, board.drawn, board.units) == ("ndcg@10", "users", 8)
    assert set(board.entries[0].metrics) == {"hr@1", "ndcg@1", "hr@10", "ndcg@10"}


def test_ratings_are_compared_by_their_error(tmp_path: Path) -> None:
    roles = Roles(user="user", item="song", label=(Label(name="year", task="regression"),))
    features = tuple(feature for feature in camp.schema().features if feature.name in ("user", "song"))
    table = camp.interactions().with_columns(year=pl.col("liked") * 2.0 + 1)
    store = weft.prepare(camp.schema(roles=roles, features=features), tmp_path / "s", interactions=table)
    board = run(store, tmp_path / "c")
    means = [entry.mean or 0 for entry in board.entries]
    assert (board.metric, board.more_is_better, means) == ("rmse", False, sorted(means))
    assert all(entry.best == min(entry.values) for entry in board.entries)


def test_a_metric_that_the_rows_do_not_define_is_refused_and_another_one_works(camps: Store, tmp_path: Path) -> None:
    table = camp.interactions().filter((pl.col("split") != "test") | (pl.col("liked") == 1))
    store = weft.prepare(camp.schema(), tmp_path / "s", interactions=table, items=camp.songs())
    with pytest.raises(ConfigError, match="'auc' is not defined on the test rows; compare by another one of auc, log"):
        run(store, tmp_path / "c")
    assert run(store, tmp_path / "c", metric="logloss").entries[0].mean is not None


def test_where_nothing_can_be_compared_the_reason_is_said(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise Diverged("the sky fell")

    monkeypatch.setattr(comparing, "train", train)
    with pytest.raises(ConfigError, match="none of the models could be compared; popularity: seed 0: the sky fell"):
        run(camps, tmp_path / "c")


def test_tuned_settings_are_those_that_are_judged(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces = {"mlp": {"train.learning_rate": Range(1e-3, 1e-1, log=True)}, "mf": {"embedding_dim": Range(2, 8)}}
    configs = {weft.models.entry(model).config: found for model, found in spaces.items()}
    monkeypatch.setattr(tuning, "search_space", lambda config: configs.get(config, {}))
    sets = ("train.epochs=2", "train.batch_size=64", "hidden=[8]", "embedding_dim=4")
    board = run(camps, tmp_path / "c", trials=3, seeds=2, sets=sets)
    entries = {entry.model: entry for entry in board.entries}
    search = entries["mlp"].search
    assert search is not None
    assert (search.trials, search.failed, search.metric) == (3, 0, "auc")
    best = tmp_path / "c" / "tune" / "mlp" / "best.toml"
    for seed in (0, 1):
        found = SavedRun.open(tmp_path / "c" / "runs" / "mlp" / str(seed)).config
        for key, value in search.settings.items():
            assert found.recipe[key.removeprefix("train.")] == value
        assert found.options["hidden"] == [8]
    again = weft.train(camps, "mlp", out=tmp_path / "again", config=best, precision="fp32")
    assert again.validation["auc"] == search.value
    assert entries["mf"].notes == entries["popularity"].notes == ("not tuned: it has nothing to search",)
    assert any(f"tuned: mlp: validation auc {search.value:.4f}" in line for line in comparing_lines(board))


def test_another_metric_may_be_asked_for_where_models_were_tuned(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "search_space", lambda config: {"train.learning_rate": Range(1e-3, 1e-1, log=True)})
    sets = ("train.epochs=1", "train.batch_size=64", "hidden=[8]", "embedding_dim=4", "train.monitor=logloss")
    first = run(camps, tmp_path / "c", "mlp", trials=2, sets=sets, metric="auc")
    searches = {entry.model: entry.search for entry in first.entries}
    calls: list[str] = []
    monkeypatch.setattr(comparing, "train", failing(comparing.train, {}, calls))
    again = run(camps, tmp_path / "c", "mlp", trials=2, sets=sets, metric="logloss")
    assert (again.metric, calls) == ("logloss", [])
    assert {entry.model for entry in again.compared} == {"popularity", "item_knn", "lr", "mlp"}
    assert {entry.model: entry.search for entry in again.entries} == searches
    assert [found.metric for found in searches.values() if found is not None] == ["logloss"] * 4


def comparing_lines(board: Leaderboard) -> list[str]:
    screen = Console(file=io.StringIO(), width=400)
    board.render(screen)
    return str(screen.file.getvalue()).splitlines()  # type: ignore[attr-defined]


def test_on_the_command_line(camps: Store, tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "c")
    words = ["compare", str(camps.path), "--models", "mf", "mlp", "--set", *QUICK, "--out", out]
    assert cli.run([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((tmp_path / "c" / BOARD).read_text())
    assert "mf, seed 0: auc" in said.err
    assert cli.run(words) == 0
    text = capsys.readouterr().out
    assert "to the best, 95 %" in text
    assert f"open {out}/{PAGE}" in text
    assert cli.run([*words, "--metric", "aux"]) == 2
    assert capsys.readouterr().err.startswith("weft: models cannot be compared by 'aux'")
    assert weft.compare is compare
