"""Search for the settings of one model: some trials over the space that its Config declares, judged on validation rows.

The first trial is the model as it was asked for, so that the search never ends below it; the others are drawn by a
tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011). Every trial trains with the same seed. The test rows
are not read.

    OUT/request.json     what was asked
    OUT/base.toml        the settings that every trial starts from
    OUT/journal.log      Optuna's journal of the trials
    OUT/0000.json, ...   what each trial gave
    OUT/best.toml        the whole settings of the best trial, for `weft train --config`
    OUT/tuned.json       the outcome

A search whose process was killed goes on when it is asked for again, the trial that was cut short from its last
training state, and ends with the settings that it would have ended with. Asked for more trials it adds them.
"""

import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct
from rich.console import Console

from weft import artifacts
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, Diverged, Unsupported, near
from weft.metrics import more_is_better
from weft.models import entry
from weft.models._search import Choice, Range, search_space
from weft.runs import CONFIG, without_none
from weft.study._request import keep_request, refuse_foreign
from weft.train import retrieval
from weft.train.objective import check_labels, metric_names, monitored
from weft.train.recipe import Settings, parse, resolve
from weft.train.run import train

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

KIND = "search"
JOURNAL, BEST, TUNED = "journal.log", "best.toml", "tuned.json"
DRAWN_BLINDLY = 6  # trials before the estimator learns from those that are done
SEARCHED = (Diverged, Unsupported, ConfigError)  # a trial that raises one of these failed, and the search goes on


class Trial(Struct, frozen=True, kw_only=True):
    """One trial of a search.

    Attributes:
        number: From 0, which is the model as it was asked for.
        settings: What was set beside what was asked for, keys as in `--set`.
        value: The metric on the validation rows; None where the trial failed.
        failure: Why it failed.
        seconds: Training time.
    """

    number: int
    settings: dict[str, Any]
    value: float | None
    failure: str = ""
    seconds: float = 0.0


class Tuned(Struct, frozen=True, kw_only=True):
    """The outcome of a search.

    Attributes:
        model: Registry name.
        metric: Of the validation rows.
        best: The best trial.
        config: The TOML file of its whole settings.
        trials: All of them.
    """

    model: str
    metric: str
    best: Trial
    config: str
    trials: tuple[Trial, ...]


class Request(Struct, frozen=True, kw_only=True):
    """All that decides a search but its number of trials.

    Attributes:
        model: Registry name.
        store: Id of the store.
        metric: Of the validation rows.
        settings: What every trial starts from: the whole options and, under `train`, the recipe.
        space: What is searched, by key: [low, high, logarithmic], or the values to choose from.
        seed: Of the search and of every trial.
        precision: As `train` takes it.
        device: As `train` takes it.
    """

    model: str
    store: str
    metric: str
    settings: dict[str, Any]
    space: dict[str, Any]
    seed: int
    precision: str
    device: str


