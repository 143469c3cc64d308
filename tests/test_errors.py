"""The exception tree: one root, standard parents, near names."""

import inspect

import pytest

from weft import errors

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", ALL)
def test_every_exception_is_ours_and_stands_in_the_drawing(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.WeftError)
    assert f"  {kind.__name__}" in (errors.__doc__ or "")


def test_standard_parents_catch_ours() -> None:
    for kind in (errors.SchemaError, errors.DataError, errors.ConfigError, errors.Unsupported):
        assert issubclass(kind, ValueError)
    for kind in (errors.ArtifactError, errors.NotFitted, errors.StaleModel, errors.Diverged):
        assert issubclass(kind, RuntimeError)
    assert issubclass(errors.UnknownColumn, errors.SchemaError)
    assert issubclass(errors.Locked, errors.ArtifactError)


def test_near_names_several() -> None:
    assert errors.near("dcn", ["dcn_v2", "dcn_mix", "fm"]) == "did you mean dcn_v2 or dcn_mix?"
