"""What a fresh machine installs: every requirement has one exact pin that satisfies it."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [item for extra in PROJECT["optional-dependencies"].values() for item in extra]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("text", PROJECT["dependencies"] + EXTRAS)
def test_every_requirement_has_a_pin_that_satisfies_it(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pins()[requirement.name])


def test_torch_is_named_exactly() -> None:
    assert pins()["torch"] == "2.13.0"
