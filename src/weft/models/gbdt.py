"""Gradient boosted decision trees: the baseline of every table of numbers, with LightGBM.

score = Σ_m η f_m(x): trees f_m, each of which follows the gradient of the loss of the trees before it. The score is a
logit (binary, multiclass), a number (regression) or the logarithm of a rate (count, Poisson loss).

What the trees read:

* dense columns as they are;
* an id of a small vocabulary as a category, whose values LightGBM divides into two sets;
* an id of a large vocabulary as two kinds of numbers: its rank by frequency, which is its id, and the mean label of its
  train rows, drawn to the mean of all by `smoothing` rows;
* a set or sequence of a small vocabulary as one column a value; of a large one as its length and the average over its
  values of the mean label.

A train row reads means in which its own fifth of the rows has no part, so that no row reads its own label. A tenth of
the rows, drawn from the model's seed, is held out of the trees and decides their number.

Paper: Ke et al., NeurIPS 2017, https://papers.nips.cc/paper/6907; Friedman, Annals of Statistics 2001.
Differs: all train rows are in memory at once, four bytes for each row and column.
Needs LightGBM: pip install "weft[tune]".

Dimension key: B rows, P columns of the trees, V values of a field in all rows, T targets (classes, or one).
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from msgspec import Meta, Struct
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.batch import PADDING, Batch, Field, Fields, Ragged
from weft.errors import NotFitted, Unsupported
from weft.models._inputs import Positive, Share, one_output
from weft.models._registry import register
from weft.models._search import Range, Space

Array = NDArray[Any]

FOLDS = 5
OBJECTIVES = {"binary": "binary", "regression": "regression", "count": "poisson", "multiclass": "multiclass"}


class Values(NamedTuple):
    """The values of a field over all rows: [V], and the row of each."""

    value_V: Array
    row_V: Array


class Target(NamedTuple):
    """Labels as columns [B, T] of which means are taken, row weights [B], and the mean of each column [T]."""

    y_BT: Array
    weight_B: Array
    mean_T: Array


MeanOf = Callable[[Field, Values], Array]


@register(
    "gbdt",
    kinds=("ranker", "fitted"),
    phases=("ranking",),
    paper="Ke et al., NeurIPS 2017, LightGBM: A Highly Efficient Gradient Boosting Decision Tree",
    url="https://papers.nips.cc/paper/6907",
    year=2017,
    strengths="Hard to beat on numbers and small vocabularies, needs no scaling and hardly any tuning; quick to fit.",
    weaknesses="Knows an id of a large vocabulary by its mean and frequency only; cannot go on from new rows.",
    choose="As the baseline that a network must beat, above all on dense columns; needs the extra `tune`.",
)
@final
class GBDT(nn.Module):
    """Boosted trees over all features."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Options.

        Attributes:
            trees: At most so many.
            learning_rate: η, the share of each tree.
            leaves: Of a tree, at most.
            min_rows: Of a leaf, at least.
            l2: Penalty of the values of the leaves.
            categories: Ids of a vocabulary with at most so many rows are categories.
            set_values: Sets of a vocabulary with at most so many rows are a column a value.
            smoothing: Rows of the mean of all that are added to the mean of a value.
            held_out: Share of the train rows that decides the number of trees; 0 grows all of them.
            patience: Trees that may bring nothing on these rows.
        """

        trees: Positive = 1000
        learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
        leaves: Annotated[int, Meta(ge=2, le=65_536)] = 63
        min_rows: Positive = 20
        l2: Annotated[float, Meta(ge=0.0)] = 1.0
        categories: Annotated[int, Meta(ge=0)] = 128
        set_values: Annotated[int, Meta(ge=0)] = 32
        smoothing: Annotated[float, Meta(gt=0.0)] = 20.0
        held_out: Share = 0.1
        patience: Positive = 50

        SPACE: ClassVar[Space] = {
            "leaves": Range(7, 255, log=True),
            "min_rows": Range(5, 200, log=True),
            "l2": Range(0.01, 100.0, log=True),
            "smoothing": Range(1.0, 200.0, log=True),
        }

    def __init__(self, fields: Fields, config: Config) -> None:
        super().__init__()
        if find_spec("lightgbm") is None:
            raise Unsupported("model 'gbdt' needs LightGBM, which is not installed; pip install 'weft[tune]'")
        if fields.task != "multiclass":
            one_output(fields, "gbdt")
        if not (fields.ids or fields.dense or fields.ragged):
            raise Unsupported("model 'gbdt' has no feature to read; add features to the schema")
        self._fields, self._config = fields, config
        self._seed = int(torch.randint(2**31 - 1, ()))
        averaged = [f for f in fields.ids if f.rows > config.categories]
        averaged += [f for f in fields.ragged if f.rows > config.set_values]
        starts = np.cumsum([0, *(f.rows for f in averaged)]).tolist()
        self._start = {f.name: start for f, start in zip(averaged, starts, strict=False)}
        self._trees: Any = None
        self.booster: Tensor
        self.means: Tensor
        self.register_buffer("booster", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("means", torch.zeros(starts[-1], fields.outputs, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def fit(self, batches: Iterable[Batch]) -> None:
        """Gather all rows, take the means of values, grow the trees."""
        rows = _joined(batches)
        target = self._target(rows)
        draw = np.random.default_rng(self._seed)
        fold_B = draw.integers(FOLDS, size=len(rows))
        held_B = draw.permutation(len(rows)) < int(len(rows) * self._config.held_out)
        fold_B[held_B] = FOLDS
        grown = target._replace(weight_B=target.weight_B * ~held_B)
        x_BP = self._columns(rows, lambda field, values: self._means_of_others(field, values, grown, fold_B))
        text = self._grow(x_BP, rows, held_B)
        self.booster = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        self._trees = None
        for field in (*self._fields.ids, *self._fields.ragged):
            if field.name in self._start:
                values = _values_of(rows, self._fields, field)
                sums_RT, weights_R = _sums(values.value_V, values.row_V, target, field.rows)
                self._table(field).copy_(torch.from_numpy(self._smoothed(sums_RT, weights_R, target.mean_T)))

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B] or [B, T]."""
        if not len(self.booster):
            raise NotFitted("model 'gbdt' has no tree yet; call `fit` with the train batches first")
        if self._trees is None:
            from lightgbm import Booster

            self._trees = Booster(model_str=self.booster.cpu().numpy().tobytes().decode())
        x_BP = self._columns(batch.to("cpu"), lambda field, values: self._table(field).cpu().numpy()[values.value_V])
        found = self._trees.predict(x_BP, raw_score=True, num_threads=torch.get_num_threads())
        return torch.from_numpy(np.asarray(found)).float().to(batch.ids.device)

    def _table(self, field: Field) -> Tensor:
        """The means [R, T] of the values of a field."""
        start = self._start[field.name]
        return self.means[start : start + field.rows]

    def _target(self, rows: Batch) -> Target:
        if rows.label is None:
            raise Unsupported("model 'gbdt' learns from a label; fit it on rows that have one")
        label_B = rows.label[:, 0].double().numpy()
        if self._fields.task == "binary" and len(np.unique(label_B)) < 2:
            raise Unsupported(
                f"model 'gbdt' draws no negatives and every train row has the label {label_B[0]:g}; "
                "give rows of both labels, or choose a model that learns from sampled negatives"
            )
        several = self._fields.task == "multiclass"
        y_BT = np.eye(self._fields.outputs)[label_B.astype(np.int64)] if several else label_B[:, None]
        weight_B = np.ones(len(rows)) if rows.weight is None else rows.weight.double().numpy()
        return Target(y_BT, weight_B, np.average(y_BT, axis=0, weights=weight_B))

    def _means_of_others(self, field: Field, values: Values, grown: Target, fold_B: Array) -> Array:
        """The mean of each value [V, T] over the rows of other folds; rows of weight 0 have no part in any."""
        fold_V, folds = fold_B[values.row_V], FOLDS + 1
        sums_RT, weights_R = _sums(fold_V * field.rows + values.value_V, values.row_V, grown, folds * field.rows)
        sums, weights = sums_RT.reshape(folds, field.rows, -1), weights_R.reshape(folds, field.rows)
        others = self._smoothed(sums.sum(0) - sums, weights.sum(0) - weights, grown.mean_T)
        return others[fold_V, values.value_V]

    def _smoothed(self, sums: Array, weights: Array, mean_T: Array) -> Array:
        smoothing = self._config.smoothing
        means: Array = (sums + smoothing * mean_T) / (weights[..., None] + smoothing)
        return means

    def _columns(self, rows: Batch, mean_of: MeanOf) -> Array:
        """What the trees read [B, P]; categories come first, in the order of `_categories`."""
        names = [f.name for f in self._categories()]
        parts: list[Array] = [
            rows.ids[:, [self._fields.column(name) for name in names]].numpy(),
            rows.dense.numpy(),
        ]
        for field in self._fields.ids:
            if field.name in self._start:
                values = _values_of(rows, self._fields, field)
                parts += [values.value_V[:, None], mean_of(field, values)]
        for field in self._fields.ragged:
            values = _values_of(rows, self._fields, field)
            if field.name in self._start:
                parts += _averaged(values, mean_of(field, values), len(rows))
            else:
                parts.append(_one_a_value(values, field.rows, len(rows)))
        return np.concatenate([part.astype(np.float32) for part in parts], axis=1)

    def _categories(self) -> list[Field]:
        return [field for field in self._fields.ids if field.name not in self._start]

    def _grow(self, x_BP: Array, rows: Batch, held_B: Array) -> str:
        """Grow trees on the rows that are not held out; the text of the best number of them."""
        import lightgbm

        assert rows.label is not None
        config, label_B = self._config, rows.label[:, 0].numpy()
        weight_B = None if rows.weight is None else rows.weight.numpy()
        settings = {
            "objective": OBJECTIVES[self._fields.task],
            "num_class": self._fields.outputs if self._fields.task == "multiclass" else 1,
            "learning_rate": config.learning_rate,
            "num_leaves": config.leaves,
            "min_data_in_leaf": config.min_rows,
            "lambda_l2": config.l2,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbosity": -1,
        }

        def data(part_B: Array, like: Any = None) -> Any:
            weight = None if weight_B is None else weight_B[part_B]
            return lightgbm.Dataset(
                x_BP[part_B],
                label_B[part_B],
                weight=weight,
                categorical_feature=list(range(len(self._categories()))),
                reference=like,
                params=settings,
            )

        train = data(~held_B)
        judge = [data(held_B, train)] if held_B.any() else None
        stop: list[Any] | None = [lightgbm.early_stopping(config.patience, verbose=False)] if judge else None
        grown = lightgbm.train(settings, train, config.trees, valid_sets=judge, callbacks=stop)
        return _without_settings(grown.model_to_string(num_iteration=grown.best_iteration or None))


