"""Rows drawn for validation or test where a data set has no time."""

import numpy as np
import polars as pl


def drawn(user: pl.Series, share: float, seed: int) -> pl.Series:
    """Whether each row is drawn: of each user's rows a share, rounded half up, but never all of them.

    >>> int(drawn(pl.Series([7] * 10 + [9]), 0.25, seed=0).sum())
    3
    """
    rows = pl.DataFrame({"user": user, "draw": np.random.default_rng(seed).random(len(user))}).with_columns(
        place=pl.col("draw").rank("ordinal").over("user"), count=pl.len().over("user")
    )
    wanted = (pl.col("count") * share + 0.5).floor().clip(upper_bound=pl.col("count") - 1)
    return rows.select((pl.col("place") <= wanted).alias("drawn")).to_series()
