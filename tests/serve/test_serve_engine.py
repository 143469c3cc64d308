"""Hot swap: a better bundle takes over while requests run; each answer comes from one bundle; the old one goes."""

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service_for_tests import Served, served

import camps_for_tests as camp
from weft.errors import ArtifactError, ConfigError, Unavailable
from weft.recommend.recommender import Recommender
from weft.serve import engine as engines
from weft.serve.engine import Engine
from weft.serve.live import Live
from weft.serve.settings import Limits, Settings
from weft.serve.store import EventStore, now

USERS = [camp.FIRST_USER + place for place in range(6)]
NAMES = ("ranker", "other")


@pytest.fixture
def service(bundles: Path, tmp_path: Path) -> Iterator[Served]:
    settings = Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"), limits=Limits(patience=30.0))
    with served(settings) as running:
        yield running


def activate(service: Served, name: str, **more: Any) -> httpx.Response:
    return service.post("/v1/bundles/activate", {"bundle": name, **more})


def answers_of(bundles: Path) -> dict[str, dict[int, list[str]]]:
    """What each bundle answers each user, by the bundle's id."""
    found = {}
    for name in NAMES:
        recommender = Recommender.load(bundles / name)
        found[recommender.bundle_id] = {user: [str(i.id) for i in recommender.recommend(user).items] for user in USERS}
    one, two = found.values()
    assert all(one[user] != two[user] for user in USERS)
    return found


def swap_under_load(service: Served, bundles: Path, *, swaps: int, clients: int) -> list[float]:
    """Swap two bundles while clients ask; milliseconds of each request. Every answer is wholly one bundle's own."""
    wanted = answers_of(bundles)
    stop = threading.Event()
    faults: list[str] = []
    times: list[float] = []
    bundles_seen: set[str] = set()

    def ask(place: int) -> None:
        with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                user = USERS[(place + len(times)) % len(USERS)]
                started = time.perf_counter()
                answer = client.post("/v1/recommend", json={"user": user})
                times.append((time.perf_counter() - started) * 1e3)
                if answer.status_code != 200:
                    faults.append(answer.text)
                    continue
                body = answer.json()
                bundles_seen.add(body["bundle"])
                if [i["id"] for i in body["items"]] != wanted[body["bundle"]][user]:
                    faults.append(f"mixed: {answer.text}")

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(clients)]
    for thread in threads:
        thread.start()
    try:
        for place in range(swaps):
            name = NAMES[(place + 1) % 2]
            answer = activate(service, name)
            assert answer.status_code == 200, answer.text
            assert answer.json()["path"] == name
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert bundles_seen == set(wanted)
    return times


def test_swaps_under_load_are_clean(service: Served, bundles: Path) -> None:
    times = swap_under_load(service, bundles, swaps=12, clients=4)
    assert len(times) > 20


@pytest.mark.slow
def test_two_hundred_swaps_under_eight_clients(service: Served, bundles: Path) -> None:
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096

    swap_under_load(service, bundles, swaps=20, clients=8)
    base = resident()
    times = swap_under_load(service, bundles, swaps=200, clients=8)
    grown = resident() - base
    p50, p99 = np.percentile(times, [50, 99])
    print(
        f"\n200 swaps, 8 clients, {len(times)} requests: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {grown / 2**20:+.0f} MiB"
    )
    assert grown < 64 * 2**20


def test_old_bundles_go(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Live]] = []
    plain = Live.__init__

    def remembered(self: Live, *arguments: Any, **options: Any) -> None:
        made.append(weakref.ref(self))
        plain(self, *arguments, **options)

    given_back: list[bool] = []
    monkeypatch.setattr(Live, "__init__", remembered)
    monkeypatch.setattr("weft.serve.engine.trim_memory", lambda: given_back.append(True))
    for place in range(6):
        assert activate(service, NAMES[(place + 1) % 2]).status_code == 200
        assert service.post("/v1/recommend", {"user": USERS[0]}).status_code == 200
    gc.collect()
    assert len(made) == 6
    assert sum(ref() is not None for ref in made) == 1
    until = time.monotonic() + 10
    while not given_back and time.monotonic() < until:
        time.sleep(0.05)
    assert given_back, "what the old bundles had goes back to the system"


