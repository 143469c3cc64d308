"""The public surface: complete, lazy, and functions that share a package's name stay callable."""

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import weft


@pytest.mark.parametrize("name", weft.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(weft, name) is not None


def test_the_front_door_is_small_and_listed() -> None:
    assert len(weft.__all__) <= 40
    assert weft.__all__ == sorted(set(weft.__all__), key=_ruff_order)
    assert dir(weft) == sorted(weft.__all__)


def _ruff_order(name: str) -> tuple[bool, str]:
    return not name[0].isupper(), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'trainn'"):
        weft.trainn  # noqa: B018


@pytest.mark.parametrize("name", ["train", "evaluate", "explain"])
def test_a_package_is_called_like_a_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = ModuleType(f"weft.{name}.fake")
    setattr(home, name, _recorder())
    homes = {"train": "weft.train.run", "evaluate": "weft.evaluate.evaluator", "explain": "weft.explain.explainer"}
    module = homes[name]
    monkeypatch.setitem(sys.modules, module, home)
    assert getattr(weft, name)("store", out="run") == (("store",), {"out": "run"})


def _recorder() -> Callable[..., Any]:
    return lambda *args, **kwargs: (args, kwargs)


@pytest.mark.parametrize("first", ["weft.train.recipe", "weft.evaluate.report", "weft.explain.maps"])
def test_a_package_stays_callable_after_its_modules_were_imported(first: str) -> None:
    _run(f"import {first}, weft; assert callable(weft.train) and callable(weft.evaluate) and callable(weft.explain)")


def test_import_weft_is_light() -> None:
    heavy = {"torch", "polars", "numpy", "msgspec", "rich"}
    _run(f"import sys, weft; dir(weft); found = {heavy} & set(sys.modules); assert not found, found")


def test_a_schema_needs_no_torch_and_no_polars() -> None:
    heavy = {"torch", "polars", "numpy"}
    _run(f"import sys, weft; weft.Schema; found = {heavy} & set(sys.modules); assert not found, found")


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_last_collection_frees_nothing() -> None:
    """The handler that was registered first runs last, after weft's."""
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); import weft"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
