"""Ranking metrics: the whole catalogue for each user, or a given list of candidates.

Full ranking is `weft.ranking`. Its report also tells items that training has never seen from the others.

Candidates. The first candidate is the user's held-out item, the others are negatives; rank metrics are expectations
over a random order of equal scores.

Dimension key: U users, I items, C candidates.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from weft import metrics
from weft.batch import FIRST_ID
from weft.errors import ConfigError
from weft.evaluate.report import Value, from_interval
from weft.models._contract import roles_only
from weft.ranking import Ranked, first_rows, list_values
from weft.schema import Protocol
from weft.scoring import Scorer
from weft.transforms.rows import Rows

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

OF_PARTS = ("recall", "ndcg")  # what is reported of new and of seen items apart


def left_out(rows: Rows, protocol: Protocol) -> tuple[str, ...]:
    """What a reader must know of a full ranking of a split."""
    assert rows.user is not None
    assert rows.label is not None
    strangers = int(((rows.label[:, 0] >= protocol.relevant) & (rows.user < FIRST_ID)).sum())
    return (f"{strangers:,} relevant rows of users that training does not know are left out",) if strangers else ()


def progress(starts: range) -> Iterable[int]:
    """Goes through the users with a bar on a terminal."""
    return track(starts, description="ranking", transient=True, console=Console(stderr=True))


def strangers(ranked: Ranked, model: nn.Module) -> tuple[str, ...]:
    """What a reader must know of items that training never saw."""
    count = int(ranked.new.sum())
    if not count:
        return ()
    how = "all with the score of an unknown item, since the model knows ids only"
    how = how if roles_only(model) else "by their features"
    known = f"those of the catalogue are ranked {how}, others are missed"
    return (f"{count:,} relevant items are new to training: {known}",)


def by_novelty(ranked: Ranked, counts: Ints, protocol: Protocol) -> dict[str, Floats]:
    """Recall and NDCG of each user [U] as if only the items that training never saw were relevant, or only the others.

    Both where users have both; nothing where all relevant items are seen ones. Metrics begin with `new.` and `seen.`.
    """
    if not ranked.new.any():
        return {}
    found: dict[str, Floats] = {}
    for name, new in (("new", True), ("seen", False)):
        mine = ranked.of_items(counts, new=new)
        if not mine.relevant.any():
            continue
        values = list_values(mine, counts, protocol)
        found |= {f"{name}.{key}": value for key, value in values.items() if key.partition("@")[0] in OF_PARTS}
    return found


def coverage(ranked: Ranked, items: int, protocol: Protocol) -> dict[str, Value]:
    """The share of the catalogue that somebody was shown."""
    lists = ranked.lists
    shares = {k: metrics.coverage(lists[:, :k] - FIRST_ID, items - FIRST_ID) for k in protocol.k}
    return {f"coverage@{k}": Value(value=v, low=None, high=None, count=len(lists)) for k, v in shares.items()}


def candidate_values(
    rows: Rows, scorer: Scorer, users: Ints, candidates: Ints, protocol: Protocol
) -> dict[str, Floats]:
    """Rank each user's given candidates [U, C]; the first is the relevant one, -1 is no candidate.

    Args:
        rows: The split that holds a row of each user.
        scorer: The model.
        users: [U] ids of the user catalogue.
        candidates: [U, C] ids of the item catalogue.
        protocol: For the list lengths.

    Returns:
        The metrics of each user [U].
    """
    known, first = first_rows(rows)
    place = np.searchsorted(known, users).clip(max=len(known) - 1)
    if not (known[place] == users).all():
        raise ConfigError(
            "some users of the candidate lists have no row in this split; evaluate the split they are for"
        )
    if (candidates[:, :1] < 0).any():
        raise ConfigError("a list of candidates has no first item, which is the relevant one; mend the table of lists")
    asked = rows.take(first[place])
    scores = scorer.candidates(asked, candidates.clip(min=0), asked.time)
    scores = np.where(candidates >= 0, scores, -np.inf)
    found: dict[str, Floats] = {}
    for k in protocol.k:
        found |= {f"hr@{k}": metrics.sampled_hit_rate(scores, k), f"ndcg@{k}": metrics.sampled_ndcg(scores, k)}
    return found


def mean_of_users(values: Mapping[str, Floats], *, seed: int) -> dict[str, Value]:
    """The mean of each metric over the users, with its interval."""
    return {name: from_interval(metrics.bootstrap_mean(of_user, seed=seed)) for name, of_user in values.items()}
