"""A bundle judged on a planted world: the table must say which stage lost the items that somebody hid from it.

Each camp's users like the camp's songs and no others, and both runs are told so. With everything in order all relevant
songs are shown. Then a source goes blind to two songs, a filter takes two others, a ranker turns round, or the last
step lifts one camp's songs: what is lost at which stage is counted from the tables alone.
"""

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from plotly.graph_objects import Figure
from rich.console import Console

import camps_for_tests as camp
import weft
from weft import metrics
from weft.cli import run
from weft.data.store import Store
from weft.errors import ConfigError, StaleModel
from weft.evaluate.evaluator import evaluate, in_words, resolve
from weft.evaluate.funnel import Funnel
from weft.evaluate.page import left, render_page
from weft.evaluate.page import lost as lost_bars
from weft.evaluate.page import recalls as recalls_bars
from weft.evaluate.pipeline import judge_bundle
from weft.evaluate.report import Report, load
from weft.recommend.bundle import Bundle, bundle
from weft.recommend.index import Exact, build
from weft.recommend.pipeline import Boost, Cap, Explore, Pipeline, Rank, Seen, Source, Without
from weft.recommend.recommender import Recommender
from weft.runs import SavedRun

K = 6
ODD = tuple(f"song-{i}" for i in range(1, camp.SONGS, 2))
DENIED, UNSEEN = ("song-2", "song-5"), ("song-3", "song-8")


