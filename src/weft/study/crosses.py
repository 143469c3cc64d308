"""Crosses, found: which ANDs of features a wide model would gain from, proposed by boosted trees, judged on validation.

1. `lr` learns the train rows in memory, with all that the schema has; each part of a possible cross then gets a weight
   for each of its values on top of it, so that what is left is no effect of a single feature.
2. Small trees (LightGBM, depth 3, each over a part of the features) follow what is left. The gain of a split goes to
   every pair and triple of features on its path that the split has a part in; the best of them are candidates, and
   with a part that decides another one (an artist its country) also the same with the other one.
3. Candidates are chosen one after the other, pairs before triples: the one that lowers the loss most, given those
   before it, as long as there is one that surely does. A candidate gets one weight for each combination by Newton's
   method, the other weights stay. The choice is made on a fifth of the train rows, from weights of the other four.
4. Each chosen cross, and the best of the others, is judged on the validation rows, which nothing before has read: the
   loss of the wide model without it less the loss with it, alone and beyond those chosen before, with the interval of a
   paired bootstrap over rows. Rows have their weights here as in the other steps.

Parts are categorical features, buckets, dense features (for which buckets are proposed) and sets of small vocabularies.
The ids are those that `prepare` would give: fitted on train rows, combinations under `MIN_COUNT` unknown. A store holds
the fill where a number is missing, and `NAME.missing` tells the rows; without that column, buckets are proposed only
where no row holds the fill.
Needs LightGBM: pip install "weft[tune]".

Dimension key: B rows, V values of a part or cross in all rows, C combinations, P columns of the trees.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import combinations, islice, permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from weft.batch import FIRST_ID, PADDING, UNKNOWN, Batch
from weft.data.load import Loader
from weft.data.store import Store
from weft.errors import ConfigError, Unsupported
from weft.losses import for_task
from weft.metrics import bootstrap_mean, row_logloss, row_poisson_deviance
from weft.models import create, score, set_output_bias
from weft.models._predict import predict
from weft.schema import Cross, Dense, Schema
from weft.train.loop import train as run_loop
from weft.train.optimizers import Optimizer
from weft.train.recipe import Recipe
from weft.transforms.bucket import bucket_rows, quantile_edges, to_buckets
from weft.transforms.cross import CrossVocabulary, Part, cross
from weft.transforms.hashing import splitmix64
from weft.transforms.layout import BUCKET, MISSING, bucketed
from weft.transforms.rows import RaggedArrays, Rows, rows_of

Array = NDArray[Any]
Of = tuple[str, ...]
Features = tuple[int, ...]

SPLITS = ("train", "valid")
MOST_ROWS = 500_000  # train rows that are read; of more a seeded sample
BUCKETS = 8  # that are proposed for a dense feature
CATEGORIES = 256  # values of a vocabulary that the trees tell apart, the most frequent ones
SET_VALUES = 64  # rows of the largest vocabulary of a set that is a part
MIN_COUNT = 10  # train rows of a combination
SMOOTHING = 20.0  # rows at no effect that are added to each combination
NEWTON_STEPS = 8
MOST = {2: 32, 3: 16}  # pairs and triples that the trees may propose
FEW_ROWS = 50_000  # from which it is told that one part decides another
WIDE = Recipe(batch_size=1024, epochs=4, learning_rate=0.01)
TREES = 300
TREE_SETTINGS: dict[str, Any] = {
    "num_leaves": 8,
    "max_depth": 3,
    "learning_rate": 0.1,
    "cat_smooth": 50,
    "cat_l2": 20,
    "min_data_per_group": 100,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


class Task(NamedTuple):
    """What a task's score means.

    Attributes:
        objective: Of LightGBM.
        metric: What the loss of a row is called.
        loss: Of each row, from labels and scores.
        mean: The mean label of a score.
        slope: The derivative of `mean`, from the mean.
        reach: The longest step of Newton's method.
    """

    objective: str
    metric: str
    loss: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    reach: float = 1.0


TASKS: dict[str, Task] = {
    "binary": Task("binary", "logloss", row_logloss, lambda s: 1 / (1 + np.exp(-s)), lambda p: p * (1 - p)),
    "regression": Task("regression", "squared error", lambda y, s: (y - s) ** 2, lambda s: s, np.ones_like, math.inf),
    "count": Task("poisson", "Poisson deviance", row_poisson_deviance, np.exp, lambda rate: rate),
}


class Gain(Struct, frozen=True, kw_only=True):
    """How much the loss falls, a row, with its 95 % interval."""

    value: float
    low: float
    high: float


class Candidate(Struct, frozen=True, kw_only=True):
    """A cross that was chosen, or one of the best that were not.

    Attributes:
        of: Its parts.
        sure: Whether it was chosen: on train rows it gains beyond doubt.
        combinations: That have an id of their own.
        buckets: The dense features that need buckets for it, and how many.
        alone: The gain over the wide model without any of the crosses found.
        beyond: The gain over the wide model with those chosen before.
    """

    of: Of
    sure: bool
    combinations: int
    buckets: dict[str, int]
    alone: Gain
    beyond: Gain

    @property
    def name(self) -> str:
        """What the cross is called in a schema."""
        return " x ".join(part.removesuffix(".bucket") for part in self.of)

    @property
    def helps(self) -> bool:
        """Whether it was chosen, and the whole interval of its gain beyond the others lies above zero."""
        return self.sure and self.beyond.low > 0


class Found(Struct, frozen=True, kw_only=True):
    """The crosses of a store, in the order in which they were chosen, then the best that were not.

    Attributes:
        data: Name of the data.
        metric: What is gained.
        loss: Of the wide model on the validation rows without any of the crosses found.
        train_rows: That were read.
        valid_rows: On which the gains were measured.
        candidates: At most as many as were asked for.
        notes: What was left out.
    """

    data: str
    metric: str
    loss: float
    train_rows: int
    valid_rows: int
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()

    def toml(self) -> str:
        """The crosses that help, as lines for the schema file."""
        blocks = []
        for candidate in self.candidates:
            if candidate.helps:
                lines = [f"# {name}: buckets = {count}" for name, count in candidate.buckets.items()]
                of = ", ".join(map(_quoted, candidate.of))
                lines += ["[[features]]", 'kind = "cross"', f"name = {_quoted(candidate.name)}", f"of = [{of}]"]
                lines.append(f"min_count = {MIN_COUNT}")
                blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def json(self) -> str:
        """One JSON object; `toml` has what belongs into the schema."""
        plain = msgspec.to_builtins(self)
        for candidate, values in zip(self.candidates, plain["candidates"], strict=True):
            values |= {"name": candidate.name, "helps": candidate.helps}
        return msgspec.json.encode({**plain, "toml": self.toml()}).decode()

    def render(self, console: Console) -> None:
        """Print the table, and the lines for the schema file."""
        table = Table("cross", "on train", "ids", "gain", "95 % interval", "alone")
        for one in self.candidates:
            mark = "sure" if one.sure else "doubtful"
            interval = f"{one.beyond.low:+.5f} to {one.beyond.high:+.5f}"
            values = (f"{one.beyond.value:+.5f}", interval, f"{one.alone.value:+.5f}")
            table.add_row(one.name, mark, f"{one.combinations:,}", *values)
        console.print(table)
        said = (
            f"gain: how much the {self.metric} a row of lr, {self.loss:.4f} on {self.valid_rows:,} validation rows of "
            f"{self.data}, falls with the cross, beyond the sure ones above it and alone"
        )
        for text in (said, *self.notes):
            console.print(text, highlight=False, markup=False)
        lines = self.toml()
        text = f"for the schema file, the sure ones whose interval lies above zero:\n\n{lines}"
        console.print(text if lines else "none helps", highlight=False, markup=False, soft_wrap=True)


def _quoted(text: str) -> str:
    """Text as TOML writes it, which is as JSON does."""
    return msgspec.json.encode(text).decode()


def find_crosses(store: Store | str | Path, *, top: int = 10, seed: int = 0, console: Console | None = None) -> Found:
    """Find the crosses that a wide model would gain from.

    Args:
        store: A store, or its path.
        top: At most so many.
        seed: Of the wide model, the trees, the rows that choose and the bootstrap.
        console: Where progress is shown; nowhere without it.

    Raises:
        ConfigError: `top` is below 1.
        Unsupported: LightGBM is not installed, or the store has no label, validation row or pair of features for it.
    """
    opened = store if isinstance(store, Store) else Store.open(Path(store))
    if top < 1:
        raise ConfigError(f"`top` must be 1 or more, got {top}; ask for at least one cross")
    if find_spec("lightgbm") is None:
        raise Unsupported("crosses are found with LightGBM, which is not installed; pip install 'weft[tune]'")
    search = _Search.open(opened, seed)
    with _bars(console) as bars:
        base = search.polished(search.wide_scores(bars))
        pool = search.candidates(base, bars)
        return search.judged(search.choose(pool, base, top, bars), base)


def path_gains(node: Mapping[str, Any], above: frozenset[int] = frozenset()) -> Iterator[tuple[Features, float]]:
    """Each pair and triple of features on a path of a tree, with the gain of the split that completes it.

    Args:
        node: A node of a tree as LightGBM dumps it.
        above: The features that its ancestors split.
    """
    if "split_feature" not in node:
        return
    feature = int(node["split_feature"])
    for size in (1, 2):
        for others in combinations(sorted(above - {feature}), size):
            yield tuple(sorted((*others, feature))), float(node["split_gain"])
    for child in ("left_child", "right_child"):
        yield from path_gains(node[child], above | {feature})


class _Scores(NamedTuple):
    """Scores of the train rows that are read, and of the validation rows."""

    train_B: Array
    valid_B: Array

    def plus(self, other: "_Scores") -> "_Scores":
        return _Scores(self.train_B + other.train_B, self.valid_B + other.valid_B)


class _Cells(NamedTuple):
    """Which of C weights each row reads, and by which share; the shares of a row add up to one.

    Attributes:
        cell_V: The weight.
        row_V: The row.
        share_V: The share.
        rows: B.
    """

    cell_V: Array
    row_V: Array
    share_V: Array
    rows: int

    @staticmethod
    def of(part: Part, ids_V: Array) -> "_Cells":
        """The cells of a part's ids; a missing value reads nothing, a set reads the mean of its values."""
        rows = len(ids_V) if part.offsets is None else len(part.offsets) - 1
        row_V = np.arange(rows) if part.offsets is None else rows_of(part.offsets)
        weight_V = (ids_V != PADDING) * (np.ones(len(ids_V)) if part.weights is None else part.weights)
        total_B = np.bincount(row_V, weight_V, rows)
        there = weight_V > 0
        return _Cells(ids_V[there], row_V[there], weight_V[there] / total_B[row_V[there]], rows)

    def read(self, weight_C: Array) -> Array:
        """The score that the weights give to each row [B]."""
        return np.bincount(self.row_V, self.share_V * weight_C[self.cell_V], self.rows)

    def spread(self, value_B: Array, cells: int) -> Array:
        """The sum of the rows' values over those that read each weight [C]."""
        return np.bincount(self.cell_V, self.share_V * value_B[self.row_V], cells)


