"""A training run: a store and a model's name in, a run folder out.

The folder has its manifest only when the run is finished. Until then it holds the training states of `checkpoint`, from
which `resume` goes on with the same bits as if nothing had happened, and one process owns it.
"""

import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from weft import artifacts
from weft.batch import Batch
from weft.data.graph import train_graph
from weft.data.load import Loader
from weft.data.sample import NegativeSampler, intercept, keep_negatives, met
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, Diverged, StaleModel, WeftError
from weft.models import _registry as registry
from weft.models._contract import Fitted, advice, roles_only, set_output_bias
from weft.models._predict import predict
from weft.models._roles import forget_unmet
from weft.models.position import Position
from weft.runs import (
    CONFIG,
    KIND,
    OPTIMIZER,
    REPORT,
    SCHEMA,
    TRANSFORMS,
    WEIGHTS,
    RunConfig,
    RunReport,
    SavedRun,
    read_config,
)
from weft.schema import Label
from weft.train import als, retrieval
from weft.train.checkpoint import Checkpoints, State, plain
from weft.train.loop import Epoch, Objective, Progress, Step, defined
from weft.train.loop import train as run_loop
from weft.train.objective import check_labels, check_position, check_weights, measure, monitored, objective
from weft.train.optimizers import Optimizer
from weft.train.precision import choose_device, choose_precision
from weft.train.pretrained import start_from_parts
from weft.train.progress import Display, Log
from weft.train.recipe import Recipe, recipe_from, resolve
from weft.train.row_penalty import with_row_penalty
from weft.train.warm_start import warm_optimizer, warm_start
from weft.transforms.rows import Rows

CHECKPOINT, STATE, LINES, ENVIRONMENT = "checkpoint", "state.json", "metrics.jsonl", "environment.json"
LARGE_BATCH = 16_384


