"""What a pipeline is: sources, filters, rankers and the last steps, as frozen values and as TOML.

    [[sources]]
    run = "two_tower"
    quota = 400

    [[filters]]
    kind = "seen"

    [[ranking]]
    run = "dcn_v2"
    keep = 100

    [[final]]
    kind = "cap"
    feature = "artist"
    most = 2

Sources propose items, each up to its quota; filters say what may be shown; each ranker orders what it is given and
keeps the best; the last steps choose and order the list. `run` is the name of a run's folder, or of its model where
only one run has it. A feature is a categorical or multi-hot feature of the item's side, or the column of the item role.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from weft.errors import ConfigError, near
from weft.recommend.index import Auto, IndexConfig
from weft.runs import without_none

Name = Annotated[str, Meta(min_length=1)]
Whole = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Milliseconds = Annotated[float, Meta(gt=0.0)]
Ids = Annotated[tuple[str | int, ...], Meta(min_length=1)]


class _Struct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Source(_Struct, frozen=True):
    """Items that a run proposes: a retriever through an index, a `Source` model, or any ranker over a small catalogue.

    Attributes:
        run: Whose.
        quota: At most so many, but never fewer than the list is long.
        index: Of a retriever.
        budget_ms: A request does not wait longer for it.
    """

    run: Name
    quota: Whole = 500
    index: IndexConfig = Auto()
    budget_ms: Milliseconds | None = None


class Seen(_Struct, frozen=True, tag="seen", tag_field="kind"):
    """What the user has had is hidden, allowed, or hidden for a while; a request may say otherwise.

    Attributes:
        seen: hide, allow or window; the schema's protocol without it.
        window: Seconds, with `window`; the protocol's without it.
    """

    seen: Literal["hide", "allow", "window"] | None = None
    window: Annotated[float, Meta(gt=0)] | None = None


class Unseen(_Struct, frozen=True, tag="unseen", tag_field="kind"):
    """Only items that share no value of a feature with anything that the user has had: discovery."""

    feature: Name


class Only(_Struct, frozen=True, tag="only", tag_field="kind"):
    """Only items with one of these values."""

    feature: Name
    values: Ids


class Without(_Struct, frozen=True, tag="without", tag_field="kind"):
    """No item with one of these values."""

    feature: Name
    values: Ids


class Rank(_Struct, frozen=True):
    """Items ordered by a run's score.

    Attributes:
        run: Whose; a ranker, or a retriever by its dot products.
        keep: The best so many go on, but never fewer than the list is long; all without it.
        budget_ms: A request does not wait longer for it.
    """

    run: Name
    keep: Whole | None = None
    budget_ms: Milliseconds | None = None


class Boost(_Struct, frozen=True, tag="boost", tag_field="kind"):
    """A number added to the order's value of items with one of these values; the score that is shown stays."""

    feature: Name
    values: Ids
    add: float
    budget_ms: Milliseconds | None = None


class Cap(_Struct, frozen=True, tag="cap", tag_field="kind"):
    """At most so many items of one value, such as of one artist; items behind the last allowed one leave."""

    feature: Name
    most: Whole
    budget_ms: Milliseconds | None = None


class Mmr(_Struct, frozen=True, tag="mmr", tag_field="kind"):
    """Maximal marginal relevance: each place goes to what is good and unlike what stands above.

    Attributes:
        by: What likeness is: the cosine of a run's item vectors, or shared values of a feature.
        balance: 1 is relevance alone, 0 is variety alone.
        depth: Choose among the best so many; among all without it.
    """

    by: Name
    balance: Share = 0.7
    depth: Whole | None = None
    budget_ms: Milliseconds | None = None


class Mix(_Struct, frozen=True, tag="mix", tag_field="kind"):
    """A list whose mix of a feature's values is like that of what the user has liked (Steck, RecSys 2018).

    Attributes:
        feature: Such as the genre.
        balance: 1 is relevance alone, 0 is the mix alone.
        smoothing: Share of the user's mix that is added to the list's, so that no share is nought.
        depth: Choose among the best so many; among all without it.
    """

    feature: Name
    balance: Share = 0.5
    smoothing: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.01
    depth: Whole | None = None
    budget_ms: Milliseconds | None = None


class Explore(_Struct, frozen=True, tag="explore", tag_field="kind"):
    """Each place goes, with this probability, to an item drawn evenly; every item's propensity is recorded.

    Attributes:
        share: Of the places.
        pool: Draw from the list and the best so many behind it.
    """

    share: Annotated[float, Meta(gt=0.0, le=1.0)]
    pool: Whole = 100
    budget_ms: Milliseconds | None = None


