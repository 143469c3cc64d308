"""What `weft models` tells, and the page of the models."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from weft.errors import ConfigError
from weft.models import entry, names
from weft.models._registry import wrappers
from weft.models._search import search_space
from weft.study.models import (
    PHASES,
    WRITER,
    by_phase,
    describe_model,
    models_page,
    options_of,
    render_model,
    render_models,
)
from weft.train.recipe import Recipe

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"


def printed(name: str | None, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    render_models(console, as_json=False) if name is None else render_model(name, console, as_json=False)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_all_models_are_listed_with_what_a_person_needs_to_choose_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(None)
    render_models(Console(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in found] == [*names()]
    for model in found:
        assert f" {model['name']} " in text
        for said in ("strengths", "weaknesses", "choose"):
            assert model[said] in text
        assert model["year"] == 0 or (str(model["year"]) in text and model["paper"] in text)
    assert [phase for phase in PHASES if f"{phase}: " in text] == [*PHASES]


def test_the_list_is_read_in_80_columns() -> None:
    text = printed(None, width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "…" not in printed("dcn_v2", width=80)


@pytest.mark.parametrize("name", names())
def test_a_model_shows_what_it_is_for_its_options_and_the_presets(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(name)
    render_model(name, Console(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(describe_model(name)))
    assert {"strengths", "weaknesses", "choose", "paper", "options", "about", "train", "space", "presets"} <= set(found)
    assert set(found["wrappers"]) == set(wrappers())
    assert set(found["space"]) == set(search_space(entry(name).config))
    for key in (*found["options"], *found["space"], "batch_size", found["choose"]):
        assert key in text
    for preset in found["presets"]:
        assert f"preset {preset} (--preset {preset})" in text
    for table in found["wrappers"]:
        assert f"--set {table}.KEY=VALUE" in text


@pytest.mark.parametrize("config", [*(entry(name).config for name in names()), *wrappers().values(), Recipe])
def test_every_option_says_what_it_does_and_what_it_allows(config: type) -> None:
    for key, option in options_of(config).items():
        assert option.meaning.endswith((".", ")")), f"{config.__module__}: the docstring says nothing of {key!r}"
        assert option.allowed


def test_options_are_those_that_set_takes() -> None:
    found = describe_model("dcn_v2")
    assert found["options"]["embedding_dim"] == 16
    assert found["train"]["learning_rate"] == 1e-3
    assert found["about"]["embedding_dim"][0] == "whole number, >= 1"
    assert found["about"]["structure"] == ["parallel or stacked", "The deep part beside the crosses, or after them."]
    assert found["presets"]["bars"]["train.batch_size"] == 4096


def test_a_common_preset_and_that_of_the_model_are_shown_as_one() -> None:
    own = entry("dlrm").presets["bars"]
    found = describe_model("dlrm")["presets"]["bars"]
    assert own
    assert {key: found[key] for key in own if key != "train"} == {k: v for k, v in own.items() if k != "train"}
    assert found["train.epochs"] == 100


def test_each_model_stands_below_the_phase_that_it_is_made_for() -> None:
    groups = by_phase(names())
    assert list(groups) == [phase for phase in PHASES if phase in groups]
    assert sorted(found.name for entries in groups.values() for found in entries) == [*names()]
    for phase, entries in groups.items():
        assert all(phase in found.phases for found in entries)
        years = [found.year for found in entries]
        assert years == sorted(years)
    assert "dcn_v2" in [found.name for found in groups["final ranking"]]
    assert {"mf", "item_knn"} <= {found.name for found in groups["candidate generation"]}


def test_the_page_is_what_the_registry_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == models_page(), f"docs/models.md is out of date: run {WRITER}"


def test_the_page_has_a_chooser_and_every_link_in_it_leads_to_a_model() -> None:
    page = models_page()
    chooser = page.partition("## Which one")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"\]\(#(\w+)\)", chooser)) == [*names()]
    assert sorted(re.findall(r"^### (\w+)$", page, flags=re.MULTILINE)) == [*names()]


def test_an_unknown_model_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match="did you mean dcn_v2"):
        describe_model("dcnv2")
