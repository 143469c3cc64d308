"""What goes over the wire: requests and answers as msgspec Structs, from which the OpenAPI page is made.

Every text and list has a bound, every number a range, and a field that is not known is refused.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

K_MOST, CANDIDATES_MOST, EVENTS_MOST, ROWS_MOST, COLUMNS_MOST, LIST_MOST = 200, 1_000, 1_000, 1_000, 200, 1_000
PLAIN = r"^[^\x00-\x1f\x7f]+$"

Text = Annotated[str, Meta(min_length=1, max_length=256, pattern=PLAIN)]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = Annotated[Text | Number, Meta(description='An id as in the tables; 7 and "7" are the same.', examples=["user-7"])]
Real = Annotated[float, Meta(ge=-1e15, le=1e15)]
Words = Annotated[str, Meta(max_length=4_096, pattern=r"^[^\x00]*$")]
Scalar = Words | Number | Real | bool | None
Value = Scalar | Annotated[list[Scalar], Meta(max_length=LIST_MOST)]
Columns = Annotated[dict[Text, Value], Meta(max_length=COLUMNS_MOST, description="Values by column of the tables.")]
Ids = Annotated[list[Id], Meta(max_length=CANDIDATES_MOST)]
Seconds = Annotated[float, Meta(ge=0, le=1e11, description="Seconds since 1970.")]
K = Annotated[int, Meta(ge=1, le=K_MOST)]
Kind = Literal["impression", "play", "like", "skip"]
Became = Literal["stored", "duplicate", "quarantined", "capped"]


class _In(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body that a client sends."""

    def __post_init__(self) -> None:
        """Refuse a line's end after a text, which `$` of the pattern lets through."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            texts = value if isinstance(value, list | dict) else (value,)
            if any(isinstance(text, str) and text.endswith("\n") for text in texts):
                raise ValueError(f"`{name}` must not end with a line's end")


class _Out(Struct, frozen=True, kw_only=True):
    """A body that the service sends."""


class Filters(_In, frozen=True):
    """What may be in the list.

    Attributes:
        allow: Only these items.
        deny: None of these items.
        seen: What happens to items that the user has had; the bundle's own rule without it.
    """

    allow: Ids | None = None
    deny: Ids = []
    seen: Literal["hide", "allow", "window"] | None = None


class RecommendRequest(_In, frozen=True):
    """Ask for the k best items for a user."""

    user: Id
    k: K = 10
    context: Columns = {}
    filters: Filters = Filters()
    surface: Text | None = None
    trace: bool = False


class RankRequest(_In, frozen=True):
    """Ask for the order of some items for a user."""

    user: Id
    candidates: Annotated[list[Id], Meta(min_length=1, max_length=CANDIDATES_MOST)]
    context: Columns = {}
    surface: Text | None = None


class SimilarRequest(_In, frozen=True):
    """Ask for the items that are nearest to an item."""

    item: Id
    k: K = 10


class EventIn(_In, frozen=True):
    """Something that a user did.

    Attributes:
        event: Id of the event; sending it again changes nothing.
        kind: impression, play, like or skip.
        user: Who.
        item: With what.
        request: Id of the request whose answer it belongs to.
        time: When; now without it.
        position: Where the item was shown, from 1.
        propensity: The probability with which it was shown.
        surface: Where in the product.
        values: Numbers by column, such as the seconds listened.
    """

    event: Text
    kind: Kind
    user: Id
    item: Id
    request: Text | None = None
    time: Seconds | None = None
    position: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    propensity: Annotated[float, Meta(gt=0, le=1)] | None = None
    surface: Text | None = None
    values: Annotated[dict[Text, Real], Meta(max_length=COLUMNS_MOST)] = {}


class EventsRequest(_In, frozen=True):
    """Events in the order in which they happened."""

    events: Annotated[list[EventIn], Meta(min_length=1, max_length=EVENTS_MOST)]


class RowIn(_In, frozen=True):
    """A user or an item with its columns of the tables."""

    id: Id
    columns: Columns = {}


class ItemsRequest(_In, frozen=True):
    """Items that are new or have changed."""

    items: Annotated[list[RowIn], Meta(min_length=1, max_length=ROWS_MOST)]


class UsersRequest(_In, frozen=True):
    """Users that are new or have changed."""

    users: Annotated[list[RowIn], Meta(min_length=1, max_length=ROWS_MOST)]


class ActivateRequest(_In, frozen=True):
    """Put a bundle into service: its folder's name, beside the bundle that the service was started with."""

    bundle: Text
    reason: Annotated[str, Meta(min_length=1, max_length=1_000, pattern=PLAIN)] = "by hand"