class _Choice(NamedTuple):
    """Candidates that surely gain, in order, and the best of the others."""

    sure: list[Of]
    doubtful: list[Of]


class _Crossed(NamedTuple):
    """A cross of parts, with a weight for each of its ids."""

    train: _Cells
    valid: _Cells
    size: int


class _PartIds(NamedTuple):
    """A possible part of a cross.

    Attributes:
        train: Its ids in the train rows that are read, one or a set a row.
        valid: The same of the validation rows.
        rows: Number of ids.
        ordered: Whether the ids stand in an order.
        buckets: How many buckets are proposed; 0 where the schema has the part.
    """

    train: Array | RaggedArrays
    valid: Array | RaggedArrays
    rows: int
    ordered: bool = False
    buckets: int = 0

    def hashed(self, ids: Array | RaggedArrays) -> Part:
        """The part with a hash for each id, as `prepare` crosses it."""
        hashes = splitmix64(np.arange(self.rows, dtype=np.uint64))
        hashes[PADDING] = 0
        if isinstance(ids, RaggedArrays):
            return Part(hashes[ids.values], ids.offsets, ids.weights)
        return Part(hashes[ids])


@dataclass(frozen=True, kw_only=True)
class _Search:
    """The rows and parts of one search; labels and weights of the train rows that are read, and of the others."""

    store: Store
    task: Task
    train: Rows
    valid: Rows
    y_B: Array
    y_valid_B: Array
    weight_B: Array
    weight_valid_B: Array
    parts: Mapping[str, _PartIds]
    seed: int
    notes: tuple[str, ...] = ()

    @staticmethod
    def open(store: Store, seed: int) -> "_Search":
        """Read a store; Unsupported where it has not what is needed."""
        train, valid = _sample(store.split("train"), seed), store.split("valid")
        task = TASKS.get(store.fields.task)
        if task is None or train.label is None or valid.label is None:
            raise Unsupported(
                f"crosses are found for a label of the tasks {', '.join(TASKS)}, and the first label is "
                f"{store.fields.task if train.label is not None else 'missing'}; name another first in [roles]"
            )
        if not (len(train) and len(valid)):
            raise Unsupported("crosses need train and validation rows, and the store lacks them; prepare another split")
        y_B, y_valid_B = train.label[:, 0].astype(np.float64), valid.label[:, 0].astype(np.float64)
        if y_B.min() == y_B.max():
            raise Unsupported(f"the label is {y_B[0]:g} in every train row, so no cross can be told; give other rows")
        parts = dict(_parts(store, train, valid))
        notes = _notes(store.schema, parts)
        if len(parts) < 2:
            raise Unsupported(
                "; ".join((f"a cross needs two parts, and {len(parts)} of the features can be one", *notes))
                + "; name more of them"
            )
        return _Search(
            store=store,
            task=task,
            train=train,
            valid=valid,
            y_B=y_B,
            y_valid_B=y_valid_B,
            weight_B=_weights(train),
            weight_valid_B=_weights(valid),
            parts=parts,
            seed=seed,
            notes=notes,
        )

    # 1. What single features say

    def wide_scores(self, bars: Progress) -> _Scores:
        """Train `lr` on the train rows, in memory."""
        task = self.store.fields.task
        model = create("lr", replace(self.store.fields, outputs=1), {"embedding_std": 1e-4}, seed=self.seed)
        set_output_bias(model, (task,), [float(np.average(self.y_B, weights=self.weight_B))])
        loader, loss_of = Loader(self.train, WIDE.batch_size, seed=self.seed), for_task(task)

        def loss(lr: nn.Module, batch: Batch) -> Tensor:
            assert batch.label is not None
            return loss_of(score(lr, batch), batch.label[:, :1], batch.weight)

        steps = run_loop(model, loss, loader, Optimizer(model, WIDE), WIDE, validate=lambda _: {}, monitor="")
        for _ in bars.track(steps, total=WIDE.epochs * (len(loader) + 1), description="the wide model"):
            pass
        found = (predict(model, Loader(rows, 16_384, shuffle="none").batches()) for rows in (self.train, self.valid))
        return _Scores(*(scores.astype(np.float64) for scores in found))

    def polished(self, base: _Scores) -> _Scores:
        """The scores with a weight for each value of each part on top, one part after the other."""
        for name in self.parts:
            base = base.plus(self._fitted(self._crossed((name,)), base, self.weight_B))
        return base

    # 2. What pairs and triples may say

    def candidates(self, base: _Scores, bars: Progress) -> list[Of]:
        """The pairs, then the triples, with the largest gains on the paths of trees, best first."""
        import lightgbm

        columns, names, categories = self._tree_columns()
        settings = TREE_SETTINGS | {
            "objective": self.task.objective,
            "feature_fraction": min(1.0, max(0.3, 3 / len(self.parts))),
            "min_data_in_leaf": max(20, len(self.train) // 1000),
            "num_threads": torch.get_num_threads(),
            "seed": self.seed,
        }
        data = lightgbm.Dataset(
            columns,
            self.y_B,
            weight=self.weight_B,
            init_score=base.train_B,
            categorical_feature=categories,
            params=settings,
        )
        task = bars.add_task("trees", total=TREES)
        trees = lightgbm.train(settings, data, TREES, callbacks=[lambda _: bars.advance(task)])
        gains: dict[Of, float] = {}
        order = list(self.parts)
        for tree in trees.dump_model()["tree_info"]:
            for features, gain in path_gains(tree["tree_structure"]):
                of = tuple(sorted({names[feature] for feature in features}, key=order.index))
                gains[of] = gains.get(of, 0.0) + gain * (len(of) == len(features))
        ranked = [of for of in sorted(gains, key=lambda of: -gains[of]) if gains[of] > 0 and self._is_new(of)]
        return [
            of for size in MOST for of in self._with_coarser([of for of in ranked if len(of) == size][: MOST[size]])
        ]

    def _with_coarser(self, found: list[Of]) -> list[Of]:
        """The candidates, then those in which a part stands for one that decides it: trees prefer the finer one."""
        order = list(self.parts)
        near = {name: (name, *self.decided[name]) for name in order}
        variants = (of for one in found for of in product(*(near[name] for name in one)) if len({*of}) == len(of))
        new = (tuple(sorted(of, key=order.index)) for of in variants)
        return list(islice(dict.fromkeys([*found, *filter(self._is_new, new)]), 3 * len(found)))

    def _is_new(self, of: Of) -> bool:
        """Whether the schema has no such cross, and no part decides another one, for then the cross is that part."""
        known = {frozenset(f.of) for f in self.store.schema.features if isinstance(f, Cross)}
        return frozenset(of) not in known and not any(b in self.decided[a] for a, b in permutations(of, 2))

    @cached_property
    def decided(self) -> dict[str, list[str]]:
        """For each part those that it decides, as a track does its artist, as far as some rows can tell."""
        step = -(-len(self.train) // FEW_ROWS)
        one = {name: part.train for name, part in self.parts.items() if not isinstance(part.train, RaggedArrays)}
        ids = {name: values[::step].astype(np.int64) for name, values in one.items()}
        sizes = {name: len(np.unique(values)) for name, values in ids.items()}
        found: dict[str, list[str]] = {name: [] for name in self.parts}
        for fine, coarse in combinations(sorted(ids, key=lambda name: -sizes[name]), 2):
            pairs = len(np.unique(ids[fine] * self.parts[coarse].rows + ids[coarse]))
            if pairs <= 1.02 * sizes[fine]:
                found[fine].append(coarse)
        return found

    def _tree_columns(self) -> tuple[Array, list[str], list[int]]:
        """The columns [B, P], the part of each, and which of them are categories."""
        columns: list[Array] = []
        names: list[str] = []
        categories: list[int] = []
        for name, part in self.parts.items():
            if isinstance(part.train, RaggedArrays):
                cell_V = rows_of(part.train.offsets) * part.rows + part.train.values
                count_BC = np.bincount(cell_V, minlength=len(self.train) * part.rows).reshape(-1, part.rows)
                found = list(count_BC[:, FIRST_ID:].T > 0)
            else:
                found = [part.train if part.ordered else np.where(part.train < CATEGORIES, part.train, UNKNOWN)]
                categories += [] if part.ordered else [len(columns)]
            columns += found
            names += [name] * len(found)
        return np.stack(columns, axis=1).astype(np.float32), names, categories

    # 3. Which of them help

    def choose(self, pool: list[Of], base: _Scores, top: int, bars: Progress) -> _Choice:
        """Take the candidate that gains most, then the one that gains most beside it, and so on; pairs before triples.

        Weights are learnt on four fifths of the train rows, gains taken on the fifth, two standard errors below their
        mean. What a candidate gains hardly grows when others have been taken, so only those whose last known gain leads
        are tried again.
        """
        judging_B = np.random.default_rng(self.seed).random(len(self.train)) < 0.2
        learning_B = np.where(judging_B, 0.0, self.weight_B)
        chosen: list[Of] = []
        others: dict[Of, float] = {}
        bar = bars.add_task("candidates", total=None)
        for size in MOST:
            known = {of: math.inf for of in pool if len(of) == size}
            while known and len(chosen) < top:
                tried: dict[Of, _Scores] = {}
                while (best := max(known, key=known.__getitem__)) not in tried:
                    tried[best] = base.plus(self._fitted(self._crossed(best), base, learning_B))
                    known[best] = self._sure_gain(base, tried[best], judging_B)
                    bars.advance(bar)
                if known[best] <= 0:
                    break
                chosen.append(best)
                base = tried[best]
                del known[best]
            others |= known
        return _Choice(chosen, sorted(others, key=lambda of: -others[of])[: top - len(chosen)])

    def _sure_gain(self, without: _Scores, with_it: _Scores, rows_B: Array) -> float:
        """The mean gain of some train rows less two standard errors, each row by its weight."""
        losses = (self.task.loss(self.y_B[rows_B], scores.train_B[rows_B]) for scores in (without, with_it))
        gain_B, weight_B = np.subtract(*losses), self.weight_B[rows_B]
        mean = np.average(gain_B, weights=weight_B)
        return float(mean - 2 * np.linalg.norm(weight_B * (gain_B - mean)) / weight_B.sum())

    # 4. By how much

    def judged(self, choice: _Choice, base: _Scores) -> Found:
        """Fit the crosses to all train rows that are read and measure them on the validation rows."""
        found, before = [], base
        for of in (*choice.sure, *choice.doubtful):
            sure = of in choice.sure
            crossed = self._crossed(of)
            alone = base.plus(self._fitted(crossed, base, self.weight_B))
            after = before.plus(self._fitted(crossed, before, self.weight_B))
            proposed = {name: self.parts[name].buckets for name in of if self.parts[name].buckets}
            found.append(
                Candidate(
                    of=of,
                    sure=sure,
                    combinations=crossed.size - FIRST_ID,
                    buckets={name.removesuffix(BUCKET): count for name, count in proposed.items()},
                    alone=self._gain(base, alone),
                    beyond=self._gain(before, after),
                )
            )
            before = after if sure else before
        return Found(
            data=self.store.schema.name or self.store.path.name,
            metric=self.task.metric,
            loss=float(np.average(self.task.loss(self.y_valid_B, base.valid_B), weights=self.weight_valid_B)),
            train_rows=len(self.train),
            valid_rows=len(self.valid),
            candidates=tuple(found),
            notes=self.notes,
        )

    def _gain(self, without: _Scores, with_it: _Scores) -> Gain:
        losses = (self.task.loss(self.y_valid_B, scores.valid_B) for scores in (without, with_it))
        found = bootstrap_mean(np.subtract(*losses), self.weight_valid_B, seed=self.seed)
        return Gain(value=found.value, low=found.low, high=found.high)

    def _crossed(self, of: Of) -> _Crossed:
        """The AND of parts, with the ids that `prepare` would give."""
        train, valid = (self._combined(of, rows) for rows in SPLITS)
        vocabulary = CrossVocabulary.from_counts(*np.unique(train.hashes, return_counts=True), MIN_COUNT)
        learnt, judged = (_Cells.of(part, vocabulary.encode(part.hashes)) for part in (train, valid))
        return _Crossed(learnt, judged, vocabulary.rows)

    def _combined(self, of: Of, rows: str) -> Part:
        parts = [self.parts[name] for name in of]
        return cross([part.hashed(part.train if rows == "train" else part.valid) for part in parts])

    def _fitted(self, crossed: _Crossed, base: _Scores, row_weight_B: Array) -> _Scores:
        """What the weights of a cross add to the scores, which stay: Newton's method, each weight on its own.

        For one value a row this is exact. For sets the curvature is an upper bound, since the shares add up to one.
        """
        task, cells = self.task, crossed.train
        w_C = np.zeros(crossed.size)
        for _ in range(NEWTON_STEPS):
            mean_B = task.mean(base.train_B + cells.read(w_C))
            slope_B = row_weight_B * task.slope(mean_B)
            ridge = SMOOTHING * slope_B.sum() / row_weight_B.sum()
            gradient_C = cells.spread(row_weight_B * (mean_B - self.y_B), crossed.size) + ridge * w_C
            step_C = gradient_C / (cells.spread(slope_B, crossed.size) + ridge)
            w_C -= np.clip(step_C, -task.reach, task.reach)
        return _Scores(cells.read(w_C), crossed.valid.read(w_C))


def _sample(rows: Rows, seed: int) -> Rows:
    if len(rows) <= MOST_ROWS:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), MOST_ROWS, replace=False)))


