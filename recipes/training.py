"""The stores and runs of experiments, made when they are missing."""

import os
import time
from pathlib import Path

from experiments import EXPERIMENTS, Experiment
from rich.console import Console

import weft
from weft.data import catalog
from weft.runs import SavedRun
from weft.train.dimensions import dimensions


def trained(experiment: Experiment, seed: int, work: Path, precision: str) -> tuple[SavedRun, float]:
    """The run of one seed, and the seconds that its training took, all its sessions together."""
    folder = work / experiment.name / f"{seed}"
    store = store_of(experiment, seed, work)
    resume = (folder / "run.toml").is_file()
    sets = [text.format(runs=work) for text in experiment.sets]
    start = time.perf_counter()
    run = weft.train(
        store,
        experiment.model,
        out=folder,
        preset=None if resume else experiment.preset,
        config=None if resume else widths_of(experiment, seed, work, precision),
        sets=() if resume else sets,
        seed=seed,
        precision="auto" if resume else precision,
        resume=resume,
        console=Console(),
    )
    return run, max(run.report.seconds, time.perf_counter() - start)


def widths_of(experiment: Experiment, seed: int, work: Path, precision: str) -> Path | None:
    """The file of field widths that another experiment's run of this seed asks for."""
    if experiment.widths_of is None:
        return None
    other, keep = experiment.widths_of
    whole = next(found for found in EXPERIMENTS if found.name == other)
    file = work / experiment.name / f"{seed}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    dimensions(trained(whole, seed, work, precision)[0], keep=keep).save(file)
    return file


def store_of(experiment: Experiment, seed: int, work: Path) -> Path:
    """The prepared store of an experiment; made when it is missing."""
    options = {**dict(experiment.options), **({"fold": seed} if experiment.fold_is_seed else {})}
    parts = [experiment.data, experiment.protocol or "default", *(f"{key}={value}" for key, value in options.items())]
    store = work / "stores" / "-".join(parts)
    if not store.is_dir():
        tables = store.with_name(f"{store.name}-tables")
        if not tables.is_dir():
            source = Path(os.environ["WEFT_DATA"]) / experiment.source
            catalog.get(experiment.data, tables, protocol=experiment.protocol, source=source, options=options)
        weft.prepare(tables / "schema.toml", store)
    return store
