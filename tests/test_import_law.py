"""The law on rooms: the table of CONTRIBUTING.md is written as import-linter contracts, and the contracts hold."""

import ast
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "weft"
MODEL_FILES = sorted(path for path in (PACKAGE / "models").glob("*.py") if not path.name.startswith("_"))


def law() -> dict[str, set[str]]:
    """Room to rooms that it may import, from the table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("| room | may import |")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if " | " in line]
    lines = {room: allowed for names, allowed in rows for room in names.split(", ")}
    return {room: _named(allowed, set(lines)) for room, allowed in lines.items()}


def _named(allowed: str, everything: set[str]) -> set[str]:
    if allowed.startswith("everything"):
        return everything - set(allowed.removeprefix("everything").removeprefix(" but ").split(", "))
    return set() if allowed == "nothing of ours" else set(allowed.split(", "))


MAY_IMPORT = law()


def rooms() -> set[str]:
    """The rooms that are there: modules and packages of weft."""
    files = {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    return files | {path.parent.name for path in PACKAGE.glob("*/*.py")}


def contracts() -> dict[str, set[str]]:
    """Room to rooms that its contract forbids."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {
        contract["source_modules"][0].removeprefix("weft."): {
            name.removeprefix("weft.") for name in contract["forbidden_modules"] if name.startswith("weft.")
        }
        for contract in settings["contracts"]
        if contract["name"].startswith("room ")
    }


def test_every_room_states_its_line() -> None:
    assert rooms() <= set(MAY_IMPORT), "a new room needs its line in CONTRIBUTING.md and in pyproject.toml"


def test_the_law_names_rooms_only() -> None:
    assert set().union(*MAY_IMPORT.values()) <= set(MAY_IMPORT)
    assert MAY_IMPORT["batch"] == {"errors", "schema"}
    assert MAY_IMPORT["testing"] == set(MAY_IMPORT) - {"serve", "learn", "cli"}


def test_every_package_is_one() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize("room", sorted(rooms() - {"cli"}))
def test_the_contract_of_a_room_forbids_what_its_line_does_not_allow(room: str) -> None:
    assert contracts()[room] == rooms() - MAY_IMPORT[room] - {room}


@pytest.mark.filterwarnings("ignore")
def test_the_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    for logger in [found for found in logging.Logger.manager.loggerDict.values() if isinstance(found, logging.Logger)]:
        monkeypatch.setattr(logger, "disabled", logger.disabled)  # import-linter silences all that are there
    failed = cli.lint_imports(no_cache=True)
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.stem)
def test_a_model_file_imports_no_other_model_file(path: Path) -> None:
    others = {f"weft.models.{other.stem}" for other in MODEL_FILES}
    assert not others & set(imported(path))


@pytest.mark.parametrize("room", sorted(rooms() - {"cli"}))
def test_no_room_comes_in_through_the_front_door(room: str) -> None:
    files = (PACKAGE / room).rglob("*.py") if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    allowed = {f"weft.{name}" for name in MAY_IMPORT}
    for path in files:
        through = [name for name in imported(path) if name == "weft" or name.startswith("weft.")]
        assert all(".".join(name.split(".")[:2]) in allowed for name in through), path


def imported(path: Path) -> Iterator[str]:
    """The full names of all modules, and of all names out of modules, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            if node.module != "weft":
                yield str(node.module)
