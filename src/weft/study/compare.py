"""Compare architectures on one store: train each with the same seeds, judge them on the same rows, sort them.

    OUT/request.json            what every run has in common
    OUT/tune/MODEL/             the search for a model's settings, with `tune`
    OUT/runs/MODEL/SEED/        run folders, as of `weft train`
    OUT/judged/MODEL/SEED.json  a run's report, or why it failed; SEED.npz: its values for each row or user
    OUT/leaderboard.json, OUT/leaderboard.html

An interrupted comparison goes on when it is asked for again: what is judged is kept, a run that was cut short goes on
from its last training state. More models, more seeds and another metric may be asked for in the same folder; all else
that decides a run must be the same.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from rich.console import Console

from weft import artifacts
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, Diverged, Unsupported, near
from weft.evaluate import compared
from weft.evaluate.compared import Floats
from weft.evaluate.evaluator import judge, resolve
from weft.evaluate.report import Report
from weft.metrics import more_is_better
from weft.metrics.bootstrap import Weighted, replicates
from weft.models import config, entry, names, option_names
from weft.models._registry import representing
from weft.runs import CONFIG, SavedRun
from weft.schema import Protocol
from weft.study._request import keep_request, refuse_foreign
from weft.study.leaderboard import RESAMPLES, Entry, Leaderboard, Search, ranked
from weft.study.page import write_page
from weft.study.tune import Tuned, open_space, tune
from weft.train.recipe import PRESETS, parse
from weft.train.run import LINES, train

KIND = "comparison"
BOARD, PAGE = "leaderboard.json", "leaderboard.html"
ALL = "all"
SPLIT = "test"


class Request(Struct, frozen=True, kw_only=True):
    """What every run of a comparison has in common.

    Attributes:
        store: Id of the store.
        protocol: Under which the runs are judged.
        preset: As `train` takes it.
        settings: As `train` takes them.
        trials: Of tuning, each model.
        precision: As `train` takes it.
        device: As `train` takes it.
    """

    store: str
    protocol: str
    preset: str | None
    settings: tuple[str, ...]
    trials: int
    precision: str
    device: str


class Judgement(Struct, frozen=True, kw_only=True):
    """One run, judged.

    Attributes:
        report: On the test rows; None where training failed.
        failure: Why it failed.
        seconds: Training time.
        rows_per_second: Of the median epoch.
    """

    report: Report | None = None
    failure: str = ""
    seconds: float = 0.0
    rows_per_second: float | None = None


def compare(
    store: Store | str | Path,
    models: Sequence[str],
    *,
    out: str | Path,
    seeds: int = 1,
    trials: int = 0,
    preset: str | None = None,
    sets: Sequence[str] = (),
    metric: str | None = None,
    protocol: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    console: Console | None = None,
) -> Leaderboard:
    """Compare models on the test rows of a store.

    The baselines `popularity`, `item_knn`, `lr` and, where lightgbm is there, `gbdt` join them where they fit the
    store. A setting reaches the models that have it, a wrapper those that can carry it; a value that a baseline does
    not take is left out for it. A model that does not fit the store is skipped, one whose training fails is reported,
    and the others go on; the leaderboard has the reasons.

    Args:
        store: A store, or its path.
        models: Registry names, or `all`.
        out: The folder of the comparison.
        seeds: How many runs of each model, with the seeds 0, 1 and so on; models that are fitted in one pass get one.
        trials: Search each model's settings with so many trials on the validation rows first, by the metric that its
            training monitors, whatever `metric` is.
        preset: As in `train`; a model that has none of this name keeps its defaults.
        sets: As in `train`.
        metric: What to sort by; the task's or protocol's main one without it.
        protocol: pointwise, full or candidates; the schema's own without it.
        precision: As in `train`.
        device: As in `train`.
        console: Where progress is shown; on a terminal also the training.

    Returns:
        The leaderboard, which lies in `out` as JSON and as a page.

    Raises:
        ConfigError: A name or setting does not exist, `out` was begun with another request, or no model is left.
        ArtifactError: `out` is in the way.
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    if seeds < 1 or trials < 0:
        raise ConfigError(f"`seeds` must be 1 or more and `tune` 0 or more, got {seeds} and {trials}")
    chosen = resolve(opened.schema, protocol)
    wanted = _models(models)
    _check_settings(wanted, sets)
    _check_preset(wanted, preset, opened)
    if not opened.rows[SPLIT]:
        raise ConfigError(f"the store {str(opened.path)!r} has no test row to compare on; prepare another split")
    study = _Study(
        folder=Path(out),
        store=opened,
        protocol=chosen,
        metric=compared.choose(metric, opened.schema, chosen),
        seeds=seeds,
        console=console,
        request=Request(
            store=opened.id,
            protocol=chosen.kind,
            preset=preset,
            settings=tuple(sets),
            trials=trials,
            precision=precision,
            device=device,
        ),
    )
    refuse_foreign(study.folder, KIND)
    with artifacts.lock(study.folder):
        keep_request(study.folder, KIND, study.request)
        return study.go(wanted)


