"""The recipe: everything about training that is neither the model nor the data, and how settings lie over each other.

Later layers win: the defaults, the built-in preset, the model's own preset, the preset of the data's schema, the
`--config` file, `--set`.
A layer is a dict: plain keys are the model's options, the sub-table `train` holds fields of the `Recipe`.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import cos, pi
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from weft.errors import ConfigError, near
from weft.models import _registry as registry

DenseRule = Literal["adam", "adamw", "adagrad", "sgd"]
TableRule = Literal["adam", "adamw", "adagrad", "sgd", "rowwise_adagrad", "ftrl"]

LossName = Literal["auto", "task", "softmax", "sampled_softmax", "full_softmax", "bpr", "als"]

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is trained.

    Attributes:
        batch_size: Rows a step.
        epochs: At most so many passes over the train rows.
        loss: What is minimised. `task` is the loss of each label's task on all train rows. The others are for
            retrievers, read the relevant train rows only and are validated by ranking the whole catalogue:
            `softmax` sets each row's item against the items of the batch and `uniform_negatives`, `sampled_softmax`
            against the latter only, `full_softmax` against all items (for models of ids alone or of a graph; the rows
            of a user share the work where `shuffle = "users"` brings them into one batch), `bpr` against `negatives`
            items that the user does not have; `als` alternates exact least squares. `auto` is the model's own. Of
            these, rows weigh what the schema's `weight` role says.
        log_q: How `softmax` and `sampled_softmax` are corrected for items being drawn by their frequency: all logits,
            as in the `paper` of Yi et al.; `refined`, the positive's is left alone and rows weigh 1 - P(positive);
            or `none`.
        frequencies: Where the correction has the probability of an item from: `exact` counts of the train rows, or
            `streaming`, learned from the batches.
        uniform_negatives: Items drawn uniformly for a whole batch, without the row's user's own.
        hard_negatives: Only so many, the best scored ones, of a row's drawn negatives count; 0 is all.
        als_alpha: With `als`, how much more sure a pair is than one that is not there, for each unit of its label.
        als_l2: With `als`, λ of |x|^2 in the sum over all pairs; `l2`, rates and optimizers have no part in it.
        shuffle: Global, by blocks (for data on slow disks), by users (their rows stay together), or none.
        optimizer: Rule of the dense group.
        learning_rate: Of every group that has none of its own.
        wide_optimizer: Rule of the wide group; None is the dense group's rule.
        wide_learning_rate: Of the wide group.
        embedding_optimizer: Rule of the embedding tables and of the vectors of numeric columns; None is the dense
            group's rule. On tables that are updated by touched rows `adam` and `adamw` both mean lazy Adam.
        embedding_learning_rate: Of the same.
        l2: Adds l2 * E to the gradient of every whole embedding and first-order table E, the vectors of numeric
            columns included, every step, before clipping; the gradient of l2 / 2 * |E|^2.
        l2_rows: Adds l2_rows / 2 * |e|^2 to the loss of a row of data for each row e of a table that it looks up, so
            that values are held back as often as they occur; for tables updated by touched rows too.
        weight_decay: Of the dense group: decoupled with `adamw`, added to the gradient otherwise.
        ftrl_l1: L1 of the rule `ftrl`.
        ftrl_l2: L2 of the rule `ftrl`.
        clip: Largest Euclidean norm of all gradients together; `inf` never clips.
        task_weights: What the loss of a label counts by the label's name, where several are learned; one where it is
            not given. The whole loss is the weighted mean of the labels' losses.
        monitor: Validation metric that decides, such as `click.auc` of several labels; None is the own metric of the
            first label's task (auc, rmse, poisson_deviance, logloss).
        min_delta: The least change of the metric that counts as better.
        plateau_factor: Every epoch that is not better multiplies the learning rates by it; 1 keeps them.
        final_share: The learning rates fall along half a cosine, epoch by epoch, to this share of themselves in the
            last of `epochs`; 1 keeps them. For a fixed number of epochs, where no validation decides.
        min_learning_rate: Floor of the learning rates.
        patience: So many epochs in a row that are not better end the training.
        negatives: Sampled negative rows for each train row; with `bpr` items, at least one.
        keep_negatives: Share of the rows with label 0 that is kept; the intercept is corrected for it.
        checkpoint_seconds: Time between two saved training states; one is also saved after every epoch.
        log_every: Steps between two lines of running loss in `metrics.jsonl`.
    """

    loss: LossName = "auto"
    log_q: Literal["paper", "refined", "none"] = "paper"
    frequencies: Literal["exact", "streaming"] = "exact"
    uniform_negatives: Annotated[int, Meta(ge=0)] = 0
    hard_negatives: Annotated[int, Meta(ge=0)] = 0
    als_alpha: Positive = 40.0
    als_l2: Positive = 100.0
    batch_size: Count = 4096
    epochs: Count = 20
    shuffle: Literal["global", "block", "users", "none"] = "global"
    optimizer: DenseRule = "adam"
    learning_rate: Positive = 1e-3
    wide_optimizer: TableRule | None = None
    wide_learning_rate: Positive | None = None
    embedding_optimizer: TableRule | None = None
    embedding_learning_rate: Positive | None = None
    l2: NotNegative = 0.0
    l2_rows: NotNegative = 0.0
    weight_decay: NotNegative = 0.0
    ftrl_l1: NotNegative = 0.0
    ftrl_l2: NotNegative = 0.0
    clip: Positive = 10.0
    task_weights: dict[str, NotNegative] = {}
    monitor: str | None = None
    min_delta: NotNegative = 1e-6
    plateau_factor: Share = 0.1
    final_share: Share = 1.0
    min_learning_rate: NotNegative = 1e-6
    patience: Count = 2
    negatives: Annotated[int, Meta(ge=0)] = 0
    keep_negatives: Share = 1.0
    checkpoint_seconds: NotNegative = 60.0
    log_every: Count = 100

    def rate_share(self, epoch: int) -> float:
        """What `final_share` leaves of the learning rates in an epoch, from 0.

        >>> [round(Recipe(epochs=3, final_share=0.1).rate_share(epoch), 3) for epoch in range(3)]
        [1.0, 0.55, 0.1]
        """
        done = epoch / max(self.epochs - 1, 1)
        return self.final_share + (1 - self.final_share) * (1 + cos(pi * done)) / 2


