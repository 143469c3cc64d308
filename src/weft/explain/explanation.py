"""What an explanation is made of, as it stands in `explanation.json`."""

from msgspec import Struct


class Importance(Struct, frozen=True, kw_only=True):
    """How much worse a metric gets when one feature's values are shuffled over the rows.

    Attributes:
        feature: Name of the feature, or of a role that the model reads without a feature.
        metric: What was measured; several labels have names such as `click.auc`.
        worse: The fall of an AUC, or the rise of an error; above 0 where the model uses the feature.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    feature: str
    metric: str
    worse: float | None
    low: float | None
    high: float | None


class Pair(Struct, frozen=True, kw_only=True):
    """Two fields and the strength between them, the mean of both directions."""

    fields: tuple[str, str]
    strength: float


class Map(Struct, frozen=True, kw_only=True):
    """A picture of what the model does with its fields.

    Attributes:
        title: What the numbers are, and over what they are taken.
        rows: Names along the first axis of `values`: fields, or layers.
        columns: Names along the second one.
        values: The numbers.
        diverging: Values go both ways around zero.
        pairs: The strongest pairs of different fields first; empty where the rows are not fields.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: list[list[float]]
    diverging: bool
    pairs: tuple[Pair, ...]


class CrossWeight(Struct, frozen=True, kw_only=True):
    """The weight that the wide part gives one combination.

    Attributes:
        cross: Name of the cross feature.
        values: Each part with its value; of a hashed cross, a combination that falls into the bucket.
        weight: What the combination adds to the first output.
        rows: Train rows that have it; None of a hashed cross.
    """

    cross: str
    values: dict[str, str]
    weight: float
    rows: int | None


class TableVariance(Struct, frozen=True, kw_only=True):
    """How many dimensions a table uses.

    Attributes:
        table: Its name.
        categories: Its rows without padding and unknown.
        width: Its width.
        keep: The smallest width that keeps a share of the variance, by share.
        cumulative: The share of the variance in the first 1, 2, ... principal components.
    """

    table: str
    categories: int
    width: int
    keep: dict[str, int]
    cumulative: list[float]


class Row(Struct, frozen=True, kw_only=True):
    """One user and one item.

    Attributes:
        user: External id, as asked.
        item: External id, as asked.
        title: Of the item, where the catalogue has titles.
        score: The model's raw score.
        values: What the model reads of them, by field; numbers are scaled.
        maps: The pictures of this row.
    """

    user: str | int
    item: str | int
    title: str | None
    score: float
    values: dict[str, str]
    maps: tuple[Map, ...]


class Explanation(Struct, frozen=True, kw_only=True):
    """What is known of a run's model.

    Attributes:
        model: Registry name.
        data: Name of the data set.
        run: The run's folder.
        split: Whose rows were sampled.
        rows: How many rows were sampled.
        metrics: The metrics of these rows as they are, by name.
        importance: The most important feature first, by the first metric; then by the next one.
        maps: Over the sampled rows.
        crosses: The largest weights of the wide part first.
        tables: In the order of the schema.
        row: One user and one item, if asked for.
    """

    model: str
    data: str
    run: str
    split: str
    rows: int
    metrics: dict[str, float | None]
    importance: tuple[Importance, ...]
    maps: tuple[Map, ...]
    crosses: tuple[CrossWeight, ...]
    tables: tuple[TableVariance, ...]
    row: Row | None = None