@dataclass(frozen=True, kw_only=True)
class _Study:
    """One comparison in its folder."""

    folder: Path
    store: Store
    protocol: Protocol
    metric: str
    seeds: int
    request: Request
    console: Console | None

    def go(self, models: Sequence[str]) -> Leaderboard:
        """Train and judge what is missing, then write the leaderboard."""
        entries: list[Entry] = []
        found: dict[str, Floats] = {}
        for model in models:
            one, weighted = self._model(model)
            entries.append(one)
            if weighted:
                found[model] = replicates(weighted, seed=0, resamples=RESAMPLES)
        if not found:
            raise ConfigError(f"none of the models could be compared; {entries[0].model}: {entries[0].reason}")
        return self._write(ranked(entries, found, more_is_better=more_is_better(self.metric)))

    def _model(self, model: str) -> tuple[Entry, list[Weighted]]:
        """A model's entry without its place, and its metric for each seed."""
        blank = Entry(model=model, paper=entry(model).paper, year=entry(model).year, state="skipped")
        try:
            tuned = self._tuned(model)
            judged = [self._judged(model, seed, tuned) for seed in self._seeds(model)]
        except (ConfigError, Unsupported) as error:
            self._say(f"{model}: skipped: {error}")
            return msgspec.structs.replace(blank, reason=str(error)), []
        except Diverged as error:
            self._say(f"{model}: failed: {error}")
            return msgspec.structs.replace(blank, state="failed", reason=str(error)), []
        weighted = [self._weighted(model, seed) for seed in self._seeds(model)]
        return self._entry(blank, judged, [found.value for found in weighted], tuned), weighted

    def _seeds(self, model: str) -> range:
        return range(1 if "fitted" in entry(model).kinds else self.seeds)

    def _tuned(self, model: str) -> Tuned | None:
        if not self.request.trials or not open_space(model, None, self._sets(model)):
            return None
        return tune(
            self.store,
            model,
            trials=self.request.trials,
            out=self.folder / "tune" / model,
            preset=self._preset(model),
            sets=self._sets(model),
            precision=self.request.precision,
            device=self.request.device,
            console=self.console,
        )

    def _judged(self, model: str, seed: int, tuned: Tuned | None) -> Judgement:
        """The judgement of a run, which is made where it is missing; Diverged again where it failed before."""
        place = self._place(model, seed)
        if place.is_file():
            judgement = _read(place)
        else:
            judgement = self._judge(model, seed, tuned)
            artifacts.write_atomic(place, msgspec.json.encode(judgement))
        if judgement.report is None:
            raise Diverged(f"seed {seed}: {judgement.failure}")
        value = judgement.report.metrics[self.metric].value
        shown = "not defined" if value is None else f"{value:.4f}"
        self._say(f"{model}, seed {seed}: {self.metric} {shown}, trained in {judgement.seconds:,.1f} s")
        return judgement

    def _judge(self, model: str, seed: int, tuned: Tuned | None) -> Judgement:
        try:
            run = self._trained(model, seed, tuned)
            judged = judge(run, split=SPLIT, protocol=self.protocol.kind, store=self.store.path)
        except Diverged as error:
            return Judgement(failure=str(error))
        place = self._place(model, seed).with_suffix(".npz")
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, **judged.values)  # type: ignore[arg-type]  # its other parameter is a bool
        return Judgement(report=judged.report, seconds=run.report.seconds, rows_per_second=_speed(run.path))

    def _trained(self, model: str, seed: int, tuned: Tuned | None) -> SavedRun:
        folder = self.folder / "runs" / model / str(seed)
        watched = self.console is not None and self.console.is_terminal
        return train(
            self.store,
            model,
            out=folder,
            preset=self._preset(model) if tuned is None else None,
            config=None if tuned is None else tuned.config,
            sets=self._sets(model) if tuned is None else (),
            seed=seed,
            precision=self.request.precision,
            device=self.request.device,
            resume=(folder / CONFIG).is_file(),
            console=self.console if watched else None,
        )

    def _weighted(self, model: str, seed: int) -> Weighted:
        with np.load(self._place(model, seed).with_suffix(".npz")) as values:
            return compared.weighted(self.metric, self.store.split(SPLIT), values, self.store.schema, self.protocol)

    def _place(self, model: str, seed: int) -> Path:
        return self.folder / "judged" / model / f"{seed}.json"

    def _sets(self, model: str) -> list[str]:
        """The settings that a model has."""
        mine, refused = {*option_names(model), "train"} - _cannot_carry(model), self._refused(model)
        return [text for text in self.request.settings if _first(text) in mine and text not in refused]

    def _refused(self, model: str) -> list[str]:
        """The settings whose values a baseline does not take: nobody asked it to."""
        settings = self.request.settings if model in baselines() else ()
        return [text for text in settings if _refusal(model, text)]

    def _preset(self, model: str) -> str | None:
        preset = self.request.preset
        return preset if preset in _presets(model, self.store) else None

    def _entry(self, blank: Entry, judged: Sequence[Judgement], values: list[float], tuned: Tuned | None) -> Entry:
        if np.isnan(values).any():
            raise ConfigError(
                f"the metric {self.metric!r} is not defined on the test rows; compare by another one of "
                f"{', '.join(compared.comparable(self.store.schema, self.protocol))}"
            )
        reports = [one.report for one in judged if one.report is not None]
        speeds = [one.rows_per_second for one in judged if one.rows_per_second is not None]
        more = more_is_better(self.metric)
        return msgspec.structs.replace(
            blank,
            state="compared",
            mean=statistics.mean(values),
            deviation=statistics.stdev(values) if len(values) > 1 else None,
            best=max(values) if more else min(values),
            values=tuple(values),
            parameters=None if "fitted" in entry(blank.model).kinds else reports[0].parameters,
            rows_per_second=statistics.median(speeds) if speeds else None,
            seconds=statistics.mean(one.seconds for one in judged),
            metrics=_means(reports),
            search=None if tuned is None else _search(tuned),
            notes=self._notes(blank.model, tuned),
        )

    def _notes(self, model: str, tuned: Tuned | None) -> tuple[str, ...]:
        notes = []
        if self.request.preset is not None and self._preset(model) is None:
            notes.append(f"has no preset {self.request.preset!r}: its defaults")
        if self.request.trials and tuned is None:
            notes.append("not tuned: it has nothing to search")
        asked = {_first(text) for text in self.request.settings}
        notes += [f"without `{table}`, which cannot stand around it" for table in sorted(asked & _cannot_carry(model))]
        notes += [f"without `{text}`, which it does not take" for text in self._refused(model)]
        return tuple(notes)

    def _write(self, entries: tuple[Entry, ...]) -> Leaderboard:
        best = entries[0].model
        report = _read(self._place(best, 0)).report
        assert report is not None
        drawn = compared.drawn(self.metric, self.protocol)
        board = Leaderboard(
            data=report.data,
            store=self.store.id,
            split=SPLIT,
            rows=report.rows,
            protocol=report.protocol,
            metric=self.metric,
            more_is_better=more_is_better(self.metric),
            drawn=drawn,
            units=self._weighted(best, 0).rows,
            seeds=self.seeds,
            preset=self.request.preset,
            settings=self.request.settings,
            trials=self.request.trials,
            entries=entries,
            notes=(*report.notes, _how(drawn, self.seeds)),
        )
        artifacts.write_json(self.folder / BOARD, board)
        write_page(board, self.folder / PAGE)
        return board

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def baselines() -> tuple[str, ...]:
    """What joins every comparison and stands in it where it fits; without lightgbm there are no boosted trees."""
    trees = ("gbdt",) if "gbdt" in names() and find_spec("lightgbm") is not None else ()
    return ("popularity", "item_knn", "lr", *trees)


