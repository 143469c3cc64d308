"""What `weft models` tells."""

import io
import json

import pytest
from rich.console import Console

from weft.errors import ConfigError
from weft.models import names
from weft.study.models import describe_model, render_model, render_models


def printed(name: str | None) -> str:
    console = Console(file=io.StringIO(), width=200)
    render_models(console, as_json=False) if name is None else render_model(name, console, as_json=False)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_all_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(None)
    render_models(Console(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in found] == [*names()]
    for model in found:
        assert f" {model['name']} " in text


@pytest.mark.parametrize("name", names())
def test_a_model_shows_what_it_is_for_its_options_and_the_presets(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(name)
    render_model(name, Console(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(describe_model(name)))
    assert {"strengths", "weaknesses", "choose", "paper", "options", "train", "presets"} <= set(found)
    for key in (*found["options"], "batch_size", "preset bars", found["choose"]):
        assert key in text


def test_options_are_those_that_set_takes() -> None:
    assert describe_model("dcn_v2")["options"]["embedding_dim"] == 16
    assert describe_model("dcn_v2")["train"]["learning_rate"] == 1e-3


def test_an_unknown_model_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match="did you mean dcn_v2"):
        describe_model("dcnv2")
