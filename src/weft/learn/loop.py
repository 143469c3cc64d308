"""The loop: read the log, train on, judge, publish; what was done, and why, stands in the audit.

How far a bundle has learnt stands in its own manifest. A step reads on from there and writes a new bundle whole, then
the store's pointer moves in one transaction. A crash before that leaves the pointer, so the next step reads the same
rows again, from the weights that have not seen them; a crash after it leaves bundle and offset together. So nothing is
skipped and nothing is trained twice, and after a rollback the older bundle goes on from its own offset.
"""

import re
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from weft import artifacts
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, Diverged, WeftError
from weft.learn.gate import Bounds, Judged, judge
from weft.learn.growth import SIDES, Grown, Policy, Side, Waiting, grown, translated
from weft.learn.log import News, news
from weft.learn.step import learns, make_bundle, write_store
from weft.recommend.bundle import KIND, Bundle
from weft.serve.engine import install
from weft.serve.store import EventStore, Generation
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows

ACTOR, NOTE, WORK = "learn", "learnt", ".learn"
OLD_ROWS = 100_000
UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Learning(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to learn.

    Attributes:
        window: Seconds after an impression in which what the user does counts for it; as the service has it.
        least: Rows, below which a step waits for more.
        held: The share of the newest rows that judges, and is trained on the next time.
        epochs: Passes over the new rows.
        user_most: At most so many rows of a user in a step.
        explored_only: Learn only from answers that were left to chance in part.
        policy: Who gets an id.
        bounds: Of the gate.
        keep: Bundles that learning made and that are kept, the one in service and the one before it besides.
        seed: Of shuffling and of the weights of new values.
    """

    window: float = 1_800.0
    least: int = 500
    held: float = 0.2
    epochs: int = 1
    user_most: int = 2_000
    explored_only: bool = False
    policy: Policy = Policy()
    bounds: Bounds = Bounds()
    keep: int = 5
    seed: int = 0


class Learnt(Struct, frozen=True, kw_only=True):
    """What a bundle that was learnt says of it in its manifest.

    Attributes:
        offset: The `seq` of the log up to which it has learnt.
        since: The offset of the bundle before it.
        parent: Id of the bundle before it.
        name: Of the folder that the first bundle lies in.
        origin: Path of the store that the first bundle's runs were trained on.
        rows: Rows that this step trained on.
        steps: Steps since the first bundle.
        waiting: By table, the rows in which values without an id were met.
    """

    offset: int
    since: int
    parent: str
    name: str
    origin: str
    rows: int
    steps: int
    waiting: Waiting = {}


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a step.

    Attributes:
        action: publish, refuse or wait.
        reason: Why.
        bundle: Path of the new bundle, where there is one in service.
        since: The offset before.
        offset: The offset behind the rows that were trained on.
        rows: How many these are.
    """

    action: str
    reason: str
    bundle: str | None = None
    since: int = 0
    offset: int = 0
    rows: int = 0

    def __str__(self) -> str:
        where = "" if self.bundle is None else f" {self.bundle}"
        return f"{self.action}{where}: {self.reason} ({self.rows:,} rows, log {self.since:,} to {self.offset:,})"


def learn(bundle: str | Path, store: EventStore, settings: Learning, *, clock: int | None = None) -> Outcome:
    """One step: what is new in the log, trained on, judged, and published if it may be.

    Args:
        bundle: Where the service starts; the bundle that the store points to is the one that goes on.
        store: The log.
        settings: How.
        clock: Now, microseconds since 1970.

    Raises:
        Locked: Another process learns beside these bundles.
        ArtifactError: The bundle in service is damaged or gone.
    """
    serving = _serving(Path(bundle).resolve(), store)
    root = Path(serving.path).parent
    with artifacts.lock(root / WORK):
        work = root / WORK / "step"
        shutil.rmtree(work, ignore_errors=True)
        before = Bundle.load(serving.path)
        state = learnt(before)
        found = news(
            store,
            before.schema,
            since=state.offset,
            window=settings.window,
            held_share=settings.held,
            user_most=settings.user_most,
            explored_only=settings.explored_only,
            clock=clock,
        )
        try:
            return _step(before, serving, state, found, store, settings, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def learn_every(
    bundle: str | Path, store: EventStore, settings: Learning, *, seconds: float, hear: Callable[[Outcome], None]
) -> None:
    """`learn` again and again until the process ends; a step that fails is an entry in the audit and is tried anew."""
    while True:
        started = time.monotonic()
        try:
            hear(learn(bundle, store, settings))
        except WeftError as error:
            _tell(store, "fail", None, str(error))
            hear(Outcome(action="fail", reason=str(error)))
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))