def _models(wanted: Sequence[str]) -> tuple[str, ...]:
    """The models, baselines first, each once; ConfigError when there is none of a name."""
    if not wanted:
        raise ConfigError(f"give models to compare, or {ALL!r}; known: {', '.join(names())}")
    for name in wanted:
        if name != ALL:
            entry(name)
    return tuple(dict.fromkeys((*baselines(), *(names() if ALL in wanted else wanted))))


def _check_settings(models: Sequence[str], sets: Sequence[str]) -> None:
    known = {"train", *(key for model in models for key in option_names(model))}
    for text in sets:
        if _first(text) not in known:
            raise ConfigError(f"none of the models has an option {_first(text)!r}; {near(_first(text), known)}")
        refusals = {model: _refusal(model, text) for model in models if _first(text) in option_names(model)}
        if all(refusals.values()) and not refusals.keys().isdisjoint(baselines()):
            raise ConfigError(f"none of the models takes {text!r}; {[*refusals.values()][-1]}")


def _refusal(model: str, text: str) -> str:
    """Why a model's own options do not take a setting; empty where they do.

    >>> _refusal("mlp", "pooling=target"), _refusal("lr", "position.kind=pal")
    ('', '')
    >>> _refusal("lr", "pooling=target")
    "options of model 'lr': Invalid enum value 'target' - at `$.pooling`"
    """
    if _first(text) not in entry(model).config.__struct_fields__:
        return ""
    try:
        config(model, parse(text))
    except ConfigError as error:
        return str(error)
    return ""


