"""Random-walk neighbourhoods: what is certain by construction, and shares that walks must approach."""

import pytest
import torch
from torch import Tensor

from weft.layers import visited
from weft.layers import walks as file


def links(pairs: list[tuple[int, int]], nodes: int) -> tuple[Tensor, Tensor]:
    places = sorted({a * nodes + b for a, b in pairs} | {b * nodes + a for a, b in pairs})
    return torch.tensor(places) // nodes, torch.tensor(places) % nodes


def dense(found: tuple[Tensor, Tensor, Tensor], nodes: int) -> Tensor:
    row, column, weight = found
    return torch.zeros(nodes, nodes).index_put((row, column), weight)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


STAR = links([(0, 1), (0, 2), (0, 3)], 5)
PATH = links([(0, 1), (1, 2), (2, 3)], 4)


def test_one_step_visits_the_neighbours_alike() -> None:
    found = dense(visited(*STAR, 5, walks=6_000, steps=1, restart=0.0, top=9, generator=draw()), 5)
    assert torch.allclose(found[0, 1:4], torch.full((3,), 1 / 3), atol=0.02)
    assert found[1].tolist() == [1, 0, 0, 0, 0], "a leaf has one neighbour"
    assert not found[4].any(), "a node without links has no neighbours"


def test_two_steps_are_the_powers_of_the_walk() -> None:
    """From the end of a path of four: first node 1, then back (no visit) or on to node 2, each half of the time."""
    found = dense(visited(*PATH, 4, walks=20_000, steps=2, restart=0.0, top=9, generator=draw()), 4)
    assert torch.allclose(found[0], torch.tensor([0, 2 / 3, 1 / 3, 0]), atol=0.01)


def test_a_walk_that_always_restarts_never_leaves_the_neighbours() -> None:
    found = dense(visited(*PATH, 4, walks=50, steps=8, restart=1.0, top=9, generator=draw()), 4)
    assert found[0].tolist() == [0, 1, 0, 0]
    assert (found[1] > 0).tolist() == [True, False, True, False]


def test_the_most_visited_are_kept_and_their_shares_sum_to_one() -> None:
    all_of_them = dense(visited(*PATH, 4, walks=500, steps=6, restart=0.3, top=9, generator=draw()), 4)
    found = dense(visited(*PATH, 4, walks=500, steps=6, restart=0.3, top=2, generator=draw()), 4)
    for n in range(4):
        kept = all_of_them[n].topk(2).indices
        assert set(found[n].nonzero().flatten().tolist()) == set(kept.tolist())
        torch.testing.assert_close(found[n, kept], all_of_them[n, kept] / all_of_them[n, kept].sum())
    torch.testing.assert_close(found.sum(1), torch.ones(4))


def test_equal_counts_keep_the_lower_node() -> None:
    row, column = links([(0, 3), (0, 4)], 5)
    found = visited(row, column, 5, walks=1, steps=1, restart=0.0, top=1, generator=draw())
    assert found[0].tolist() == [0, 3, 4]
    many = dense(visited(row, column, 5, walks=1, steps=99, restart=0.0, top=1, generator=draw()), 5)
    assert many[3].nonzero().flatten().tolist() == [0], "node 0 is on every second step, node 4 on fewer"


def test_the_same_seed_walks_the_same_ways() -> None:
    settings = {"walks": 20, "steps": 4, "restart": 0.5, "top": 2}
    first, second = (visited(*PATH, 4, **settings, generator=draw(7)) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_no_chunk_loses_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "VISITS_AT_ONCE", 1)
    row, _, _ = visited(*STAR, 5, walks=10, steps=2, restart=0.0, top=9, generator=draw())
    assert row.unique().tolist() == [0, 1, 2, 3]


def test_a_graph_without_links_has_no_neighbours() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert [len(part) for part in visited(none, none, 3, walks=4, steps=2, restart=0.5, top=2)] == [0, 0, 0]