def _parts(store: Store, train: Rows, valid: Rows) -> Iterator[tuple[str, _PartIds]]:
    """The possible parts of a cross, by the name that a cross calls them."""
    schema, fields = store.schema, store.fields
    for i, field in enumerate(fields.ids):
        if not field.cross:
            ordered = bucketed(schema, field.name) is not None
            yield field.name, _PartIds(np.asarray(train.ids[:, i]), np.asarray(valid.ids[:, i]), field.rows, ordered)
    for number in _unbucketed(schema):
        read, judged = (_numbers(store, rows, number) for rows in (train, valid))
        if read is None or judged is None or not len(edges := quantile_edges(read, BUCKETS)):
            continue
        ids, others = (to_buckets(values, edges) for values in (read, judged))
        yield number.name + BUCKET, _PartIds(ids, others, bucket_rows(edges), True, BUCKETS)
    for field in fields.ragged:
        if field.kind == "set" and not field.cross and field.rows <= SET_VALUES:
            yield field.name, _PartIds(train.ragged[field.name], valid.ragged[field.name], field.rows)


def _unbucketed(schema: Schema) -> list[Dense]:
    """The numbers for which buckets may be proposed."""
    return [feature for feature in schema.features if isinstance(feature, Dense) and feature.buckets is None]


