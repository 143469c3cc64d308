"""Transforms as a folder: one JSON file and .npy arrays, without pickle; the same state gives the same bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft.errors import ArtifactError
from weft.schema import Schema
from weft.transforms.cross import CrossVocabulary
from weft.transforms.history import EventLog, Events
from weft.transforms.scale import Scaler
from weft.transforms.vocabulary import Vocabulary

FACTS = "transforms.json"

Arrays = dict[str, NDArray[Any]]


class _Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON file. `arrays` lists, for each named piece of a kind, the arrays `KIND.INDEX.ARRAY.npy`."""

    schema: Schema
    scalers: dict[str, Scaler]
    edges: dict[str, list[float]]
    arrays: dict[str, list[tuple[str, tuple[str, ...]]]]


def save(folder: Path, schema: Schema, pieces: dict[str, Any]) -> None:
    """Write the pieces of Transforms, by the names of its constructor's arguments, into a new folder."""
    folder.mkdir(parents=True)
    roles = {name: pieces[name] for name in ("user_ids", "item_ids") if pieces[name] is not None}
    named: dict[str, dict[str, Arrays]] = {
        "vocabularies": _each(pieces["vocabularies"], Vocabulary.to_arrays),
        "crosses": _each(pieces["crosses"], lambda cross: {"keys": cross.keys, "counts": cross.counts}),
        "history": _each(pieces["history"], _event_arrays),
        "roles": _each(roles, Vocabulary.to_arrays),
    }
    facts = _Facts(
        schema=schema,
        scalers=dict(sorted(pieces["scalers"].items())),
        edges={name: edges.tolist() for name, edges in sorted(pieces["edges"].items())},
        arrays={kind: [(name, tuple(arrays)) for name, arrays in each.items()] for kind, each in named.items()},
    )
    for kind, each in named.items():
        for i, arrays in enumerate(each.values()):
            for part, array in arrays.items():
                np.save(folder / f"{kind}.{i}.{part}.npy", array, allow_pickle=False)
    (folder / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1))


def load(folder: Path) -> tuple[Schema, dict[str, Any]]:
    """Read what `save` wrote; ArtifactError if it is damaged."""
    try:
        facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=_Facts)
        named = {kind: _load_each(folder, kind, entries) for kind, entries in facts.arrays.items()}
    except (OSError, ValueError, EOFError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{str(folder)!r} holds no readable transforms ({error}); make the folder again") from error
    roles = {name: Vocabulary.from_arrays(arrays) for name, arrays in named["roles"].items()}
    return facts.schema, {
        "vocabularies": {name: Vocabulary.from_arrays(arrays) for name, arrays in named["vocabularies"].items()},
        "scalers": facts.scalers,
        "edges": {name: np.array(edges, np.float64) for name, edges in facts.edges.items()},
        "crosses": {name: CrossVocabulary(**arrays) for name, arrays in named["crosses"].items()},
        "history": {name: EventLog(Events(**arrays), is_sorted=True) for name, arrays in named["history"].items()},
        **roles,
    }


def _each(pieces: dict[str, Any], to_arrays: Callable[[Any], Arrays]) -> dict[str, Arrays]:
    return {name: to_arrays(piece) for name, piece in sorted(pieces.items())}


def _event_arrays(log: EventLog) -> Arrays:
    return {name: array for name, array in log.events._asdict().items() if array is not None}


def _load_each(folder: Path, kind: str, entries: list[tuple[str, tuple[str, ...]]]) -> dict[str, Arrays]:
    return {name: _load_arrays(folder, f"{kind}.{i}", parts) for i, (name, parts) in enumerate(entries)}


def _load_arrays(folder: Path, stem: str, parts: tuple[str, ...]) -> Arrays:
    return {part: np.load(folder / f"{stem}.{part}.npy", allow_pickle=False) for part in parts}
