"""The door: keys and scopes, Host and Origin, sizes and pace, hostile bodies; and what a full house answers."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_for_tests import ADMIN, INGEST, READ, TOKENS, Served, served

import camps_for_tests as camp
from weft.errors import ConfigError
from weft.recommend.recommender import Recommender
from weft.serve import app
from weft.serve import tokens as token_rules
from weft.serve.settings import Limits, Settings, is_loopback, read_limits
from weft.serve.store import EventStore
from weft.serve.tokens import read_tokens

USER = camp.FIRST_USER
ASK = {"user": USER, "k": 2}


@pytest.fixture(scope="module")
def guarded(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with tokens and tight limits."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens.toml").write_text(TOKENS)
    limits = Limits(body_bytes=20_000, header_bytes=4_000, header_seconds=0.6, body_seconds=0.6)
    settings = Settings(
        bundle=str(bundles / "ranker"),
        store=str(folder / "e.db"),
        token_file=str(folder / "tokens.toml"),
        limits=limits,
        hosts=("shop.example",),
    )
    with served(settings) as running:
        yield running


def refused(response: httpx.Response, status: int, words: str = "", path: str | None = None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["status"] == status
    assert error["request"] == response.headers["x-request-id"]
    assert words in error["message"]
    assert path is None or error["path"] == path, error


# Keys


@pytest.mark.parametrize(
    ("method", "path", "fine"),
    [
        ("POST", "/v1/recommend", (READ, ADMIN)),
        ("POST", "/v1/rank", (READ, ADMIN)),
        ("POST", "/v1/similar", (READ, ADMIN)),
        ("GET", "/v1/explain", (READ, ADMIN)),
        ("POST", "/v1/events", (INGEST, ADMIN)),
        ("PUT", "/v1/items", (INGEST, ADMIN)),
        ("DELETE", "/v1/items", (INGEST, ADMIN)),
        ("PUT", "/v1/users", (INGEST, ADMIN)),
        ("DELETE", "/v1/users", (INGEST, ADMIN)),
        ("POST", "/v1/bundles/activate", (ADMIN,)),
        ("POST", "/v1/bundles/rollback", (ADMIN,)),
        ("GET", "/metrics", (READ, ADMIN)),
        ("GET", "/schema", (READ, ADMIN)),
    ],
)
def test_every_path_has_its_scope(guarded: Served, method: str, path: str, fine: tuple[dict[str, str], ...]) -> None:
    body = {"wrong": 1} if method in ("POST", "PUT") else None
    basic = READ["Authorization"].replace("Bearer", "Basic")
    for headers in (READ, INGEST, ADMIN):
        answer = guarded.client.request(method, path, json=body, headers=headers)
        assert (answer.status_code == 403) != (headers in fine), (headers, answer.text)
    for wrong in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": basic}):
        answer = guarded.client.request(method, path, headers=wrong, json=body)
        refused(answer, 401, "token")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_tokens_are_compared_in_constant_time_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.toml").write_text(TOKENS)
    known = read_tokens(tmp_path / "t.toml")
    compared: list[tuple[bytes, bytes]] = []
    digest = token_rules.hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return digest(a, b)

    monkeypatch.setattr(token_rules.hmac, "compare_digest", counted)
    for given in (b"Bearer a-token-that-reads-things", b"Bearer x", b"", None):
        compared.clear()
        assert (known.key_of(given) is not None) == (given == b"Bearer a-token-that-reads-things")
        assert len(compared) == 3
        assert {len(part) for pair in compared for part in pair} == {32}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "tokens"),
        ("tokens = []", "length"),
        ('[[tokens]]\nname = "a"\nscopes = ["read"]\ntoken = "short"', "shorter than 16"),
        ('[[tokens]]\nname = "a"\nscopes = ["rule"]\ntoken = "long-enough-to-pass"', r"\$.tokens\[0\].scopes\[0\]"),
        ('[[tokens]]\nname = "a"\nscopes = ["read"]', "either `token` or `sha256`"),
        ('[[tokens]]\nname = "a"\nscopes = ["read"]\ntoken = "long-enough-to-pass"\n' * 2, "same"),
        ('[[tokens]]\nname = "a"\nscopes = ["read"]\nsha256 = "abc"', "regex"),
    ],
)
def test_token_files_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_tokens(tmp_path / "t.toml")


def test_a_hash_stands_for_a_token(tmp_path: Path) -> None:
    digest = token_rules.hashlib.sha256(b"a-token-that-reads-things").hexdigest()
    (tmp_path / "t.toml").write_text(f'[[tokens]]\nname = "a"\nscopes = ["read"]\nsha256 = "{digest}"')
    key = read_tokens(tmp_path / "t.toml").key_of(b"bearer a-token-that-reads-things")
    assert key is not None
    assert key.scopes == {"read"}
    with pytest.raises(ConfigError, match="cannot read"):
        read_tokens(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_an_open_address_needs_a_token(host: str, loopback: bool, tmp_path: Path) -> None:
    assert is_loopback(host) == loopback
    settings = Settings(bundle="b", host=host)
    if loopback:
        assert settings.tokens().key_of(None) is not None
    else:
        with pytest.raises(ConfigError, match="token_file"):
            settings.tokens()
        (tmp_path / "t.toml").write_text(TOKENS)
        assert Settings(bundle="b", host=host, token_file=str(tmp_path / "t.toml")).tokens().key_of(None) is None


def test_limits_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "l.toml").write_text("body_bytes = 5\nrate = 2.5\n")
    assert read_limits(tmp_path / "l.toml") == Limits(body_bytes=5, rate=2.5)
    (tmp_path / "l.toml").write_text("body_byte = 5\n")
    with pytest.raises(ConfigError, match="body_byte"):
        read_limits(tmp_path / "l.toml")


# Host and Origin


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "localhost.evil"])
def test_a_strange_host_changes_nothing(guarded: Served, host: str) -> None:
    for method, path in (
        ("POST", "/v1/recommend"),
        ("PUT", "/v1/items"),
        ("DELETE", "/v1/users"),
        ("POST", "/v1/events"),
    ):
        answer = guarded.client.request(method, path, headers={**ADMIN, "Host": host})
        refused(answer, 403, "Host")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil", "[", "file://"])
def test_a_page_of_another_site_changes_nothing(guarded: Served, origin: str) -> None:
    refused(guarded.post("/v1/recommend", ASK, headers={**READ, "Origin": origin}), 403, "Origin")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:80"},
        {"Host": "shop.example"},
        {"Host": "SHOP.example:443"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "https://shop.example"},
    ],
)
def test_our_own_names_may(guarded: Served, headers: dict[str, str]) -> None:
    assert guarded.post("/v1/recommend", ASK, headers={**READ, **headers}).status_code == 200


# Hostile bodies


def raw(service: Served, body: bytes, path: str = "/v1/recommend", **headers: str) -> httpx.Response:
    return service.client.post(path, content=body, headers={**ADMIN, "Content-Type": "application/json", **headers})


HOSTILE: list[tuple[bytes, str]] = [
    (b"", "$"),
    (b"{", "$"),
    (b"null", "$"),
    (b"[]", "$"),
    (b"\xff\xfe", "$"),
    (b'{"user": "\xc3\x28"}', "$.user"),
    (b'{"user": "a", "k": NaN}', "$.k"),
    (b'{"user": "a", "k": Infinity}', "$.k"),
    (b'{"user": "a", "context": {"x": -Infinity}}', "$.context.x"),
    (b'{"user": "a", "k": 1e999}', "$.k"),
    (b'{"user": "a", "context": {"x": 1e999}}', "$.context[...]"),
    (b'{"user": "a", "k": ' + b"9" * 5000 + b"}", "$.k"),
    (b'{"user": "a", "k": "5"}', "$.k"),
    (b'{"user": "a", "k": 5.5}', "$.k"),
    (b'{"user": "a", "k": true}', "$.k"),
    (b'{"user": "a", "k": 0}', "$.k"),
    (b'{"user": "a", "k": 201}', "$.k"),
    (b'{"user": "a", "k": null}', "$.k"),
    (b'{"user": ["a"]}', "$.user"),
    (b'{"user": ""}', "$.user"),
    (b'{"user": "a\\u0000b"}', "$.user"),
    (b'{"user": "a\\nb"}', "$.user"),
    (b'{"user": "a\\n"}', "$"),
    (b'{"user": "\\ud800"}', "$.user"),
    (b'{"user": "' + b"a" * 257 + b'"}', "$.user"),
    (b'{"user": "a", "user": "b"}', "$.user"),
    (b'{"user": "a", "filters": {"deny": [], "deny": ["x"]}}', "$.filters.deny"),
    (b'{"user": "a", "filters": {"deny": [1, {"a": 1}]}}', "$.filters.deny[1]"),
    (b'{"user": "a", "uzer": "b"}', "$"),
    (b'{"user": "a", "filters": {"seen": "hid"}}', "$.filters.seen"),
    (b'{"user": "a", "context": {"x": [[1]]}}', "$.context[...][0]"),
    (b'{"user": "a", "filters": {"deny": [' + b"1," * 1000 + b"1]}}", "$.filters.deny"),
    (b'{"user": "a", "context": ' + b'{"x":' * 40 + b"1" + b"}" * 41, "$.context" + ".x" * 31),
    (b"[" * 9_000 + b"]" * 9_000, "$" + "[0]" * 32),
    (b"[" * 18_000, "$" + "[0]" * 32),
    (b'{"user": "a"} {"user": "b"}', "$"),
    (b'{"user": "a",}', "$"),
    (b"{'user': 'a'}", "$"),
    (b'{"user": "a" // comment\n}', "$"),
]


@pytest.mark.parametrize(("body", "path"), HOSTILE, ids=[str(place) for place in range(len(HOSTILE))])
def test_a_hostile_body_is_refused_with_its_path(guarded: Served, body: bytes, path: str) -> None:
    answer = raw(guarded, body)
    assert answer.status_code == 400, answer.text
    found = answer.json()["error"]["path"]
    assert found.startswith(path), (found, answer.text)
    assert guarded.post("/v1/recommend", ASK, headers=READ).status_code == 200


def test_the_place_of_a_wrong_event_is_told(guarded: Served) -> None:
    good = {"event": "hostile", "kind": "play", "user": 1, "item": "song-1"}
    for change, path in (
        ({"kind": "eat"}, "$.events[1].kind"),
        ({"position": 0}, "$.events[1].position"),
        ({"propensity": 0}, "$.events[1].propensity"),
        ({"propensity": 1.1}, "$.events[1].propensity"),
        ({"time": -1}, "$.events[1].time"),
        ({"values": {"seconds": "7"}}, "$.events[1].values[...]"),
        ({"item": None}, "$.events[1].item"),
    ):
        refused(guarded.post("/v1/events", {"events": [good, {**good, **change}]}, headers=INGEST), 400, path=path)
    refused(guarded.post("/v1/events", {"events": []}, headers=INGEST), 400, path="$.events")
    refused(guarded.post("/v1/events", {"events": [{"event": "x"}] * 200}, headers=INGEST), 400, path="$.events[0]")


def test_the_body_must_be_json_of_a_known_length(guarded: Served) -> None:
    refused(raw(guarded, b"{}", **{"Content-Type": "text/plain"}), 415, "application/json")
    refused(guarded.client.post("/v1/recommend", data={"user": "a"}, headers=READ), 415)
    refused(raw(guarded, b'{"user": "' + b" " * 20_000 + b'"}'), 413, "20000 bytes")
    chunked = guarded.client.post(
        "/v1/recommend", content=iter([b"{", b"}"]), headers={**READ, "Content-Type": "application/json"}
    )
    refused(chunked, 411, "Content-Length")


def talk(port: int, *parts: bytes, pause: float = 0.0, wait: float = 5.0) -> bytes:
    """Send bytes as they are, and read until the server closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while got := connection.recv(65_536):
                answer += got
        except (ConnectionError, TimeoutError):
            pass
    return answer


