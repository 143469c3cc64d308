"""The folder that `weft explain` writes: the numbers, the page, one user and item, and what is refused."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import plotly.graph_objects as go
import pytest
from msgspec.structs import replace
from worlds_for_explain import SMALL, trained, world_store

import weft
from weft import artifacts, cli
from weft.data.store import Store
from weft.errors import ArtifactError, ConfigError, StaleModel
from weft.explain.explanation import CrossWeight, Explanation, Importance, Map, Row
from weft.explain.page import render_page
from weft.models._contract import embeddings
from weft.models._dimensions import cumulative_variance
from weft.runs import SavedRun
from weft.scoring import Scorer
from weft.train.dimensions import dimensions

EVIL = "</script><script>alert('x')</script> <b>&"


class Page(HTMLParser):
    """The elements of a page, the text that a person reads, and the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.text = ""
        self.figures: list[dict[str, Any]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = "json" if dict(attrs).get("type") == "application/json" else tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "json":
            self.figures.append(json.loads(data))
        elif self.inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def folder(camp_runs: dict[str, SavedRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explained") / "why"
    weft.explain(camp_runs["dcn_v2"], out=out, user=1001, item="song-3", seed=2)
    return out


@pytest.fixture(scope="module")
def found(folder: Path) -> Explanation:
    return msgspec.json.decode((folder / "explanation.json").read_bytes(), type=Explanation)


def test_the_numbers_are_those_of_the_run(found: Explanation, camp_runs: dict[str, SavedRun], camps: Store) -> None:
    run = camp_runs["dcn_v2"]
    assert (found.model, found.data, found.split, found.rows) == ("dcn_v2", "camps", "test", camps.rows["test"])
    report = weft.evaluate(run)
    for name in ("auc", "logloss"):
        assert found.metrics[name] == pytest.approx(report.metrics[name].value, abs=1e-6)
    features = {feature.name for feature in run.schema.features}
    assert {one.feature for one in found.importance if one.metric == "auc"} == features
    (layer,) = embeddings(run.load_model())
    assert [one.table for one in found.tables] == list(run.fields.tables())
    for one in found.tables:
        assert one.cumulative == cumulative_variance(layer.table(one.table)[2:]).tolist()
    assert {one.table: one.keep["0.9"] for one in found.tables} == dimensions(run, keep=0.9).widths


def test_one_user_and_item(found: Explanation, camp_runs: dict[str, SavedRun], camps: Store) -> None:
    run, row = camp_runs["dcn_v2"], found.row
    assert row is not None
    assert (row.user, row.item, row.title) == (1001, "song-3", "[bold] Song 3 [/oops]")
    assert run.transforms.user_ids is not None
    assert run.transforms.item_ids is not None
    user, item = run.transforms.user_ids.id_of(1001), run.transforms.item_ids.id_of("song-3")
    scores = Scorer(run.load_model(), run.transforms, camps.items).catalogue(camps.users.take(slice(user, user + 1)))
    assert row.score == pytest.approx(scores[0, item], abs=1e-5)
    assert row.values["user"] == "1001"
    assert row.values["song"] == "song-3"
    assert row.values["year"].endswith("(scaled)")
    had = row.values["recent"].split(", ")
    assert 1 <= len(had) <= 4
    assert all(song.startswith("song-") or song == "unknown" for song in had)
    assert [one.title for one in row.maps] == [one.title for one in found.maps if "mean of" not in one.title]


def test_the_folder_has_a_manifest(folder: Path, camp_runs: dict[str, SavedRun]) -> None:
    manifest = artifacts.verify(folder, "explanation")
    assert manifest["run"] == camp_runs["dcn_v2"].id
    assert sorted(manifest["files"]) == ["explanation.json", "index.html"]


def test_the_page_needs_nothing_else(folder: Path) -> None:
    page = Page((folder / "index.html").read_text())
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "base", "object", "embed")
        assert not {"src", "href", "srcset", "action"} & attributes.keys()
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src")
    assert "http" not in policies[0]


def test_the_figures_are_ones_that_plotly_takes(folder: Path, found: Explanation) -> None:
    page = Page((folder / "index.html").read_text())
    assert found.row is not None
    assert len(page.figures) == len(found.row.maps) + 2 + len(found.maps) + 1
    for figure in page.figures:
        go.Figure(figure)
    first = next(f for f in page.figures if f["data"][0]["type"] == "bar")
    assert first["data"][0]["y"][::-1] == [one.feature for one in found.importance if one.metric == "auc"]


def test_what_others_wrote_is_escaped() -> None:
    fields = (EVIL, "b")
    one = Map(title=EVIL, rows=fields, columns=fields, values=[[0.0, 1.0], [1.0, 0.0]], diverging=True, pairs=())
    evil = Explanation(
        model="fm",
        data=EVIL,
        run=EVIL,
        split="test",
        rows=3,
        metrics={"auc": None},
        importance=(Importance(feature=EVIL, metric="auc", worse=0.1, low=None, high=None),),
        maps=(one,),
        crosses=(CrossWeight(cross=EVIL, values={EVIL: EVIL}, weight=1.0, rows=None),),
        tables=(),
        row=Row(user=EVIL, item=EVIL, title=EVIL, score=0.0, values={EVIL: EVIL}, maps=(one,)),
    )
    text = render_page(evil)
    plain = render_page(replace(evil, data="d", run="r", maps=(), crosses=(), row=None, importance=()))
    assert "alert('x')" not in text.replace("&lt;/script&gt;&lt;script&gt;alert(&#39;x&#39;)", "")
    page = Page(text)
    assert EVIL in page.text
    scripts = [a for tag, a in page.elements if tag == "script" and not a]
    assert len(scripts) == len([a for tag, a in Page(plain).elements if tag == "script" and not a]) == 2
    assert page.figures[0]["data"][0]["x"][0] == EVIL.replace("&", "&amp;").replace("<", "&lt;").replace(
        ">", "&gt;"
    ).replace("'", "&#x27;")


@pytest.mark.parametrize("model", ["popularity", "mf", "lr"])
def test_any_model_has_an_importance(camp_runs: dict[str, SavedRun], tmp_path: Path, model: str) -> None:
    found = weft.explain(camp_runs[model], out=tmp_path / "why", rows=50)
    assert found.rows == 50
    by_auc = {one.feature: one for one in found.importance if one.metric == "auc"}
    assert by_auc["song" if model == "popularity" else "user"] is not None
    assert (found.maps, found.tables, found.crosses, found.row) == ((), (), (), None)
    if model == "popularity":
        assert by_auc["user"].worse == 0.0
        assert by_auc["song"].worse != 0.0


def test_the_same_seed_gives_the_same_bytes(camp_runs: dict[str, SavedRun], tmp_path: Path, folder: Path) -> None:
    weft.explain(camp_runs["dcn_v2"], out=tmp_path / "why", user=1001, item="song-3", seed=2)
    for name in ("explanation.json", "index.html"):
        assert (tmp_path / "why" / name).read_bytes() == (folder / name).read_bytes()


def test_on_the_planted_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(world_store(tmp_path), "dcn_v2", tmp_path / "run", *SMALL)
    assert cli.run(["explain", str(run.path), "--out", str(tmp_path / "why"), "--split", "valid", "--rows", "900"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "dcn_v2 on cross only valid (900 rows)" in text
    assert f"open {tmp_path / 'why'}/index.html" in text
    found = json.loads((tmp_path / "why" / "explanation.json").read_bytes())
    assert {one["feature"] for one in found["importance"][:2]} == {"a", "b"}
    assert set(found["maps"][-1]["pairs"][0]["fields"]) == {"a", "b"}
    assert re.search(r"strongest pairs, [^:]+: (a x b|b x a) ", text)
    assert cli.run(["explain", str(run.path), "--out", str(tmp_path / "json"), "--rows", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 100


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"user": 1}, "needs both a user and an item; give --user and --item"),
        ({"item": "song-1"}, "needs both a user and an item"),
        ({"user": "nobody", "item": "song-1"}, "the user 'nobody' is unknown to the store"),
        ({"user": 1001, "item": "song-99"}, "the item 'song-99' is unknown to the store"),
        ({"rows": 0}, "`rows` must be 1 or more, got 0"),
        ({"split": "tset"}, "tset"),
    ],
)
def test_wrong_questions(camp_runs: dict[str, SavedRun], tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        weft.explain(camp_runs["lr"], out=tmp_path / "why", **asked)
    assert not any(tmp_path.iterdir())


def test_a_world_without_roles_has_no_user(tmp_path: Path) -> None:
    run = trained(world_store(tmp_path), "lr", tmp_path / "run", "train.epochs=1")
    with pytest.raises(ConfigError, match="needs `user` and `item` in \\[roles\\] of the schema"):
        weft.explain(run, out=tmp_path / "why", user=1, item=2)


def test_a_folder_in_the_way_and_another_store_are_refused(
    camp_runs: dict[str, SavedRun], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        weft.explain(camp_runs["lr"], out=folder)
    other = world_store(tmp_path)
    with pytest.raises(StaleModel, match="trained on another store"):
        weft.explain(camp_runs["lr"], out=tmp_path / "why", store=other.path)
