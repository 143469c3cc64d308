"""The commands and the code of docs/pipelines.md run as they stand."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from weft import cli

ROOT = Path(__file__).parent.parent
PIPELINES = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PIPELINES, flags=re.DOTALL)


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 12
    for line in lines:
        assert cli.run(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert "two_tower #" in capsys.readouterr().out


def test_the_pipeline_in_python_is_one() -> None:
    (code,) = blocks("python")
    exec(compile(code, "pipelines.md", "exec"), {})


def test_the_files_that_it_names_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PIPELINES):
        assert (ROOT / "docs" / target).exists(), target
