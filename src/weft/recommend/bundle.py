"""Bundles: all that a pipeline needs to answer, in one folder with one id.

    manifest.json      SHA-256 of each file; source runs by name with their ids; store; indexes with their recall
    pipeline.toml      sources, filters, rankers, last steps
    transforms/        the encoding, with vocabularies
    catalogue/         users, items, titles, what each user has had, popularity
    runs/NAME/         run.toml, weights, validation report, and what training goes on from: optimizer and state
    runs/NAME/index/   of a retriever that is a source
    runs/NAME/parts.safetensors   what a ranker computes of each item beforehand
    calibrator.json    scores to probabilities

All runs of a bundle come from one store, and so have one encoding. Loading needs neither polars nor the training rooms.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from weft import artifacts
from weft.batch import FIRST_ID
from weft.errors import ArtifactError, ConfigError, StaleModel, Unsupported, near
from weft.models import Retriever
from weft.models import Source as ProposesItems
from weft.models._contract import roles_only
from weft.recommend import calibrate as calibration
from weft.recommend import index as indexes
from weft.recommend import pipeline as pipelines
from weft.recommend.calibrate import Calibrator
from weft.recommend.index import Index
from weft.recommend.pipeline import Mmr, Pipeline, Rank, Source
from weft.recommend.values import feature_names
from weft.runs import CONFIG, OPTIMIZER, TRANSFORMS, RunConfig, SavedRun, load_model, read_config
from weft.schema import Schema
from weft.scoring import Scorer
from weft.transforms.catalogue import Catalogue
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows

KIND = "bundle"
PIPELINE, CATALOGUE, RUNS, INDEX = "pipeline.toml", "catalogue", "runs", "index"
PARTS, CALIBRATOR, STATE = "parts.safetensors", "calibrator.json", "state.json"
EXACT_MOST = 100_000
CALIBRATED_ROWS = 1_000_000
QUERIES = 1_000


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a bundle, ready to score.

    Attributes:
        name: In the pipeline.
        id: Of the run's manifest.
        config: What decided the run.
        scorer: The model over the bundle's catalogue.
        index: Of a retriever that is a source.
        exact: Scores every item where it proposes, instead of giving its own lists.
    """

    name: str
    id: str
    config: RunConfig
    scorer: Scorer
    index: Index | None = None
    exact: bool = False

    @property
    def model(self) -> nn.Module:
        """As it serves."""
        return self.scorer.model

    @property
    def is_retriever(self) -> bool:
        """Whether users and items have vectors."""
        return isinstance(self.model, Retriever)

    @property
    def is_source(self) -> bool:
        """Whether the model itself proposes items."""
        return isinstance(self.model, ProposesItems)

    @property
    def needs_id(self) -> bool:
        """Whether it knows nothing of users and items but their ids."""
        return roles_only(self.model)

    @cached_property
    def unit_vectors(self) -> NDArray[np.float32]:
        """Item vectors of length 1 [I, E], for likeness; zeros stay zeros."""
        vectors = self.scorer.item_vectors()
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
        return unit


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle as it was loaded; never changes.

    Attributes:
        path: The folder.
        id: Of its manifest.
        manifest: All of it.
        transforms: The encoding.
        catalogue: Users and items.
        pipeline: Its runs go by their names here.
        members: The runs.
        calibrator: Of the last ranker's scores, or of the only source's; None without.
    """

    path: Path
    id: str
    manifest: Mapping[str, Any]
    transforms: Transforms
    catalogue: Catalogue
    pipeline: Pipeline
    members: Mapping[str, Member]
    calibrator: Calibrator | None = None

    @property
    def runs(self) -> dict[str, RunConfig]:
        """What decided each run."""
        return {name: member.config for name, member in self.members.items()}

    @property
    def schema(self) -> Schema:
        """What the columns mean."""
        return self.transforms.schema

    def summary(self) -> str:
        """What is in it, in words."""
        sources = ", ".join(f"{source.run} ({_how(self.members[source.run])})" for source in self.pipeline.sources)
        ranking = ", ".join(rank.run for rank in self.pipeline.ranking) or "no ranker"
        final = ", ".join(pipelines.kind_of(step) for step in self.pipeline.final) or "no last step"
        return f"{sources} -> {ranking} -> {final}; id {self.id[:12]}"

    @staticmethod
    def load(path: str | Path) -> "Bundle":
        """Load a bundle; every file is checked against its hash. ArtifactError names the file that differs."""
        folder = Path(path)
        manifest = artifacts.verify(folder, KIND)
        _no_strangers(folder, manifest)
        transforms, catalogue = Transforms.load(folder / TRANSFORMS), Catalogue.load(folder / CATALOGUE)
        found = {
            name: _member(folder / RUNS / name, name, facts["id"], transforms, catalogue)
            for name, facts in manifest["runs"].items()
        }
        calibrator = folder / CALIBRATOR
        return Bundle(
            path=folder,
            id=manifest["id"],
            manifest=manifest,
            transforms=transforms,
            catalogue=catalogue,
            pipeline=pipelines.load(folder / PIPELINE),
            members=found,
            calibrator=calibration.loads(calibrator.read_bytes()) if calibrator.is_file() else None,
        )


def bundle(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    pipeline: Pipeline | str | Path | None = None,
    store: str | Path | None = None,
    calibrate: str | None = None,
    train_state: bool = True,
) -> Bundle:
    """Put trained runs of one store, and the pipeline that they serve in, into one folder.

    Args:
        runs: Run folders; a run's name is its folder's.
        out: The folder to write.
        pipeline: A value or a TOML file; without it retrievers and sources propose, rankers rank in the order given.
        store: The store, if it was moved since training.
        calibrate: isotonic or platt: turn scores into probabilities, fitted on the validation rows.
        train_state: Keep what training goes on from.

    Raises:
        ConfigError: The pipeline and the runs do not fit.
        StaleModel: The runs come from different stores, or the store is another one.
        ArtifactError: A folder is damaged or in the way.
    """
    target = Path(out)
    artifacts.refuse_existing(target, KIND)
    saved = _opened(runs)
    first = next(iter(saved.values()))
    base = Path(store if store is not None else first.config.store)
    first.check_store(artifacts.read_manifest(base, "store")["id"], base)
    catalogue, transforms = Catalogue.load(base), first.transforms
    members = {name: member_of(run, transforms, catalogue, name) for name, run in saved.items()}
    chosen = _checked(_read(pipeline, members), members, transforms)
    members = _with_indexes(chosen, members, transforms, catalogue)
    calibrator = None if calibrate is None else _calibrated(calibrate, chosen, members, base)
    with artifacts.new_folder(target, KIND, **_facts(chosen, members, first.config)) as folder:
        (folder / PIPELINE).write_text(pipelines.dumps(chosen), encoding="utf-8")
        shutil.copytree(first.path / TRANSFORMS, folder / TRANSFORMS)
        (folder / CATALOGUE).mkdir()
        catalogue.save(folder / CATALOGUE)
        for name, member in members.items():
            _write(member, saved[name].path, folder / RUNS / name, ranks=_ranks(chosen, name), train_state=train_state)
        if calibrator is not None:
            (folder / CALIBRATOR).write_bytes(calibration.dumps(calibrator))
    return Bundle.load(target)


def _how(member: Member) -> str:
    if member.index is None:
        return "its own lists" if member.is_source else "every item scored"
    return f"{member.index.facts.kind} index, recall {member.index.facts.recall:.3f}"


def of_run(run: SavedRun, catalogue: Catalogue) -> Bundle:
    """A run alone as a bundle in memory: the whole catalogue is ranked exactly."""
    member = member_of(run, run.transforms, catalogue, run.config.model)
    member = replace(member, exact=True)
    return Bundle(
        path=run.path,
        id=run.id,
        manifest={},
        transforms=run.transforms,
        catalogue=catalogue,
        pipeline=Pipeline(sources=(Source(run=member.name, quota=1),)),
        members={member.name: member},
    )


def member_of(run: SavedRun, transforms: Transforms, catalogue: Catalogue, name: str) -> Member:
    """A run over a catalogue."""
    model = load_model(run.path, run.config, transforms.fields)
    scorer = Scorer(model, transforms, catalogue.items, intercept=run.intercept)
    return Member(name=name, id=run.id, config=run.config, scorer=scorer)


def _member(folder: Path, name: str, id: str, transforms: Transforms, catalogue: Catalogue) -> Member:
    config = read_config(folder)
    parts = load_file(folder / PARTS) if (folder / PARTS).is_file() else None
    model = load_model(folder, config, transforms.fields)
    scorer = Scorer(model, transforms, catalogue.items, intercept=config.intercept, parts=parts)
    index = Index.load(folder / INDEX, model=id) if (folder / INDEX).is_dir() else None
    return Member(name=name, id=id, config=config, scorer=scorer, index=index)


def _no_strangers(folder: Path, manifest: Mapping[str, Any]) -> None:
    """ArtifactError for a file that the manifest does not know: it may be of another bundle."""
    ours = {*manifest["files"], artifacts.MANIFEST, artifacts.LOCK}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in ours:
            raise ArtifactError(
                f"{str(folder)!r}: the file {name!r} is not one of this bundle; remove it or make the bundle again"
            )


def _opened(paths: Sequence[str | Path]) -> dict[str, SavedRun]:
    """The runs by the names of their folders, all of one store."""
    if not paths:
        raise ConfigError("`runs` is empty, and a bundle needs a run; give one folder or several")
    found: dict[str, SavedRun] = {}
    for path in paths:
        name = Path(path).resolve().name
        if name in found:
            raise ConfigError(f"two runs are named {name!r}; give each folder its own name")
        found[name] = SavedRun.open(path)
    first = next(iter(found.values()))
    for run in found.values():
        if run.config.store_id != first.config.store_id:
            raise StaleModel(
                f"the runs {str(first.path)!r} and {str(run.path)!r} were trained on different stores, so their ids do "
                "not mean the same; bundle runs of one store"
            )
        if len(run.transforms.schema.roles.label) and run.transforms.schema.roles.label[0].task == "multiclass":
            raise Unsupported("recommending orders items by one score, and a multiclass label has several")
    return found


# Pipelines and runs


def _read(pipeline: Pipeline | str | Path | None, members: Mapping[str, Member]) -> Pipeline:
    if isinstance(pipeline, Pipeline):
        return pipeline
    return _usual(members) if pipeline is None else pipelines.load(pipeline)


def _usual(members: Mapping[str, Member]) -> Pipeline:
    """Retrievers and sources propose and the others rank; where none proposes, the first ranker does."""
    sources = [name for name, member in members.items() if member.is_retriever or member.is_source]
    rankers = [name for name in members if name not in sources]
    if not sources:
        sources, rankers = rankers[:1], rankers[1:]
    return Pipeline(
        sources=tuple(Source(run=name) for name in sources), ranking=tuple(Rank(run=name) for name in rankers)
    )


def _checked(pipeline: Pipeline, members: Mapping[str, Member], transforms: Transforms) -> Pipeline:
    """The pipeline with the runs' own names; ConfigError where it names what is not there, or leaves a run idle."""
    for where, name in pipeline.runs():
        _resolved(name, members, f"`{where}`")
    features = feature_names(transforms.schema, transforms)
    for where, name in pipeline.features():
        if name not in features:
            raise ConfigError(f"`{where}`: no item feature of values is named {name!r}; {near(name, features)}")
    chosen = msgspec.structs.replace(
        pipeline,
        sources=tuple(msgspec.structs.replace(s, run=_resolved(s.run, members, "")) for s in pipeline.sources),
        ranking=tuple(msgspec.structs.replace(r, run=_resolved(r.run, members, "")) for r in pipeline.ranking),
        final=tuple(
            _with_run(s, i, members, features) if isinstance(s, Mmr) else s for i, s in enumerate(pipeline.final)
        ),
    )
    used = {name for _, name in chosen.runs()} | {step.by for step in chosen.final if isinstance(step, Mmr)}
    idle = next((name for name in members if name not in used), None)
    if idle is not None:
        raise ConfigError(f"the pipeline does not use the run {idle!r}; name it there or leave it out of the bundle")
    return chosen


