"""The graph of a store: who had what in the train rows, and who knows whom."""

import numpy as np
import torch

from weft.batch import Graph
from weft.data.store import Store
from weft.errors import DataError, Unsupported
from weft.transforms.catalogue import SPLITS

TRAIN = SPLITS.index("train")


def train_graph(store: Store) -> Graph:
    """The relevant train rows as edges, each pair once; no row of validation or test can enter.

    The rows of users and items are the catalogue's, which know no event.

    Args:
        store: A prepared data set with user and item roles.

    Raises:
        Unsupported: The schema has no user or no item role.
        DataError: No train row is relevant.
    """
    if store.transforms.user_ids is None or store.transforms.item_ids is None:
        raise Unsupported(
            "a graph links users and items, and the schema does not say who they are; set `user` and `item` in [roles]"
        )
    seen = store.catalogue.seen
    users = np.repeat(np.arange(len(seen.offsets) - 1), np.diff(seen.offsets))
    kept = (np.asarray(seen.split) == TRAIN) & np.asarray(seen.relevant)
    items = len(store.items)
    pairs = np.unique(users[kept] * items + np.asarray(seen.item)[kept])
    if not len(pairs):
        raise DataError(
            f"no train row of the store {str(store.path)!r} has a label of {store.fields.relevant:g} or more, so its "
            "graph has no edge; lower `relevant` in [protocol]"
        )
    return Graph(
        users=len(store.users),
        items=items,
        edges=torch.from_numpy(np.stack([pairs // items, pairs % items])),
        friends=None if store.friends is None else torch.from_numpy(store.friends),
        user_rows=store.users.batch(),
        item_rows=store.items.batch(),
    )