def train(
    store: Store | str | Path,
    model: str,
    *,
    out: str | Path,
    preset: str | None = None,
    config: str | Path | None = None,
    sets: Sequence[str] = (),
    init: str | Path | None = None,
    go_on: bool = False,
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    resume: bool = False,
    console: Console | None = None,
) -> SavedRun:
    """Train a model on a store and write a run folder.

    Args:
        store: A store, or its path.
        model: Registry name.
        out: The run folder to write.
        preset: A named recipe, overlaid by the data's own of that name.
        config: A TOML file of the model's options, with a table `[train]`.
        sets: Settings `key=value`; `train.KEY` addresses the recipe.
        init: A run whose weights to start from.
        go_on: Start from the state of its optimizer too, as if the rows here had followed those there.
        seed: Of initial weights, dropout, shuffling and sampling.
        precision: auto, fp32 or bf16.
        device: auto, cpu or cuda.
        resume: Go on from the last training state in `out`, with the settings that lie there.
        console: Where progress is shown; nowhere without it.

    Raises:
        ConfigError: A name or setting does not exist or is out of range.
        ArtifactError: `out` is in the way, or damaged. Locked: another process trains there.
        StaleModel: `resume` with another store or model.
        Diverged: A loss, a gradient or a validation score is not finite.
    """
    opened = store if isinstance(store, Store) else Store.open(Path(store))
    place = choose_device(device)
    settings = resolve(model, presets=opened.schema.presets, preset=preset, config=config, sets=sets)
    wanted = RunConfig(
        model=model,
        store=str(opened.path.resolve()),
        store_id=opened.id,
        data=opened.schema.name or opened.path.name,
        preset=preset,
        init=None if init is None else str(Path(init).resolve()),
        seed=seed,
        precision=choose_precision(precision, place),
        device=place.type,
        intercept=intercept(settings.recipe.keep_negatives),
        options=settings.options,
        recipe=msgspec.to_builtins(settings.recipe),
    )
    folder = Path(out)
    given = {
        "seed": seed,
        "init": init,
        "precision": precision != "auto",
        "device": device != "auto",
        "options": preset or config or sets,
        "recipe": preset or config or sets,
    }
    chosen = _resumed(folder, wanted, [name for name, value in given.items() if value]) if resume else wanted
    if resume and (folder / artifacts.MANIFEST).is_file():
        _say(console, f"{folder} is finished, there is nothing to resume")
        return SavedRun.open(folder)
    _refuse_foreign(folder)
    run = _Run.plan(folder, opened, chosen, console, go_on=go_on)
    with artifacts.lock(folder), torch.random.fork_rng(devices=[0] if chosen.device == "cuda" else []):
        _begin(folder, opened, chosen, resume)
        try:
            run.go()
        except WeftError:
            if not (folder / CHECKPOINT / "latest").is_file():
                shutil.rmtree(folder)
            raise
    return SavedRun.open(folder)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run in its folder."""

    folder: Path
    store: Store
    config: RunConfig
    recipe: Recipe
    loss: str
    model: nn.Module
    optimizer: Optimizer
    monitor: str
    console: Console | None
    goes_on: bool = False

    @staticmethod
    def plan(folder: Path, store: Store, config: RunConfig, console: Console | None, *, go_on: bool = False) -> "_Run":
        """Build model and optimizer, so that what cannot work is said before anything is written."""
        labels = store.schema.roles.label
        recipe = recipe_from(config.recipe)
        loss = retrieval.loss_name(config.model, recipe, config.options)
        check_labels(labels)
        check_weights(labels, recipe.task_weights)
        if loss == "task" and (recipe.negatives or recipe.keep_negatives < 1) and _tasks(labels) != ["binary"]:
            raise ConfigError("`train.negatives` and `train.keep_negatives` need one binary label; leave them out")
        graph = train_graph(store) if registry.reads_graph(config.model) else None
        model = registry.create(config.model, store.fields, config.options, seed=config.seed, graph=graph)
        retrieval.check_loss(loss, model, store, recipe)
        als.check_model(loss, model)
        check_position(model, store.schema.roles, recipe)
        model = model.to(choose_device(config.device))
        for text in advice(model):
            _say(console, text)
        if config.init is not None and isinstance(model, Fitted):
            raise ConfigError(f"model {config.model!r} starts from no other run: it counts the rows; leave out `init`")
        if config.init is not None and config.options.get("pretrained") is not None:
            raise ConfigError("a run starts from `init` or from the parts in `pretrained`, both are given; keep one")
        return _Run(
            folder=folder,
            store=store,
            config=config,
            recipe=recipe,
            loss=loss,
            model=model,
            optimizer=Optimizer(model, recipe),
            monitor=monitored(labels, recipe.monitor) if loss == "task" else retrieval.monitored(store, recipe.monitor),
            console=console,
            goes_on=go_on,
        )

    def go(self) -> None:
        """Train what is left to train, then finish the folder."""
        if not (self.folder / STATE).is_file():
            torch.manual_seed(self.config.seed)
            self._fit(self.model) if isinstance(self.model, Fitted) else self._learn()
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
        _manifest(self.folder, self.config)

    def _fit(self, model: Fitted) -> None:
        started = time.monotonic()
        model.fit(Loader(self._train_rows(), LARGE_BATCH, shuffle="none", seed=self.config.seed).batches(0))
        metrics = self._validate(self.model)
        (self.folder / LINES).touch()
        save_file(plain(self.model.state_dict()), self.folder / WEIGHTS)
        save_file({}, self.folder / OPTIMIZER)
        progress = Progress(epoch=1, best_epoch=0, best_metrics=defined(metrics))
        self._finish(State(progress=progress, seconds=time.monotonic() - started))

    def _learn(self) -> None:
        checkpoints = Checkpoints(self.folder, seconds=self.recipe.checkpoint_seconds)
        rows = self._train_rows()
        state = checkpoints.latest()
        if state is None:
            self._start_weights(rows)
        else:
            checkpoints.restore(state, self.model, self.optimizer, loss=self._of_vectors)
        state = self._loop(rows, checkpoints, state or State())
        for name in (WEIGHTS, OPTIMIZER):
            _publish(checkpoints.file(state.best or state.number, name), self.folder / name)
        self._finish(state)

    def _loop(self, rows: Rows, checkpoints: Checkpoints, state: State) -> State:
        before, started = state.seconds, time.monotonic()
        loader = None if self.loss == als.LOSS else self._loader(rows)
        with (
            Log(self.folder / LINES, keep=state.lines, every=self.recipe.log_every) as log,
            Display(self.console, steps=1 if loader is None else len(loader)) as display,
        ):
            for event in self._events(rows, loader, state.progress):
                if isinstance(event, Epoch):
                    _check_weights(self.model, event.number)
                log.hear(event, self.optimizer.learning_rates())
                display.hear(event)
                state = replace(state, progress=event.progress, seconds=before + time.monotonic() - started)
                best = isinstance(event, Epoch) and event.is_best
                if isinstance(event, Epoch) or checkpoints.due():
                    state = replace(state, lines=log.size())
                    state = checkpoints.save(state, self.model, self.optimizer, loss=self._of_vectors, best=best)
        return state

    def _events(self, rows: Rows, loader: Loader | None, progress: Progress) -> Iterator[Step | Epoch]:
        """The training itself: by gradients, or without a loader by exact solutions in turns."""
        if loader is None:
            return als.alternate(
                self.model, rows, self.recipe, validate=self._validate, monitor=self.monitor, progress=progress
            )
        return run_loop(
            self.model,
            self._objective(),
            _OnDevice(loader, self.config.device),
            self.optimizer,
            self.recipe,
            validate=self._validate,
            monitor=self.monitor,
            progress=progress,
        )

    def _objective(self) -> Objective:
        recipe = self.recipe
        plain_loss: Objective | None = self._of_vectors
        if plain_loss is None:
            plain_loss = objective(self.store.schema.roles.label, self.config.precision, recipe.task_weights)
        return with_row_penalty(plain_loss, recipe.l2_rows) if recipe.l2_rows else plain_loss

    @cached_property
    def _of_vectors(self) -> retrieval.RetrievalLoss | None:
        """The loss of a retriever's vectors; None where the loss is of single rows."""
        if self.loss in ("task", als.LOSS):
            return None
        loss = retrieval.RetrievalLoss(self.loss, self.recipe, self.store, self.config.precision)
        return loss.to(choose_device(self.config.device))

    def _rows(self, split: str) -> Rows:
        """The rows of a split, without the features that the model does not read."""
        rows = self.store.split(split)
        return rows.bare() if roles_only(self.model) else rows

    def _train_rows(self) -> Rows:
        rows = self._rows("train")
        if len(rows) == 0:
            raise ConfigError(f"the store {self.config.store!r} has no train row; prepare it with another split")
        if self.loss != "task":
            return self._relevant(rows)
        if self.recipe.keep_negatives == 1 or rows.label is None:
            return rows
        return rows.take(keep_negatives(rows.label[:, 0], self.recipe.keep_negatives, self.config.seed))

    def _relevant(self, rows: Rows) -> Rows:
        found = retrieval.relevant_rows(rows, self.store.fields)
        if len(found) == 0:
            raise ConfigError(
                f"the store {self.config.store!r} has no train row with a label of {self.store.fields.relevant:g} or "
                "more; lower `relevant` in [protocol], or set train.loss=task"
            )
        return found

    def _loader(self, rows: Rows) -> Loader:
        recipe, seed = self.recipe, self.config.seed
        items = None if self.loss == "task" else retrieval.item_sampler(self.loss, self.store, recipe, seed)
        sampler = self._negative_sampler
        return Loader(rows, recipe.batch_size, shuffle=recipe.shuffle, seed=seed, sampler=sampler, items=items)

    @cached_property
    def _negative_sampler(self) -> NegativeSampler | None:
        if not self.recipe.negatives or self.loss != "task":
            return None
        return NegativeSampler(self.store, self.recipe.negatives, seed=self.config.seed)

    def _start_weights(self, rows: Rows) -> None:
        assert rows.label is not None
        if self.loss == "task":
            mean_T = rows.label.mean(axis=0, dtype=np.float64) / (1 + self.recipe.negatives)
            set_output_bias(self.model, _tasks(self.store.schema.roles.label), mean_T.tolist())
        if roles_only(self.model):
            forget_unmet(self.model, met(self.store))
        parts = self.config.options.get("pretrained")
        if parts is not None:
            _say(self.console, start_from_parts(self.model, parts, self.store.transforms, seed=self.config.seed))
        if self.config.init is not None:
            before = SavedRun.open(self.config.init)
            report = warm_start(self.model, self.store.transforms, before)
            _say(self.console, f"from {self.config.init}: {report}")
            if self.goes_on and not warm_optimizer(self.optimizer, self.model, self.store.transforms, before):
                _say(self.console, f"{self.config.init} has no optimizer state of these weights: it starts anew")

    def _valid_parts(self) -> Iterator[Rows]:
        """The validation rows; where training samples negatives they have theirs, the same in every epoch."""
        rows = self._rows("valid")
        for step, start in enumerate(range(0, len(rows), LARGE_BATCH)):
            part = rows.take(slice(start, start + LARGE_BATCH))
            sampler = self._negative_sampler
            yield part if sampler is None else sampler(part, epoch=self.recipe.epochs, step=step)

    def _validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of what the loss trains, so with the positions, which most models do not read.

        Without them a model that takes the order of the page for what pleases would look better than one that has told
        the two apart.
        """
        if self.loss != "task":
            return retrieval.validate(model, self.store, seed=self.config.seed)
        labels: list[NDArray[np.float32]] = []

        def batches() -> Iterator[Batch]:
            for part in self._valid_parts():
                assert part.label is not None
                labels.append(part.label)
                yield part.batch()

        logit = predict(model, batches(), precision=self.config.precision, keep_position=True)
        logit += np.float32(self.config.intercept)
        if not labels:
            return {}
        bad = np.flatnonzero(~np.isfinite(logit.reshape(len(logit), -1)).all(axis=1))
        if len(bad):
            raise Diverged(
                f"the scores of {len(bad):,} validation rows are not finite, the first is row {bad[0]}; "
                "lower train.learning_rate, or look for extreme values in these rows"
            )
        return measure(self.store.schema.roles.label, np.concatenate(labels), logit)

    def _finish(self, state: State) -> None:
        best, negatives = state.progress, self.recipe.negatives
        protocol = ["pointwise" if self.loss == "task" else retrieval.PROTOCOL]
        protocol += [f"{negatives} sampled negatives a row"] if negatives and self.loss == "task" else []
        protocol += ["position given"] if isinstance(self.model, Position) else []
        report = RunReport(
            model=self.config.model,
            data=self.config.data,
            rows=len(self.store.split("valid")),
            epoch=best.best_epoch,
            metrics=best.best_metrics,
            protocol=", ".join(protocol),
            parameters=sum(p.numel() for p in self.model.parameters()),
            seconds=state.seconds,
        )
        artifacts.write_json(self.folder / REPORT, report)
        artifacts.write_json(self.folder / STATE, state)


def _tasks(labels: Sequence[Label]) -> list[str]:
    return [label.task for label in labels]


def _check_weights(model: nn.Module, epoch: int) -> None:
    """Diverged when a weight is not finite: rows that validation never reads would not show it."""
    for name, weight in model.state_dict().items():
        if weight.numel() and not torch.stack(weight.aminmax()).isfinite().all():
            raise Diverged(f"after epoch {epoch} the weights {name!r} are not finite; lower train.learning_rate")


class _OnDevice:
    """The batches of a loader, brought to the model's device."""

    def __init__(self, loader: Loader, device: str) -> None:
        self._loader, self._device = loader, device

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on."""
        for batch in self._loader.batches(epoch, start_step):
            yield batch.to(self._device)


def _resumed(folder: Path, wanted: RunConfig, given: Sequence[str]) -> RunConfig:
    """The settings of the run in a folder; those that were `given` now must not contradict them."""
    if not folder.is_dir():
        raise ArtifactError(f"there is no run {str(folder)!r} to resume; leave out `resume` to begin one")
    if not (folder / CONFIG).is_file():
        return wanted
    old = read_config(folder)
    for name, what in (("model", "model"), ("store_id", "store")):
        if getattr(old, name) != getattr(wanted, name):
            raise StaleModel(
                f"the run {str(folder)!r} was begun with {what} {getattr(old, name)!r}, not with "
                f"{getattr(wanted, name)!r}; resume it with the same {what}, or train into another folder"
            )
    wanted = msgspec.toml.decode(wanted.toml(), type=RunConfig)
    for name in given:
        if getattr(old, name) != getattr(wanted, name):
            raise ConfigError(
                f"the run {str(folder)!r} was begun with another `{name}`; resume it without settings, which keeps "
                "those it was begun with, or train into another folder"
            )
    return old


def _refuse_foreign(folder: Path) -> None:
    """ArtifactError when the folder is no run's: it must not get so much as a lock."""
    if folder.is_dir() and ((folder / CONFIG).is_file() or (folder / artifacts.LOCK).is_file()):
        return
    artifacts.refuse_existing(folder, KIND)