def _with_run(step: Mmr, place: int, members: Mapping[str, Member], features: Sequence[str]) -> Mmr:
    named = [name for name, member in members.items() if step.by in (name, member.config.model)]
    if not named and step.by in features:
        return step
    where = f"`final[{place}].by`"
    if not named:
        known = [*members, *features]
        raise ConfigError(f"{where}: no run and no item feature is named {step.by!r}; {near(step.by, known)}")
    name = _resolved(step.by, members, where)
    if not members[name].is_retriever:
        raise ConfigError(f"{where}: the run {name!r} has no item vectors; name a retriever or an item feature")
    return msgspec.structs.replace(step, by=name)


def _resolved(name: str, members: Mapping[str, Member], where: str) -> str:
    """The run that a pipeline means: by its own name, or by its model's where that says which."""
    if name in members:
        return name
    alike = [own for own, member in members.items() if member.config.model == name]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise ConfigError(f"{where}: the runs {', '.join(alike)} are all of the model {name!r}; name one of them")
    known = {*members, *(member.config.model for member in members.values())}
    raise ConfigError(f"{where}: no run is named {name!r}; {near(name, known)}")


def _ranks(pipeline: Pipeline, name: str) -> bool:
    return any(rank.run == name for rank in pipeline.ranking)


def _with_indexes(
    pipeline: Pipeline, members: Mapping[str, Member], transforms: Transforms, catalogue: Catalogue
) -> dict[str, Member]:
    """The members, those that propose with an index where they are retrievers."""
    found = dict(members)
    for place, source in enumerate(pipeline.sources):
        member = members[source.run]
        if member.is_retriever:
            found[source.run] = _indexed(member, source, place, transforms, catalogue)
        elif not member.is_source and len(catalogue.items) > EXACT_MOST:
            raise ConfigError(
                f"`sources[{place}]`: {source.run!r} has no vectors and would score each of {len(catalogue.items):,} "
                f"items for every request, and {EXACT_MOST:,} is the most; let a retriever propose and this one rank"
            )
    return found