def head(length: int | None = None, *lines: str) -> bytes:
    token = READ["Authorization"]
    own = [] if length is None else [f"Content-Length: {length}"]
    fixed = [
        "POST /v1/recommend HTTP/1.1",
        "Host: localhost",
        f"Authorization: {token}",
        "Content-Type: application/json",
        "Connection: close",
    ]
    return ("\r\n".join([*fixed, *own, *lines]) + "\r\n\r\n").encode()


def test_a_flood_of_chunks_is_cut_off(guarded: Served) -> None:
    started = time.monotonic()
    chunk = b"1\r\n{\r\n"
    assert talk(guarded.port, head(None, "Transfer-Encoding: chunked"), chunk * 50).startswith(b"HTTP/1.1 411")
    flooded = talk(guarded.port, head(None, "Transfer-Encoding: chunked"), *[chunk * 5_000] * 40)
    assert flooded[:12] in (b"", b"HTTP/1.1 411")  # nothing where the connection was reset while we wrote
    assert time.monotonic() - started < 5


def test_slow_headers_and_slow_bodies_are_cut_off(guarded: Served) -> None:
    started = time.monotonic()
    assert talk(guarded.port, b"POST /v1/recommend HTTP/1.1\r\n", b"Host: localhost\r\n") == b""
    drip = [b"X: 1\r\n"] * 40
    assert talk(guarded.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *drip, pause=0.05) == b""
    assert 1.0 < time.monotonic() - started < 6
    assert talk(guarded.port, b"") == b""
    answer = talk(guarded.port, head(50), b"{", pause=0.1)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"in time" in answer