def test_a_request_ends_on_the_bundle_it_began_with(bundles: Path, tmp_path: Path) -> None:
    """A request that waits inside the old bundle while the new one takes over is answered by the old one."""
    entered, release = threading.Event(), threading.Event()

    class Waits:
        def __init__(self, inner: Recommender) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def recommend(self, user: Any, **options: Any) -> Any:
            if user == USERS[1]:
                entered.set()
                assert release.wait(30)
            return self._inner.recommend(user, **options)

    settings = Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"), limits=Limits(threads=3))
    with served(settings, load=lambda path: Waits(Recommender.load(path))) as running:
        old = running.post("/v1/recommend", {"user": USERS[0]}).json()["bundle"]
        found: list[Any] = []

        def ask() -> None:
            with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
                found.append(client.post("/v1/recommend", json={"user": USERS[1]}).json())

        thread = threading.Thread(target=ask)
        thread.start()
        assert entered.wait(30)
        new = activate(running, "staged").json()["bundle"]
        assert running.post("/v1/recommend", {"user": USERS[0]}).json()["bundle"] == new != old
        release.set()
        thread.join(30)
        assert found[0]["bundle"] == old
        assert found[0]["items"]


def test_rollback_and_the_audit(service: Served, tmp_path: Path) -> None:
    first = service.client.get("/readyz").json()["bundle"]
    none = service.post("/v1/bundles/rollback", {})
    assert none.status_code == 409
    assert "no bundle was in service before" in none.json()["error"]["message"]
    second = activate(service, "staged", reason="AUC up").json()
    assert second["bundle"] != first
    back = service.post("/v1/bundles/rollback", {"reason": "complaints"}).json()
    assert (back["bundle"], back["path"], back["workers"]) == (first, "ranker", 1)
    assert service.client.get("/readyz").json()["bundle"] == first
    store = EventStore(tmp_path / "e.db")
    told = [(entry.action, entry.actor, entry.reason, entry.bundle) for entry in store.audits()]
    store.close()
    assert told == [
        ("rollback", "local", "complaints", first),
        ("activate", "local", "AUC up", second["bundle"]),
        ("activate", "start", "the service was started with it", first),
    ]


def test_a_damaged_bundle_never_takes_over(service: Served, bundles: Path, tmp_path: Path) -> None:
    broken = bundles / "broken"
    shutil.copytree(bundles / "staged", broken)
    weights = next(broken.rglob("weights.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    try:
        before = service.client.get("/readyz").json()
        answer = activate(service, "broken", reason="a try")
        assert answer.status_code == 409
        assert "weights.safetensors" in answer.json()["error"]["message"]
        assert service.client.get("/readyz").json() == before
        assert service.post("/v1/recommend", {"user": USERS[0]}).json()["bundle"] == before["bundle"]
        store = EventStore(tmp_path / "e.db")
        newest = store.audits()[0]
        store.close()
        assert newest.action == "refuse"
        assert "weights.safetensors" in newest.reason
    finally:
        shutil.rmtree(broken)


@pytest.mark.parametrize("name", ["nothing", "..", ".", "../ranker", "/etc", "ranker/runs", "a\\..\\b", "n" * 256])
def test_bundles_lie_beside_each_other(service: Served, name: str) -> None:
    answer = activate(service, name)
    assert answer.status_code == 409
    assert "beside the one" in answer.json()["error"]["message"]


# Several processes


@pytest.fixture
def pair(bundles: Path, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    stores = [EventStore(tmp_path / "e.db") for _ in range(2)]
    made = [Engine(store, bundles, Recommender.load, patience=5.0) for store in stores]
    for engine in made:
        engine.start(bundles / "ranker")
    yield made[0], made[1]
    for store in stores:
        store.close()


def test_activate_returns_when_all_have_followed(pair: tuple[Engine, Engine]) -> None:
    one, two = pair
    following = threading.Thread(target=lambda: (time.sleep(0.5), two.follow()))
    following.start()
    there, workers = one.activate("staged", actor="me", reason="r")
    assert workers == 2
    assert two.serving.generation == there == one.serving.generation
    assert two.serving.live is not one.serving.live
    following.join()


def test_a_process_that_does_not_follow_is_told_of(pair: tuple[Engine, Engine]) -> None:
    one, _ = pair
    with pytest.raises(Unavailable, match="1 of 2 processes"):
        one.activate("staged", actor="me", reason="r")


def test_a_process_that_died_is_not_waited_for(pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = pair
    monkeypatch.setattr(engines, "LOST", 200_000)
    time.sleep(0.4)
    assert one.activate("staged", actor="me", reason="r")[1] == 1


def test_an_engine_before_its_start(bundles: Path, tmp_path: Path) -> None:
    store = EventStore(tmp_path / "e.db")
    engine = Engine(store, bundles, Recommender.load)
    assert not engine.is_ready
    with pytest.raises(Unavailable, match="no bundle is loaded"):
        engine.serving  # noqa: B018
    with pytest.raises(ConfigError, match="no bundle was in service"):
        engine.rollback(actor="me", reason="r")
    with pytest.raises(ArtifactError, match="beside"):
        engine.path_of("../x")
    assert store.workers(since=now() - 10**9) == {}
    store.close()