def _begin(folder: Path, store: Store, config: RunConfig, resume: bool) -> None:
    """Fill the folder with what does not depend on training; `run.toml` comes last and says that all is there."""
    if (folder / CONFIG).is_file():
        if not resume:
            raise ArtifactError(
                f"{str(folder)!r} holds a run already; go on with `resume` (--resume), or choose another path"
            )
        _remove_temporary(folder)
        return
    _remove_temporary(folder)
    shutil.rmtree(folder / TRANSFORMS, ignore_errors=True)
    shutil.copytree(store.path / TRANSFORMS, folder / TRANSFORMS)
    artifacts.write_json(folder / SCHEMA, store.schema)
    artifacts.write_json(folder / ENVIRONMENT, _environment())
    artifacts.write_atomic(folder / CONFIG, config.toml())


def _remove_temporary(folder: Path) -> None:
    """Remove what a killed process was about to rename."""
    for path in (*folder.glob(".*"), *folder.glob(f"{CHECKPOINT}/.*")):
        if path.name != artifacts.LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _publish(source: Path, target: Path) -> None:
    """Copy a file so that `target` is whole or not there."""
    temporary = target.with_name(f".{target.name}")
    shutil.copyfile(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def _manifest(folder: Path, config: RunConfig) -> None:
    """The last file: with it the run is finished."""
    artifacts.write_manifest(folder, KIND, store=config.store_id, model=config.model)


def _environment() -> dict[str, object]:
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "polars", "msgspec", "safetensors")}
    return {
        "python": platform.python_version(),
        **packages,
        "system": platform.platform(),
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _say(console: Console | None, text: str) -> None:
    if console is not None:
        console.print(text, highlight=False, markup=False)
