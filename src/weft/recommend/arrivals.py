"""Items and users that arrive after training: catalogues, vectors and indexes with new rows, the rest shared.

Dimension key: I items, n arrivals.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.recommend.member import Member
from weft.transforms.catalogue import Catalogue
from weft.transforms.rows import Rows, concat

Ints = NDArray[np.integer[Any]]


def order_with(count: int, ids: Ints) -> NDArray[np.int64]:
    """Where each row of a new catalogue comes from: places below `count` are old rows, the others arrivals.

    >>> order_with(3, np.array([3, 1])).tolist()
    [0, 4, 2, 3]
    """
    order = np.arange(max(count, 1 + int(ids.max(initial=-1))))
    order[ids] = count + np.arange(len(ids))
    return order


def with_item_rows(
    catalogue: Catalogue, rows: Rows, ids: Ints, titles: Sequence[object]
) -> tuple[Catalogue, NDArray[np.int64]]:
    """A catalogue with rows under ids, old or new, and where each of its rows comes from (`order_with`)."""
    order = order_with(len(catalogue.items), ids)
    new = np.zeros(len(order) - len(catalogue.items), np.int64)
    items = concat([catalogue.items, rows]).take(order)
    changed = replace(
        catalogue,
        items=items,
        titles=_with_titles(catalogue.titles, ids, titles, len(order)),
        counts=np.append(catalogue.counts, new),
        positives=np.append(catalogue.positives, new),
    )
    return changed, order


def with_user_rows(catalogue: Catalogue, rows: Rows, ids: Ints) -> Catalogue:
    """A catalogue with user rows under ids, old or new; new users have had nothing."""
    order = order_with(len(catalogue.users), ids)
    offsets = catalogue.seen.offsets
    more = np.full(len(order) - len(catalogue.users), offsets[-1])
    seen = catalogue.seen._replace(offsets=np.append(offsets, more))
    return replace(catalogue, users=concat([catalogue.users, rows]).take(order), seen=seen)


def extended(member: Member, catalogue: Catalogue, order: NDArray[np.int64], ids: NDArray[np.int64]) -> Member:
    """A member over a catalogue with arrivals under `ids`; a model of ids alone has nothing to say of them."""
    scorer = member.scorer.with_items(catalogue.items, order)
    index = member.index
    if index is not None and not member.needs_id:
        index = index.with_items(ids, scorer.item_vectors()[ids])
    return replace(member, scorer=scorer, index=index)


def _with_titles(
    titles: NDArray[np.object_] | None, ids: Ints, given: Sequence[object], count: int
) -> NDArray[np.object_] | None:
    if titles is None:
        return None
    longer = np.empty(count, object)
    longer[: len(titles)] = titles
    longer[ids] = ["" if title is None else str(title) for title in given]
    return longer
