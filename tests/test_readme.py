"""The README's quick start runs: on a small folder in the form of MovieLens-1M, and as it stands."""

import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from weft import cli, schema
from weft.recommend import pipeline
from weft.train import recipe

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
USERS, MOVIES, RATINGS = 60, 30, 12


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("weft ")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the README takes for granted; training stops after an epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(recipe.BARS["train"], "epochs", 1)
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    rng = np.random.default_rng(0)
    years = rng.integers(1930, 2000, MOVIES)
    movies = (f"{k}::Movie {k} ({year})::Comedy{'|Drama' * (k % 2)}" for k, year in enumerate(years, 1))
    users = (f"{k}::{'FM'[k % 2]}::{18 + k % 7}::{k % 21}::00000" for k in range(1, USERS + 1))
    rows = [(user, movie) for user in range(1, USERS + 1) for movie in rng.permutation(MOVIES)[:RATINGS] + 1]
    ratings = (f"{user}::{movie}::{(user + movie) % 5 + 1}::978300760" for user, movie in rows)
    for name, lines in (("movies", movies), ("users", users), ("ratings", ratings)):
        (folder / f"{name}.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    pl.DataFrame({"user_id": [1, 2, 999], "movie_id": [3, 4, 5]}).write_parquet("new_rows.parquet")
    return tmp_path


def test_the_commands_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [command[0] for command in commands()] == [
        *("data", "prepare", "describe", "crosses", "models", "train", "evaluate", "compare"),
        *("recommend", "train", "train", "bundle", "evaluate", "recommend", "predict", "explain", "dimensions"),
    ]
    for command in commands():
        assert cli.run(command) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert "are in the first 10" in text
    assert "for user 42" in text
    assert "Movie" in text
    assert pl.read_parquet(place / "scored.parquet").height == 3


def test_the_python_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(commands()[0]) == 0
    (code,) = blocks("python")
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert "ml-1m ctr, rating 3 dropped" in lines[0]
    assert len(lines) == 1 + 10
    assert all("Movie" in line for line in lines[1:])


def test_the_schema_and_the_pipeline_are_ones() -> None:
    text, stages = blocks("toml")
    assert [source.run for source in pipeline.loads(stages).sources] == ["two_tower"]
    found = schema.loads(text)
    assert found.roles.user == "user_id"
    assert schema.loads(schema.dumps(found)) == found


def test_the_files_that_it_names_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (Path(__file__).parent.parent / target).exists(), target


def test_make_has_the_two_commands() -> None:
    targets = re.findall(r"^([a-z]+):", (Path(__file__).parent.parent / "Makefile").read_text(), flags=re.MULTILINE)
    assert {line.split()[1] for line in blocks("sh")[0].splitlines() if line} <= set(targets)