def _numbers(store: Store, rows: Rows, number: Dense) -> Array | None:
    """The stored values of a number, NaN where it is missing; None where that cannot be told from true values."""
    place = {field.name: i for i, field in enumerate(store.fields.dense)}
    values_B = np.asarray(rows.dense[:, place[number.name]])
    if number.missing_indicator:
        return np.where(rows.dense[:, place[number.name + MISSING]] > 0, np.nan, values_B.astype(np.float64))
    fill = store.transforms.scalers[number.name].apply(np.array([np.nan]))
    return None if (values_B == fill).any() else values_B.astype(np.float64)


def _notes(schema: Schema, parts: Mapping[str, _PartIds]) -> tuple[str, ...]:
    """Which numbers are no parts since `_numbers` cannot tell which rows lack them."""
    numbers = [number.name for number in _unbucketed(schema) if not number.missing_indicator]
    untold = ", ".join(name for name in numbers if name + BUCKET not in parts)
    if not untold:
        return ()
    return (
        f"no buckets are proposed for {untold}, whose missing values the store cannot tell from true ones: give them "
        "`missing_indicator = true` or `buckets` in the schema and prepare again",
    )


def _weights(rows: Rows) -> Array:
    return np.ones(len(rows)) if rows.weight is None else rows.weight.astype(np.float64)


def _bars(console: Console | None) -> Progress:
    """Bars on a terminal, nothing elsewhere."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console is None or not console.is_terminal,
    )
