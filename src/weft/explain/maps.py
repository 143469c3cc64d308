"""Pictures of how fields work together: those that a model draws, over many rows or of one.

Dimension key: B rows, R and C sides of a map.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from weft.batch import Batch
from weft.explain.explanation import Map, Pair
from weft.models import Explains, FieldMap
from weft.models._contract import unwrapped

Floats = NDArray[np.float64]

MOST_PAIRS = 20


def maps_over(model: nn.Module, batches: Iterable[Batch]) -> tuple[Map, ...]:
    """The strength of each picture over all rows: the mean, or of values that go both ways the deviation.

    Where several pictures are of the same pairs (layers, heads), their mean follows.
    """
    kept: dict[str, _Moments] = {}
    for batch in batches:
        for drawn in _draw(model, batch):
            kept.setdefault(drawn.title, _Moments(drawn)).add(drawn)
    found = tuple(moments.map() for moments in kept.values())
    return (*found, *_means(found))


def maps_of_row(model: nn.Module, batch: Batch) -> tuple[Map, ...]:
    """Each picture of a single row, values as they are."""
    drawn = _draw(model, batch)
    return tuple(_map(one, one.title, one.value_BRC[0].double().numpy(), diverging=one.signed) for one in drawn)


def pairs(rows: tuple[str, ...], columns: tuple[str, ...], value_RC: Floats) -> tuple[Pair, ...]:
    """All pairs of different fields, strongest first: the mean of both directions, by its size.

    >>> [pair.fields for pair in pairs(("a", "b", "c"), ("a", "b", "c"), np.array([[9, 0, 1], [0, 9, 4], [2, 0, 9]]))]
    [('b', 'c'), ('a', 'c'), ('a', 'b')]
    """
    if rows != columns:
        return ()
    both_RC = (value_RC + value_RC.T) / 2
    first, second = np.triu_indices(len(rows), 1)
    order = np.argsort(-np.abs(both_RC[first, second]), kind="stable")
    return tuple(
        Pair(fields=(rows[i], rows[j]), strength=float(both_RC[i, j]))
        for i, j in zip(first[order], second[order], strict=True)
    )


class _Moments:
    """Sums of a picture over rows; those of one for all rows are its own."""

    def __init__(self, drawn: FieldMap) -> None:
        self._drawn = drawn
        self._calls = self._count = 0
        self._sum_RC = np.zeros(drawn.value_BRC.shape[1:])
        self._square_RC = np.zeros(drawn.value_BRC.shape[1:])

    def add(self, drawn: FieldMap) -> None:
        value_BRC = drawn.value_BRC.double().numpy()
        self._calls += 1
        self._count += len(value_BRC)
        self._sum_RC += value_BRC.sum(0)
        self._square_RC += np.square(value_BRC).sum(0)

    def map(self) -> Map:
        mean_RC = self._sum_RC / self._count
        if not self._drawn.signed or self._count == self._calls:
            return _map(self._drawn, self._drawn.title, mean_RC, diverging=self._drawn.signed)
        deviation_RC = np.sqrt((self._square_RC / self._count - mean_RC**2).clip(min=0))
        return _map(self._drawn, f"{self._drawn.title}, deviation over rows", deviation_RC)


def _draw(model: nn.Module, batch: Batch) -> list[FieldMap]:
    inside = unwrapped(model)
    return inside.field_maps(batch) if isinstance(inside, Explains) else []


def _map(drawn: FieldMap, title: str, value_RC: Floats, *, diverging: bool = False) -> Map:
    return Map(
        title=title,
        rows=drawn.rows,
        columns=drawn.columns,
        values=value_RC.tolist(),
        diverging=diverging,
        pairs=pairs(drawn.rows, drawn.columns, value_RC)[:MOST_PAIRS],
    )


def _means(found: tuple[Map, ...]) -> list[Map]:
    alike: dict[tuple[str, ...], list[Map]] = {}
    for one in found:
        if one.rows == one.columns:
            alike.setdefault(one.rows, []).append(one)
    means = []
    for fields, many in alike.items():
        if len(many) > 1:
            value_RC = np.mean([one.values for one in many], axis=0)
            means.append(
                Map(
                    title=f"mean of these {len(many)}",
                    rows=fields,
                    columns=fields,
                    values=value_RC.tolist(),
                    diverging=False,
                    pairs=pairs(fields, fields, value_RC)[:MOST_PAIRS],
                )
            )
    return means