def _without_settings(text: str) -> str:
    """The text of trees without the settings they were grown with, which name the number of threads."""
    head, _, rest = text.partition("\nparameters:")
    return head + rest.partition("end of parameters")[2]


def _make_room(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state is loaded: the buffer of the trees takes the size of what comes."""
    assert isinstance(model, GBDT)
    if prefix + "booster" in state:
        model.booster = torch.zeros_like(state[prefix + "booster"], device=model.booster.device)
    model._trees = None


def _joined(batches: Iterable[Batch]) -> Batch:
    """All rows as one batch, of the columns that trees read."""
    parts = [batch.to("cpu") for batch in batches]
    if not parts:
        raise NotFitted("model 'gbdt' was given no row; fit it on train batches that have rows")
    columns: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("ids", "dense", "label", "weight")
        if getattr(parts[0], name) is not None
    }
    return Batch(
        ragged={name: _joined_ragged([part.ragged[name] for part in parts]) for name in parts[0].ragged}, **columns
    )


def _joined_ragged(parts: list[Ragged]) -> Ragged:
    lengths = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return Ragged(torch.cat([part.values for part in parts]), offsets)


def _values_of(rows: Batch, fields: Fields, field: Field) -> Values:
    """The values of a field and their rows; padding within a set is no value."""
    if field.kind == "id":
        return Values(rows.ids[:, fields.column(field.name)].numpy(), np.arange(len(rows)))
    ragged = rows.ragged[field.name]
    value_V, row_V = ragged.values.numpy(), np.repeat(np.arange(len(rows)), ragged.offsets.diff().numpy())
    there = value_V != PADDING
    return Values(value_V[there], row_V[there])


def _sums(cell_V: Array, row_V: Array, target: Target, cells: int) -> tuple[Array, Array]:
    """Sums of the weighted labels [cells, T] and of the weights [cells] of the rows that have a value in a cell."""
    weight_V, y_VT = target.weight_B[row_V], target.y_BT[row_V]
    sums = [np.bincount(cell_V, weight_V * y_V, cells) for y_V in y_VT.T]
    return np.stack(sums, axis=1), np.bincount(cell_V, weight_V, cells)


def _one_a_value(values: Values, size: int, rows: int) -> Array:
    """Whether each row has each value but padding [B, R - 1]."""
    cell_V = values.row_V * size + values.value_V
    return np.bincount(cell_V, minlength=rows * size).reshape(rows, size)[:, PADDING + 1 :] > 0


def _averaged(values: Values, mean_VT: Array, rows: int) -> list[Array]:
    """Of each row the number of its values [B, 1] and the average of their means [B, T]; NaN of no value."""
    count_B = np.bincount(values.row_V, minlength=rows)
    columns = [np.bincount(values.row_V, mean_V, rows) for mean_V in mean_VT.T]
    with np.errstate(invalid="ignore"):
        return [count_B[:, None], np.stack(columns, axis=1) / count_B[:, None]]
