"""The command line: verbs, options, exit codes, one sentence for what is wrong."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import camps_for_tests as camp
import weft
from weft import cli
from weft import schema as schemas
from weft.data.store import Store
from weft.runs import SavedRun
from weft.schema import Tables

VERBS = [[name] for name in cli.COMMANDS] + [["data", name] for name in cli.DATA_COMMANDS]
SMALL = ("train.epochs=1", "hidden=[8]", "embedding_dim=4")
Capture = pytest.CaptureFixture[str]


def options_of(capsys: Capture, *verb: str) -> set[str]:
    assert cli.run([*verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name for line in lines for name in re.findall(r"^\W*(?:-. \w+, |-., )?--([a-z]+)", line)}


def refused(capsys: Capture, *arguments: str) -> str:
    """The sentence on the error stream of a command that must be refused."""
    assert cli.run(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("weft: ")
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_answers_help_with_an_example(capsys: Capture, verb: list[str]) -> None:
    assert cli.run([*verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: weft {' '.join(verb)}" in text


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["data", "--help"]])
def test_the_help_lists_the_verbs(capsys: Capture, arguments: list[str]) -> None:
    assert cli.run(arguments) == 0
    text = capsys.readouterr().out
    names = cli.DATA_COMMANDS if "data" in arguments else [*cli.COMMANDS, "data"]
    assert all(f"• {name} " in text for name in names)


def test_the_examples_parse() -> None:
    for verb in [*cli.COMMANDS.values(), *cli.DATA_COMMANDS.values()]:
        example = re.search(r"Example: weft (.*)", inspect.getdoc(verb) or "")
        assert example is not None
        assert callable(cli._parse(shlex.split(example[1])))


def test_train_has_no_model_flags(capsys: Capture) -> None:
    fixed = {"model", "preset", "config", "set", "init", "seed", "precision", "device", "out", "resume", "json"}
    assert options_of(capsys, "train") == {*fixed, "help"}


def test_results_can_be_had_as_json(capsys: Capture) -> None:
    for verb in ("describe", "crosses", "models", "train", "evaluate", "bundle", "recommend", "explain", "dimensions"):
        assert "json" in options_of(capsys, verb)
    assert "json" in options_of(capsys, "data", "list")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "Expected one of {demo, prepare"),
        ("trian STORE", "there is no command 'trian'; did you mean train?"),
        ("data gte music", "there is no command 'gte'; did you mean get?"),
        ("data", "Expected one of {list, get}; see weft data --help"),
        ("train STORE", "Missing from weft train: --model"),
        ("train STORE --model lr --out RUN --dropout 3", "Unrecognized options: --dropout"),
        ("train STORE --model lr --out RUN --seed one", "--seed"),
        ("train STORE --model lr --out RUN --precision fp8", "invalid choice 'fp8'"),
        ("train nowhere --model lr --out RUN", "'nowhere' is not a folder; give the path of a store"),
        ("train STORE --model dcnv2 --out RUN", "did you mean dcn_v2"),
        ("train STORE --model lr --out RUN --set dropout=0.1", "dropout"),
        ("train STORE --model lr --out RUN --set train.epoch=1", "no setting 'train.epoch'; did you mean epochs?"),
        ("train STORE --model lr --out RUN --preset bar", "did you mean bars?"),
        ("train STORE --model lr --out RUN --config no.toml", "cannot read the settings 'no.toml'"),
        ("train STORE --model lr --out RUN --init nowhere", "nowhere"),
        ("evaluate nowhere", "nowhere"),
        ("evaluate LR --protocol ful", "did you mean full"),
        ("evaluate LR --split tset", "invalid choice 'tset'"),
        ("evaluate LR --store nowhere", "'nowhere' is not a folder"),
        ("recommend LR", "give either --user ID or --users FILE"),
        ("recommend LR --user 1 -k 0", "`k` must be 1 or more"),
        ("recommend LR --users nothing.txt", "cannot read the users file"),
        ("recommend STORE --user 1", "a run"),
        ("recommend LR --user 1000 --context hour", "takes name=value, got 'hour'"),
        ("recommend LR --user 1000 --context hour=3", "`context` has no feature 'hour'"),
        ("recommend LR --users FILE --trace", "give them with --user"),
        ("bundle LR --out RUN --pipeline no.toml", "cannot read the pipeline 'no.toml'"),
        ("bundle LR --out FILE", "exists already"),
        ("bundle nowhere --out RUN", "'nowhere' is not a folder"),
        ("bundle LR --out RUN --calibrate beta", "invalid choice 'beta'"),
        ("explain LR --out FILE", "exists already"),
        ("explain LR --out RUN --user 1000", "give --user and --item"),
        ("explain LR --out RUN --user 1 --item song-1", "the user '1' is unknown"),
        ("explain LR --out RUN --store nowhere", "'nowhere' is not a folder"),
        ("dimensions LR --out RUN.toml", "model 'lr' has no option `widths`"),
        ("dimensions LR --out RUN.toml --keep 2", "at most 1, got 2"),
        ("prepare nothing.toml --out RUN", "nothing.toml"),
        ("prepare SCHEMA --out STORE", "exists already"),
        ("describe LR", "a store"),
        ("crosses LR", "a store"),
        ("crosses STORE --top 0", "`top` must be 1 or more, got 0"),
        ("models dcnv2", "did you mean dcn_v2"),
        ("data get musik --out RUN", "did you mean music?"),
        ("data get music --out RUN --set rows", "must be KEY=VALUE"),
        ("data get music --out RUN --set size=3", "music has no option 'size'"),
        ("data get music --out RUN --protocol ctr", "ctr"),
        ("data get frappe --out RUN --from nowhere", "nowhere"),
        ("predict LR nothing.csv --out RUN.csv", "nothing.csv"),
        ("predict LR nothing.csv --out RUN.txt", ".parquet"),
        ("demo --out FILE --rows 2000", "exists already"),
        ("demo --out FILE/below --rows 2000", "give another path"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    capsys: Capture,
    camps: Store,
    camp_runs: dict[str, SavedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("mine")
    schemas_file = camp.schema(tables=Tables(interactions="FILE"))
    Path("SCHEMA").write_text(schemas.dumps(schemas_file))
    places = {"STORE": str(camps.path), "LR": str(camp_runs["lr"].path)}
    assert words in refused(capsys, *(places.get(word, word) for word in line.split()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE", "SCHEMA"]
    assert Path("FILE").read_text() == "mine"


def test_a_table_that_cannot_be_used_leaves_nothing(capsys: Capture, tmp_path: Path) -> None:
    camp.interactions().with_columns(liked=pl.col("liked") * 2).write_csv(tmp_path / "rows.csv")
    camp.songs().write_csv(tmp_path / "songs.csv")
    schema = camp.schema(tables=Tables(interactions="rows.csv", items="songs.csv"))
    (tmp_path / "schema.toml").write_text(schemas.dumps(schema))
    said = refused(capsys, "prepare", str(tmp_path / "schema.toml"), "--out", str(tmp_path / "store"))
    for part in ("rows.csv", "'liked'", "row 1", "0 or 1"):
        assert part in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "schema.toml", "songs.csv"]


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("the [red]sky[/blue]\nfell")


def test_a_fault_is_told_from_wrong_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.study.models.render_models", broken)
    assert cli.run(["models"]) == 1
    said = capsys.readouterr().err
    assert said == "weft: a fault of weft: RuntimeError: the [red]sky[/blue] fell (WEFT_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("WEFT_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="sky"):
        cli.run(["models"])


def test_an_interrupt_is_no_fault(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weft.study.models.render_models", interrupted)
    assert cli.run(["models"]) == 130
    assert capsys.readouterr().err == "weft: interrupted\n"


def test_the_process_exits_with_the_code() -> None:
    done = subprocess.run([sys.executable, "-m", "weft.cli", "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("weft: there is no command 'nothing'; known:")


def test_a_closed_pipe_is_the_end_of_the_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "weft.cli", "data", "list", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def out(capsys: Capture, *arguments: str) -> str:
    """What a command that succeeds prints."""
    code = cli.run(list(arguments))
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def test_models(capsys: Capture) -> None:
    assert [model["name"] for model in json.loads(out(capsys, "models", "--json"))] == [*weft.models.names()]
    found = json.loads(out(capsys, "models", "dcn_v2", "--json"))
    assert found["options"]["num_cross"] >= 1
    assert "bars" in found["presets"]
    assert "embedding_dim" in out(capsys, "models", "dcn_v2")


def test_the_road_on_the_command_line(capsys: Capture, tmp_path: Path) -> None:
    data, store, run = (str(tmp_path / name) for name in ("data", "store", "run"))
    assert "music" in out(capsys, "data", "list")
    assert {"name", "title", "protocols"} == set(json.loads(out(capsys, "data", "list", "--json"))[0])
    said = out(capsys, "data", "get", "music", "--out", data, "--set", "rows=2000", "seed=3")
    assert said == f"wrote {data}; next: weft prepare {data}/schema.toml --out STORE\n"
    assert "1,600 train, 200 valid, 200 test" in out(capsys, "prepare", f"{data}/schema.toml", "--out", store)

    described = json.loads(out(capsys, "describe", store, "--json"))
    assert sum(part["rows"] for part in described["splits"]) == 2000
    assert "user_id" in out(capsys, "describe", store)

    trained = json.loads(
        out(capsys, "train", store, "--model", "dcn_v2", "--set", *SMALL, "--out", run, "--json", "--seed", "4")
    )
    assert trained["validation"].keys() == {"auc", "logloss"}
    assert SavedRun.open(run).config.seed == 4
    assert "weft evaluate" in out(capsys, "train", store, "--model", "popularity", "--out", f"{run}-p")
    assert "nothing to resume" in out(capsys, "train", store, "--model", "popularity", "--out", f"{run}-p", "--resume")

    report = json.loads(out(capsys, "evaluate", run, "--json"))
    assert report["rows"] == 200
    assert report["protocol"].startswith("music, newest tenth, 2,000 impressions, seed 3, pointwise")
    assert set(json.loads(out(capsys, "evaluate", run, "--protocol", "full", "--json"))["metrics"]) >= {"ndcg@10"}
    assert "protocol: music" in out(capsys, "evaluate", f"{run}-p", "--split", "valid")

    users = pl.read_parquet(f"{data}/users.parquet")["user_id"].to_list()[:3]
    answer = json.loads(out(capsys, "recommend", run, "--user", str(users[0]), "-k", "4", "--json"))
    assert len(answer["items"]) == 4
    assert "recommended" in out(capsys, "recommend", run, "--user", str(users[0]), "--seen", "allow")
    assert "is unknown" in out(capsys, "recommend", run, "--user", "nobody")
    (tmp_path / "users.txt").write_text("".join(f"{user}\n" for user in users))
    lines = out(capsys, "recommend", run, "--users", str(tmp_path / "users.txt"), "-k", "4").splitlines()
    assert [json.loads(line)["user"] for line in lines] == [str(user) for user in users]
    assert [item["id"] for item in json.loads(lines[0])["items"]] == [item["id"] for item in answer["items"]]

    bundle = str(tmp_path / "bundle")
    made = json.loads(out(capsys, "bundle", f"{run}-p", run, "--calibrate", "isotonic", "--out", bundle, "--json"))
    assert {name: facts["model"] for name, facts in made["runs"].items()} == {"run-p": "popularity", "run": "dcn_v2"}
    said = out(capsys, "bundle", run, "--out", f"{bundle}-2")
    assert "run (every item scored) -> no ranker" in said
    line = re.findall("next: weft (recommend .*) --user ID", " ".join(said.split()))[0]
    asked = [*shlex.split(line), "--user", str(users[0])]
    traced = out(capsys, *asked, "--context", "hour=3", "weekday=1", "--trace")
    assert "sources.run" in traced
    assert "run #1" in traced
    cli.run(["recommend", bundle, "--users", str(tmp_path / "users.txt"), "-k", "4"])
    printed = capsys.readouterr()
    assert "3 users in" in printed.err
    assert "a second" in printed.err
    for text in printed.out.splitlines():
        assert all(0 <= item["score"] <= 1 for item in json.loads(text)["items"])

    pairs = pl.DataFrame({"user_id": [users[0]] * 4, "track_id": [item["id"] for item in answer["items"]]})
    pairs.with_columns(hour=pl.lit(8), weekday=pl.lit(1)).write_parquet(tmp_path / "rows.parquet")
    scored = tmp_path / "scored.parquet"
    assert "4 scored rows" in out(capsys, "predict", run, str(tmp_path / "rows.parquet"), "--out", str(scored))
    assert pl.read_parquet(scored)["score"].is_between(0, 1).all()


def test_the_demo(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"popularity": (), "lr": ("train.epochs=1",), "dcn_v2": SMALL}
    monkeypatch.setattr("weft.study.demo.MODELS", quick)
    text = out(capsys, "demo", "--out", str(tmp_path / "demo"), "--rows", "2000", "--seed", "1")
    for line in re.findall("next: weft (.*)", text):
        assert callable(cli._parse(shlex.split(line)))
    assert out(capsys, *shlex.split(re.findall("next: weft (recommend .*)", text)[0]))


def test_set_may_stand_more_than_once(camps: Store, tmp_path: Path) -> None:
    sets = ["--set", "train.epochs=1", "--set", "train.batch_size=32", "train.learning_rate=0.5"]
    assert cli.run(["train", str(camps.path), "--model", "lr", *sets, "--out", str(tmp_path / "run")]) == 0
    recipe = SavedRun.open(tmp_path / "run").config.recipe
    assert (recipe["epochs"], recipe["batch_size"], recipe["learning_rate"]) == (1, 32, 0.5)
