"""The service from outside: what each path answers, what is kept, and that the next request knows it."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from service_for_tests import ADMIN, READ, TOKENS, Served, served

import camps_for_tests as camp
from weft.recommend.recommender import Recommender
from weft.serve import journal
from weft.serve.features import pack
from weft.serve.settings import Settings
from weft.serve.store import EventStore

USER = camp.FIRST_USER + 3


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    opened = EventStore(tmp_path / "events.db")
    yield opened
    opened.close()


@pytest.fixture
def service(bundles: Path, tmp_path: Path, store: EventStore) -> Iterator[Served]:
    with served(Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "events.db"))) as running:
        yield running


@pytest.fixture
def staged(bundles: Path, tmp_path: Path) -> Iterator[Served]:
    with served(Settings(bundle=str(bundles / "staged"), store=str(tmp_path / "staged.db"))) as running:
        yield running


def good(response: Any) -> Any:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return response.json()


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


def event(id: str, item: str, kind: str = "like", user: int | str = USER, **more: Any) -> dict[str, Any]:
    return {"event": id, "kind": kind, "user": user, "item": item, **more}


def test_a_list_is_the_recommenders_own(service: Served, bundles: Path) -> None:
    recommender = Recommender.load(bundles / "ranker")
    answer = good(service.post("/v1/recommend", {"user": USER, "k": 5}))
    wanted = recommender.recommend(USER, k=5)
    assert ids(answer) == [item.id for item in wanted.items]
    np.testing.assert_allclose([i["score"] for i in answer["items"]], [i.score for i in wanted.items], rtol=1e-5)
    assert [item["position"] for item in answer["items"]] == [1, 2, 3, 4, 5]
    assert (answer["known"], answer["degraded"], answer["trace"]) == (True, [], None)
    assert answer["bundle"] == recommender.bundle_id
    assert answer["user"] == USER


def test_the_trace_tells_each_stage(staged: Served) -> None:
    answer = good(staged.post("/v1/recommend", {"user": USER, "trace": True}))
    names = [stage["name"] for stage in answer["trace"]]
    assert {"sources.popularity", "sources.mf", "ranking.dcn_v2"} <= set(names)
    assert all(item["why"] for item in answer["items"])


def test_filters(service: Served) -> None:
    first = ids(good(service.post("/v1/recommend", {"user": USER, "k": 4})))
    denied = good(service.post("/v1/recommend", {"user": USER, "k": 4, "filters": {"deny": first[:2]}}))
    assert ids(denied)[:2] == first[2:]
    allowed = good(service.post("/v1/recommend", {"user": USER, "filters": {"allow": first[2:]}}))
    assert ids(allowed) == first[2:]
    everything = good(service.post("/v1/recommend", {"user": USER, "k": 200, "filters": {"seen": "allow"}}))
    assert len(ids(everything)) == camp.SONGS


def test_an_unknown_user_gets_what_is_popular_marked(service: Served) -> None:
    answer = good(service.post("/v1/recommend", {"user": "nobody"}))
    assert answer["known"] is False
    assert len(answer["items"]) == 10


def test_candidates_nobody_knows_are_reported(service: Served) -> None:
    answer = good(service.post("/v1/rank", {"user": USER, "candidates": ["song-1", "nothing", "song-2", 12]}))
    assert set(ids(answer)) == {"song-1", "song-2"}
    assert answer["unknown"] == ["nothing", 12]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)


def test_ids_are_the_same_as_text_and_as_numbers(service: Served, store: EventStore) -> None:
    wanted = ids(good(service.post("/v1/recommend", {"user": USER})))
    for same in (str(USER), float(USER)):
        assert ids(good(service.post("/v1/recommend", {"user": same}))) == wanted
    answer = good(service.post("/v1/events", {"events": [event("e", "song-1", user=float(USER))]}))  # type: ignore[arg-type]
    assert answer["events"][0]["status"] == "stored"
    assert store.events()[0].user == str(USER)
    assert service.post("/v1/recommend", {"user": 7.5}).status_code == 400


def test_similar_items(staged: Served) -> None:
    answer = good(staged.post("/v1/similar", {"item": "song-4", "k": 3}))
    assert len(ids(answer)) == 3
    assert "song-4" not in ids(answer)
    missing = staged.post("/v1/similar", {"item": "nothing"})
    assert missing.status_code == 404
    assert "'nothing'" in missing.json()["error"]["message"]


def test_without_item_vectors_nothing_is_similar(service: Served) -> None:
    answer = service.post("/v1/similar", {"item": "song-4"})
    assert answer.status_code == 409
    assert "retriever" in answer.json()["error"]["message"]


def test_an_explanation_has_place_and_features(service: Served) -> None:
    listed = ids(good(service.post("/v1/recommend", {"user": USER})))
    answer = good(service.client.get("/v1/explain", params={"user": str(USER), "item": listed[2]}))
    assert answer["position"] == 3
    assert set(answer["features"]) == {"user", "song", "year", "song_likes", "user_rows", "recent"}
    assert service.client.get("/v1/explain", params={"user": "1", "item": "none"}).status_code == 404
    for params, words in (({"user": "1"}, "missing required field `item`"), ({"user": "", "item": "x"}, "length")):
        wrong = service.client.get("/v1/explain", params=params)
        assert wrong.status_code == 400
        assert words in wrong.json()["error"]["message"]


def test_what_was_shown_is_logged_as_the_model_read_it(service: Served, store: EventStore, bundles: Path) -> None:
    answer = good(service.post("/v1/recommend", {"user": USER, "k": 3, "surface": "home"}))
    played = event("e", ids(answer)[0], request=answer["request"])
    good(service.post("/v1/events", {"events": [played]}))
    kept = store.requests([answer["request"]])[answer["request"]]
    assert [item for item, _ in kept.shown] == ids(answer)
    assert (kept.user, kept.surface, kept.bundle) == (str(USER), "home", answer["bundle"])
    recommender = Recommender.load(bundles / "ranker")
    assert kept.features == pack(recommender.features(recommender.user_rows(USER), ids(answer)))


def test_events_are_told_apart(service: Served, store: EventStore) -> None:
    events = [event("a", "song-1"), event("b", "not-a-song"), event("a", "song-2")]
    answer = good(service.post("/v1/events", {"events": events}))
    assert [e["status"] for e in answer["events"]] == ["stored", "quarantined", "duplicate"]
    assert [(e.id, e.item, e.quarantined) for e in store.events()] == [
        ("a", "song-1", False),
        ("b", "not-a-song", True),
    ]
    again = good(service.post("/v1/events", {"events": events[:2]}))
    assert [e["status"] for e in again["events"]] == ["duplicate", "duplicate"]


def test_the_next_request_knows_the_last_event(service: Served) -> None:
    """A liked song is hidden, stands at the end of the user's sequence, and its counter has risen."""
    before = good(service.post("/v1/recommend", {"user": USER}))
    liked = ids(before)[0]
    read = {"user": str(USER), "item": liked}
    old = good(service.client.get("/v1/explain", params=read))["features"]
    shown = [event("i", liked, "impression", request=before["request"], position=1)]
    good(service.post("/v1/events", {"events": [*shown, event("l", liked, request=before["request"])]}))
    after = good(service.post("/v1/recommend", {"user": USER}))
    assert liked not in ids(after)
    new = good(service.client.get("/v1/explain", params=read))["features"]
    assert new["recent"][-1] == new["song"]
    assert new["recent"][:-1] == old["recent"][1:]
    assert new["song_likes"] > old["song_likes"]
    assert new["user_rows"] > old["user_rows"]
    assert [i["score"] for i in after["items"]] != [i["score"] for i in before["items"]][1:]