def _check_preset(models: Sequence[str], preset: str | None, store: Store) -> None:
    known = {name for model in models for name in _presets(model, store)}
    if preset is not None and preset not in known:
        raise ConfigError(f"no preset of these models is named {preset!r}; {near(preset, known)}")


def _cannot_carry(model: str) -> set[str]:
    """The wrappers that cannot stand around a model: it learns without gradients, or represents nothing."""
    fitted, represents = "fitted" in entry(model).kinds, model in representing()
    return ({"position"} if fitted else set()) | (set() if represents else {"tasks"})


def _presets(model: str, store: Store) -> set[str]:
    return {*PRESETS, *entry(model).presets, *store.schema.presets}


def _first(text: str) -> str:
    """The first name of a setting.

    >>> _first("train.l2=0.1")
    'train'
    """
    return next(iter(parse(text)))


def _means(reports: Sequence[Report]) -> dict[str, float | None]:
    """The mean of each metric over the seeds; None where one of them has none."""
    found: dict[str, float | None] = {}
    for name in reports[0].metrics:
        values = [report.metrics[name].value for report in reports]
        numbers = [value for value in values if value is not None]
        found[name] = statistics.mean(numbers) if len(numbers) == len(values) else None
    return found


def _speed(run: Path) -> float | None:
    """Rows a second in the median epoch; None where no epoch was long enough to tell."""
    lines = [msgspec.json.decode(line) for line in (run / LINES).read_bytes().splitlines()]
    found = [line["rows_per_second"] for line in lines if line["kind"] == "epoch"]
    speeds = [speed for speed in found if speed is not None]
    return statistics.median(speeds) if speeds else None


def _search(tuned: Tuned) -> Search:
    return Search(
        trials=len(tuned.trials),
        failed=sum(trial.value is None for trial in tuned.trials),
        value=tuned.best.value,
        metric=tuned.metric,
        settings=tuned.best.settings,
        seconds=sum(trial.seconds for trial in tuned.trials),
    )


def _how(drawn: str, seeds: int) -> str:
    text = f"intervals of differences: paired bootstrap over the same {drawn}, {RESAMPLES} resamples"
    if seeds > 1:
        return f"{text}, and over {seeds} seeds"
    return f"{text}; one seed, so that the chance of training is not in them"


def _read(place: Path) -> Judgement:
    try:
        return msgspec.json.decode(place.read_bytes(), type=Judgement)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{str(place)!r} cannot be read ({error}); remove it to judge the run again") from error
