"""Checks of the arguments of metrics; each message says what was given, what is allowed and what to do."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def require(ok: Booleans, name: str, values: Array, allowed: str, mend: str) -> None:
    """Raise ValueError for the first row of `values` that is not ok."""
    if not ok.all():
        first = tuple(int(index) for index in np.unravel_index(np.argmin(ok), ok.shape))
        place = ", ".join(f"{axis} {index}" for axis, index in zip(("row", "column"), first, strict=False))
        raise ValueError(f"`{name}` must {allowed}, got {values[first]} at {place}; {mend}")


def numbers(name: str, values: Array, dimensions: int = 1) -> Array:
    """An array of numbers or booleans with so many dimensions."""
    values = np.asarray(values)
    if values.ndim != dimensions:
        raise ValueError(f"`{name}` must have {dimensions} dimension(s), got shape {values.shape}; reshape it.")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers, got dtype {values.dtype}; convert it first.")
    return values


def finite(name: str, values: Array, dimensions: int = 1) -> Array:
    """A finite array of floats; its own float type is kept."""
    values = numbers(name, values, dimensions)
    require(np.isfinite(values), name, values, "be finite", "find where the model or the table makes it.")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def binary(name: str, values: Array, dimensions: int = 1) -> Booleans:
    """An array that holds only 0 and 1, as booleans."""
    values = numbers(name, values, dimensions)
    if values.dtype == np.bool_:
        return values
    require((values == 0) | (values == 1), name, values, "hold only 0 and 1", "set a threshold on counts and ratings.")
    ones: Booleans = values == 1
    return ones


def probabilities(name: str, values: Array) -> Array:
    """A vector of numbers from 0 to 1."""
    values = finite(name, values)
    require((values >= 0) & (values <= 1), name, values, "lie in 0..1", "pass probabilities, not logits.")
    return values


def same_length(**arrays: Array) -> None:
    """Raise ValueError when arrays that belong together have different lengths."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"`{name}` has {length}" for name, length in lengths.items())
        raise ValueError(f"all arguments must have the same number of rows, got: {given}; pass one value for each row.")


def at_least_one(name: str, value: int) -> None:
    """Raise ValueError for a count below one."""
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}; pass a larger one.")


def mean(values: Array) -> float:
    """The mean in double precision; nan when there is nothing."""
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def ratio(numerator: Any, denominator: Any) -> float:
    """A quotient of two scalars, exact for Python integers of any size; nan when the denominator is 0."""
    return float(numerator / denominator) if denominator else float("nan")
