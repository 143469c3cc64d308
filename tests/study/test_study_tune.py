"""The search for settings: on validation rows only, the same after a kill, in one sentence where it cannot be."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import weft
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, Diverged, Unsupported
from weft.models import _registry as registry
from weft.models import entry, names
from weft.models._search import Choice, Range, search_space
from weft.study import tune as tuning
from weft.study.tune import BEST, JOURNAL, TUNED, Tuned, tune
from weft.train.recipe import resolve

QUICK = ("train.batch_size=64", "train.epochs=2")
SPACE: dict[str, Range | Choice] = {
    "train.learning_rate": Range(1e-4, 1e-1, log=True),
    "embedding_dim": Range(2, 6),
    "hidden": Choice(((8,), (4, 4))),
}


@pytest.fixture(autouse=True)
def space(monkeypatch: pytest.MonkeyPatch) -> dict[str, Range | Choice]:
    """What there is to search for, whatever the Configs declare."""
    found = dict(SPACE)
    monkeypatch.setattr(tuning, "search_space", lambda config: found)
    return found


def search(store: Store, out: Path, **changes: Any) -> Tuned:
    options: dict[str, Any] = {"trials": 4, "sets": QUICK, "precision": "fp32", **changes}
    return tune(store, options.pop("model", "mlp"), out=out, **options)


def test_the_first_trial_is_the_model_as_asked_for_and_the_best_one_is_written(camps: Store, tmp_path: Path) -> None:
    tuned = search(camps, tmp_path / "t")
    assert [trial.number for trial in tuned.trials] == [0, 1, 2, 3]
    assert tuned.trials[0].settings == {}
    assert all(set(trial.settings) == set(SPACE) for trial in tuned.trials[1:])
    assert tuned.metric == "auc"
    assert tuned.best.value == max(trial.value or 0 for trial in tuned.trials)
    assert json.loads((tmp_path / "t" / TUNED).read_text())["best"]["value"] == tuned.best.value
    assert sorted(path.name for path in (tmp_path / "t").iterdir() if path.is_dir()) == []


def test_the_file_of_the_best_settings_gives_the_best_trial_again(camps: Store, tmp_path: Path) -> None:
    tuned = search(camps, tmp_path / "t", sets=(*QUICK, "dropout=0.1"))
    run = weft.train(camps, "mlp", out=tmp_path / "run", config=tuned.config, precision="fp32")
    assert run.validation["auc"] == tuned.best.value
    assert run.config.options["dropout"] == 0.1
    for key, value in tuned.best.settings.items():
        *_, last = key.split(".")
        assert {**run.config.options, **run.config.recipe}[last] == value


def test_what_is_drawn_lies_in_the_space(camps: Store, tmp_path: Path) -> None:
    drawn = [trial.settings for trial in search(camps, tmp_path / "t", trials=9).trials[1:]]
    assert all(1e-4 <= found["train.learning_rate"] <= 1e-1 for found in drawn)
    assert {type(found["embedding_dim"]) for found in drawn} == {int}
    assert {found["embedding_dim"] for found in drawn} <= {2, 3, 4, 5, 6}
    assert {tuple(found["hidden"]) for found in drawn} == {(8,), (4, 4)}


def test_what_a_person_sets_is_not_searched(camps: Store, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("embedding_dim = 3\n[train]\nl2 = 0.1\n")
    tuned = search(
        camps, tmp_path / "t", sets=(*QUICK, "train.learning_rate=0.01"), config=tmp_path / "c.toml", trials=3
    )
    assert [set(trial.settings) for trial in tuned.trials] == [set(), {"hidden"}, {"hidden"}]
    found = tomllib.loads(Path(tuned.config).read_text())
    assert (found["embedding_dim"], found["train"]["learning_rate"], found["train"]["l2"]) == (3, 0.01, 0.1)


def test_a_retriever_is_searched_by_its_ranking_of_the_catalogue(camps: Store, tmp_path: Path) -> None:
    tuned = search(camps, tmp_path / "t", model="two_tower", trials=2)
    assert tuned.metric == "ndcg@6"
    assert tuned.best.value is not None
    pointwise = search(camps, tmp_path / "p", model="two_tower", trials=1, sets=(*QUICK, "train.loss=task"))
    assert pointwise.metric == "auc"
    with pytest.raises(ConfigError, match="no metric 'auc'"):
        search(camps, tmp_path / "q", model="two_tower", trials=1, metric="auc")


def test_a_metric_where_less_is_better(camps: Store, tmp_path: Path) -> None:
    tuned = search(camps, tmp_path / "t", metric="logloss")
    assert tuned.best.value == min(trial.value or 9 for trial in tuned.trials)


def test_the_test_rows_are_never_read(camps: Store, tmp_path: Path) -> None:
    for name in ("poisoned", "gone"):
        shutil.copytree(camps.path, tmp_path / name)
    for path in (tmp_path / "poisoned" / "test").glob("label*"):
        label = np.load(path)
        np.save(path, np.full_like(label, np.nan))
    assert np.isnan(np.asarray(Store.open(tmp_path / "poisoned").split("test").label)).all()
    shutil.rmtree(tmp_path / "gone" / "test")
    found = [search(store, tmp_path / f"t-{place}") for place, store in enumerate(stores(camps, tmp_path))]
    assert len({(Path(tuned.config)).read_text() for tuned in found}) == 1
    assert [plain(tuned) for tuned in found] == [plain(found[0])] * 3


def stores(camps: Store, folder: Path) -> list[Store]:
    return [camps, Store.open(folder / "poisoned"), Store.open(folder / "gone")]


def plain(tuned: Tuned) -> list[tuple[dict[str, Any], float | None, str]]:
    return [(trial.settings, trial.value, trial.failure) for trial in tuned.trials]


LONGER = ("train.batch_size=64", "train.epochs=12", "train.patience=12")
KILLED = """
import sys
from weft.models._search import Choice, Range
from weft.study import tune as tuning
tuning.search_space = lambda config: {SPACE}
tuning.tune(sys.argv[1], "mlp", trials=4, out=sys.argv[2], sets={LONGER}, precision="fp32")
"""


def test_a_killed_search_ends_as_it_would_have(camps: Store, tmp_path: Path) -> None:
    whole = search(camps, tmp_path / "whole", sets=LONGER)
    code = KILLED.format(SPACE=repr(SPACE), LONGER=repr(LONGER))
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code, str(camps.path), str(killed)])
    wait_for(lambda: (killed / "0001" / "checkpoint" / "latest").is_file(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / TUNED).is_file()
    resumed = search(camps, killed, sets=LONGER)
    assert plain(resumed) == plain(whole)
    assert (killed / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


def wait_for(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, "the process ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("when", ["after the draw", "in the training", "after the record"])
def test_an_interrupted_trial_goes_on(camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    whole = search(camps, tmp_path / "whole", trials=3)
    name, place = {
        "after the draw": ("train", 1),
        "in the training": ("train", 2),
        "after the record": ("_tell", 1),
    }[when]
    with monkeypatch.context() as patch:
        patch.setattr(tuning, name, _interrupted(getattr(tuning, name), place))
        with pytest.raises(KeyboardInterrupt):
            search(camps, tmp_path / "cut", trials=3)
    assert plain(search(camps, tmp_path / "cut", trials=3)) == plain(whole)


def _interrupted(function: Callable[..., Any], place: int) -> Callable[..., Any]:
    calls = iter(range(9))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == place:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return call


def test_a_trial_that_was_not_drawn_whole_and_a_torn_line_do_no_harm(camps: Store, tmp_path: Path) -> None:
    search(camps, tmp_path / "t", trials=2)
    study = tuning._study(tmp_path / "t" / JOURNAL, higher=True)
    study.ask({"embedding_dim": tuning._distribution(SPACE["embedding_dim"])})
    with (tmp_path / "t" / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 5, "wor')
    (tmp_path / "t" / f"{JOURNAL}.lock").symlink_to(JOURNAL)
    tuned = search(camps, tmp_path / "t", trials=3)
    assert [trial.number for trial in tuned.trials] == [0, 1, 3]
    assert set(tuned.trials[2].settings) == set(SPACE)


def test_more_trials_are_added_and_done_ones_are_kept(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = search(camps, tmp_path / "t", trials=2)
    more = search(camps, tmp_path / "t", trials=4)
    assert more.trials[:2] == few.trials
    monkeypatch.setattr(tuning, "train", _interrupted(tuning.train, 0))
    assert search(camps, tmp_path / "t", trials=4) == more
    assert plain(search(camps, tmp_path / "t", trials=2)) == plain(few)


def test_a_failed_trial_counts_and_the_search_goes_on(
    camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: dict[int, Exception] = {0: Diverged("sky fell"), 1: Unsupported("no such pair"), 2: ConfigError("too wide")}
    numbers = iter(range(9))
    real = tuning.train

    def train(*args: Any, **kwargs: Any) -> Any:
        number = next(numbers)
        if number in errors:
            raise errors[number]
        return real(*args, **kwargs)

    monkeypatch.setattr(tuning, "train", train)
    screen = Console(file=io.StringIO(), width=200)
    tuned = search(camps, tmp_path / "t", console=screen)
    assert [trial.failure for trial in tuned.trials] == ["sky fell", "no such pair", "too wide", ""]
    assert tuned.best.number == 3
    said = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said[0] == "mlp trial 1 of 4: failed: sky fell, as asked for, 0 s"
    assert said[3].startswith(f"mlp trial 4 of 4: auc {tuned.best.value:.4f} (best ")


def test_a_search_without_any_result_says_so(camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise Diverged("sky fell")

    monkeypatch.setattr(tuning, "train", train)
    with pytest.raises(Diverged, match="none of 2 trials came to an end; the last: sky fell"):
        search(camps, tmp_path / "t", trials=2)


def test_another_request_in_the_folder_is_refused(camps: Store, tmp_path: Path) -> None:
    search(camps, tmp_path / "t", trials=1)
    for changes, words in (
        ({"seed": 1}, "was begun with seed 0, not with 1; ask the same again"),
        ({"metric": "logloss"}, "metric 'auc', not with 'logloss'"),
        ({"sets": (*QUICK, "dropout=0.5")}, "was begun with settings"),
        ({"sets": (*QUICK, "embedding_dim=16")}, "was begun with space"),
    ):
        with pytest.raises(ConfigError, match=words):
            search(camps, tmp_path / "t", trials=1, **changes)


def test_what_cannot_be_searched_is_refused(
    camps: Store, tmp_path: Path, space: dict[str, Range | Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t"
    for changes, words in (
        ({"trials": 0}, "`trials` must be 1 or more, got 0"),
        ({"metric": "aux"}, "no metric 'aux'; did you mean auc"),
        ({"model": "mpl"}, "did you mean"),
        ({"sets": ("dropuot=0.1",)}, "dropuot"),
        (
            {"sets": [f"{key}=1" for key in ("embedding_dim", "train.learning_rate")] + ["hidden=[8]"]},
            "leave out one of",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            search(camps, out, **changes)
    space.clear()
    with pytest.raises(ConfigError, match="'mlp' declares nothing to search"):
        search(camps, out)
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"not installed; run: pip install 'weft\[tune\]'"):
        search(camps, out)


def test_a_folder_of_somebody_else_is_refused(camps: Store, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("my only copy")
    with pytest.raises(ArtifactError, match="exists already"):
        search(camps, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", names())
def test_a_declared_space_is_one_that_the_options_allow(name: str) -> None:
    """Both ends of each range and each choice, one key at a time."""
    for key, found in search_space(entry(name).config).items():
        values = found.options if isinstance(found, Choice) else (found.low, found.high)
        assert isinstance(found, Choice) or 0 <= found.low < found.high
        assert isinstance(found, Choice) or not found.log or found.low > 0
        for value in values:
            settings = resolve(name, sets=[f"{key}={json.dumps(value)}"])
            assert registry.config(name, settings.options)
