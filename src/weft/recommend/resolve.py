"""Pipelines and runs: the usual pipeline of some runs, and what each name in a pipeline means."""

from collections.abc import Mapping, Sequence

import msgspec

from weft.errors import ConfigError, near
from weft.recommend.member import Member
from weft.recommend.pipeline import Mmr, Pipeline, Rank, Source
from weft.recommend.values import feature_names
from weft.transforms.encode import Transforms


def usual(members: Mapping[str, Member]) -> Pipeline:
    """Retrievers and sources propose and the others rank; where none proposes, the first ranker does."""
    sources = [name for name, member in members.items() if member.is_retriever or member.is_source]
    rankers = [name for name in members if name not in sources]
    if not sources:
        sources, rankers = rankers[:1], rankers[1:]
    return Pipeline(
        sources=tuple(Source(run=name) for name in sources), ranking=tuple(Rank(run=name) for name in rankers)
    )


def resolved(pipeline: Pipeline, members: Mapping[str, Member], transforms: Transforms) -> Pipeline:
    """The pipeline with the runs' own names; ConfigError where it names what is not there, or leaves a run idle."""
    for where, name in pipeline.runs():
        _named(name, members, f"`{where}`")
    features = feature_names(transforms.schema, transforms)
    for where, name in pipeline.features():
        if name not in features:
            raise ConfigError(f"`{where}`: no item feature of values is named {name!r}; {near(name, features)}")
    chosen = msgspec.structs.replace(
        pipeline,
        sources=tuple(msgspec.structs.replace(s, run=_named(s.run, members, "")) for s in pipeline.sources),
        ranking=tuple(msgspec.structs.replace(r, run=_named(r.run, members, "")) for r in pipeline.ranking),
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
    name = _named(step.by, members, where)
    if not members[name].is_retriever:
        raise ConfigError(f"{where}: the run {name!r} has no item vectors; name a retriever or an item feature")
    return msgspec.structs.replace(step, by=name)


def _named(name: str, members: Mapping[str, Member], where: str) -> str:
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


def scored_by(pipeline: Pipeline) -> str:
    """The run whose score an item has: the last ranker, or the only source."""
    if pipeline.ranking:
        return pipeline.ranking[-1].run
    if len(pipeline.sources) > 1:
        raise ConfigError(
            "calibrating needs a score, and several sources without a ranker have none in common; add [[ranking]]"
        )
    return pipeline.sources[0].run