def test_a_restart_knows_what_was_before(bundles: Path, tmp_path: Path) -> None:
    settings = Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "events.db"))
    read = {"user": str(USER), "item": "song-1"}
    with served(settings) as first:
        answer = good(first.post("/v1/recommend", {"user": USER}))
        liked = [event(f"l{i}", item, request=answer["request"]) for i, item in enumerate(ids(answer)[:3])]
        good(first.post("/v1/events", {"events": [*liked, event("own", "song-1")]}))
        good(first.client.put("/v1/items", json={"items": [{"id": "fresh", "columns": {"year": 1980}}]}))
        told = good(first.client.get("/v1/explain", params=read))["features"]
    with served(settings) as second:
        assert good(second.client.get("/v1/explain", params=read))["features"] == told
        assert ids(good(second.post("/v1/rank", {"user": USER, "candidates": ["fresh"]}))) == ["fresh"]


def test_new_items_can_be_recommended_and_taken_out(service: Served) -> None:
    rows = [{"id": "fresh-1", "columns": {"year": 1980, "title": "Fresh"}}, {"id": 77, "columns": {}}]
    assert good(service.client.put("/v1/items", json={"items": rows}))["rows"] == 2
    allow = {"allow": ["fresh-1", "77"]}
    answer = good(service.post("/v1/recommend", {"user": USER, "filters": allow}))
    assert {str(id) for id in ids(answer)} == {"fresh-1", "77"}
    assert "Fresh" in {item["title"] for item in answer["items"]}
    assert good(service.client.delete("/v1/items", params={"id": "fresh-1"}))["rows"] == 1
    assert good(service.client.delete("/v1/items", params={"id": "never-there"}))["rows"] == 0
    assert [str(id) for id in ids(good(service.post("/v1/recommend", {"user": USER, "filters": allow})))] == ["77"]
    became = good(service.post("/v1/events", {"events": [event("a", "77"), event("b", "fresh-1")]}))["events"]
    assert [e["status"] for e in became] == ["stored", "quarantined"]


def test_a_column_of_the_wrong_type_is_not_kept(service: Served, store: EventStore) -> None:
    wrong = service.client.put("/v1/items", json={"items": [{"id": "x", "columns": {"year": "soon"}}]})
    assert wrong.status_code == 409
    assert "'year'" in wrong.json()["error"]["message"]
    assert store.items() == {}


