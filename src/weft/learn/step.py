"""One step of learning: a small store made of what is new in the log, the runs of a bundle trained on, a new bundle.

The new rows are the train split and the newest ones the validation split of a store like any other, so training,
early faults, calibration and bundling are those of every run. Where the training of a run has gradients it goes on from
the weights and the optimizer's state that the bundle has; a run without them (counts, graphs, exact solutions) stays
as it is, with empty rows for users and items that came.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft import artifacts
from weft import schema as schemas
from weft.batch import FIRST_ID
from weft.data import store as stores
from weft.data.store import Store
from weft.errors import ConfigError
from weft.learn.growth import Side, translated
from weft.models import _registry as registry
from weft.recommend.arrivals import with_item_rows, with_user_rows
from weft.recommend.bundle import RUNS, Bundle, bundle
from weft.recommend.member import INDEX, PARTS, Member
from weft.runs import CONFIG, KIND, SCHEMA, TRANSFORMS, WEIGHTS, RunConfig, SavedRun, without_none
from weft.schema import Dense
from weft.train import als, retrieval
from weft.train.recipe import recipe_from
from weft.train.run import train
from weft.transforms.catalogue import Catalogue
from weft.transforms.columns import from_values
from weft.transforms.encode import Transforms
from weft.transforms.rows import Rows
from weft.transforms.vocabulary import Vocabulary

Raw = Mapping[str, Any]
SPLITS = {"train": 0, "valid": 1, "test": 2}


def write_store(
    folder: Path, before: Bundle, transforms: Transforms, train_rows: Rows, held: Rows, raw: Mapping[Side, Raw]
) -> Store:
    """A store of the new rows.

    Args:
        folder: Where.
        before: The bundle whose catalogues it goes on from.
        transforms: With the vocabularies as they are now.
        train_rows: To train on, encoded with `transforms`.
        held: To judge by.
        raw: Columns of the users and items that came after training, by external id.
    """
    schema = transforms.schema
    rows = {"train": train_rows, "valid": held, "test": held.take(np.zeros(0, np.int64))}
    counts = {name: len(part) for name, part in rows.items()}
    with artifacts.new_folder(folder, stores.KIND, rows=counts, name=schema.name) as place:
        (place / stores.SCHEMA).write_text(schemas.dumps(schema), encoding="utf-8")
        (place / stores.FIELDS).write_bytes(msgspec.json.encode(transforms.fields))
        transforms.save(place / stores.TRANSFORMS)
        for name, part in rows.items():
            part.save(place / name)
        nothing = {feature.name: 0 for feature in schema.features if isinstance(feature, Dense)}
        (place / stores.MISSING).write_bytes(msgspec.json.encode(nothing))
        _catalogue(before, transforms, train_rows, raw).save(place)
    return Store.open(folder)


def make_bundle(
    before: Bundle, store: Store, work: Path, target: Path, *, epochs: int, seed: int, notes: Mapping[str, Any]
) -> Bundle:
    """The bundle after its runs have been trained on with a store of `write_store`.

    Args:
        before: The bundle to go on from.
        store: What is new.
        work: A folder for what is made on the way.
        target: The new bundle.
        epochs: Passes over the new rows.
        seed: Of shuffling and of new rows' weights.
        notes: For the manifest.
    """
    runs = []
    for name, member in before.members.items():
        run = as_run(before, name, work / "before" / name)
        out = work / "runs" / name
        if learns(member.config):
            _go_on(run, store, out, epochs=epochs, seed=seed)
        else:
            _carry(run, store, out)
        runs.append(out)
    calibrated = before.calibrator
    method = None if calibrated is None else str(msgspec.to_builtins(calibrated)["kind"])
    return bundle(runs, target, pipeline=before.pipeline, store=store.path, calibrate=method, notes=notes)


def learns(config: RunConfig) -> bool:
    """Whether a run can go on from its weights row by row."""
    loss = retrieval.loss_name(config.model, recipe_from(config.recipe), config.options)
    counts = "fitted" in registry.entry(config.model).kinds
    return not (counts or registry.reads_graph(config.model) or loss == als.LOSS)


def as_run(bundle: Bundle, name: str, folder: Path) -> SavedRun:
    """A run of a bundle as a run folder again."""
    source = bundle.path / RUNS / name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(INDEX, PARTS))
    shutil.copytree(bundle.path / TRANSFORMS, folder / TRANSFORMS)
    member: Member = bundle.members[name]
    artifacts.write_json(folder / SCHEMA, bundle.schema)
    artifacts.write_manifest(folder, KIND, store=member.config.store_id, model=member.config.model)
    return SavedRun.open(folder)


def _go_on(run: SavedRun, store: Store, out: Path, *, epochs: int, seed: int) -> None:
    config = run.config
    recipe = {**config.recipe, "epochs": epochs, "patience": epochs}
    options = {name: value for name, value in config.options.items() if name != "pretrained"}
    settings = run.path.with_suffix(".toml")
    settings.write_bytes(msgspec.toml.encode(without_none({**options, "train": recipe})))
    train(
        store,
        config.model,
        out=out,
        config=settings,
        init=run.path,
        go_on=True,
        seed=seed,
        precision=config.precision,
        device=config.device if torch.cuda.is_available() else "cpu",
    )


def _carry(run: SavedRun, store: Store, out: Path) -> None:
    """A run as it is, with the ids of a store whose catalogues are longer."""
    config = msgspec.structs.replace(run.config, store=str(store.path), store_id=store.id)
    shutil.copytree(run.path, out, ignore=shutil.ignore_patterns(TRANSFORMS, artifacts.MANIFEST, WEIGHTS))
    shutil.copytree(store.path / stores.TRANSFORMS, out / TRANSFORMS)
    artifacts.write_atomic(out / CONFIG, config.toml())
    longer = registry.create(config.model, store.fields, config.options).state_dict()
    weights = {name: _padded(tensor, longer.get(name)) for name, tensor in load_file(run.path / WEIGHTS).items()}
    save_file(weights, out / WEIGHTS)
    artifacts.write_manifest(out, KIND, store=store.id, model=config.model)


def _padded(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A tensor with zeros behind it where another one of as many dimensions is longer."""
    if like is None or like.dim() != tensor.dim():
        return tensor
    wider = tensor.new_zeros([max(mine, theirs) for mine, theirs in zip(tensor.shape, like.shape, strict=True)])
    wider[tuple(slice(length) for length in tensor.shape)] = tensor
    return wider