class Pin(_Struct, frozen=True, tag="pin", tag_field="kind"):
    """Items that stand at a place, in this order, whatever they score; one that a filter hides is not shown.

    Attributes:
        items: External ids.
        at: The place of the first, from 1.
    """

    items: Ids
    at: Whole = 1
    budget_ms: Milliseconds | None = None


Filter = Seen | Unseen | Only | Without
Final = Boost | Cap | Mmr | Mix | Explore | Pin
Stage = Source | Rank | Final


class Pipeline(_Struct, frozen=True, kw_only=True):
    """A staged pipeline; ConfigError when it contradicts itself.

    Attributes:
        name: For people.
        sources: At least one.
        filters: All hold together.
        ranking: In order; the last one's score is the item's.
        final: In order.
    """

    name: str = ""
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    filters: tuple[Filter, ...] = (Seen(),)
    ranking: tuple[Rank, ...] = ()
    final: tuple[Final, ...] = ()

    def __post_init__(self) -> None:
        names = [source.run for source in self.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"`sources`: the run {twice!r} stands there twice; give it one quota")
        for i, step in enumerate(self.final):
            late = next((s for s in self.final[i + 1 :] if not isinstance(s, Pin)), None)
            if isinstance(step, Explore) and late is not None:
                raise ConfigError(
                    f"`final[{i}]`: after `explore` only `pin` may stand, since another step would make its "
                    f"propensities wrong; move `{kind_of(late)}` before it"
                )

    def runs(self) -> Iterator[tuple[str, str]]:
        """Where a run is named, and its name; not where `by` of an MMR step may also be a feature."""
        for i, source in enumerate(self.sources):
            yield f"sources[{i}].run", source.run
        for i, rank in enumerate(self.ranking):
            yield f"ranking[{i}].run", rank.run

    def features(self) -> Iterator[tuple[str, str]]:
        """Where an item feature is named, and its name; not where `by` of an MMR step may also be a run."""
        for part, steps in (("filters", self.filters), ("final", self.final)):
            for i, step in enumerate(steps):
                if isinstance(step, Unseen | Only | Without | Boost | Cap | Mix):
                    yield f"{part}[{i}].feature", step.feature


def kind_of(step: Filter | Final) -> str:
    """The `kind` of a filter or a last step, as in TOML.

    >>> kind_of(Unseen(feature="artist"))
    'unseen'
    """
    return str(step.__struct_config__.tag)


def loads(text: str, *, source: str = "pipeline") -> Pipeline:
    """Read a pipeline from TOML text; ConfigError names the path of what is wrong, with near names."""
    try:
        plain = msgspec.toml.decode(text)
        _check_names(plain, source)
        return msgspec.convert(plain, Pipeline)
    except (msgspec.DecodeError, ConfigError) as error:
        raise ConfigError(f"{source}: {str(error).removeprefix(f'{source}: ')}") from error


def load(path: str | Path) -> Pipeline:
    """Read a pipeline file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the pipeline {str(path)!r}: {error}; give the path of a TOML file") from error
    return loads(text, source=str(path))


def dumps(pipeline: Pipeline) -> str:
    """Write a pipeline as TOML text; `loads(dumps(p)) == p`."""
    return msgspec.toml.encode(without_none(msgspec.to_builtins(pipeline))).decode()


def _check_names(plain: Mapping[str, Any], source: str) -> None:
    """ConfigError for a key or kind that does not exist, at any depth; types are msgspec's to check."""
    _known(plain, Pipeline.__struct_fields__, source)
    for part, choices in _PARTS.items():
        steps = plain.get(part, [])
        for i, step in enumerate(steps if isinstance(steps, list) else []):
            if isinstance(step, dict):
                _check_step(step, choices, f"{source}: `{part}[{i}]`")


def _check_step(step: Mapping[str, Any], choices: Mapping[str, type[Struct]], where: str) -> None:
    if "" in choices:
        _known(step, choices[""].__struct_fields__, where)
        return
    kind = str(step.get("kind", ""))
    if kind not in choices:
        given = f"has the kind {kind!r}" if kind else "has no `kind`"
        raise ConfigError(f"{where} {given}; {near(kind, choices)}")
    _known(step, ("kind", *choices[kind].__struct_fields__), where)


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in names:
            raise ConfigError(f"{where} has no {key!r}; {near(key, names)}")


def _kinds(union: Any) -> dict[str, type[Struct]]:
    return {cls.__struct_config__.tag: cls for cls in get_args(union)}


_PARTS: dict[str, dict[str, type[Struct]]] = {
    "sources": {"": Source},
    "filters": _kinds(Filter),
    "ranking": {"": Rank},
    "final": _kinds(Final),
}