def test_new_users_become_known_and_can_be_forgotten(service: Served, store: EventStore) -> None:
    assert not good(service.post("/v1/recommend", {"user": "newcomer"}))["known"]
    good(service.client.put("/v1/users", json={"users": [{"id": "newcomer"}]}))
    asked = good(service.post("/v1/recommend", {"user": "newcomer"}))
    assert asked["known"]
    good(service.post("/v1/events", {"events": [event("l", ids(asked)[0], user="newcomer")]}))
    assert good(service.client.delete("/v1/users", params={"id": "newcomer"}))["rows"] >= 3
    assert not good(service.post("/v1/recommend", {"user": "newcomer"}))["known"]
    assert store.events_of("newcomer") == []


def test_a_forgotten_user_of_the_bundle_is_a_stranger(service: Served) -> None:
    read = {"user": str(USER + 1), "item": "song-1"}
    likes = good(service.client.get("/v1/explain", params=read))["features"]["song_likes"]
    good(service.post("/v1/events", {"events": [event("l", "song-1")]}))
    assert good(service.client.get("/v1/explain", params=read))["features"]["song_likes"] > likes
    good(service.client.delete("/v1/users", params={"id": str(USER)}))
    answer = good(service.post("/v1/recommend", {"user": USER}))
    assert (answer["known"], answer["user"]) == (False, USER)
    assert good(service.client.get("/v1/explain", params=read))["features"]["song_likes"] == likes


def test_a_context_that_the_schema_does_not_have(service: Served) -> None:
    wrong = service.post("/v1/recommend", {"user": USER, "context": {"hour": 3}})
    assert wrong.status_code == 409
    assert "'hour'" in wrong.json()["error"]["message"]


def test_health_and_readiness_need_no_key(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text(TOKENS)
    settings = Settings(
        bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"), token_file=str(tmp_path / "tokens.toml")
    )
    with served(settings) as running:
        assert good(running.client.get("/healthz")) == {"status": "ok"}
        ready = good(running.client.get("/readyz"))
        assert (ready["status"], ready["generation"]) == ("ready", 1)
        assert running.client.get("/metrics").status_code == 401
        assert running.client.get("/metrics", headers=READ).status_code == 200


def test_what_the_recommender_could_not_do_is_told(bundles: Path, tmp_path: Path) -> None:
    class Late:
        def __init__(self, inner: Recommender) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def recommend(self, *arguments: Any, **options: Any) -> Any:
            answer = self._inner.recommend(*arguments, **options)
            return msgspec.structs.replace(answer, degraded=("ranking.dcn_v2: late",))

    settings = Settings(bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"))
    with served(settings, load=lambda path: Late(Recommender.load(path))) as running:
        assert good(running.post("/v1/recommend", {"user": USER}))["degraded"] == ["ranking.dcn_v2: late"]
        assert "weft_degraded_total 1.0" in running.client.get("/metrics").text


def test_serving_loads_neither_tables_nor_training() -> None:
    code = (
        "import sys\n"
        "import weft.serve.server\n"
        "rooms = ('polars', 'pandas', 'pyarrow', 'weft.data', 'weft.train', 'weft.losses', 'weft.metrics')\n"
        "found = [name for name in rooms if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_labels_of_the_meters_are_bounded(service: Served) -> None:
    for place in range(30):
        service.client.get(f"/a/path/{place}")
        service.client.request("BREW", "/v1/recommend")
    good(service.post("/v1/events", {"events": [event("a", "song-1"), event("b", "none", "skip")]}))
    page = service.client.get("/metrics").text
    assert 'weft_requests_total{route="other",status="404"} 30.0' in page
    assert "/a/path" not in page
    assert 'weft_events_total{kind="like",status="stored"} 1.0' in page
    assert 'weft_events_total{kind="skip",status="quarantined"} 1.0' in page
    assert "weft_generation 1.0" in page


def test_the_log_is_json_and_holds_no_secret(bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokens.toml").write_text(TOKENS)
    settings = Settings(
        bundle=str(bundles / "ranker"), store=str(tmp_path / "e.db"), token_file=str(tmp_path / "tokens.toml")
    )
    journal.start("debug")
    try:
        with served(settings, headers=ADMIN) as running:
            answer = good(running.post("/v1/recommend", {"user": "a-private-user"}))
            running.client.get("/v1/explain", params={"user": "a-private-user", "item": "x"})
            running.client.get("/metrics", headers={"Authorization": "Bearer wrong-but-still-a-secret"})
    finally:
        logging.getLogger("weft.serve").handlers.clear()
        logging.getLogger("uvicorn.error").handlers.clear()
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    mine = [line for line in lines if line.get("request") == answer["request"]]
    assert [(line["route"], line["status"], line["key"]) for line in mine] == [("/v1/recommend", 200, "boss")]
    for secret in ("a-token-that", "wrong-but-still", "a-private-user", "Bearer"):
        assert secret not in text
