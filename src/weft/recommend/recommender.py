"""The recommender: a bundle or a run, and the k best items for a user.

It never changes, so threads may share it; items, users and events that arrive later make a new one.

Dimension key: U users, I items, N items of a list.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Series
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft import artifacts
from weft.batch import FIRST_ID, UNKNOWN
from weft.errors import ConfigError, DataError, Unsupported, near
from weft.recommend.answers import Item, Recommendation, Trace, render
from weft.recommend.arrivals import extended, with_item_rows, with_user_rows
from weft.recommend.budget import Workers
from weft.recommend.bundle import KIND, Bundle, check_schema, of_run
from weft.recommend.final import Listed
from weft.recommend.machine import Compiled, compile_pipeline, stages_of
from weft.recommend.member import Member, findable
from weft.recommend.names import Names
from weft.recommend.pipeline import Pipeline
from weft.recommend.reasons import reasons, traced
from weft.recommend.rules import Moment, Rules
from weft.recommend.stages import Asked, Passed, Stages, Walk, padded
from weft.runs import SavedRun
from weft.schema import Categorical, Dense, MultiHot, Schema, Sequence
from weft.transforms.catalogue import Catalogue
from weft.transforms.columns import from_values
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows

__all__ = ["Item", "Judged", "Recommendation", "Recommender", "Trace", "render"]

USERS_AT_ONCE = 64
FALLBACK = 1_000
POPULAR, MERGED = "popularity", "merged"

Ints = NDArray[np.integer[Any]]


class Judged(NamedTuple):
    """What each stage gave the users of a split.

    Attributes:
        ids: [U, K] of the item catalogue, 0 behind the last.
        stages: In order; each has the items [U, N] that came out of it.
        hidden: For each user, the items that the filters take away.
        available: [I] the items that may be shown to anybody; None is all.
    """

    ids: NDArray[np.int64]
    stages: tuple[Passed, ...]
    hidden: tuple[Ints, ...]
    available: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Recommender:
    """Answers requests; `load` makes one.

    Attributes:
        bundle: What it answers from; its catalogue and members may be newer than the folder.
        users: External ids of users.
        items: External ids of items.
        gone: Ids of items that have left.
    """

    bundle: Bundle
    users: Names
    items: Names
    gone: frozenset[int] = frozenset()
    _compiled: Compiled
    _workers: Workers

    @staticmethod
    def load(path: str | Path, *, store: str | Path | None = None) -> "Recommender":
        """Load a bundle, or a run with the catalogues of the store that it was trained on.

        Args:
            path: A bundle, or a run: the whole catalogue is then ranked exactly.
            store: The store of a run, if it is not where the run was trained.

        Raises:
            ArtifactError: A folder is damaged, unfinished or missing.
            StaleModel: The store is not the one that the run was trained on.
        """
        if artifacts.kind_of(Path(path)) == KIND:
            return Recommender.of(Bundle.load(path))
        saved = SavedRun.open(path)
        folder = Path(store if store is not None else saved.config.store)
        saved.check_store(artifacts.read_manifest(folder, "store")["id"], folder)
        check_schema(saved.schema)
        return Recommender.of(of_run(saved, Catalogue.load(folder)))

    @staticmethod
    def of(bundle: Bundle) -> "Recommender":
        """A recommender over a loaded bundle."""
        check_schema(bundle.schema)
        transforms = bundle.transforms
        assert transforms.user_ids is not None
        assert transforms.item_ids is not None
        items = Names(vocabulary=transforms.item_ids)
        return Recommender(
            bundle=bundle,
            users=Names(vocabulary=transforms.user_ids),
            items=items,
            _compiled=_compiled(bundle, items, frozenset()),
            _workers=Workers(),
        )

    @property
    def bundle_id(self) -> str:
        """The id of the bundle, or of the run."""
        return self.bundle.id

    @property
    def pipeline(self) -> Pipeline:
        """The stages."""
        return self.bundle.pipeline

    @property
    def transforms(self) -> Transforms:
        """The encoding, with the newest history."""
        return self.bundle.transforms

    @property
    def catalogue(self) -> Catalogue:
        """Users and items, arrivals included."""
        return self.bundle.catalogue

    @property
    def schema(self) -> Schema:
        """What the columns mean."""
        return self.bundle.schema

    # Requests

    def recommend(
        self,
        user: str | int,
        *,
        k: int = 10,
        seen: str | None = None,
        context: Mapping[str, object] | None = None,
        rows: Rows | None = None,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] = (),
        had: Iterable[str | int] = (),
        seed: int | None = None,
        trace: bool = False,
    ) -> Recommendation:
        """The k best items for a user, within the pipeline's time budgets.

        Args:
            user: External id; an unknown user gets the most popular items, and `known` is False.
            k: At most so many items.
            seen: hide, allow or window; the pipeline's own, or the schema's, without it.
            context: Values of the context's features, such as the hour and the device; what is not named is missing.
            rows: What `user_rows` gave for this user and context, where that was needed before.
            allow: Nothing but these items; external ids, as the next two.
            deny: None of these items.
            had: What the user has had besides the events of the bundle; hidden unless `seen` is allow.
            seed: Of an exploration step; without it chance decides anew.
            trace: Tell what each stage did, and why each item is there.

        Raises:
            ConfigError: An argument is out of range, or names what does not exist.
            DataError: A value of the context is of the wrong type.
        """
        start = time.perf_counter()
        protocol = self._rules.asked(seen)
        id = self.users.id_of(user)
        hidden = [self._rules.hidden(id, protocol), self._ids(deny)]
        if protocol.seen != "allow":
            hidden.append(self._ids(had))
        asked = Asked(
            rows=self.user_rows(user, context) if rows is None else rows,
            user=np.array([id]),
            k=_positive(k),
            hidden=(np.concatenate(hidden),),
            available=self._available(allow),
            times=None,
            had=lambda place: self._rules.had(id),
            random=np.random.default_rng(seed),
            hurried=True,
            start=start,
        )
        return self._answers([user], asked, trace=trace)[0]

    def recommend_many(
        self, users: Iterable[str | int], *, k: int = 10, seen: str | None = None, seed: int | None = None
    ) -> Iterator[Recommendation]:
        """The k best items for each of many users, in their order; no stage has a time budget.

        Users are read as they are answered, some at a time: memory does not grow with their number.
        """
        protocol, k, random = self._rules.asked(seen), _positive(k), np.random.default_rng(seed)
        rest = iter(users)
        while some := list(islice(rest, USERS_AT_ONCE)):
            ids = np.array([self.users.id_of(user) for user in some])
            asked = Asked(
                rows=self._user_rows(ids),
                user=ids,
                k=k,
                hidden=[self._rules.hidden(id, protocol) for id in ids.tolist()],
                available=self._rules.available,
                times=None,
                had=lambda place, ids=ids: self._rules.had(int(ids[place])),  # type: ignore[misc]
                random=random,
            )
            yield from self._answers(some, asked)

    def rank(
        self,
        user: str | int,
        candidates: Series[str | int],
        *,
        context: Mapping[str, object] | None = None,
        rows: Rows | None = None,
    ) -> Recommendation:
        """Given items in the order of the last ranker's score; no filter and no last step applies.

        Candidates that nobody knows are named in `unknown`. For an unknown user the model scores what it knows.
        `context` and `rows` are as in `recommend`.
        """
        ids = np.array([self.items.id_of(item) for item in candidates], np.int64)
        known = ids >= FIRST_ID
        id = self.users.id_of(user)
        scorer = self._last.scorer
        rows = self.user_rows(user, context) if rows is None else rows
        scores = scorer.one(rows, ids[known]) if known.any() else np.zeros(0)
        order = np.argsort(-scores, kind="stable")
        listed = Listed.of(ids[known][order], scores[order].astype(np.float32))
        return Recommendation(
            user=user,
            known=id >= FIRST_ID,
            items=self._items(listed, calibrated=self._calibrates),
            recent=(),
            model=self._last.config.model,
            bundle=self.bundle_id,
            calibrated=self._calibrates,
            unknown=tuple(item for item, fine in zip(candidates, known.tolist(), strict=True) if not fine),
        )

    def similar(self, item: str | int, *, k: int = 10) -> tuple[Item, ...]:
        """The items nearest to one by the cosine of the first retriever's vectors, which is the score.

        Raises:
            ConfigError: Nobody knows the item.
            Unsupported: No run of the bundle has item vectors.
        """
        member = next((m for m in self.bundle.members.values() if m.is_retriever), None)
        if member is None:
            raise Unsupported("similar items need item vectors, and no run here has any; add a retriever to the bundle")
        id = self.items.id_of(item)
        if id < FIRST_ID:
            raise ConfigError(f"there is no item {item!r}; give the id of an item of the catalogue")
        unit = member.unit_vectors
        scores = unit @ unit[id]
        scores[~self._findable(member)] = -np.inf
        scores[id] = -np.inf
        order = np.argsort(-scores, kind="stable")[: _positive(k)]
        order = order[scores[order] > -np.inf]
        return self._items(Listed.of(order, scores[order]), calibrated=False)

    def user_rows(self, user: str | int, context: Mapping[str, object] | None = None) -> Rows:
        """The one row of a user's side and of the context, as all rankers read it now."""
        return self._user_rows(np.array([self.users.id_of(user)]), context)

    def features(self, rows: Rows, items: Series[str | int]) -> Rows:
        """Full rows of what `user_rows` gave with each of some items, as the ranker reads them, to learn from."""
        return self.transforms.join(rows, self.catalogue.items.take(self._ids(items)))

    def walk(self, users: Rows, k: int, *, before: str | None = None, seed: int = 0) -> Judged:
        """What each stage gives some users, as of their rows' times: for judging a pipeline.

        Args:
            users: One row a user of the user's side, or full rows of a split; `user` and `time` are read.
            k: Length of the lists.
            before: Hide what the user has had in splits before this one only.
            seed: Of an exploration step.
        """
        assert users.user is not None
        protocol, moments = self._rules.asked(None), [Moment(before, time) for time in _times(users)]
        ids = users.user.tolist()
        hidden = tuple(self._rules.hidden(id, protocol, at) for id, at in zip(ids, moments, strict=True))
        asked = Asked(
            rows=users,
            user=users.user,
            k=_positive(k),
            hidden=hidden,
            available=self._rules.available,
            times=users.time,
            had=lambda place: self._rules.had(ids[place], moments[place]),
            random=np.random.default_rng(seed),
        )
        walked = self._stages.walk(asked)
        lists = np.zeros((len(users), k), np.int64)
        for place, listed in enumerate(walked.lists):
            lists[place, : len(listed)] = listed.ids
        return Judged(lists, walked.stages, hidden, self._rules.available)

    def warm(self) -> None:
        """Answer once, so that what is computed at first need is there."""
        self.recommend(self.most_active_user())

    def most_active_user(self) -> str | int:
        """The external id of the user with the most events."""
        events = np.diff(self.catalogue.seen.offsets)
        return self.users.name_of(int(events[FIRST_ID:].argmax()) + FIRST_ID)

    # What arrives later

    def with_items(self, values: Series[Mapping[str, object]]) -> "Recommender":
        """With items that arrived, or that changed: rows of the item table by column name, the item role among them.

        They are found at once by sources that read features; a source of ids alone cannot know them.
        """
        names, ids = _placed(values, self.schema.roles.item, self.items, "item")
        rows = self.transforms.encode_side(from_values(self.schema, values), "item")
        titles = [value.get(str(self.schema.roles.title)) for value in values]
        catalogue, order = with_item_rows(self.catalogue, rows, ids, titles)
        members = {
            name: extended(member, catalogue, order, np.unique(ids)) for name, member in self.bundle.members.items()
        }
        return self._changed(catalogue, members, items=names, gone=self.gone - set(ids.tolist()))

    def without_items(self, items: Iterable[str | int]) -> "Recommender":
        """Without items that have left; unknown ones are passed over."""
        gone = self.gone | set(self._ids(items).tolist()) - {UNKNOWN}
        return self._changed(self.catalogue, self.bundle.members, items=self.items, gone=gone)

    def with_users(self, values: Series[Mapping[str, object]]) -> "Recommender":
        """With users that arrived, or that changed: rows of the user table by column name, the user role among them."""
        names, ids = _placed(values, self.schema.roles.user, self.users, "user")
        rows = self.transforms.encode_side(from_values(self.schema, values), "user")
        catalogue = with_user_rows(self.catalogue, rows, ids)
        over = self._compiled._replace(rules=self._rules.over(catalogue))
        return replace(self, bundle=replace(self.bundle, catalogue=catalogue), users=names, _compiled=over)

    def with_transforms(self, transforms: Transforms) -> "Recommender":
        """With newer history; the vocabularies are the same."""
        members = {
            name: replace(member, scorer=member.scorer.with_transforms(transforms))
            for name, member in self.bundle.members.items()
        }
        return replace(self, bundle=replace(self.bundle, transforms=transforms, members=members))

    def _changed(
        self, catalogue: Catalogue, members: Mapping[str, Member], *, items: Names, gone: frozenset[int]
    ) -> "Recommender":
        bundle = replace(self.bundle, catalogue=catalogue, members=members)
        return replace(self, bundle=bundle, items=items, gone=gone, _compiled=_compiled(bundle, items, gone))

    # Answers

    def _answers(self, users: Series[str | int], asked: Asked, *, trace: bool = False) -> list[Recommendation]:
        answers: dict[int, Recommendation] = {}
        for known in (True, False):
            places = np.flatnonzero((asked.user >= FIRST_ID) == known)
            if len(places):
                some = asked.take(places)
                walk = self._stages.walk(some) if known else self._popular(some)
                for at, place in enumerate(places.tolist()):
                    answers[place] = self._answer(users[place], some, at, walk, trace)
        return [answers[place] for place in range(len(users))]

    def _answer(self, user: str | int, asked: Asked, place: int, walk: Walk, trace: bool) -> Recommendation:
        id, shown, at = int(asked.user[place]), walk, place
        known = id >= FIRST_ID
        if known and not len(walk.lists[place]):
            shown, at = self._popular(asked.take(np.array([place]))), 0
        popular = not known or shown is not walk
        calibrated = self._calibrates and not popular and walk.scored_by == len(self.pipeline.ranking) - 1
        items = self._items(shown.lists[at], calibrated=calibrated)
        if trace:
            whys = reasons(shown, at)
            items = tuple(msgspec.structs.replace(item, why=why) for item, why in zip(items, whys, strict=True))
        return Recommendation(
            user=user,
            known=known,
            items=items,
            recent=self._recent(id) if known else (),
            model=POPULAR if popular else self._scored_by(walk),
            bundle=self.bundle_id,
            calibrated=calibrated,
            degraded=walk.degraded,
            trace=traced(walk, place, time.perf_counter() - asked.start) if trace else None,
        )

    def _popular(self, asked: Asked) -> Walk:
        """What is popular and may be shown, through the last steps."""
        start = time.perf_counter()
        order, scores = self._fallback
        places = range(len(asked))
        kept = [order[asked.allows(place, order)][: max(FALLBACK, asked.k)] for place in places]
        passed = Passed(POPULAR, "source", padded(kept), time.perf_counter() - start)
        return self._stages.finish(asked, [Listed.of(ids, scores[ids]) for ids in kept], passed)

    def _scored_by(self, walk: Walk) -> str:
        """The registry name of what the scores are of."""
        if walk.scored_by >= 0:
            return self.bundle.members[self.pipeline.ranking[walk.scored_by].run].config.model
        sources = self.pipeline.sources
        return self.bundle.members[sources[0].run].config.model if len(sources) == 1 else MERGED

    def _items(self, listed: Listed, *, calibrated: bool) -> tuple[Item, ...]:
        scores: NDArray[np.floating[Any]] = listed.score
        if calibrated:
            assert self.bundle.calibrator is not None
            scores = self.bundle.calibrator.apply(scores)
        propensity = [None if p != p else p for p in listed.propensity.tolist()]
        return tuple(
            Item(id=self.items.name_of(id), title=self._title(id), score=score, propensity=chance)
            for id, score, chance in zip(listed.ids.tolist(), scores.tolist(), propensity, strict=True)
        )

    def _title(self, item: int) -> str | None:
        titles = self.catalogue.titles
        return None if titles is None else titles[item] or None

    def _recent(self, user: int, most: int = 10) -> tuple[Item, ...]:
        had = self._rules.had(user)[::-1][:most].tolist()
        return tuple(Item(id=self.items.name_of(item), title=self._title(item), score=0.0) for item in had)

    def _ids(self, names: Iterable[str | int]) -> NDArray[np.int64]:
        return np.array([self.items.id_of(name) for name in names], np.int64)

    def _available(self, allow: Iterable[str | int] | None) -> NDArray[np.bool_] | None:
        if allow is None:
            return self._rules.available
        allowed = np.zeros(len(self.catalogue.items), bool)
        allowed[self._ids(allow)] = True
        return allowed if self._rules.available is None else allowed & self._rules.available

    def _user_rows(self, ids: Ints, context: Mapping[str, object] | None = None) -> Rows:
        users = self.catalogue.users.take(ids)
        return self.transforms.user_side(users, context=None if context is None else self._context(context))

    def _context(self, values: Mapping[str, object]) -> Rows:
        known = context_columns(self.schema)
        for name in values:
            if name not in known:
                raise ConfigError(f"`context` has no feature {name!r}; {near(name, known)}")
        return self.transforms.encode_side(from_values(self.schema, [values]), "context")

    def _findable(self, member: Member) -> NDArray[np.bool_]:
        found = findable(member, self.catalogue)
        return found if self._rules.available is None else found & self._rules.available

    @property
    def _rules(self) -> Rules:
        return self._compiled.rules

    @property
    def _last(self) -> Member:
        """What orders given candidates: the last ranker, or the first source where there is none."""
        ranking = self.pipeline.ranking
        return self.bundle.members[ranking[-1].run if ranking else self.pipeline.sources[0].run]

    @property
    def _calibrates(self) -> bool:
        return self.bundle.calibrator is not None

    @cached_property
    def _stages(self) -> Stages:
        return stages_of(self.pipeline, self.bundle.members, self._compiled.final, self._workers)

    @cached_property
    def _fallback(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items from the most popular on, and the score of each item of the catalogue."""
        scores = np.log1p(self.catalogue.positives).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        return order[order >= FIRST_ID], scores


def _compiled(bundle: Bundle, items: Names, gone: frozenset[int]) -> Compiled:
    return compile_pipeline(bundle.pipeline, bundle.members, bundle.transforms, bundle.catalogue, items, gone)


def context_columns(schema: Schema) -> tuple[str, ...]:
    """The columns that a request can give as its context."""
    plain = (Dense, Categorical, MultiHot)
    mine = [f for f in schema.features if isinstance(f, plain) or (isinstance(f, Sequence) and f.of is None)]
    return tuple(feature.name for feature in mine if schema.side_of(feature.name) == "context")


def _placed(
    values: Series[Mapping[str, object]], role: str | None, names: Names, side: str
) -> tuple[Names, NDArray[np.int64]]:
    """The ids [n] that rows of a table stand for, and the names with those that are new."""
    assert role is not None
    given: list[str | int] = []
    for row, value in enumerate(values):
        name = value.get(role)
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise DataError(f"{side} {row}: column {role!r} must name it with text or an integer, got {name!r}")
        given.append(name)
    new = {str(name): name for name in given if names.id_of(name) < FIRST_ID}
    names = names.with_names(new.values())
    return names, np.array([names.id_of(name) for name in given], np.int64)


def _times(users: Rows) -> list[int | None]:
    return [None] * len(users) if users.time is None else users.time.tolist()


def _positive(k: int) -> int:
    if k < 1:
        raise ConfigError(f"`k` must be 1 or more, got {k}")
    return k