def tune(
    store: Store | str | Path,
    model: str,
    *,
    trials: int,
    out: str | Path,
    metric: str | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    sets: Sequence[str] = (),
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    console: Console | None = None,
) -> Tuned:
    """Search for a model's settings on the validation rows.

    What `config` and `sets` set is kept as it is and not searched.

    Args:
        store: A store, or its path.
        model: Registry name.
        trials: How many in all, those that are done already included.
        out: The folder of the search.
        metric: Of the validation rows, in the epoch that training kept; the one that training monitors without it.
        preset: As in `train`: where the search starts.
        config: As in `train`.
        sets: As in `train`.
        seed: Of the search and of every trial.
        precision: As in `train`.
        device: As in `train`.
        console: Where a line a trial is shown; on a terminal also the training.

    Raises:
        ConfigError: A name or setting does not exist, nothing is left to search, or `out` was begun otherwise.
        Unsupported: The model cannot work on this store.
        Diverged: No trial came to an end.
    """
    _need_optuna()
    if trials < 1:
        raise ConfigError(f"`trials` must be 1 or more, got {trials}; 20 are a fair search")
    opened = store if isinstance(store, Store) else Store.open(store)
    settings = resolve(model, presets=opened.schema.presets, preset=preset, config=config, sets=sets)
    space = _refuse_empty(open_space(model, config, sets), model)
    request = Request(
        model=model,
        store=opened.id,
        metric=_metric(model, opened, settings, metric),
        settings=_whole(settings),
        space={key: found.options if isinstance(found, Choice) else [*found] for key, found in space.items()},
        seed=seed,
        precision=precision,
        device=device,
    )
    folder = Path(out)
    refuse_foreign(folder, KIND)
    with artifacts.lock(folder):
        keep_request(folder, KIND, request)
        return _Search(folder=folder, store=opened, request=request, space=space, console=console).go(trials)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """One search in its folder."""

    folder: Path
    store: Store
    request: Request
    space: Mapping[str, Range | Choice]
    console: Console | None

    def go(self, trials: int) -> Tuned:
        """Make the trials that are missing, then write what is best."""
        study = _study(self.folder / JOURNAL, self.higher)
        artifacts.write_atomic(self.folder / "base.toml", _toml(self.request.settings))
        done = self._done()
        while len(done) < trials:
            number, drawn = self._begun(study) or self._draw(study)
            trial = self._trial(number, {key: _value(self.space[key], found) for key, found in drawn.items()})
            _tell(study, trial)
            shutil.rmtree(self._run(number), ignore_errors=True)
            done.append(trial)
            self._show(trial, done, trials)
        return self._outcome(done[:trials])

    @property
    def higher(self) -> bool:
        """Whether more of the metric is better."""
        return more_is_better(self.request.metric)

    def _done(self) -> list[Trial]:
        return [_read(path) for path in sorted(self.folder.glob("[0-9]*.json"))]

    def _begun(self, study: "Study") -> tuple[int, dict[str, Any]] | None:
        """The trial that a killed process left; one with a record is told, one that was not drawn whole has failed."""
        from optuna.trial import TrialState

        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if self._record(trial.number).is_file():
                _tell(study, _read(self._record(trial.number)))
                shutil.rmtree(self._run(trial.number), ignore_errors=True)
            elif trial.number and set(trial.params) != set(self.space):
                study.tell(trial.number, state=TrialState.FAIL)
            else:
                return trial.number, trial.params
        return None

    def _draw(self, study: "Study") -> tuple[int, dict[str, Any]]:
        """A new trial; what is drawn depends on the seed, its number and the trials before it only."""
        from optuna.samplers import TPESampler

        number = len(study.get_trials(deepcopy=False))
        seed = int(np.random.SeedSequence([self.request.seed, number]).generate_state(1)[0])
        study.sampler = TPESampler(n_startup_trials=DRAWN_BLINDLY, seed=seed)
        trial = study.ask({key: _distribution(found) for key, found in self.space.items()} if number else {})
        return trial.number, trial.params

    def _trial(self, number: int, settings: dict[str, Any]) -> Trial:
        try:
            trial = self._trained(number, settings)
        except SEARCHED as error:
            if number == 0 and not isinstance(error, Diverged):
                raise
            trial = Trial(number=number, settings=settings, value=None, failure=str(error))
        artifacts.write_atomic(self._record(number), msgspec.json.encode(trial))
        return trial

    def _trained(self, number: int, settings: dict[str, Any]) -> Trial:
        folder = self._run(number)
        watched = self.console is not None and self.console.is_terminal
        run = train(
            self.store,
            self.request.model,
            out=folder,
            config=self.folder / "base.toml",
            sets=[f"{key}={json.dumps(value)}" for key, value in settings.items()],
            seed=self.request.seed,
            precision=self.request.precision,
            device=self.request.device,
            resume=(folder / CONFIG).is_file(),
            console=self.console if watched else None,
        )
        value = run.validation.get(self.request.metric)
        if value is None:
            raise Diverged(f"{self.request.metric} is not a number on the validation rows")
        return Trial(number=number, settings=settings, value=value, seconds=run.report.seconds)

    def _run(self, number: int) -> Path:
        return self.folder / f"{number:04d}"

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:04d}.json"

    def _outcome(self, trials: Sequence[Trial]) -> Tuned:
        best = self._best(trials)
        if best is None:
            raise Diverged(f"none of {len(trials)} trials came to an end; the last: {trials[-1].failure}")
        whole = _with(self.request.settings, best.settings)
        artifacts.write_atomic(self.folder / BEST, _toml(whole))
        tuned = Tuned(
            model=self.request.model,
            metric=self.request.metric,
            best=best,
            config=str(self.folder / BEST),
            trials=tuple(trials),
        )
        artifacts.write_json(self.folder / TUNED, tuned)
        return tuned

    def _best(self, trials: Sequence[Trial]) -> Trial | None:
        """The best trial, the earlier one of equals."""
        sign = -1.0 if self.higher else 1.0
        ended = [(sign * trial.value, trial.number, trial) for trial in trials if trial.value is not None]
        return min(ended)[2] if ended else None

    def _show(self, trial: Trial, done: Sequence[Trial], trials: int) -> None:
        if self.console is None:
            return
        best = self._best(done)
        found = f"{self.request.metric} {trial.value:.4f}" if trial.value is not None else f"failed: {trial.failure}"
        so_far = "" if best is None else f" (best {best.value:.4f}, trial {best.number})"
        settings = in_brief(trial.settings) or "as asked for"
        text = f"{self.request.model} trial {len(done)} of {trials}: {found}{so_far}, {settings}, {trial.seconds:.0f} s"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def in_brief(settings: Mapping[str, Any]) -> str:
    """Settings for a person's eye; fractions are rounded.

    >>> in_brief({"train.l2": 0.000123456, "hidden": [8], "gate": "softmax"})
    'train.l2=0.000123 hidden=[8] gate=softmax'
    """
    said = {key: f"{v:.3g}" if isinstance(v, float) else json.dumps(v).strip('"') for key, v in settings.items()}
    return " ".join(f"{key}={value}" for key, value in said.items())


