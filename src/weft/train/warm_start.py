"""Start from another run's weights although vocabularies, fields or widths have changed since.

Rows of embedding tables go to the row of the same value: by external value through both vocabularies, by position where
ids are hashes or buckets that did not change. All other weights go by name where their shapes are the same. Wrappers
may come and go: the network inside starts from the network inside, and what a wrapper adds from the same wrapper's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from weft.batch import FIRST_ID, UNKNOWN
from weft.errors import ConfigError
from weft.layers import Embedding
from weft.models import _registry as registry
from weft.models._contract import INSIDE, Wraps
from weft.runs import OPTIMIZER, WEIGHTS, SavedRun
from weft.schema import Categorical, Cross, MultiHot, Schema
from weft.train.optimizers import Optimizer
from weft.transforms.cross import CrossVocabulary
from weft.transforms.encode import Transforms
from weft.transforms.vocabulary import Vocabulary

RowMap = NDArray[np.integer[Any]]
Place = tuple[str, str]  # the table of the wrapper that a weight belongs to, "" of the network inside; its name there


class Report(NamedTuple):
    """What was taken over.

    Attributes:
        rows: Rows of embedding tables that found their value.
        of: Rows of these tables in the new model.
        weights: Names of other weights that were taken.
        left: Names of weights that start fresh.
    """

    rows: int
    of: int
    weights: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        left = f"; fresh: {', '.join(self.left)}" if self.left else ""
        return f"{self.rows:,} of {self.of:,} embedding rows and {len(self.weights)} other weights taken over{left}"


def warm_start(model: nn.Module, transforms: Transforms, run: SavedRun) -> Report:
    """Put a run's weights into a new model, in place.

    Args:
        model: The new model.
        transforms: What its ids mean.
        run: Where to start from; its model may be another one, what has no place stays out.

    Raises:
        ConfigError: Nothing of the run has a place.
    """
    old, new = _by_place(run), model.state_dict()
    places = _places(new, _around(model))
    tables = {f"{prefix}{name}.weight": name for prefix, name in _tables(model)}
    rows, taken, left = 0, [], []
    for key, tensor in new.items():
        given = old.get(places[key])
        if given is None:
            left.append(key)
        elif key in tables:
            found = _take_rows(tensor, given, row_map(tables[key], run.transforms, transforms, len(given), len(tensor)))
            rows += found
            left += [] if found else [key]
        elif given.shape == tensor.shape:
            tensor.copy_(given)
            taken.append(key)
        else:
            left.append(key)
    if not (rows or taken):
        raise ConfigError(
            f"no weight of the run {str(run.path)!r}, of the model {run.config.model!r}, has a place in the new model; "
            "start from a run of the same model whose widths and values it shares, or from none"
        )
    return Report(rows, sum(len(new[key]) for key in tables), tuple(taken), tuple(left))


def warm_optimizer(optimizer: Optimizer, model: nn.Module, transforms: Transforms, run: SavedRun) -> bool:
    """Put the state of a run's optimizer into that of a model which started from its weights, in place.

    Rows of tables go where their values went, those of new values have no state yet.

    Returns:
        False, and nothing is changed, where the run has no such state or not of the same weights.
    """
    path = run.path / OPTIMIZER
    old = load_file(path) if path.is_file() else {}
    weights = model.state_dict()
    tables = {f"{prefix}{name}.weight": name for prefix, name in _tables(model)}
    if not old or not optimizer.tensors().keys() <= old.keys():
        return False
    moved: dict[str, Tensor] = {}
    for key, state in old.items():
        name = key.rpartition("/")[0]
        if name not in tables or not state.dim():
            moved[key] = state
            continue
        rows = row_map(tables[name], run.transforms, transforms, len(state), len(weights[name]))
        moved[key] = state.new_zeros(len(weights[name]), *state.shape[1:])
        _take_rows(moved[key], state, rows)
    optimizer.load(moved)
    return True


def row_map(table: str, old: Transforms, new: Transforms, old_rows: int, new_rows: int) -> RowMap | None:
    """The new row of each old row of a table, 0 where it has none; None if the tables have nothing in common."""
    for before, after in zip(_vocabularies(table, old), _vocabularies(table, new), strict=True):
        if before is None or after is None or (before.rows, after.rows) != (old_rows, new_rows):
            continue
        ids = _encoded(before, after)
        return np.concatenate([[0, UNKNOWN], np.where(ids == UNKNOWN, 0, ids)])
    same = old_rows == new_rows and _same_ids(table, old, new)
    return np.arange(old_rows) if same else None


def _by_place(run: SavedRun) -> dict[Place, Tensor]:
    old = load_file(run.path / WEIGHTS)
    around = [table for table in reversed(registry.INSIDE_OUT) if table in run.config.options]
    return {place: old[key] for key, place in _places(old, around).items()}


def _around(model: nn.Module) -> Iterator[str]:
    """The tables of the wrappers around a model, outside in."""
    tables = {config: table for table, config in registry.wrappers().items()}
    while isinstance(model, Wraps):
        yield tables[vars(type(model))["Config"]]
        model = model.inner()


def _places(keys: Iterable[str], around: Iterable[str]) -> dict[str, Place]:
    """The place of each key under wrappers, outside in.

    >>> _places(["model.bias", "tower.head.bias"], ["position"])
    {'model.bias': ('', 'bias'), 'tower.head.bias': ('position', 'tower.head.bias')}
    """
    places = {key: ("", key) for key in keys}
    for table in around:
        for key, (whose, name) in places.items():
            if not whose:
                inner = name.removeprefix(f"{INSIDE}.")
                places[key] = (table, name) if inner == name else ("", inner)
    return places


def _take_rows(tensor: Tensor, given: Tensor, rows: RowMap | None) -> int:
    if rows is None or given.shape[1:] != tensor.shape[1:]:
        return 0
    source = np.flatnonzero(rows)
    tensor[torch.from_numpy(rows[source]).long()] = given[torch.from_numpy(source)]
    return len(source)


def _tables(model: nn.Module) -> Iterator[tuple[str, str]]:
    for prefix, module in model.named_modules():
        if isinstance(module, Embedding):
            yield from ((f"{prefix}." if prefix else "", name) for name in module.slices)


def _vocabularies(table: str, transforms: Transforms) -> list[Vocabulary | CrossVocabulary | None]:
    """Everything that may give a table its ids; models of user and item ids alone call theirs by the role."""
    roles: Mapping[str, Vocabulary | None] = {"user": transforms.user_ids, "item": transforms.item_ids}
    return [transforms.vocabularies.get(table), transforms.crosses.get(table), roles.get(table)]


def _encoded(before: Vocabulary | CrossVocabulary, after: Vocabulary | CrossVocabulary) -> RowMap:
    if isinstance(before, Vocabulary) and isinstance(after, Vocabulary):
        return after.encode_values(before.values)
    if isinstance(before, CrossVocabulary) and isinstance(after, CrossVocabulary):
        return after.encode(before.keys)
    return np.full(before.rows - FIRST_ID, UNKNOWN)


def _same_ids(table: str, old: Transforms, new: Transforms) -> bool:
    """Whether ids that are no vocabulary's mean the same: hashes into as many buckets, or equal bucket edges."""
    dense = table.removesuffix(".bucket")
    if dense in old.edges and dense in new.edges:
        return np.array_equal(old.edges[dense], new.edges[dense])
    buckets = _buckets(table, new.schema)
    return buckets is not None and buckets == _buckets(table, old.schema)


def _buckets(table: str, schema: Schema) -> int | None:
    hashed = (f for f in schema.features if isinstance(f, Categorical | MultiHot | Cross))
    return next((f.hash_buckets for f in hashed if f.name == table), None)