def _catalogue(before: Bundle, transforms: Transforms, train_rows: Rows, raw: Mapping[Side, Raw]) -> Catalogue:
    old = before.transforms
    made = replace(
        before.catalogue,
        users=_own_ids(translated(before.catalogue.users, old, transforms), transforms, "user", old.user_ids),
        items=_own_ids(translated(before.catalogue.items, old, transforms), transforms, "item", old.item_ids),
    )
    made = _with_users(made, transforms, raw["user"])
    made = _with_items(made, transforms, raw["item"])
    assert train_rows.item is not None
    assert train_rows.label is not None
    size = len(made.items)
    relevant = train_rows.label[:, 0] >= transforms.schema.protocol.relevant
    return replace(
        made,
        counts=made.counts + np.bincount(train_rows.item, minlength=size),
        positives=made.positives + np.bincount(train_rows.item[relevant], minlength=size),
    )


def _own_ids(rows: Rows, transforms: Transforms, side: Side, names: Vocabulary | None) -> Rows:
    """A catalogue's rows, in which an id of the side's own table may have come or gone."""
    fields = transforms.fields.of(side)
    name = fields.user if side == "user" else fields.item
    own = None if name is None else transforms.vocabularies.get(name)
    if own is None or name is None or names is None:
        return rows
    ids = np.array(rows.ids)
    ids[FIRST_ID:, fields.column(name)] = own.encode_values(names.values)
    return replace(rows, ids=ids)


def _with_users(catalogue: Catalogue, transforms: Transforms, raw: Raw) -> Catalogue:
    values, ids = _new(transforms, transforms.user_ids, "user", len(catalogue.users), raw)
    if not values:
        return catalogue
    rows = transforms.encode_side(from_values(transforms.schema, values), "user")
    return with_user_rows(catalogue, rows, ids)


def _with_items(catalogue: Catalogue, transforms: Transforms, raw: Raw) -> Catalogue:
    values, ids = _new(transforms, transforms.item_ids, "item", len(catalogue.items), raw)
    if not values:
        return catalogue
    rows = transforms.encode_side(from_values(transforms.schema, values), "item")
    title = str(transforms.schema.roles.title)
    made, _ = with_item_rows(catalogue, rows, ids, [value.get(title) for value in values])
    return made


def _new(
    transforms: Transforms, vocabulary: Vocabulary | None, side: Side, known: int, raw: Raw
) -> tuple[list[dict[str, Any]], np.ndarray[Any, np.dtype[np.int64]]]:
    """The raw rows and the ids of what a catalogue of `known` rows lacks."""
    role = getattr(transforms.schema.roles, side)
    assert vocabulary is not None
    if role is None:
        raise ConfigError(f"learning needs `{side}` in [roles] of the schema; make the bundle from such data")
    names = vocabulary.values[known - FIRST_ID :].tolist()
    values = [{**(raw.get(str(name)) or {}), role: name} for name in names]
    return values, np.arange(known, known + len(names))