def _need_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("tuning needs Optuna, which is not installed; run: pip install 'weft[tune]'") from error


def _metric(model: str, store: Store, settings: Settings, wanted: str | None) -> str:
    labels = store.schema.roles.label
    check_labels(labels)
    if not store.rows["valid"]:
        raise ConfigError(f"the store {str(store.path)!r} has no validation row to search on; prepare another split")
    of_rows = retrieval.loss_name(model, settings.recipe, settings.options) == "task"
    names = metric_names(labels) if of_rows else retrieval.metric_names(store)
    if wanted is not None and wanted not in names:
        raise ConfigError(f"the validation rows give no metric {wanted!r}; {near(wanted, names)}")
    monitor = settings.recipe.monitor
    return wanted or (monitored(labels, monitor) if of_rows else retrieval.monitored(store, monitor))


def open_space(model: str, config: str | Path | None, sets: Sequence[str]) -> dict[str, Range | Choice]:
    """The space that a model declares, without the keys that a person has set."""
    layers = [parse(text) for text in sets]
    if config is not None:
        layers.append(tomllib.loads(Path(config).read_text(encoding="utf-8")))
    fixed = {key for layer in layers for key in _paths(layer)}
    return {key: found for key, found in search_space(entry(model).config).items() if key not in fixed}


def _refuse_empty(space: dict[str, Range | Choice], model: str) -> dict[str, Range | Choice]:
    declared = search_space(entry(model).config)
    if not declared:
        raise ConfigError(f"model {model!r} declares nothing to search; train it as it is")
    if not space:
        raise ConfigError(
            f"every option of {model!r} that could be searched is set already; leave out one of {', '.join(declared)}"
        )
    return space


def _paths(layer: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The keys of nested tables as in `--set`, tables included.

    >>> [*_paths({"hidden": [8], "train": {"l2": 0.1}})]
    ['hidden', 'train', 'train.l2']
    """
    for key, value in layer.items():
        yield above + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{key}.")


def _whole(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = without_none({**settings.options, "train": msgspec.to_builtins(settings.recipe)})
    return found


def _with(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some keys, written as in `--set`, changed.

    >>> _with({"depth": 1, "train": {"l2": 0.0}}, {"train.l2": 0.1, "width": 4})
    {'depth': 1, 'train': {'l2': 0.1}, 'width': 4}
    """
    found: dict[str, Any] = msgspec.to_builtins(settings)
    for key, value in changes.items():
        *tables, last = key.split(".")
        table = found
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    return found


def _toml(settings: Mapping[str, Any]) -> bytes:
    return msgspec.toml.encode(settings)


def _distribution(found: Range | Choice) -> "BaseDistribution":
    """As Optuna says it; values to choose from are written as JSON, so that any kind can be kept in the journal."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(found, Choice):
        return CategoricalDistribution([json.dumps(value) for value in found.options])
    if isinstance(found.low, int) and isinstance(found.high, int):
        return IntDistribution(found.low, found.high, log=found.log)
    return FloatDistribution(found.low, found.high, log=found.log)


def _value(found: Range | Choice, drawn: Any) -> Any:
    return json.loads(drawn) if isinstance(found, Choice) else drawn


def _study(journal: Path, higher: bool) -> "Study":
    """The study in a journal that this process owns; the lock and the part of a line of a killed one are dropped."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.is_file():
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
    spoken = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=KIND,
            direction="maximize" if higher else "minimize",
            load_if_exists=True,
        )
    finally:
        optuna.logging.set_verbosity(spoken)


def _read(record: Path) -> Trial:
    try:
        return msgspec.json.decode(record.read_bytes(), type=Trial)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{str(record)!r} cannot be read ({error}); search in another folder") from error


def _tell(study: "Study", trial: Trial) -> None:
    from optuna.trial import TrialState

    if trial.value is None:
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        study.tell(trial.number, trial.value)