@pytest.fixture(scope="module")
def runs(camp_runs: dict[str, SavedRun], camps: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A source and a ranker that can be told what to think."""
    ranker = weft.train(
        camps, "mf", out=tmp_path_factory.mktemp("ranker") / "ranker", sets=["train.epochs=1", "embedding_dim=2"]
    )
    return [camp_runs["mf"].path, ranker.path]


def relevant() -> pl.DataFrame:
    """The relevant pairs of the test rows that the protocol lets be found."""
    rows = camp.interactions().filter(pl.col("liked") == 1, pl.col("user") != camp.STRANGER)
    had = rows.filter(pl.col("split") != "test").select("user", "song")
    return rows.filter(split="test").select("user", "song").unique().join(had, on=["user", "song"], how="anti")


def planted(runs: list[Path], out: Path, pipeline: Pipeline, *, turned: bool = False) -> Bundle:
    """A bundle whose runs know the camps; a `turned` ranker puts the other camp first."""
    made = bundle(runs, out, pipeline=pipeline)
    transforms, members = made.transforms, dict(made.members)
    assert transforms.user_ids is not None
    assert transforms.item_ids is not None
    user = [1 - 2 * (int(name or 0) % 2) for name in _names(transforms.user_ids.value_of, len(made.catalogue.users))]
    songs = _names(transforms.item_ids.value_of, len(made.catalogue.items))
    item = [1 - 2 * (int(str(name).removeprefix("song-")) % 2) if name else 0 for name in songs]
    for name, member in members.items():
        users, items = member.model.factors()  # type: ignore[operator]
        users[:], items[:] = 0, 0
        users[:, 0] = torch.tensor(user)
        items[:, 0] = torch.tensor(item) * (-1 if turned and name == "ranker" else 1)
        if member.index is not None:
            ids = np.arange(2, len(songs))
            index = build(ids, member.scorer.item_vectors()[ids], Exact(), model=member.id)
            members[name] = replace(member, index=index)
    return replace(made, members=members)


def _names(value_of: object, count: int) -> list[str | int | None]:
    return [None, None, *(value_of(id) for id in range(2, count))]  # type: ignore[operator]


def without(made: Bundle, songs: Iterable[str]) -> Bundle:
    """A bundle whose source is blind to some songs."""
    assert made.transforms.item_ids is not None
    index = made.members["mf"].index
    assert index is not None
    blind = index.without([made.transforms.item_ids.id_of(song) for song in songs])
    return replace(made, members={**made.members, "mf": replace(made.members["mf"], index=blind)})


def judged(made: Bundle, camps: Store) -> Report:
    protocol = resolve(camps.schema, "full")
    words = in_words(camps.schema, protocol)
    return judge_bundle(Recommender.of(made), camps, protocol, words, split="test", seed=0)


def lost(report: Report) -> dict[str, int]:
    assert isinstance(report.funnel, Funnel)
    return {step.name: step.lost for step in report.funnel.steps if step.lost}


def pipeline(*final: object, deny: tuple[str, ...] = (), keep: int | None = None) -> Pipeline:
    filters = (Seen(), Without(feature="song", values=deny)) if deny else (Seen(),)
    return Pipeline(
        sources=(Source(run="mf", quota=24),),
        filters=filters,
        ranking=(Rank(run="ranker", keep=keep),),
        final=final,  # type: ignore[arg-type]
    )


def test_all_is_well(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    report = judged(planted(runs, tmp_path / "b", pipeline()), camps)
    wanted = relevant()
    new = wanted.filter(song=camp.NEW_SONG).height
    assert (lost(report), new) == ({"catalogue": new}, 3)
    assert isinstance(report.funnel, Funnel)
    assert (report.funnel.relevant, report.funnel.shown) == (wanted.height, wanted.height - new)
    assert report.metrics["recall@6"].value == pytest.approx(1 - np.mean([0.5] * 3 + [0] * 37), abs=0.01)
    assert (report.model, report.data, report.split, report.funnel.users) == ("pipeline", "camps", "test", camp.USERS)
    assert set(report.metrics) >= {"recall@6", "ndcg@6", "map@6", "coverage@6", "novelty@6", "diversity.mf@6"}
    assert report.parameters > 0


def test_each_stage_answers_for_what_it_lost(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    """Two songs denied and two unseen: both stages lose theirs, and the ranker nothing."""
    made = without(planted(runs, tmp_path / "b", pipeline(deny=DENIED)), UNSEEN)
    report, wanted = judged(made, camps), relevant()
    counted = {"filters": DENIED, "sources": UNSEEN}
    expected = {stage: wanted.filter(pl.col("song").is_in(songs)).height for stage, songs in counted.items()}
    assert min(expected.values()) > 3
    assert lost(report) == {"catalogue": 3, **expected}
    assert isinstance(report.funnel, Funnel)
    assert report.funnel.sources[0].found == report.funnel.shown
    passing = wanted.height - 3 - expected["filters"]
    assert report.funnel.sources[0].recall == pytest.approx(1 - expected["sources"] / passing)


@pytest.mark.parametrize("keep", [None, K])
def test_a_ranker_that_is_turned_round(runs: list[Path], camps: Store, tmp_path: Path, keep: int | None) -> None:
    """The source finds everything, the ranker shows the other camp's songs; whether it drops the rest or not."""
    report = judged(planted(runs, tmp_path / "b", pipeline(keep=keep), turned=True), camps)
    found = relevant().height - 3
    assert lost(report) == {"catalogue": 3, "ranking.ranker": found}
    assert isinstance(report.funnel, Funnel)
    assert report.funnel.shown == 0
    steps = {step.name: step for step in report.funnel.steps}
    assert (steps["sources"].left, steps["sources"].top) == (found, found)
    assert (steps["ranking.ranker"].left, steps["ranking.ranker"].top) == (0 if keep else found, 0)
    assert steps["ranking.ranker"].items == (K if keep else steps["sources"].items)
    assert report.metrics["ndcg@6"].value == 0
    assert report.metrics["recall@6"].count == camp.USERS


def test_a_last_step_that_lifts_what_one_camp_dislikes(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    steps = (Cap(feature="song", most=1), Boost(feature="song", values=ODD, add=100.0))
    report = judged(planted(runs, tmp_path / "b", pipeline(*steps)), camps)
    of_even = relevant().filter(~pl.col("song").is_in([*ODD, camp.NEW_SONG])).height
    assert lost(report) == {"catalogue": 3, "final.boost": of_even}


def test_the_lists_are_judged_by_the_metrics(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    """What is reported equals the metrics of the lists that `walk` gives, each user's relevant songs from the table."""
    recommender = Recommender.of(planted(runs, tmp_path / "b", pipeline(Explore(share=0.5, pool=20))))
    report = judge_bundle(recommender, camps, resolve(camps.schema, "full"), "", split="test", seed=3)
    again = judge_bundle(recommender, camps, resolve(camps.schema, "full"), "", split="test", seed=3)
    assert again.metrics == report.metrics
    assert replace_times(again) == replace_times(report)
    rows = camps.split("test")
    assert rows.user is not None
    assert rows.time is not None
    order = np.lexsort((rows.time, rows.user))
    users, first = np.unique(rows.user[order], return_index=True)
    asked = rows.take(order[first][users > 1])
    lists = recommender.walk(asked, K, before="test", seed=3).ids
    assert asked.user is not None
    name = dict(relevant().group_by("user").agg("song").iter_rows())
    recalls = []
    for user, mine in zip(asked.user.tolist(), lists, strict=True):
        wanted = name[int(recommender.users.name_of(user))]
        shown = {recommender.items.name_of(int(item)) for item in mine if item}
        recalls.append(len(shown & set(wanted)) / len(wanted))
    assert report.metrics["recall@6"].value == pytest.approx(np.mean(recalls), abs=1e-6)
    vectors = recommender.bundle.members["mf"].scorer.item_vectors()
    varied: NDArray[np.float64] = metrics.diversity(np.where(lists == 0, -1, lists), vectors)
    assert report.metrics["diversity.mf@6"].value == pytest.approx(np.nanmean(varied), abs=1e-4)


def replace_times(report: Report) -> list[tuple[object, ...]]:
    assert isinstance(report.funnel, Funnel)
    return [(step.name, step.left, step.top, step.lost) for step in report.funnel.steps]


def test_a_stage_that_fails_is_told(
    runs: list[Path], camps: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planted(runs, tmp_path / "b", pipeline())

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the wire is cut")

    for method in ("candidates", "one"):
        monkeypatch.setattr(made.members["ranker"].scorer, method, broken)
    report = judged(made, camps)
    assert "the stage ranking.ranker was skipped: the wire is cut" in report.notes
    assert f"{camp.USERS} of {camp.USERS} timed requests were degraded" in report.notes
    assert lost(report) == {"catalogue": 3}


def test_times_are_those_of_every_stage(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    report = judged(planted(runs, tmp_path / "b", pipeline(Cap(feature="song", most=1))), camps)
    found = report.funnel
    assert isinstance(found, Funnel)
    assert found.milliseconds is not None
    stages = [found.sources[0].milliseconds, *(step.milliseconds for step in found.steps[3:])]
    assert [step.milliseconds for step in found.steps[:3]] == [None, None, None]
    for latency in stages:
        assert latency is not None
        assert 0 < latency.median <= latency.p95 <= found.milliseconds.p95
    assert sum(one.median for one in stages if one is not None) < 2 * found.milliseconds.median


def test_a_bundle_from_the_front_door(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    bundle(runs, tmp_path / "bundle", pipeline=pipeline())
    report = weft.evaluate(tmp_path / "bundle", split="valid")
    assert isinstance(report.funnel, Funnel)
    assert "equal scores as the pipeline orders them" in report.protocol
    assert json.loads(report.json())["funnel"]["steps"][0]["name"] == "catalogue"
    report.save(tmp_path / "report.json")
    assert load(tmp_path / "report.json") == report
    console = Console(file=io.StringIO(), width=200)
    report.render(console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert report.funnel.verdict() in text
    assert "ranking.ranker" in text
    with pytest.raises(ConfigError, match="whole catalogue, got protocol 'pointwise'"):
        evaluate(tmp_path / "bundle", protocol="pointwise")


def test_a_split_with_nothing_to_find_is_refused(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    made = planted(runs, tmp_path / "b", pipeline())
    protocol = msgspec.structs.replace(resolve(camps.schema, "full"), relevant=2.0)
    with pytest.raises(
        ConfigError, match="no user of the split 'test' that training knows has a row with a label of 2"
    ):
        judge_bundle(Recommender.of(made), camps, protocol, "", split="test", seed=0)


def test_another_store_is_refused(runs: list[Path], tmp_path: Path) -> None:
    bundle(runs, tmp_path / "bundle", pipeline=pipeline())
    other = weft.prepare(camp.schema(), tmp_path / "other", interactions=camp.interactions(seed=1), items=camp.songs())
    with pytest.raises(StaleModel, match="was made of runs on another store"):
        evaluate(tmp_path / "bundle", store=other.path)


def test_the_page_escapes_what_others_wrote(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    report = judged(planted(runs, tmp_path / "b", pipeline()), camps)
    name = "</script><b>camps"
    page = render_page(msgspec.structs.replace(report, data=name, notes=(name,)))
    assert "<b>" not in page.split("<script>", 1)[0]
    assert "where the good items are lost" in page
    assert '"funnel"' in page
    assert "://" not in page.split("<script>", 1)[0]


def test_the_plots_show_the_counts(runs: list[Path], camps: Store, tmp_path: Path) -> None:
    report = judged(planted(runs, tmp_path / "b", pipeline(deny=DENIED), turned=True), camps)
    found = report.funnel
    assert isinstance(found, Funnel)
    funnel, bars, recalls = (Figure(figure) for figure in (left(found), lost_bars(found), recalls_bars(found)))
    assert list(funnel.data[0].y) == ["relevant", *(step.name for step in found.steps), "first 6"]
    assert list(funnel.data[0].x) == [found.relevant, *(step.left for step in found.steps), found.shown]
    assert sum(bars.data[0].x) + found.shown == found.relevant
    assert list(recalls.data[0].x) == [1.0]


def test_a_folder_with_the_report_and_of_a_bundle_with_the_page(
    runs: list[Path], camp_runs: dict[str, SavedRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(runs, tmp_path / "bundle", pipeline=pipeline())
    assert run(["evaluate", str(tmp_path / "bundle"), "--out", str(tmp_path / "judged")]) == 0
    assert f"wrote {tmp_path / 'judged'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "judged").iterdir()) == ["index.html", "report.json"]
    assert isinstance(load(tmp_path / "judged/report.json").funnel, Funnel)
    assert run(["evaluate", str(camp_runs["mf"].path), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert "funnel" not in json.loads(capsys.readouterr().out)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.json"]
