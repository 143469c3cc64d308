"""What the service does with each request: the methods are named after the routes."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, final

from weft.errors import Unavailable
from weft.recommend.answers import Item, Recommendation
from weft.schema import Schema
from weft.serve import wire
from weft.serve.door import ASKED, Refused
from weft.serve.engine import Engine, Serving
from weft.serve.features import pack
from weft.serve.gate import Gate
from weft.serve.journal import tell
from weft.serve.live import Live, Recommends
from weft.serve.meters import Meters
from weft.serve.settings import Limits
from weft.serve.store import Event, EventStore, Request, now
from weft.serve.wire import ItemOut, ListOut, StageOut
from weft.transforms.rows import Rows

LISTED = 100
MICROSECONDS = 1_000_000
T = TypeVar("T")


@final
class Service:
    """Answers requests.

    Attributes:
        engine: The bundle in service.
        store: The log.
        gate: Where the work is done.
        meters: What is counted.
    """

    def __init__(self, engine: Engine, store: EventStore, gate: Gate, meters: Meters, limits: Limits) -> None:
        self.engine, self.store, self.gate, self.meters, self._limits = engine, store, gate, meters, limits

    # Reading

    async def recommend(self, asked: wire.RecommendRequest) -> ListOut:
        """The k best items, and the request in the log."""
        return await self.gate.run(partial(self._recommend, asked))

    def _recommend(self, asked: wire.RecommendRequest) -> ListOut:
        id, serving, moment = _request(), self.engine.serving, now()
        live = serving.live
        recommender, missing = live.current()
        had, unread = _had(live, asked)
        user = live.user(asked.user)
        rows = recommender.user_rows(user, asked.context or None)
        answer = recommender.recommend(
            user,
            k=asked.k,
            seen=asked.filters.seen,
            rows=rows,
            allow=asked.filters.allow,
            deny=asked.filters.deny,
            had=had,
            trace=asked.trace,
        )
        found = _list(id, asked.user, answer, degraded=sorted({*missing, *unread}))
        self._log(serving, recommender, rows, id, moment, asked, found)
        self._count(answer, found)
        return found

    async def rank(self, asked: wire.RankRequest) -> ListOut:
        """Candidates in order, and the request in the log."""
        return await self.gate.run(partial(self._rank, asked))

    def _rank(self, asked: wire.RankRequest) -> ListOut:
        id, serving, moment = _request(), self.engine.serving, now()
        recommender, missing = serving.live.current()
        user = serving.live.user(asked.user)
        rows = recommender.user_rows(user, asked.context or None)
        answer = recommender.rank(user, asked.candidates, rows=rows)
        found = _list(id, asked.user, answer, degraded=missing)
        self._log(serving, recommender, rows, id, moment, asked, found)
        self._count(answer, found)
        return found

    async def similar(self, asked: wire.SimilarRequest) -> wire.SimilarOut:
        """The nearest items."""
        return await self.gate.run(partial(self._similar, asked))

    def _similar(self, asked: wire.SimilarRequest) -> wire.SimilarOut:
        live = self.engine.serving.live
        recommender, _ = live.current()
        _known(live.knows(asked.item), asked.item)
        items = _items(recommender.similar(asked.item, k=asked.k))
        return wire.SimilarOut(request=_request(), item=asked.item, items=items, bundle=live.base.bundle_id)

    async def explain(self, asked: wire.ExplainQuery) -> wire.ExplainOut:
        """An item's place in a user's list, and what the ranker reads."""
        return await self.gate.run(partial(self._explain, asked))

    def _explain(self, asked: wire.ExplainQuery) -> wire.ExplainOut:
        live = self.engine.serving.live
        recommender, _ = live.current()
        user = live.user(asked.user)
        _known(live.knows(asked.item), asked.item)
        rows = recommender.user_rows(user)
        listed = recommender.recommend(user, k=LISTED, rows=rows, had=live.had(asked.user, None), trace=True)
        place = next((p for p, item in enumerate(listed.items, 1) if str(item.id) == asked.item), None)
        ranked = recommender.rank(user, [asked.item], rows=rows).items
        return wire.ExplainOut(
            request=_request(),
            user=asked.user,
            item=asked.item,
            known=listed.known,
            score=ranked[0].score if ranked else None,
            position=place,
            why=[] if place is None else list(listed.items[place - 1].why),
            features=_read(recommender.features(rows, [asked.item]), recommender.transforms.fields),
            bundle=live.base.bundle_id,
            trace=_stages(listed),
        )

    # Writing

    async def events(self, asked: wire.EventsRequest) -> wire.EventsOut:
        """Keep events; answered when they are on disk."""
        live, moment = self.engine.serving.live, now()
        await self.gate.run(live.current)
        events = [_event(one, moment, known=live.knows(one.item)) for one in asked.events]
        became = await _durable(self.store.add_events(events, hourly=self._limits.events_hourly))
        statuses: list[wire.Became] = [
            "quarantined" if status == "stored" and event.quarantined else status  # type: ignore[misc]
            for status, event in zip(became, events, strict=True)
        ]
        for event, status in zip(events, statuses, strict=True):
            self.meters.events.labels(event.kind, status).inc()
        told = [wire.EventOut(event=e.id, status=s) for e, s in zip(events, statuses, strict=True)]
        return wire.EventsOut(request=_request(), events=told)

    async def put_items(self, asked: wire.ItemsRequest) -> wire.DoneOut:
        """Keep items; they are part of the next list."""
        recommender, _ = await self.gate.run(self.engine.serving.live.current)
        rows = _rows(asked.items, recommender.schema, "item")
        await self.gate.run(lambda: recommender.with_items([row for _, row in rows]))
        await _durable(self.store.put_items(rows))
        return wire.DoneOut(request=_request(), rows=len(rows))

    async def delete_items(self, asked: wire.IdQuery) -> wire.DoneOut:
        """Take an item out."""
        live = self.engine.serving.live
        await self.gate.run(live.current)
        known = live.knows(asked.id)
        if known:
            await _durable(self.store.delete_items([asked.id]))
        return wire.DoneOut(request=_request(), rows=int(known))

    async def put_users(self, asked: wire.UsersRequest) -> wire.DoneOut:
        """Keep users."""
        recommender, _ = await self.gate.run(self.engine.serving.live.current)
        rows = _rows(asked.users, recommender.schema, "user")
        await self.gate.run(lambda: recommender.with_users([row for _, row in rows]))
        await _durable(self.store.put_users(rows))
        return wire.DoneOut(request=_request(), rows=len(rows))

    async def delete_users(self, asked: wire.IdQuery) -> wire.DoneOut:
        """Forget a user."""
        return wire.DoneOut(request=_request(), rows=await _durable(self.store.forget(asked.id)))

    # Ruling

    async def activate(self, asked: wire.ActivateRequest) -> wire.BundleOut:
        """Put a bundle into service."""
        actor, engine = ASKED.get().key, self.engine
        there, workers = await asyncio.to_thread(engine.activate, asked.bundle, actor=actor, reason=asked.reason)
        return self._bundle(there, workers)

    async def rollback(self, asked: wire.RollbackRequest) -> wire.BundleOut:
        """Go back to the bundle before."""
        there, workers = await asyncio.to_thread(self.engine.rollback, actor=ASKED.get().key, reason=asked.reason)
        return self._bundle(there, workers)

    def _bundle(self, there: Any, workers: int) -> wire.BundleOut:
        self.meters.generation.set(there.seq)
        name = there.path.rsplit("/", 1)[-1]
        return wire.BundleOut(request=_request(), bundle=there.bundle, path=name, generation=there.seq, workers=workers)

    # Small things

    def _log(
        self,
        serving: Serving,
        recommender: Recommends,
        rows: Rows,
        id: str,
        moment: int,
        asked: wire.RecommendRequest | wire.RankRequest,
        found: ListOut,
    ) -> None:
        """Have the answer kept with what the ranker read; the answer does not wait for the disk.

        `rows` is the user's side as the ranker had it.

        The store writes in the order in which it is given, so an event that names this request is not acknowledged
        before the request is there.
        """
        if not found.items:
            return
        shown = tuple((str(item.id), item.propensity) for item in found.items)
        items = [item.id for item in found.items]
        request = Request(
            id=id,
            user=str(asked.user),
            time=moment,
            bundle=serving.generation.bundle,
            surface=asked.surface,
            explored=any(chance is not None and chance < 1 for _, chance in shown),
            shown=shown,
            features=pack(recommender.features(rows, items)),
        )
        try:
            self.store.add_request(request).add_done_callback(self._kept)
        except Unavailable:
            self.meters.unlogged.inc()

    def _kept(self, future: "Future[None]") -> None:
        error = future.exception()
        if error is not None:
            self.meters.unlogged.inc()
            tell("an answer is not in the log", reason=str(error))

    def _count(self, answer: Recommendation, found: ListOut) -> None:
        if found.degraded:
            self.meters.degraded.inc()
        for stage in () if answer.trace is None else answer.trace.stages:
            self.meters.stages.labels(stage.name).observe(stage.milliseconds / 1e3)


def _request() -> str:
    return ASKED.get().request


def _had(live: Live, asked: wire.RecommendRequest) -> tuple[list[str], list[str]]:
    """What the log hides from the user, and `store` where it cannot be read now."""
    try:
        return live.had(asked.user, asked.filters.seen), []
    except Unavailable:
        return [], ["store"]


def _known(is_known: bool, item: str | int) -> None:
    if not is_known:
        raise Refused(404, f"there is no item {item!r}; give the id of an item of the catalogue")


async def _durable(future: "Future[T]") -> T:
    return await asyncio.wrap_future(future)


def _event(one: wire.EventIn, moment: int, *, known: bool) -> Event:
    return Event(
        id=one.event,
        kind=one.kind,
        user=str(one.user),
        item=str(one.item),
        time=moment if one.time is None else round(one.time * MICROSECONDS),
        request=one.request,
        position=one.position,
        propensity=one.propensity,
        surface=one.surface,
        values=one.values,
        quarantined=not known,
    )


def _rows(rows: Sequence[wire.RowIn], schema: Schema, side: str) -> list[tuple[str, dict[str, Any]]]:
    role = str(schema.roles.item if side == "item" else schema.roles.user)
    return [(str(row.id), {**row.columns, role: row.id}) for row in rows]


def _list(id: str, user: str | int, answer: Recommendation, *, degraded: Sequence[str]) -> ListOut:
    return ListOut(
        request=id,
        user=user,
        known=answer.known,
        items=_items(answer.items),
        bundle=answer.bundle,
        calibrated=answer.calibrated,
        unknown=list(answer.unknown),
        degraded=[*answer.degraded, *degraded],
        trace=None if answer.trace is None else _stages(answer),
    )


def _items(items: Sequence[Item]) -> list[ItemOut]:
    return [
        ItemOut(
            id=item.id,
            title=item.title,
            score=item.score,
            position=place,
            propensity=item.propensity,
            why=list(item.why),
        )
        for place, item in enumerate(items, 1)
    ]


def _stages(answer: Recommendation) -> list[StageOut]:
    stages = () if answer.trace is None else answer.trace.stages
    return [StageOut(name=s.name, milliseconds=s.milliseconds, items=s.items, skipped=s.skipped) for s in stages]


def _read(rows: Rows, fields: Any) -> dict[str, int | float | list[int]]:
    """What a row holds by field."""
    found: dict[str, int | float | list[int]] = {}
    names = [field.name for field in fields.dense]
    found |= {field.name: int(rows.ids[0, place]) for place, field in enumerate(fields.ids)}
    found |= {name: float(rows.dense[0, place]) for place, name in enumerate(names)}
    return found | {name: sets.values.tolist() for name, sets in rows.ragged.items()}