def test_long_headers_are_refused(guarded: Served) -> None:
    assert b" 400 " in talk(guarded.port, head(2, "X-Long: " + "a" * 80_000), b"{}").split(b"\r\n")[0]


@pytest.mark.parametrize("line", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n"])
def test_what_is_no_http_gets_400(guarded: Served, line: bytes) -> None:
    assert talk(guarded.port, line).startswith(b"HTTP/1.1 400")


def test_the_door_holds_for_all_that_follows(guarded: Served) -> None:
    assert guarded.post("/v1/recommend", ASK, headers=READ).status_code == 200


# A full house


class Slow:
    """A recommender that takes its time."""

    def __init__(self, inner: Recommender, seconds: float) -> None:
        self._inner, self._seconds = inner, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recommend(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(self._seconds)
        return self._inner.recommend(*arguments, **options)


def slow(seconds: float) -> Any:
    return lambda path: Slow(Recommender.load(path), seconds)


def test_the_rate_of_a_key_is_bounded(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text(TOKENS)
    settings = Settings(
        bundle=str(bundles / "ranker"),
        store=str(tmp_path / "e.db"),
        token_file=str(tmp_path / "tokens.toml"),
        limits=Limits(rate=1.0, burst=3),
    )
    with served(settings) as running:
        answers = [running.post("/v1/recommend", ASK, headers=READ) for _ in range(5)]
        assert [a.status_code for a in answers[:3]] == [200] * 3
        refused(answers[4], 429, "'shop'")
        assert int(answers[4].headers["retry-after"]) >= 1
        assert running.post("/v1/events", {"events": []}, headers=INGEST).status_code == 400
        assert running.client.get("/healthz").status_code == 200
        time.sleep(1.2)
        assert running.post("/v1/recommend", ASK, headers=READ).status_code == 200


def test_a_flood_is_shed_and_over_when_it_is_over(bundles: Path, tmp_path: Path) -> None:
    """Ten times what can be done: the rest is told to come back at once, and a request after it is answered."""
    limits = Limits(threads=1, waiting=4, patience=0.5)
    settings = Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"), limits=limits)
    with served(settings, load=slow(0.05)) as running, ThreadPoolExecutor(50) as pool:

        def ask(_: int) -> tuple[int, float, str]:
            started = time.monotonic()
            answer = running.post("/v1/recommend", ASK)
            return answer.status_code, time.monotonic() - started, answer.headers.get("retry-after", "")

        found = list(pool.map(ask, range(200)))
        statuses = [status for status, _, _ in found]
        assert set(statuses) == {200, 503}
        assert statuses.count(503) > 50
        assert {after for status, _, after in found if status == 503} == {"1"}
        started = time.monotonic()
        assert running.post("/v1/recommend", ASK).status_code == 200
        assert time.monotonic() - started < 2
        assert running.client.get("/metrics").text.count("weft_inside 0.0") == 1


def test_who_waited_too_long_is_not_worked_for(bundles: Path, tmp_path: Path) -> None:
    limits = Limits(threads=1, waiting=50, patience=0.2)
    settings = Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"), limits=limits)
    with served(settings, load=slow(0.3)) as running, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: running.post("/v1/recommend", ASK), range(8)))
        late = [a for a in answers if a.status_code == 503]
        assert len(late) >= 5
        assert "waited too long" in late[0].json()["error"]["message"]


def test_a_fault_is_told_without_its_inside(bundles: Path, tmp_path: Path) -> None:
    class Broken(Slow):
        def recommend(self, *arguments: Any, **options: Any) -> Any:
            raise KeyError("the inside of it")

    def load(path: Path) -> Any:
        broken = Broken(Recommender.load(path), 0)
        broken.warm = lambda: None  # type: ignore[attr-defined]
        return broken

    with served(Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db")), load=load) as running:
        answer = running.post("/v1/recommend", ASK)
        refused(answer, 500, "fault of weft")
        assert "inside" not in answer.text


def test_a_full_disk_gives_503_never_200(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store cannot write: events are refused, lists still come, and all is well when it can again."""
    opened: list[EventStore] = []

    def remembered(url: str) -> EventStore:
        opened.append(EventStore(url))
        return opened[-1]

    def pragma(words: str) -> Any:
        return opened[0].submit(lambda c: c.exec_driver_sql(f"PRAGMA {words}").scalar()).result(30)

    monkeypatch.setattr(app, "EventStore", remembered)
    with served(Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"))) as running:
        one = {"kind": "play", "user": USER, "item": "song-1", "surface": "x" * 200}
        events = [{"event": f"e{i}", **one} for i in range(100)]
        pragma(f"max_page_count = {pragma('page_count')}")
        for _ in range(3):
            answer = running.post("/v1/events", {"events": events})
            refused(answer, 503, "full")
            assert answer.headers["retry-after"] == "1"
        assert running.post("/v1/recommend", {"user": USER, "k": 20}).status_code == 200
        assert opened[0].events() == []
        pragma("max_page_count = 1000000")
        became = running.post("/v1/events", {"events": events}).json()["events"]
        assert {e["status"] for e in became} == {"stored"}
