"""A pipeline made ready to run over members and a catalogue."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.recommend.budget import Workers
from weft.recommend.final import Step, compiled
from weft.recommend.member import Member
from weft.recommend.names import Names
from weft.recommend.pipeline import Pipeline, kind_of
from weft.recommend.rules import Rules
from weft.recommend.stages import Proposes, Stages, exactly, from_index, from_lists, stage
from weft.transforms.catalogue import Catalogue
from weft.transforms.encode import Transforms


class Compiled(NamedTuple):
    """What a pipeline and a catalogue decide, whatever the history."""

    rules: Rules
    final: tuple[Step, ...]


def compile_pipeline(
    pipeline: Pipeline,
    members: Mapping[str, Member],
    transforms: Transforms,
    catalogue: Catalogue,
    items: Names,
    gone: frozenset[int] = frozenset(),
) -> Compiled:
    """Filters and last steps ready to run; ConfigError where they name a value that is not there."""
    rules = Rules(pipeline.filters, transforms, catalogue, items.id_of, gone=np.array(sorted(gone), np.int64))

    def vectors(name: str) -> NDArray[np.float32] | None:
        return members[name].unit_vectors if name in members else None

    steps = pipeline.final
    return Compiled(rules, tuple(compiled(step, catalogue.items, transforms, items.id_of, vectors) for step in steps))


def stages_of(pipeline: Pipeline, members: Mapping[str, Member], final: Sequence[Step], workers: Workers) -> Stages:
    """All stages of a pipeline."""
    scored = not pipeline.ranking and len(pipeline.sources) == 1
    return Stages(
        [
            stage(
                f"sources.{s.run}",
                proposes(members[s.run], scored=scored),
                workers,
                budget_ms=s.budget_ms,
                size=s.quota,
            )
            for s in pipeline.sources
        ],
        [
            stage(f"ranking.{r.run}", members[r.run].scorer, workers, budget_ms=r.budget_ms, size=r.keep)
            for r in pipeline.ranking
        ],
        [
            stage(f"final.{kind_of(step)}", run, workers, budget_ms=step.budget_ms)
            for step, run in zip(pipeline.final, final, strict=True)
        ],
    )


def proposes(member: Member, *, scored: bool) -> Proposes:
    """How a run proposes: by its index, by its own lists, or by scoring every item."""
    if member.index is not None:
        return from_index(member.index, member.scorer, needs_id=member.needs_id)
    if member.is_source and not member.exact:
        return from_lists(member.model, member.scorer, needs_id=member.needs_id, scored=scored)
    return exactly(member.scorer, needs_id=member.needs_id)
