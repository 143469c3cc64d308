"""The two camps as tables: even users like even songs, odd users odd ones.

Beside the plain case there is a song that only the test rows know, a user that only the test rows know, and songs that
a user likes a second time.
"""

from typing import Any

import numpy as np
import polars as pl

from weft.schema import (
    Categorical,
    ColumnSplit,
    Count,
    Dense,
    Label,
    Protocol,
    Roles,
    Schema,
    Sequence,
)

USERS, SONGS = 40, 24
FIRST_USER, STRANGER = 1_000, 9_999
NEW_SONG = "song-new"
LIKED_TRAIN, LIKED_VALID, LIKED_TEST = 5, 1, 2
START, STEP = 1_700_000_000, 3_600

PROTOCOL = Protocol(name="camps", k=(1, 6), seen_from="relevant")


def schema(**changes: Any) -> Schema:
    """Ids, a number, and three features that read the past."""
    plain: dict[str, Any] = {
        "name": "camps",
        "features": (
            Categorical(name="user", side="user"),
            Categorical(name="song", side="item"),
            Dense(name="year", side="item"),
            Count(name="song_likes", by=("song",), of="liked", stat="sum"),
            Count(name="user_rows", by=("user",)),
            Sequence(name="recent", of="song", where="liked", max_length=4),
        ),
        "roles": Roles(
            user="user", item="song", time="time", group="request", title="title", label=(Label(name="liked"),)
        ),
        "split": ColumnSplit(column="split"),
        "protocol": PROTOCOL,
    }
    return Schema(**{**plain, **changes})


def songs() -> pl.DataFrame:
    """The table of songs; one has no title."""
    return pl.DataFrame(
        {
            "song": [f"song-{i}" for i in range(SONGS)],
            "year": [1960 + (i * 7) % 60 for i in range(SONGS)],
            "title": [None if i == 5 else f"[bold] Song {i} [/oops]" for i in range(SONGS)],
        }
    )


def interactions(seed: int = 0) -> pl.DataFrame:
    """Pairs of a liked and another song for each user; the last pairs are for validation and test."""
    rng = np.random.default_rng(seed)
    rows = [row for user in range(USERS) for row in _of_user(user, rng)]
    rows += [_row(STRANGER, "song-0", 1, "test", 40), _row(STRANGER, "song-1", 0, "test", 40)]
    return pl.DataFrame(rows).sort("time", maintain_order=True)


def _of_user(user: int, rng: np.random.Generator) -> list[dict[str, object]]:
    mine = [f"song-{i}" for i in rng.permutation(np.arange(user % 2, SONGS, 2))]
    others = [f"song-{i}" for i in rng.permutation(np.arange(1 - user % 2, SONGS, 2))]
    rows = []
    for place in range(LIKED_TRAIN + LIKED_VALID + LIKED_TEST):
        split = "train" if place < LIKED_TRAIN else "valid" if place < LIKED_TRAIN + LIKED_VALID else "test"
        liked = NEW_SONG if split == "test" and user < 3 and place % 2 == 0 else mine[place]
        pair = [(liked, 1), (others[place], 0)]
        rows += [_row(FIRST_USER + user, song, like, split, place) for song, like in rng.permutation(pair).tolist()]
    if 3 <= user < 8:
        rows.append(_row(FIRST_USER + user, mine[0], 1, "test", place))
    return rows


def _row(user: int, song: str, liked: int | str, split: str, place: int) -> dict[str, object]:
    return {
        "user": user,
        "song": song,
        "liked": int(liked),
        "split": split,
        "time": START + STEP * place + user % 97,
        "request": user * 100 + place,
    }
