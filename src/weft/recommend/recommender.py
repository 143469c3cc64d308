"""The recommender: a run and its store's catalogues, and the k best items for a user."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from weft import artifacts
from weft.batch import FIRST_ID
from weft.errors import ConfigError, DataError, Unsupported, near
from weft.runs import SavedRun
from weft.schema import UNITS_PER_SECOND, Protocol
from weft.scoring import Scorer, best
from weft.transforms.catalogue import Catalogue
from weft.transforms.vocabulary import Vocabulary

SEEN = ("hide", "allow", "window")
USERS_AT_ONCE = 64

Scores = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]


class Item(Struct, frozen=True, kw_only=True):
    """An item of a list.

    Attributes:
        id: External id.
        title: What a person reads, where the catalogue has titles.
        score: The model's raw score: a logit, a rating or a log rate.
    """

    id: str | int
    title: str | None
    score: float


class Recommendation(Struct, frozen=True, kw_only=True):
    """The answer for one user.

    Attributes:
        user: As it was asked.
        known: False when the user is unknown and the list is the most popular items.
        items: Best first.
        recent: The items that the user has had last, newest first; their score is 0.
        model: Registry name of what made the list; `popularity` for an unknown user.
    """

    user: str | int
    known: bool
    items: tuple[Item, ...]
    recent: tuple[Item, ...]
    model: str


class Recommender:
    """Ranks the whole catalogue, exactly."""

    def __init__(self, run: SavedRun, catalogue: Catalogue) -> None:
        if run.schema.roles.user is None or run.schema.roles.item is None:
            raise Unsupported(
                "recommending needs `user` and `item` in [roles] of the schema; `weft predict` scores rows"
            )
        if any(label.task == "multiclass" for label in run.schema.roles.label[:1]):
            raise Unsupported(
                "recommending orders items by one score, and a multiclass label has several; `weft predict` scores rows"
            )
        assert run.transforms.user_ids is not None
        assert run.transforms.item_ids is not None
        self.run, self.catalogue = run, catalogue
        self.user_ids: Vocabulary = run.transforms.user_ids
        self.item_ids: Vocabulary = run.transforms.item_ids
        self._unit = UNITS_PER_SECOND[run.schema.roles.time_unit]

    @staticmethod
    def load(run: str | Path, *, store: str | Path | None = None) -> "Recommender":
        """Load a run and the catalogues of the store that it was trained on.

        Args:
            run: A run folder.
            store: The store, if it is not where the run was trained.

        Raises:
            ArtifactError: A folder is damaged, unfinished or missing.
            StaleModel: The store is not the one that the run was trained on.
        """
        saved = SavedRun.open(run)
        folder = Path(store if store is not None else saved.config.store)
        saved.check_store(artifacts.read_manifest(folder, "store")["id"], folder)
        return Recommender(saved, Catalogue.load(folder))

    def recommend(self, user: str | int, *, k: int = 10, seen: str | None = None) -> Recommendation:
        """The k best items for a user.

        Args:
            user: External id; an unknown user gets the most popular items, and `known` is False.
            k: At most so many items.
            seen: hide, allow or window; the schema's protocol without it.
        """
        return next(self.recommend_many([user], k=k, seen=seen))

    def recommend_many(
        self,
        users: Iterable[str | int],
        *,
        k: int = 10,
        seen: str | None = None,
    ) -> Iterator[Recommendation]:
        """The k best items for each of many users, in their order."""
        if k < 1:
            raise ConfigError(f"`k` must be 1 or more, got {k}")
        protocol = self._protocol(seen)
        asked = list(users)
        for start in range(0, len(asked), USERS_AT_ONCE):
            yield from self._some(asked[start : start + USERS_AT_ONCE], k, protocol)

    def most_active_user(self) -> str | int:
        """The external id of the user with the most events."""
        events = np.diff(self.catalogue.seen.offsets)
        return _known(self.user_ids.value_of(int(events[FIRST_ID:].argmax()) + FIRST_ID))

    def _some(self, users: list[str | int], k: int, protocol: Protocol) -> Iterator[Recommendation]:
        ids = np.array([self.user_ids.id_of(user) for user in users])
        known = np.flatnonzero(ids >= FIRST_ID)
        scores = np.tile(self._popularity, (len(users), 1))
        if len(known):
            scores[known] = self._scorer.catalogue(self.catalogue.users.take(ids[known]))
        scores[:, :FIRST_ID] = -np.inf
        for place, user in enumerate(ids):
            hidden = self.catalogue.seen.hidden(int(user), protocol, time=self.catalogue.newest, unit=self._unit)
            scores[place, hidden] = -np.inf
        shown, values = best(scores, k)
        for place, user in enumerate(users):
            items = (
                self._item(int(i), float(s)) for i, s in zip(shown[place], values[place], strict=True) if s > -np.inf
            )
            is_known = bool(ids[place] >= FIRST_ID)
            yield Recommendation(
                user=user,
                known=is_known,
                items=tuple(items),
                recent=self._recent(int(ids[place])) if is_known else (),
                model=self.run.config.model if is_known else "popularity",
            )

    def _item(self, item: int, score: float) -> Item:
        titles = self.catalogue.titles
        title = None if titles is None else titles[item] or None
        return Item(id=_known(self.item_ids.value_of(item)), title=title, score=score)

    def _recent(self, user: int, most: int = 10) -> tuple[Item, ...]:
        seen = self.catalogue.seen
        events = seen.of(user)
        items = seen.item[events]
        if self.run.schema.protocol.seen_from == "relevant":
            items = items[seen.relevant[events]]
        return tuple(self._item(int(item), 0.0) for item in items[::-1][:most])

    def _protocol(self, seen: str | None) -> Protocol:
        protocol = self.run.schema.protocol
        if seen is None:
            return protocol
        if seen not in SEEN:
            raise ConfigError(f"`seen` must be one of {', '.join(SEEN)}, got {seen!r}; {near(seen, SEEN)}")
        if seen == "window" and protocol.window is None:
            raise ConfigError("`seen = window` needs `window` (seconds) in [protocol] of the schema")
        return msgspec.structs.replace(protocol, seen=seen, window=protocol.window if seen == "window" else None)

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self.run.load_model(), self.run.transforms, self.catalogue.items, intercept=self.run.intercept)

    @cached_property
    def _popularity(self) -> Scores:
        return np.log1p(self.catalogue.positives).astype(np.float32)


def _known(value: str | int | None) -> str | int:
    assert value is not None
    return value


def user_lines(user: str | None, users: str | None) -> list[str | int]:
    """The users that a command asks for: one, or one a line of a file; ConfigError unless exactly one way is used."""
    if (user is None) == (users is None):
        raise ConfigError("give either --user ID or --users FILE")
    if user is not None:
        return [user]
    assert users is not None
    try:
        lines = Path(users).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the users file {users!r}: {error}; give a text file with one id a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def render(answer: Recommendation, console: Console) -> None:
    """Print a list, and beside it what the user has had last."""
    title = f"for user {answer.user}" if answer.known else f"user {answer.user} is unknown: the most popular items"
    table = Table("#", "recommended", "score", title=Text(title), title_justify="left")
    if answer.recent:
        table.add_column("had before, newest first")
    for place, item in enumerate(answer.items):
        row = [str(place + 1), _name(item), f"{item.score:.3f}"]
        if answer.recent:
            row.append(_name(answer.recent[place]) if place < len(answer.recent) else "")
        table.add_row(*map(Text, row))
    console.print(table)


def _name(item: Item) -> str:
    return str(item.id) if item.title is None else f"{item.title} ({item.id})"