def _indexed(member: Member, source: Source, place: int, transforms: Transforms, catalogue: Catalogue) -> Member:
    ids = np.flatnonzero(findable(member, catalogue))
    users = np.arange(FIRST_ID, len(catalogue.users))
    sample = np.random.default_rng(0).permutation(users)[:QUERIES]
    queries = None
    if len(sample):
        queries = member.scorer.user_vectors(transforms.user_side(catalogue.users.take(np.sort(sample))))
    try:
        index = indexes.build(ids, member.scorer.item_vectors()[ids], source.index, model=member.id, queries=queries)
    except ConfigError as error:
        raise ConfigError(f"`sources[{place}].index`: {error}") from error
    return replace(member, index=index)


def findable(member: Member, catalogue: Catalogue) -> NDArray[np.bool_]:
    """The items [I] that a retriever has something to say of; one that knows ids alone says nothing of new items."""
    found = np.ones(len(catalogue.items), bool) if not member.needs_id else catalogue.counts > 0
    found[:FIRST_ID] = False
    return found


def _calibrated(method: str, pipeline: Pipeline, members: Mapping[str, Member], store: Path) -> Calibrator:
    scorer = members[scored_by(pipeline)].scorer
    label = scorer.transforms.schema.roles.label
    if not label or label[0].task != "binary":
        task = label[0].task if label else "none"
        raise Unsupported(f"calibrating makes probabilities of a binary label, and the first label's task is {task}")
    rows = Rows.load(store / "valid")
    if len(rows) > CALIBRATED_ROWS:
        rows = rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:CALIBRATED_ROWS]))
    scores = scorer.rows(rows)
    assert rows.label is not None
    return calibration.fit(method, scores if scores.ndim == 1 else scores[:, 0], rows.label[:, 0])


