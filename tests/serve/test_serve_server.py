"""The command as a process: it drains when told to stop, workers are replaced, a kill loses nothing acknowledged."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_for_tests import TOKENS, served
from stores_for_tests import KINDS, store_url

import camps_for_tests as camp
from weft import cli
from weft.recommend.recommender import Recommender
from weft.serve.server import listen
from weft.serve.settings import Limits, Settings
from weft.serve.store import EventStore

USER = camp.FIRST_USER
START = 90.0


@dataclass
class Command:
    """A running `weft serve`, and what its log says."""

    process: subprocess.Popen[str]
    port: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line))

    def wait_for(self, message: str) -> dict[str, Any]:
        until = time.monotonic() + START
        while time.monotonic() < until and self.process.poll() is None:
            for line in list(self.lines):
                if line["message"] == message:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"{message!r} is not in {self.lines}")

    def wait_until_ready(self) -> None:
        self.port = int(self.wait_for("listening")["port"])
        until = time.monotonic() + START
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError(f"not ready: {self.lines}")


@contextmanager
def running(bundle: Path, store: str, *options: str) -> Iterator[Command]:
    """Run the command; at the end it must be gone or goes."""
    arguments = [sys.executable, "-m", "weft.cli", "serve", str(bundle), "--port", "0", "--store", store, *options]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        command = Command(process)
        reader = threading.Thread(target=command.read, daemon=True)
        reader.start()
        try:
            command.wait_until_ready()
            yield command
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
            reader.join(10)


def children(pid: int) -> list[int]:
    """The worker processes: those that run spawned Python code."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def asked(url: str, path: str, body: Any) -> httpx.Response:
    """One request on a connection of its own, so that any worker may have it."""
    return httpx.post(f"{url}{path}", json=body, timeout=30, trust_env=False)


def test_a_request_that_runs_is_answered_when_the_service_stops(bundles: Path, tmp_path: Path) -> None:
    entered = threading.Event()

    class Slow:
        def __init__(self, inner: Recommender) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def recommend(self, user: Any, **options: Any) -> Any:
            entered.set()
            time.sleep(1.0)
            return self._inner.recommend(user, **options)

    settings = Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"), limits=Limits(drain_seconds=10))
    found: list[httpx.Response] = []
    with served(settings, load=lambda path: Slow(Recommender.load(path))) as service:
        thread = threading.Thread(target=lambda: found.append(asked(service.url, "/v1/recommend", {"user": USER})))
        thread.start()
        assert entered.wait(30)
        service.server.should_exit = True
        thread.join(30)
    assert [answer.status_code for answer in found] == [200]
    with pytest.raises(httpx.ConnectError):
        asked(service.url, "/v1/recommend", {"user": USER})


def test_the_command_serves_and_ends_when_told(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("burst = 7\n")
    store = str(tmp_path / "e.db")
    with running(bundles / "ranker", store, "--limits", str(tmp_path / "limits.toml")) as command:
        assert asked(command.url, "/v1/recommend", {"user": USER, "k": 2}).status_code == 200
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(30) in (0, -signal.SIGTERM)
    assert {"listening", "bundle in service", "request"} <= {line["message"] for line in command.lines}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "token_file"),
        (["--token-file", "nowhere.toml"], "token file"),
        (["--limits", "nowhere.toml"], "limits"),
        (["--store", "mysql://x"], "sqlite or postgresql"),
        (["--store", "/nowhere/at/all.db"], "the store cannot be used"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_sentence(
    bundles: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code = cli.run(["serve", str(bundles / "ranker"), *arguments])
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("weft: ")
    assert said.count("\n") == 1
    assert words in said


def test_an_answer_is_not_held_back_by_the_network() -> None:
    """Connections send at once what is written; without that, each answer takes the 40 ms of a delayed ACK."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as client:
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert client.getpeername() == listening.getsockname()


def test_a_port_that_is_taken(bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.toml").write_text(TOKENS)
    with served(Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"))) as service:
        arguments = ["serve", str(bundles / "ranker"), "--port", str(service.port), "--store", str(tmp_path / "f.db")]
        assert cli.run(arguments) == 2
    assert "cannot be listened on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_acknowledged_event_is_lost_in_a_kill(kind: str, bundles: Path, tmp_path: Path) -> None:
    """Clients send events while the server is killed and started again; each that was answered 200 is there, once."""
    acked: list[str] = []
    with store_url(kind, tmp_path) as url:
        for round_ in range(3):
            with running(bundles / "ranker", url) as command:
                threads = [
                    threading.Thread(target=send, args=(command.url, f"{round_}-{place}", acked)) for place in range(4)
                ]
                for thread in threads:
                    thread.start()
                time.sleep(1.0)
                command.process.send_signal(signal.SIGKILL)
                for thread in threads:
                    thread.join()
        store = EventStore(url)
        kept = [event.id for event in store.events(limit=1_000_000)]
        store.close()
    assert len(acked) > 100
    assert set(acked) <= set(kept)
    assert len(kept) == len(set(kept))


def send(url: str, name: str, acked: list[str]) -> None:
    """Send events until the server is gone, and note those that were answered."""
    with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
        for place in range(100_000):
            ids = [f"{name}-{place}-{i}" for i in range(3)]
            events = [{"event": id, "kind": "play", "user": USER, "item": "song-1"} for id in ids]
            try:
                if client.post("/v1/events", json={"events": events}).status_code == 200:
                    acked.extend(ids)
            except httpx.HTTPError:
                return


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_workers_share_the_work_follow_each_other_and_are_replaced(kind: str, bundles: Path, tmp_path: Path) -> None:
    with store_url(kind, tmp_path) as url, running(bundles / "ranker", url, "--workers", "2") as command:
        until = time.monotonic() + START
        while time.monotonic() < until:
            said = [line for line in command.lines if line["message"] == "bundle in service"]
            if len(said) >= 2:
                break
            time.sleep(0.1)
        pids = children(command.process.pid)
        assert len(pids) == 2
        told = asked(command.url, "/v1/bundles/activate", {"bundle": "other"})
        assert told.status_code == 200, told.text
        assert told.json()["workers"] == 2
        new = told.json()["bundle"]
        bundles_seen = {asked(command.url, "/v1/recommend", {"user": USER}).json()["bundle"] for _ in range(40)}
        assert bundles_seen == {new}, "after `activate` no process answers from the old bundle"

        liked = asked(command.url, "/v1/recommend", {"user": USER}).json()["items"][0]["id"]
        event = {"event": "l", "kind": "like", "user": USER, "item": liked}
        assert asked(command.url, "/v1/events", {"events": [event]}).status_code == 200
        lists = [asked(command.url, "/v1/recommend", {"user": USER}).json()["items"] for _ in range(20)]
        assert all(liked not in [item["id"] for item in items] for items in lists), "every process knows the event"
        page = httpx.get(f"{command.url}/metrics", timeout=30, trust_env=False).text
        assert 'weft_requests_total{route="/v1/recommend",status="200"} 61.0' in page, "meters of all processes"

        os.kill(pids[0], signal.SIGKILL)
        until = time.monotonic() + START
        while time.monotonic() < until:
            now = children(command.process.pid)
            said = [line for line in command.lines if line["message"] == "bundle in service"]
            if len(now) == 2 and pids[0] not in now and len(said) >= 5:
                break
            time.sleep(0.1)
        assert pids[0] not in children(command.process.pid)
        answers = [asked(command.url, "/v1/recommend", {"user": USER}) for _ in range(20)]
        assert {(a.status_code, a.json()["bundle"]) for a in answers} == {(200, new)}
