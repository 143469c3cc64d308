"""The bundle in service, and how another takes its place while requests run.

A new bundle is verified, loaded, brought up to the log and warmed beside the old one; then the pointer in the store
moves, then the one in this process. A request keeps the bundle that it began with, and an old bundle goes when its last
request has ended. Other processes see the pointer of the store move, and say when they have followed.
"""

import ctypes
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, final

from weft.errors import ArtifactError, ConfigError, Unavailable, WeftError
from weft.serve.journal import tell
from weft.serve.live import Live, Recommends
from weft.serve.store import EventStore, Generation, now

HEARTBEAT = 2.0  # seconds between two reports of a worker
LOST = 10_000_000  # microseconds after which a worker that said nothing is not waited for
PATIENCE = 60.0  # seconds in which all workers must have followed


class Serving(NamedTuple):
    """A bundle in service."""

    live: Live
    generation: Generation


def install(store: EventStore, bundle: Path, id: str) -> Generation:
    """Point a store to a bundle when a service starts with it; it stays where it points there already."""
    there = store.current()
    if there is not None and (there.bundle, there.path) == (id, str(bundle)):
        return there
    return store.activate(str(bundle), id, actor="start", reason="the service was started with it").result()


def trim_memory() -> None:
    """Have the C library give freed memory back, where it is glibc: every thread's heap keeps its own otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@final
class Engine:
    """Holds the bundle in service.

    Args:
        store: Whose pointer says which bundle serves.
        root: The folder in which bundles lie.
        load: A recommender from a bundle's folder; it checks every file.
        window: Seconds after an impression in which what the user does counts for it.
        patience: Seconds in which all workers must have followed.
    """

    def __init__(
        self,
        store: EventStore,
        root: Path,
        load: Callable[[Path], Recommends],
        *,
        window: float = 1_800.0,
        patience: float = PATIENCE,
    ) -> None:
        self.store, self.root, self.worker = store, root.resolve(), uuid.uuid4().hex
        self._load, self._window, self._patience = load, window, patience
        self._serving: Serving | None = None
        self._old: list[weakref.ref[Live]] = []
        self._moving = threading.Lock()
        self._reported, self._at = -1, 0.0

    @property
    def serving(self) -> Serving:
        """The bundle in service; Unavailable before there is one."""
        serving = self._serving
        if serving is None:
            raise Unavailable("no bundle is loaded yet; try again later")
        return serving

    @property
    def is_ready(self) -> bool:
        """Whether there is a bundle in service."""
        return self._serving is not None

    def start(self, bundle: Path) -> None:
        """Load the bundle that the store points to; it is made to point to `bundle` where it points nowhere yet."""
        if self.store.current() is None:
            install(self.store, bundle, self._load(bundle).bundle_id)
        self.follow()
        trim_memory()

    def follow(self) -> None:
        """Follow the store's pointer, and say where this process is; what another process activated is loaded here.

        The memory of bundles whose last request has ended goes back to the system.
        """
        with self._moving:
            self._tidy()
            there = self.store.current()
            if there is not None and (self._serving is None or there.seq != self._serving.generation.seq):
                self._switch(there)
            self._report()

    def activate(self, name: str, *, actor: str, reason: str) -> tuple[Generation, int]:
        """Put a bundle into service; the new generation, and the number of processes that serve it.

        Args:
            name: The folder's name inside `root`.
            actor: Who asks, for the audit.
            reason: Why, for the audit.

        Raises:
            ArtifactError: The bundle is damaged or missing; the old one goes on serving, and the audit has the refusal.
            Unavailable: Another process could not follow in time.
        """
        path = self.path_of(name)
        with self._moving:
            try:
                live = self._ready(path)
            except WeftError as error:
                self.store.audit("refuse", actor=actor, reason=f"{reason}: {error}").result()
                raise
            there = self.store.activate(str(path), live.base.bundle_id, actor=actor, reason=reason).result()
            self._serve(live, there)
            self._report()
        return there, self._followed(there)

    def rollback(self, *, actor: str, reason: str) -> tuple[Generation, int]:
        """Go back to the bundle that was in service before; ConfigError when there was none."""
        with self._moving:
            there = self.store.rollback(actor=actor, reason=reason).result()
            if there is None:
                raise ConfigError("no bundle was in service before this one; activate another one by its name")
            self._switch(there)
            self._report()
        return there, self._followed(there)

    def path_of(self, name: str) -> Path:
        """The folder of a bundle inside `root`; ArtifactError for any other place."""
        try:
            path = (self.root / name).resolve()
            is_there = path.parent == self.root and path.is_dir()
        except OSError:  # no system has a name as long as that
            is_there = False
        if not is_there:
            raise ArtifactError(f"there is no bundle {name!r} beside the one that the service was started with")
        return path

    def _switch(self, there: Generation) -> None:
        same = self._serving is not None and self._serving.generation.bundle == there.bundle
        live = self._serving.live if same and self._serving is not None else self._ready(Path(there.path))
        self._serve(live, there)

    def _serve(self, live: Live, there: Generation) -> None:
        if self._serving is not None and self._serving.live is not live:
            self._old.append(weakref.ref(self._serving.live))
        self._serving = Serving(live, there)
        tell("bundle in service", bundle=there.bundle, generation=there.seq)

    def _tidy(self) -> None:
        there = [old for old in self._old if old() is not None]
        if len(there) < len(self._old):
            trim_memory()
        self._old = there

    def _ready(self, path: Path) -> Live:
        recommender = self._load(path)
        live = Live(recommender, self.store, window=self._window)
        live.current()[0].warm()
        return live

    def _report(self) -> None:
        if self._serving is None:
            return
        seq = self._serving.generation.seq
        if seq != self._reported or time.monotonic() - self._at > HEARTBEAT:
            self.store.report(self.worker, seq).result()
            self._reported, self._at = seq, time.monotonic()

    def _followed(self, there: Generation) -> int:
        """Wait until every process that lives serves a generation or a later one; how many they are."""
        until = time.monotonic() + self._patience
        while True:
            workers = self.store.workers(since=now() - LOST)
            if all(seq >= there.seq for seq in workers.values()):
                return len(workers)
            if time.monotonic() > until:
                late = sum(seq < there.seq for seq in workers.values())
                raise Unavailable(f"{late} of {len(workers)} processes do not serve the bundle yet; look at their logs")
            time.sleep(0.05)