def scored_by(pipeline: Pipeline) -> str:
    """The run whose score an item has: the last ranker, or the only source."""
    if pipeline.ranking:
        return pipeline.ranking[-1].run
    if len(pipeline.sources) > 1:
        raise ConfigError(
            "calibrating needs a score, and several sources without a ranker have none in common; add [[ranking]]"
        )
    return pipeline.sources[0].run


def _facts(pipeline: Pipeline, members: Mapping[str, Member], first: RunConfig) -> dict[str, Any]:
    return {
        "name": pipeline.name,
        "data": first.data,
        "store": {"path": first.store, "id": first.store_id},
        "runs": {name: {"id": member.id, "model": member.config.model} for name, member in members.items()},
        "indexes": {
            name: msgspec.to_builtins(member.index.facts)
            for name, member in members.items()
            if member.index is not None
        },
    }


def _write(member: Member, run: Path, folder: Path, *, ranks: bool, train_state: bool) -> None:
    """A run's files, what its model computes of items beforehand, and its index."""
    folder.mkdir(parents=True)
    left = {artifacts.MANIFEST, artifacts.LOCK} | (set() if train_state else {OPTIMIZER, STATE})
    for path in sorted(run.iterdir()):
        if path.is_file() and path.name not in left:
            shutil.copyfile(path, folder / path.name)
    assert (folder / CONFIG).is_file()
    if ranks and member.scorer.parts is not None:
        save_file(dict(member.scorer.parts), folder / PARTS)
    if member.index is not None:
        member.index.save(folder / INDEX)