def learnt(bundle: Bundle) -> Learnt:
    """How far a bundle has learnt; one that training made has learnt nothing of the log."""
    note = bundle.manifest.get(NOTE)
    if note is not None:
        return msgspec.convert(note, Learnt)
    origin = str(bundle.manifest.get("store", {}).get("path", ""))
    return Learnt(offset=0, since=0, parent="", name=bundle.path.name, origin=origin, rows=0, steps=0)


def read_learning(path: str | Path) -> Learning:
    """Settings from a TOML file; ConfigError names the path of what is wrong."""
    try:
        return msgspec.toml.decode(Path(path).read_bytes(), type=Learning)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read the settings {str(path)!r}: {error}; see `weft learn --help`") from error


def seconds_of(text: str) -> float:
    """A span of time in seconds.

    >>> seconds_of("15m"), seconds_of("1.5h")
    (900.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None or not float(found[1]):
        raise ConfigError(f"a span of time is a number and s, m, h or d, got {text!r}; write for example 15m")
    return float(found[1]) * UNITS[found[2]]


def _serving(bundle: Path, store: EventStore) -> Generation:
    there = store.current()
    return there if there is not None else install(store, bundle, Bundle.load(bundle).id)


def _step(
    before: Bundle,
    serving: Generation,
    state: Learnt,
    found: News,
    store: EventStore,
    settings: Learning,
    work: Path,
) -> Outcome:
    done = Outcome(action="wait", reason="", since=found.since, offset=found.offset)
    if not any(learns(member.config) for member in before.members.values()):
        raise ConfigError(f"no run of {str(before.path)!r} is trained by gradients, so none can go on; bundle one")
    if found.train is None or found.held is None or len(found.train) < settings.least:
        rows = 0 if found.train is None else len(found.train)
        return replace(done, reason=f"{rows:,} new rows whose window has closed, {settings.least:,} are needed")
    met = {side: found.train.names[side] for side in SIDES}
    more = grown(before.transforms, met, state.waiting, settings.policy)
    encode = _encodings(before)
    train, held = (part.encoded(encode, more.transforms) for part in (found.train, found.held))
    if train is None or held is None or len(train) < settings.least:
        return replace(done, reason="the bundles that answered are gone, so what they logged cannot be read")
    if len(np.unique(_first_label(held))) < 2:
        return replace(done, reason=f"the newest {len(held):,} rows have one label only, so they cannot judge")
    done = replace(done, rows=len(train))
    note = Learnt(
        offset=found.offset,
        since=found.since,
        parent=before.id,
        name=state.name,
        origin=state.origin,
        rows=len(train),
        steps=state.steps + 1,
        waiting=more.waiting,
    )
    raw: dict[Side, dict[str, Any]] = {
        "user": dict(store.users(sorted(set(met["user"])))),
        "item": {id: columns or {} for id, columns in store.items(sorted(set(met["item"]))).items()},
    }
    target = _fresh(before.path.parent, f"{state.name}-{found.offset:012d}")
    try:
        new = write_store(work / "store", before, more.transforms, train, held, raw)
        candidate = make_bundle(
            before,
            new,
            work,
            work / "candidate",
            epochs=settings.epochs,
            seed=settings.seed + state.steps,
            notes={NOTE: msgspec.to_builtins(note)},
        )
    except Diverged as error:
        return _refused(done, store, str(error))
    newest = found.held.encoded(encode, before.transforms)
    assert newest is not None
    on = [Judged("the newest rows", newest, held, settings.bounds.margin)]
    on += _old(state, before, candidate, settings.bounds)
    verdict = judge(before, candidate, on, settings.bounds)
    if not verdict.passed:
        return _refused(done, store, str(verdict))
    reason = f"{_told(found, more, len(train))}; {verdict}"
    (work / "candidate").rename(target)
    artifacts.sync_folder(target.parent)
    if store.replace(serving, str(target), candidate.id, actor=ACTOR, reason=reason).result() is None:
        there = store.current()
        if there is None or there.path != str(target):  # somebody may have put just this one into service
            shutil.rmtree(target, ignore_errors=True)
        return _refused(done, store, "another bundle was put into service in the meantime")
    _prune(target, state.name, settings.keep, {str(target), serving.path})
    return replace(done, action="publish", reason=reason, bundle=str(target))


def _first_label(rows: Rows) -> NDArray[np.float32]:
    assert rows.label is not None
    return rows.label[:, 0]


def _encodings(serving: Bundle) -> Callable[[str], Transforms | None]:
    """The transforms of a bundle by its id: the one in service or one that lies beside it."""

    @cache
    def of(id: str) -> Transforms | None:
        if id == serving.id:
            return serving.transforms
        for folder in serving.path.parent.iterdir():
            if artifacts.kind_of(folder) == KIND and artifacts.read_manifest(folder, KIND)["id"] == id:
                return Transforms.load(folder / "transforms")
        return None

    return of


def _old(state: Learnt, before: Bundle, candidate: Bundle, bounds: Bounds) -> list[Judged]:
    """The test rows of the store that the first bundle came from, where it is still there."""
    try:
        store = Store.open(state.origin)
        rows = store.split("test")
    except (ArtifactError, OSError):
        return []
    if not len(rows) or store.schema != before.schema:
        return []
    if len(rows) > OLD_ROWS:
        rows = rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:OLD_ROWS]))
    then: Transforms = store.transforms
    old, new = (translated(rows, then, bundle.transforms) for bundle in (before, candidate))
    return [Judged("the old test rows", old, new, bounds.old_margin)]


def _told(found: News, more: Grown, rows: int) -> str:
    parts = [f"{rows:,} rows"]
    parts += [f"{count:,} new ids in {table}" for table, count in more.admitted.items() if count]
    parts += [f"{count:,} ids of {table} given to others" for table, count in more.evicted.items() if count]
    parts += [f"{count:,} rows left out, {reason}" for reason, count in found.left_out.items()]
    return ", ".join(parts)


def _refused(done: Outcome, store: EventStore, reason: str) -> Outcome:
    _tell(store, "refuse", None, reason)
    return replace(done, action="refuse", reason=reason)


def _tell(store: EventStore, action: str, bundle: str | None, reason: str) -> None:
    store.audit(action, actor=ACTOR, reason=reason, bundle=bundle).result()


def _fresh(root: Path, name: str) -> Path:
    """A path that nothing is at."""
    paths = [root / name, *(root / f"{name}-{number}" for number in range(2, 1_000))]
    return next(path for path in paths if not path.exists())


def _prune(newest: Path, name: str, keep: int, needed: set[str]) -> None:
    """Remove the oldest bundles that learning made."""
    made = [path for path in newest.parent.glob(f"{name}-*") if _is_learnt(path) and str(path) not in needed]
    made.sort(key=lambda path: path.stat().st_mtime)
    for path in made[: max(len(made) - keep, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def _is_learnt(path: Path) -> bool:
    return artifacts.kind_of(path) == KIND and NOTE in artifacts.read_manifest(path, KIND)
