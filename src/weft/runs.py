"""Run folders: what a training run leaves, read back.

run.toml              model, options, recipe, seed, precision, device, the store and its id
schema.json           the schema
transforms/           copied from the store
weights.safetensors   of the best epoch
optimizer.safetensors the optimizer's state at that point
state.json            where training stood
metrics.jsonl         a line an epoch, and the running loss
report.json           validation metrics of the best epoch
environment.json      versions, processor, threads
manifest.json         SHA-256 of each file; written last, so a folder without it is an unfinished run
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from safetensors.torch import load_file
from torch import nn

from weft import artifacts
from weft.batch import Fields
from weft.errors import ArtifactError, StaleModel
from weft.models import _registry as registry
from weft.schema import Schema
from weft.transforms.encode import Transforms

KIND = "run"
CONFIG, SCHEMA, TRANSFORMS, REPORT = "run.toml", "schema.json", "transforms", "report.json"
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


class RunConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that decides a run.

    Attributes:
        model: Registry name.
        store: Path of the store, as it was given.
        store_id: The id of the store's manifest.
        data: Name of the data set.
        preset: Name of the preset, for people; `options` and `recipe` hold its effect.
        init: Path of the run whose weights this one started from.
        seed: Of initial weights, dropout, shuffling and sampling.
        precision: fp32 or bf16.
        device: cpu or cuda.
        intercept: What is added to every logit: the log of the share of negatives that training kept.
        options: Of the model.
        recipe: Of the loop.
    """

    model: str
    store: str
    store_id: str
    data: str = ""
    preset: str | None = None
    init: str | None = None
    seed: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    intercept: float = 0.0
    options: dict[str, Any] = {}
    recipe: dict[str, Any] = {}

    def toml(self) -> bytes:
        """As a TOML file; what is None is left out, since it is the default wherever it is allowed."""
        return msgspec.toml.encode(without_none(msgspec.to_builtins(self)))


class RunReport(Struct, frozen=True, kw_only=True):
    """What `report.json` holds: validation metrics of the best epoch.

    Attributes:
        model: Registry name.
        data: Name of the data set.
        split: valid.
        rows: Rows of the split.
        protocol: How the metrics were taken.
        epoch: The best epoch, from 0; None where there are none.
        metrics: By name, those that are defined.
        parameters: Number of weights.
        seconds: Training time.
    """

    model: str
    data: str
    split: str = "valid"
    rows: int
    protocol: str = "pointwise"
    epoch: int | None
    metrics: dict[str, float]
    parameters: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A finished run.

    Attributes:
        path: The folder.
        id: The id of its manifest.
        config: What decided it.
    """

    path: Path
    id: str
    config: RunConfig

    @staticmethod
    def open(path: str | Path) -> "SavedRun":
        """Open a run folder; every file is checked against its hash. ArtifactError when it is damaged or unfinished."""
        folder = Path(path)
        if (folder / CONFIG).is_file() and not (folder / artifacts.MANIFEST).is_file():
            raise ArtifactError(f"the run {str(folder)!r} is not finished; go on with `weft train ... --resume`")
        manifest = artifacts.verify(folder, KIND)
        return SavedRun(path=folder, id=manifest["id"], config=read_config(folder))

    @cached_property
    def schema(self) -> Schema:
        """The schema that the run was made with."""
        return msgspec.json.decode((self.path / SCHEMA).read_bytes(), type=Schema)

    @cached_property
    def transforms(self) -> Transforms:
        """What was fitted on the train rows."""
        return Transforms.load(self.path / TRANSFORMS)

    @property
    def fields(self) -> Fields:
        """What the model knows of the store."""
        return self.transforms.fields

    @property
    def intercept(self) -> float:
        """What must be added to every logit of the model."""
        return self.config.intercept

    @cached_property
    def report(self) -> RunReport:
        """The validation report of the best epoch."""
        return msgspec.json.decode((self.path / REPORT).read_bytes(), type=RunReport)

    @property
    def validation(self) -> dict[str, float]:
        """Validation metrics of the best epoch, those that are defined."""
        return self.report.metrics

    def check_store(self, id: str, path: Path) -> None:
        """StaleModel when a store, given by the id of its manifest and its path, is not the one of this run."""
        if id != self.config.store_id:
            raise StaleModel(
                f"the run {str(self.path)!r} was trained on another store than {str(path)!r} (the ids differ); "
                "give the right one (`store`, `--store`), or train again"
            )

    def load_model(self) -> nn.Module:
        """The model with its best weights, in evaluation mode, on the CPU."""
        return load_model(self.path, self.config, self.fields)


def load_model(folder: Path, config: RunConfig, fields: Fields) -> nn.Module:
    """The model whose weights lie in a folder, in evaluation mode, on the CPU."""
    model = registry.create(config.model, fields, config.options)
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval()


def read_config(folder: Path) -> RunConfig:
    """The run.toml of a folder; ArtifactError when it cannot be read."""
    path = folder / CONFIG
    try:
        return msgspec.toml.decode(path.read_bytes(), type=RunConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{str(path)!r} cannot be read ({error}); train again") from error


def without_none(value: Any) -> Any:
    """Plain values without the keys that are None, which TOML cannot write.

    >>> without_none({"a": None, "b": {"c": None, "d": 1}})
    {'b': {'d': 1}}
    """
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return value
