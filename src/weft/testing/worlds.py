"""Planted worlds: small data whose answer is known by construction.

Dimension key: B rows, F id columns, U users, I items, L longest history.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from weft.batch import FIRST_ID, Batch, Field, Fields, Ragged


class World(NamedTuple):
    """Rows whose label is known by construction; what a model must reach is the world's docstring."""

    fields: Fields
    train: Batch
    test: Batch


class Camps(NamedTuple):
    """A world of two camps.

    Attributes:
        fields: Users and items as features and roles.
        train: Every pair but the withheld ones; 1 where the user likes the item.
        likes_UI: [U, I] bool, what train says.
        answer_U: [U], the item withheld from each user, which is the right answer; counted from zero.
    """

    fields: Fields
    train: Batch
    likes_UI: Tensor
    answer_U: Tensor


class Page(NamedTuple):
    """A world of items on a page that is looked at from the top.

    Attributes:
        fields: The item.
        train: What was shown where, and clicked.
        items: A row for each item, without a position.
        relevance: [I], P(click | seen) of each item.
        seen: [P], P(seen | position).
    """

    fields: Fields
    train: Batch
    items: Batch
    relevance: Tensor
    seen: Tensor


def cross_only(rows: int = 2_000, *, values: int = 8, seed: int = 0) -> World:
    """The label is the product of a sign of `a` and a sign of `b`; each alone says nothing.

    A model without crosses stays at an AUC of one half, one with pairs reaches one. A third field is noise.
    """
    return _planted(("a", "b"), rows, values, seed)


def third_order(rows: int = 2_000, *, values: int = 4, seed: int = 0) -> World:
    """The label is the product of the signs of three fields; no one and no pair of them says anything.

    Pairs are not enough: the AUC stays at one half without a product of three features.
    """
    return _planted(("a", "b", "c"), rows, values, seed)


def two_camps(size: int = 20) -> Camps:
    """Even users like even items, odd users odd ones; item u is withheld from user u, so it is the right answer.

    >>> two_camps(4).likes_UI.int().tolist()[0]
    [0, 0, 1, 0]
    """
    user, item = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    likes_UI = ((user - item) % 2 == 0) & (user != item)
    keep = user != item
    ids_BF = torch.stack([user[keep], item[keep]], dim=1) + FIRST_ID
    rows = size + FIRST_ID
    fields = Fields(
        ids=(Field(name="user", side="user", rows=rows), Field(name="item", side="item", rows=rows)),
        user="user",
        item="item",
        users=rows,
        items=rows,
    )
    train = Batch(
        ids=ids_BF,
        dense=torch.zeros(len(ids_BF), 0),
        ragged={},
        label=likes_UI[keep].float()[:, None],
        user=ids_BF[:, 0],
        item=ids_BF[:, 1],
    )
    return Camps(fields, train, likes_UI, torch.arange(size))


def in_history(rows: int = 2_000, *, items: int = 16, length: int = 6, seed: int = 0) -> World:
    """The label says whether the item is in the history, of 1 to `length` different items; nothing else is there.

    The sum of a few narrow vectors does not say which items it is made of: with vectors of two numbers a model of the
    mean stays under an AUC of 0.85. One that weighs each item of the history by the candidate reaches one.
    """
    table = items + FIRST_ID
    fields = Fields(
        ids=(Field(name="item", side="item", rows=table),),
        ragged=(Field(name="recent", side="user", rows=table, kind="sequence", table="item", max_length=length),),
        item="item",
        items=table,
    )
    draw = torch.Generator().manual_seed(seed)
    return World(fields, *(_histories(rows, items, length, draw) for _ in range(2)))


def _histories(rows: int, items: int, length: int, draw: torch.Generator) -> Batch:
    """Half of the candidates are drawn from the history, half from the other items."""
    past_BL = torch.rand(rows, items, generator=draw).argsort(1)[:, :length]
    count_B = torch.randint(1, length + 1, (rows,), generator=draw)
    kept_BL = torch.arange(length) < count_B[:, None]
    had_BI = torch.zeros(rows, items, dtype=torch.bool).scatter(1, past_BL, kept_BL)
    label_B = torch.randint(2, (rows,), generator=draw)
    item_B = torch.rand(rows, items, generator=draw).masked_fill(had_BI != label_B[:, None].bool(), -1).argmax(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), count_B.cumsum(0)])
    return Batch(
        ids=item_B[:, None] + FIRST_ID,
        dense=torch.zeros(rows, 0),
        ragged={"recent": Ragged(past_BL[kept_BL] + FIRST_ID, offsets)},
        label=label_B[:, None].float(),
        item=item_B + FIRST_ID,
    )


def position_bias(rows: int = 12_000, *, shuffled: float = 0.3, seed: int = 0) -> Page:
    """Four items on a page of four places, the best one last; P(click) = P(seen | position) * relevance.

    By clicks alone the worst item, which stands first, is the best. Where a share of the rows is shuffled, position and
    relevance can be told apart; where none is, nobody can.

    >>> world = position_bias(10)
    >>> (world.relevance.diff() > 0).all().item(), (world.seen.diff() < 0).all().item()
    (True, True)
    """
    draw = torch.Generator().manual_seed(seed)
    relevance_I = torch.tensor([0.35, 0.5, 0.65, 0.8])
    seen_P = 1.0 / torch.arange(1.0, 5.0)
    place_B = torch.randint(4, (rows,), generator=draw)
    other_B = torch.randint(4, (rows,), generator=draw)
    item_B = torch.where(torch.rand(rows, generator=draw) < shuffled, other_B, place_B)
    click_B = torch.rand(rows, generator=draw) < relevance_I[item_B] * seen_P[place_B]
    fields = Fields(ids=(Field(name="item", side="item", rows=4 + FIRST_ID),), item="item")
    train = _shown(item_B, label=click_B.float()[:, None], position=1 + place_B)
    return Page(fields, train, _shown(torch.arange(4)), relevance_I, seen_P)


def _shown(item_B: Tensor, *, label: Tensor | None = None, position: Tensor | None = None) -> Batch:
    ids_BF = item_B[:, None] + FIRST_ID
    return Batch(ids=ids_BF, dense=torch.zeros(len(item_B), 0), ragged={}, label=label, position=position)


def _planted(signal: tuple[str, ...], rows: int, values: int, seed: int) -> World:
    names = (*signal, "noise")
    fields = Fields(ids=tuple(Field(name=name, side="context", rows=values + FIRST_ID) for name in names))
    draw = torch.Generator().manual_seed(seed)
    return World(fields, *(_rows(len(signal), rows, values, draw) for _ in range(2)))


def _rows(signals: int, rows: int, values: int, draw: torch.Generator) -> Batch:
    """Half of a field's values have the sign 1, the others -1, so that each order below the full one is balanced."""
    value_BF = torch.randint(values, (rows, signals + 1), generator=draw)
    sign_BF = (value_BF % 2 * 2 - 1).float()
    label_B = (sign_BF[:, :signals].prod(1) + 1) / 2
    return Batch(ids=value_BF + FIRST_ID, dense=torch.zeros(rows, 0), ragged={}, label=label_B[:, None])
