"""A step of learning: what is trained, what is judged, what is published, and what a crash leaves."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from log_for_tests import ALL_SONGS, NAMES, live, pleasing, visit
from msgspec.structs import replace
from safetensors.torch import load_file

from weft import cli
from weft.errors import ConfigError
from weft.learn.gate import Bounds, Verdict, judge
from weft.learn.growth import Policy
from weft.learn.loop import Learning, Outcome, learn, learn_every, learnt, seconds_of
from weft.recommend.bundle import Bundle
from weft.recommend.recommender import Recommender
from weft.serve.store import EventStore

LOOSE = Bounds(margin=9.0, old_margin=9.0, calibration=99.0)
QUICK = Learning(window=0.0, least=60, epochs=4, policy=Policy(least=3), bounds=LOOSE)
GATED = replace(QUICK, epochs=8, bounds=Bounds(margin=0.05, old_margin=9.0))


def test_a_step_learns_what_has_changed_and_publishes_it(place: Path, log: EventStore) -> None:
    done = learn(place / "first", log, GATED)
    assert done.action == "publish", done
    there = log.current()
    assert there is not None
    assert there.path == done.bundle
    new = Bundle.load(there.path)
    assert learnt(new).offset == done.offset > 0
    assert learnt(new).parent == Bundle.load(place / "first").id
    before, after = pleasing(place / "first"), pleasing(there.path)
    assert after > 1.5 * before, f"{before} plays before, {after} after"
    newest = log.audits()[0]
    assert (newest.action, newest.actor) == ("activate", "learn")
    assert "NE gain" in newest.reason


def test_a_step_gives_way_to_a_bundle_that_came_into_service_meanwhile(
    place: Path, log: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = place / "others"

    def meanwhile(*given: Any) -> Verdict:
        log.activate(str(others), "B", actor="somebody", reason="by hand").result()
        return judge(*given)

    monkeypatch.setattr("weft.learn.loop.judge", meanwhile)
    done = learn(place / "first", log, QUICK)
    assert (done.action, done.bundle) == ("refuse", None)
    assert "another bundle was put into service" in done.reason
    there = log.current()
    assert there is not None
    assert there.path == str(others)
    assert [path.name for path in place.iterdir() if path.name[0] != "."] == ["first"], "nothing stays of what it made"


def test_steps_follow_each_other_without_a_gap_and_without_a_row_twice(place: Path, log: EventStore) -> None:
    trained = []
    for step in range(2):
        there = log.current()
        if there is not None:
            visit(log, live(log, there.path), NAMES[:20], seed=step)
        done = learn(place / "first", log, QUICK)
        assert done.action == "publish", (step, done)
        trained.append((done.since, done.offset, done.rows))
    assert [since for since, _, _ in trained] == [0, *(offset for _, offset, _ in trained[:-1])]
    impressions = [event.seq for event in log.events() if event.kind == "impression"]
    for since, offset, rows in trained:
        assert rows == sum(since < seq <= offset for seq in impressions)


def test_what_is_worse_never_serves_and_is_read_again(place: Path, log: EventStore) -> None:
    strict = Bounds(margin=-9.0, old_margin=9.0)
    done = learn(place / "first", log, replace(QUICK, bounds=strict))
    assert done.action == "refuse"
    assert "is the least that its lower end may be" in done.reason
    assert log.audits()[0].action == "refuse"
    there = log.current()
    assert there is not None
    assert Path(there.path) == place / "first"
    assert sorted(path.name for path in place.iterdir()) == [".learn", "first"]
    assert learn(place / "first", log, QUICK).since == 0


def test_a_candidate_that_loses_the_old_world_is_refused(place: Path, log: EventStore) -> None:
    done = learn(place / "first", log, replace(GATED, bounds=Bounds(margin=0.05, old_margin=0.0)))
    assert done.action == "refuse"
    assert "old test rows" in done.reason


def test_few_rows_wait(place: Path, log: EventStore) -> None:
    done = learn(place / "first", log, replace(QUICK, least=10_000))
    assert done.action == "wait"
    assert "10,000 are needed" in done.reason
    assert len(log.audits()) == 1  # the start


def test_open_windows_are_left_for_later(place: Path, log: EventStore) -> None:
    done = learn(place / "first", log, Learning(window=3_600.0, least=60))
    assert (done.action, done.offset) == ("wait", 0)


def test_new_users_and_items_get_rows_of_their_own(place: Path, log: EventStore) -> None:
    log.put_items([("song-77", {"song": "song-77", "year": 1999, "title": "New"})]).result()
    log.put_users([(f"2{n:03d}", {"user": f"2{n:03d}"}) for n in range(8)]).result()
    first = live(log, place / "first")
    people = [f"2{n:03d}" for n in range(8)]
    visit(log, first, people * 2, songs=[*ALL_SONGS[4:], "song-77"], k=21)
    done = learn(place / "first", log, QUICK)
    assert done.action == "publish", done
    old, new = Bundle.load(place / "first"), Bundle.load(str(done.bundle))
    for name, value in (("user", people[0]), ("song", "song-77")):
        assert old.transforms.vocabularies[name].id_of(value) == 1
        assert new.transforms.vocabularies[name].id_of(value) > 1
    assert new.transforms.item_ids is not None
    id = new.transforms.item_ids.id_of("song-77")
    assert len(new.catalogue.items) == id + 1
    assert new.catalogue.titles is not None
    assert new.catalogue.titles[id] == "New"
    assert new.catalogue.counts[id] > 0
    assert Recommender.of(new).recommend(people[0], seen="allow").known
    ids = load_file(new.path / "runs/dcn_v2/weights.safetensors")
    assert any(len(t) == new.transforms.vocabularies["song"].rows for t in ids.values() if t.dim() == 2)


def test_ids_stay_and_full_tables_give_the_rarest_away(place: Path, log: EventStore) -> None:
    people = [f"2{n:03d}" for n in range(4)]
    log.put_users([(name, {"user": name}) for name in people]).result()
    path = learn(place / "first", log, QUICK).bundle
    assert path is not None
    old = Bundle.load(path).transforms.vocabularies["user"]
    visit(log, live(log, path), [*NAMES[:10], *people * 4], seed=1)
    done = learn(place / "first", log, replace(QUICK, policy=Policy(most=len(old))))
    assert done.action == "publish", done
    new = Bundle.load(str(done.bundle))
    after = new.transforms.vocabularies["user"]
    assert len(after) == len(old)
    gone = set(old.values.tolist()) - set(after.values.tolist())
    assert 0 < len(gone) <= 4
    assert not gone & {int(name) for name in NAMES[:8]}, "who was met now keeps an id"
    same = [value for value in old.values.tolist() if value not in gone]
    assert [old.id_of(value) for value in same] == [after.id_of(value) for value in same]
    # Whoever lost an id is unknown to the table and still a user of the catalogue.
    column = new.transforms.fields.of("user").column("user")
    assert new.transforms.user_ids is not None
    for value in gone:
        assert new.catalogue.users.ids[new.transforms.user_ids.id_of(value), column] == 1


def test_the_optimizer_goes_on_where_it_was(place: Path, log: EventStore) -> None:
    done = learn(place / "first", log, QUICK)
    old, new = (
        load_file(Path(path) / "runs/dcn_v2/optimizer.safetensors") for path in (place / "first", str(done.bundle))
    )
    steps = {key for key in old if key.endswith("/step")}
    assert steps
    assert all(new[key] > old[key] for key in steps)


def test_nothing_is_lost_or_trained_twice_when_learning_is_killed(place: Path, log: EventStore) -> None:
    code = (
        "import sys; from pathlib import Path; import msgspec;"
        "from weft.learn.loop import Learning, learn; from weft.serve.store import EventStore;"
        "store = EventStore(Path(sys.argv[2])); print('ready', flush=True);"
        "print(learn(sys.argv[1], store, msgspec.json.decode(sys.argv[3], type=Learning)), flush=True)"
    )

    command = [
        sys.executable, "-c", code, str(place / "first"), str(place.parent / "log.db"), msgspec.json.encode(QUICK)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(4):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0.05, 1.2)))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        there = log.current()
        Bundle.load(there.path if there is not None else place / "first")  # whatever serves is whole
    assert killed
    done = learn(place / "first", log, QUICK)
    there = log.current()
    assert there is not None
    lineage, state = [], learnt(Bundle.load(there.path))
    while state.steps:
        lineage.append(state)
        path = next(p for p in place.iterdir() if p.name[0] != "." and Bundle.load(p).id == state.parent)
        state = learnt(Bundle.load(path))
    impressions = [event.seq for event in log.events() if event.kind == "impression"]
    assert lineage, done
    assert lineage[-1].since == 0
    for later, earlier in itertools.pairwise(lineage):
        assert later.since == earlier.offset
    assert sum(s.rows for s in lineage) == sum(seq <= lineage[0].offset for seq in impressions)


def test_the_same_log_gives_the_same_bits(place: Path, log: EventStore) -> None:
    weights = []
    for _ in range(2):
        done = learn(place / "first", log, QUICK)
        weights.append(load_file(Path(str(done.bundle)) / "runs/dcn_v2/weights.safetensors"))
        assert log.rollback(actor="test", reason="again").result() is not None
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_caps_hold(place: Path, log: EventStore) -> None:
    done = learn(place / "first", log, replace(QUICK, user_most=9))
    assert done.action == "publish", done
    assert "rows left out, beyond the most rows of a user" in done.reason


def test_only_what_was_left_to_chance(place: Path, log: EventStore) -> None:
    done = learn(place / "first", log, Learning(window=0.0, least=60, explored_only=True))
    assert (done.action, done.rows) == ("wait", 0)


@pytest.mark.parametrize("text", ["15", "m", "-3m", "0s", "3 weeks"])
def test_a_span_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"got '.*'; write for example 15m"):
        seconds_of(text)


def test_the_command(place: Path, log: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "learn.toml"
    config.write_text("window = 0.0\nleast = 60\n[bounds]\nmargin = -9.0\n")
    arguments = ["learn", str(place / "first"), "--store", str(place.parent / "log.db"), "--config", str(config)]
    assert cli.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["action"] == "refuse"
    config.write_text("widow = 0.0\n")
    assert cli.run(arguments) == 2
    assert "widow" in capsys.readouterr().err


def test_a_step_that_fails_is_told_and_tried_again(place: Path, log: EventStore) -> None:
    heard: list[Outcome] = []

    def hear(outcome: Outcome) -> None:
        heard.append(outcome)
        if len(heard) == 2:
            raise KeyboardInterrupt

    learn(place / "first", log, replace(QUICK, least=10_000))
    (place / "first" / "pipeline.toml").write_text("")
    with pytest.raises(KeyboardInterrupt):
        learn_every(place / "first", log, QUICK, seconds=0.01, hear=hear)
    assert [outcome.action for outcome in heard] == ["fail", "fail"]
    assert [entry.action for entry in log.audits()[:2]] == ["fail", "fail"]
    assert "pipeline.toml" in log.audits()[0].reason