class RollbackRequest(_In, frozen=True):
    """Go back to the bundle that was in service before."""

    reason: Annotated[str, Meta(min_length=1, max_length=1_000, pattern=PLAIN)] = "by hand"


class IdQuery(_In, frozen=True):
    """Which row."""

    id: Text


class ExplainQuery(_In, frozen=True):
    """Which user and which item."""

    user: Text
    item: Text


class ItemOut(_Out, frozen=True):
    """An item of a list.

    Attributes:
        id: As in the tables.
        title: What a person reads, where the catalogue has titles.
        score: Of the last stage that scored it.
        position: From 1.
        propensity: The probability with which the item stands there, where a part of the list is left to chance.
        why: What brought it here.
    """

    id: str | int
    title: str | None
    score: float
    position: int
    propensity: float | None = None
    why: list[str] = []


class StageOut(_Out, frozen=True):
    """What a stage of the pipeline did."""

    name: str
    milliseconds: float
    items: int
    skipped: str | None = None


class ListOut(_Out, frozen=True):
    """The answer to recommend and rank.

    Attributes:
        request: Id of the request: name it in the events that follow.
        user: As it was asked.
        known: False when nobody knows the user; the list is then what is popular.
        items: Best first.
        unknown: Candidates that nobody knows; they have no score.
        bundle: Id of the bundle that answered.
        calibrated: Whether scores are probabilities.
        degraded: Why the answer is less than it could be; empty when all stages ran.
        trace: The stages, when asked for.
    """

    request: str
    user: str | int
    known: bool
    items: list[ItemOut]
    bundle: str
    calibrated: bool = False
    unknown: list[str | int] = []
    degraded: list[str] = []
    trace: list[StageOut] | None = None


class SimilarOut(_Out, frozen=True):
    """The answer to similar."""

    request: str
    item: str | int
    items: list[ItemOut]
    bundle: str


class EventOut(_Out, frozen=True):
    """What became of an event."""

    event: str
    status: Became


class EventsOut(_Out, frozen=True):
    """What became of events, in their order. All but the capped ones are on disk."""

    request: str
    events: list[EventOut]


class DoneOut(_Out, frozen=True):
    """How many rows a command touched."""

    request: str
    rows: int


class ExplainOut(_Out, frozen=True):
    """Why an item is or is not in a user's list.

    Attributes:
        request: Id of the request.
        user: As it was asked.
        item: As it was asked.
        known: Whether the user is known.
        score: What the ranker gives the pair; None for an unknown item.
        position: In the user's list; None when it is not there.
        why: What brought it there.
        features: What the ranker reads of the pair: ids and scaled numbers by field; of a set the ids of its values.
        bundle: Id of the bundle that answered.
        trace: The stages of the list.
    """

    request: str
    user: str | int
    item: str | int
    known: bool
    score: float | None
    position: int | None
    why: list[str]
    features: dict[str, int | float | list[int]]
    bundle: str
    trace: list[StageOut] = []


class BundleOut(_Out, frozen=True):
    """The bundle in service.

    Attributes:
        request: Id of the request.
        bundle: Its id.
        path: Its folder's name.
        generation: Rises with every move of the pointer.
        workers: Processes that serve it.
    """

    request: str
    bundle: str
    path: str
    generation: int
    workers: int


class HealthOut(_Out, frozen=True):
    """Whether the process lives."""

    status: Literal["ok"] = "ok"


class ReadyOut(_Out, frozen=True):
    """Whether the process can answer."""

    status: Literal["ready", "loading", "draining"]
    bundle: str | None = None
    generation: int | None = None


class ErrorBody(_Out, frozen=True):
    """What was wrong.

    Attributes:
        status: The HTTP status.
        message: One sentence.
        path: Where in the body, as a JSON path; None where it was not the body.
        request: Id of the request, as in the log.
    """

    status: int
    message: str
    path: str | None = None
    request: str = ""


class ErrorOut(_Out, frozen=True):
    """Every answer but a good one."""

    error: ErrorBody
