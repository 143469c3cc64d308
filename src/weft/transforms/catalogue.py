"""The catalogues of a store: users, items, titles, and what each user has had. NumPy only, so that serving can read it.

Dimension key: U users, I items, E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.batch import FIRST_ID
from weft.schema import Protocol
from weft.transforms.rows import Rows, ranges
from weft.transforms.vocabulary import text_from_arrays, text_to_arrays

SPLITS = ("train", "valid", "test")

Ints = NDArray[np.integer[Any]]


class Seen(NamedTuple):
    """What each user has had, by user, then by time, then in the order of the table: user u owns offsets[u] on.

    Attributes:
        offsets: [U + 1] int64.
        item: [E] int32, ids of the item catalogue.
        time: [E] int64, zeros without a time role.
        split: [E] int8, place in `SPLITS`.
        relevant: [E] bool, the first label is at least the protocol's `relevant`.
    """

    offsets: Ints
    item: Ints
    time: Ints
    split: Ints
    relevant: NDArray[np.bool_]

    def of(self, user: int) -> slice:
        """Where the events of a user lie."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    def hidden(
        self, user: int, protocol: Protocol, *, before: str | None = None, time: int | None = None, unit: int = 1
    ) -> Ints:
        """The items that the protocol hides from a user; `hidden_from` for one."""
        times = None if time is None else np.array([time])
        return self.hidden_from(np.array([user]), protocol, before=before, times=times, unit=unit)[1]

    def hidden_from(
        self, users: Ints, protocol: Protocol, *, before: str | None = None, times: Ints | None = None, unit: int = 1
    ) -> tuple[Ints, Ints]:
        """The items that the protocol hides from each of some users, as pairs of a place in `users` and an item.

        Args:
            users: [U] ids of the user catalogue.
            protocol: Its `seen`, `window` and `seen_from`.
            before: Only events of earlier splits than this one; None is all events.
            times: [U] the moments of asking, for a window; None is after all events.
            unit: Time units a second.
        """
        known = np.flatnonzero(users >= FIRST_ID) if protocol.seen != "allow" else np.zeros(0, np.int64)
        starts = self.offsets[users[known]].astype(np.int64)
        lengths = self.offsets[users[known] + 1].astype(np.int64) - starts
        place, events = np.repeat(known, lengths), ranges(starts, lengths)
        keep = np.ones(len(events), np.bool_)
        if before is not None:
            keep &= self.split[events] < SPLITS.index(before)
        if protocol.seen_from == "relevant":
            keep &= self.relevant[events]
        if protocol.seen == "window":
            assert protocol.window is not None
            now = int(self.time.max(initial=0)) if times is None else times[place]
            keep &= self.time[events] >= now - protocol.window * unit
        return place[keep], self.item[events[keep]]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Users and items as encoded rows, row i being id i, and what is known of them.

    Attributes:
        users: [U] rows of the user's side.
        items: [I] rows of the item's side.
        titles: [I] what a person reads; None without a title role.
        seen: What each user has had, over all splits.
        counts: [I] train rows of each item.
        positives: [I] relevant train rows of each item.
    """

    users: Rows
    items: Rows
    titles: NDArray[np.object_] | None
    seen: Seen
    counts: Ints
    positives: Ints

    @cached_property
    def newest(self) -> int:
        """The time of the newest event in `seen`; 0 when there is none."""
        return int(self.seen.time.max(initial=0))

    def save(self, folder: Path) -> None:
        """Write the catalogue into a folder: users/, items/, seen/, titles, counts."""
        self.users.save(folder / "users")
        self.items.save(folder / "items")
        _save_arrays(folder / "seen", self.seen._asdict())
        np.save(folder / "item_counts.npy", self.counts)
        np.save(folder / "item_positives.npy", self.positives)
        if self.titles is not None:
            _save_arrays(folder / "titles", text_to_arrays(self.titles))

    @staticmethod
    def load(folder: Path) -> "Catalogue":
        """Read what `save` wrote, memory-mapped where it is large."""
        return Catalogue(
            users=Rows.load(folder / "users"),
            items=Rows.load(folder / "items"),
            titles=text_from_arrays(_load_arrays(folder / "titles")) if (folder / "titles").exists() else None,
            seen=Seen(**_load_arrays(folder / "seen")),
            counts=np.load(folder / "item_counts.npy"),
            positives=np.load(folder / "item_positives.npy"),
        )


def _save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _load_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
