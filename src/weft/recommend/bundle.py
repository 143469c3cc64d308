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
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.torch import save_file

from weft import artifacts
from weft.batch import FIRST_ID
from weft.errors import ArtifactError, ConfigError, StaleModel, Unsupported
from weft.recommend import calibrate as calibration
from weft.recommend import index as indexes
from weft.recommend import pipeline as pipelines
from weft.recommend.calibrate import Calibrator
from weft.recommend.machine import compile_pipeline
from weft.recommend.member import INDEX, PARTS, Member, findable, member_of, read_member
from weft.recommend.names import Names
from weft.recommend.pipeline import Pipeline, Source
from weft.recommend.resolve import resolved, scored_by, usual
from weft.runs import CONFIG, OPTIMIZER, TRANSFORMS, RunConfig, SavedRun
from weft.schema import Schema
from weft.transforms.catalogue import Catalogue
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows

KIND = "bundle"
PIPELINE, CATALOGUE, RUNS = "pipeline.toml", "catalogue", "runs"
CALIBRATOR, STATE = "calibrator.json", "state.json"
EXACT_MOST = 100_000
CALIBRATED_ROWS = 1_000_000
QUERIES = 1_000


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
        sources = ", ".join(f"{source.run} ({self.members[source.run].how})" for source in self.pipeline.sources)
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
            name: read_member(folder / RUNS / name, name, facts["id"], transforms, catalogue)
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
    notes: Mapping[str, Any] | None = None,
) -> Bundle:
    """Put trained runs of one store, and the pipeline that they serve in, into one folder.

    Args:
        runs: Run folders; a run's name is its folder's.
        out: The folder to write.
        pipeline: A value or a TOML file; without it retrievers and sources propose, rankers rank in the order given.
        store: The store, if it was moved since training.
        calibrate: isotonic or platt: turn scores into probabilities, fitted on the validation rows.
        train_state: Keep what training goes on from.
        notes: Plain values that the manifest shall have too, by name.

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
    chosen = resolved(_read(pipeline, members), members, transforms)
    members = _with_indexes(chosen, members, transforms, catalogue)
    assert transforms.item_ids is not None
    compile_pipeline(chosen, members, transforms, catalogue, Names(vocabulary=transforms.item_ids))
    calibrator = None if calibrate is None else _calibrated(calibrate, chosen, members, base)
    facts = {**_facts(chosen, members, first.config), **(notes or {})}
    with artifacts.new_folder(target, KIND, **facts) as folder:
        (folder / PIPELINE).write_text(pipelines.dumps(chosen), encoding="utf-8")
        shutil.copytree(first.path / TRANSFORMS, folder / TRANSFORMS)
        (folder / CATALOGUE).mkdir()
        catalogue.save(folder / CATALOGUE)
        for name, member in members.items():
            _write(member, saved[name].path, folder / RUNS / name, ranks=_ranks(chosen, name), train_state=train_state)
        if calibrator is not None:
            (folder / CALIBRATOR).write_bytes(calibration.dumps(calibrator))
    return Bundle.load(target)


def check_schema(schema: Schema) -> None:
    """Unsupported where there are no users or items, or no one score to order by."""
    if schema.roles.user is None or schema.roles.item is None:
        raise Unsupported("recommending needs `user` and `item` in [roles] of the schema; `weft predict` scores rows")
    if any(label.task == "multiclass" for label in schema.roles.label[:1]):
        raise Unsupported(
            "recommending orders items by one score, and a multiclass label has several; `weft predict` scores rows"
        )


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
    check_schema(first.schema)
    return found


def _read(pipeline: Pipeline | str | Path | None, members: Mapping[str, Member]) -> Pipeline:
    if isinstance(pipeline, Pipeline):
        return pipeline
    return usual(members) if pipeline is None else pipelines.load(pipeline)


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