# The common loop of the BARS benchmark (FuxiCTR): Adam 1e-3, batch 4096, gradient norm 10, one validation an epoch,
# learning rate x 0.1 after every epoch without an improvement of 1e-6, two such epochs in a row end the training.
BARS: dict[str, Any] = {
    "embedding_std": 1e-4,
    "batch_norm": True,
    "hidden": [400, 400, 400],
    "train": {
        "batch_size": 4096,
        "epochs": 100,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "clip": 10.0,
        "min_delta": 1e-6,
        "plateau_factor": 0.1,
        "min_learning_rate": 1e-6,
        "patience": 2,
    },
}
PRESETS: dict[str, dict[str, Any]] = {"bars": BARS}


class Settings(NamedTuple):
    """The outcome of all layers: the model's options, checked and complete, and the recipe."""

    options: dict[str, Any]
    recipe: Recipe


def resolve(
    model: str,
    *,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    sets: Sequence[str] = (),
) -> Settings:
    """Lay all settings over each other.

    Args:
        model: Registry name.
        presets: The presets of the data's schema.
        preset: Name of a preset: a built-in one, one of the schema, or both.
        config: A TOML file: the model's options, and a table `[train]`.
        sets: Texts `key=value` with values in TOML; a value that is not TOML is text; `train.KEY` sets the recipe.

    Raises:
        ConfigError: An unknown preset, key, or a value of the wrong type. A preset's model options are for several
            models: those that this model lacks, but another one has, are left out.
    """
    strict = [_read(config)] if config is not None else []
    strict += [parse(text) for text in sets]
    merged: dict[str, Any] = {}
    for layer in (*_preset_layers(model, presets or {}, preset), *strict):
        merged = _over(merged, layer)
    recipe = recipe_from(merged.pop("train", {}))
    return Settings(registry.complete(model, merged), recipe)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; ConfigError names the key and what it allows.

    >>> recipe_from({"batch_size": 256}).batch_size
    256
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"`train` must be a table of recipe settings, got {values!r}; write train.KEY = value")
    for key in values:
        if key not in Recipe.__struct_fields__:
            raise ConfigError(f"the recipe has no setting 'train.{key}'; {near(key, Recipe.__struct_fields__)}")
    try:
        return msgspec.convert(dict(values), Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"recipe: {str(error).replace('$.', 'train.')}; change the value") from error


def parse(text: str) -> dict[str, Any]:
    """The layer that `key=value` means.

    >>> parse("train.l2=0.05"), parse("structure=stacked"), parse("hidden=[64, 32]")
    ({'train': {'l2': 0.05}}, {'structure': 'stacked'}, {'hidden': [64, 32]})
    """
    key, equals, value = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise ConfigError(f"a setting is written key=value, got {text!r}; write for example train.batch_size=1024")
    layer: Any = _value(value.strip())
    for name in reversed(names):
        layer = {name: layer}
    return dict(layer)


def _value(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _read(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the settings {str(path)!r}: {error}; give a TOML file") from error


def _preset_layers(
    model: str, presets: Mapping[str, Mapping[str, Any]], preset: str | None
) -> Iterable[dict[str, Any]]:
    if preset is None:
        return []
    tables = (PRESETS, registry.entry(model).presets, presets)
    layers = [table[preset] for table in tables if preset in table]
    if not layers:
        raise ConfigError(f"no preset of {model!r} is named {preset!r}; {near(preset, {*chain(*tables)})}")
    return [_for_model(model, preset, layer) for layer in layers]


def _for_model(model: str, preset: str, layer: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a preset that this model has."""
    mine = {*registry.option_names(model), "train"}
    unknown = [key for key in layer if key not in mine]
    if unknown:
        anyone = {key for name in registry.names() for key in registry.option_names(name)}
        for key in unknown:
            if key not in anyone:
                raise ConfigError(f"preset {preset!r}: no model has an option {key!r}; {near(key, {*anyone, 'train'})}")
    return {key: value for key, value in layer.items() if key in mine}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, tables merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
