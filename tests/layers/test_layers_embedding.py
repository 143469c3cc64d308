import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.layers import Embedding, rows_of, sum_duplicates
from weft.testing import make_lopsided

ROWS = {"user": 5, "item": 6, "age.bucket": 4}
IDS = torch.tensor([[2, 5, 0], [2, 1, 3], [4, 5, 3], [0, 3, 1]], dtype=torch.int32)
FLAT = torch.tensor([5, 5, 0, 2, 5], dtype=torch.int32)


def make(update: str = "dense", width: int | dict[str, int] = 3) -> Embedding:
    layer = Embedding(ROWS, width, columns=["user", "item", "age.bucket"], flat=["item"], update=update)
    return make_lopsided(layer)


def by_hand(layer: Embedding) -> tuple[dict[str, Tensor], list[Tensor], Tensor]:
    tables = {name: layer.table(name).clone().requires_grad_() for name in ROWS}
    columns = [tables[name][IDS[:, i].long()] for i, name in enumerate(ROWS)]
    return tables, columns, tables["item"][FLAT.long()]


def probe(columns: list[Tensor], flat: Tensor) -> Tensor:
    parts = [part.flatten() for part in (*columns, flat)]
    return sum((part * torch.arange(1.0, part.numel() + 1).cos()).sum() for part in parts)


@pytest.mark.parametrize("width", [3, {"user": 3, "item": 2, "age.bucket": 3}])
def test_rows_are_those_of_the_tables(width: int | dict[str, int]) -> None:
    layer = make(width=width)
    _, columns, flat = by_hand(layer)
    found = layer(IDS, [FLAT])
    for (w, places), block in zip(layer.blocks, found.columns, strict=True):
        assert block.shape[2] == w
        for place, column in enumerate(places):
            assert torch.equal(block[:, place], columns[column])
    assert torch.equal(found.flat[0], flat)


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_gradients_are_those_of_the_tables_and_padding_has_none(update: str) -> None:
    layer = make(update)
    tables, columns, flat = by_hand(layer)
    probe(columns, flat).backward()
    found = layer(IDS, [FLAT])
    probe([found.columns[0][:, i] for i in range(3)], found.flat[0]).backward()
    got = torch.zeros(15, 3).double()
    if update == "dense":
        got = layer.slices["user"].weight.grad
    else:
        (weight, ids, grad), *more = layer.touched()
        assert more == []
        assert weight is layer.slices["user"].weight
        assert ids.tolist() == sorted(set(ids.tolist()))
        got[ids] = grad
    for name, (_, start, stop) in layer.slices.items():
        want = tables[name].grad.clone()
        want[0] = 0
        torch.testing.assert_close(got[start:stop], want)


def test_the_padding_row_is_never_touched() -> None:
    layer = make("sparse")
    layer(IDS, [FLAT[:0]]).columns[0].sum().backward()
    starts = {span.start for span in layer.slices.values()}
    assert starts.isdisjoint(layer.touched()[0].ids.tolist())


def test_gather_passes_gradcheck() -> None:
    layer = make()
    weight = layer.slices["user"].weight
    ids = torch.tensor([[1, 2, 3], [1, 5, 3]])

    def rows(stacked: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"stacked_3": stacked}, (ids, [FLAT])).columns[0]

    assert torch.autograd.gradcheck(rows, (weight.detach().clone().requires_grad_(),))


def test_sparse_and_dense_descent_end_in_the_same_tables() -> None:
    layers = [make("dense"), make("sparse")]
    for layer in layers:
        for _ in range(3):
            found = layer(IDS, [FLAT])
            (found.columns[0].sin().sum() + found.flat[0].square().sum()).backward()
            for weight, ids, grad in layer.touched():
                weight.detach().index_add_(0, ids, grad, alpha=-0.1)
            dense = layers[0].slices["user"].weight
            if layer is layers[0]:
                dense.detach().sub_(dense.grad, alpha=0.1)
                dense.grad = None
    for name in ROWS:
        torch.testing.assert_close(layers[0].table(name), layers[1].table(name))
        assert not layers[0].table(name)[0].any()


def test_backward_passes_add_up_until_touched_is_called() -> None:
    layer = make("sparse")
    for _ in range(2):
        layer(IDS, [FLAT[:0]]).columns[0].sum().backward()
    (twice,) = layer.touched()
    layer(IDS, [FLAT[:0]]).columns[0].sum().backward()
    (once,) = layer.touched()
    assert torch.equal(twice.ids, once.ids)
    torch.testing.assert_close(twice.grad, 2 * once.grad)
    assert layer.touched() == []


def test_nothing_is_remembered_without_a_backward_pass() -> None:
    layer = make("sparse")
    layer(IDS, [FLAT[:0]])
    with torch.no_grad():
        layer(IDS, [FLAT[:0]])
    layer.eval()(IDS, [FLAT[:0]])
    assert layer.touched() == []


def test_two_widths_are_touched_apart() -> None:
    layer = make("sparse", {"user": 3, "item": 2, "age.bucket": 3})
    found = layer(IDS, [FLAT])
    (found.columns[0].sum() + found.columns[1].sum() + found.flat[0].sum()).backward()
    narrow, wide = layer.touched()
    assert narrow.ids.tolist() == [1, 2, 3, 5]
    assert narrow.grad[:, 0].tolist() == [1, 1, 1, 5]
    assert wide.grad.shape[1] == 3


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_state_is_keyed_per_table_and_survives_a_file(update: str, tmp_path: Path) -> None:
    layer = make(update)
    assert list(layer.state_dict()) == ["user.weight", "item.weight", "age.bucket.weight"]
    save_file(layer.state_dict(), tmp_path / "weights.safetensors")
    moved = Embedding(dict(reversed(ROWS.items())), 3, update="sparse").double()
    moved.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    for name in ROWS:
        assert torch.equal(moved.table(name), layer.table(name))


def test_state_that_does_not_fit_is_refused() -> None:
    layer, state = make(), make().state_dict()
    with pytest.raises(RuntimeError, match=r"'item.weight' is \[6, 3\] here and \[7, 3\]"):
        layer.load_state_dict(state | {"item.weight": torch.zeros(7, 3)})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"other.weight"'):
        layer.load_state_dict(state | {"other.weight": torch.zeros(1)})
    del state["item.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"item.weight"'):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).missing_keys == ["item.weight"]


def test_a_table_is_a_view() -> None:
    layer = make()
    layer.table("item")[3] = 7
    assert layer(torch.tensor([[0, 3, 0]]), [FLAT]).columns[0][0, 1].tolist() == [7, 7, 7]


def test_a_copy_is_a_stranger_with_the_same_manners() -> None:
    layer = make()
    other = copy.deepcopy(layer)
    other(IDS, [FLAT]).columns[0].sum().backward()
    grad = other.slices["user"].weight.grad
    assert layer.slices["user"].weight.grad is None
    assert not grad[[span.start for span in other.slices.values()]].any()


def test_padding_starts_at_zero_and_the_rest_at_the_scale_asked_for() -> None:
    layer = Embedding({"a": 2000, "b": 3}, 8, std=0.1)
    assert not layer.table("a")[0].any()
    assert not layer.table("b")[0].any()
    assert layer.table("a")[1:].std().item() == pytest.approx(0.1, rel=0.05)


def test_auto_goes_by_the_number_of_rows() -> None:
    for rows, dense in ((500_000, True), (500_001, False)):
        slices = Embedding({"a": 500_000, "b": rows}, 1).slices
        assert {part.weight.requires_grad for part in slices.values()} == {dense}


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_an_empty_batch_passes(update: str) -> None:
    layer = make(update)
    found = layer(IDS[:0], [FLAT[:0]])
    assert found.columns[0].shape == (0, 3, 3)
    if update == "dense":
        found.columns[0].sum().backward()
        assert not layer.slices["user"].weight.grad.any()
    assert layer.touched() == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_duplicates_are_summed(ids: list[int]) -> None:
    grad = torch.arange(2.0 * len(ids)).view(-1, 2).sin().double()
    want: dict[int, Tensor] = {}
    for i, row in zip(ids, grad, strict=True):
        want[i] = want.get(i, torch.zeros(2).double()) + row
    ids_U, grad_UE = sum_duplicates(torch.tensor(ids), grad)
    assert ids_U.tolist() == sorted(want)
    torch.testing.assert_close(grad_UE, torch.stack([want[i] for i in sorted(want)]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows_are_fetched_bit_by_bit(dtype: torch.dtype, index: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, generator=generator, dtype=dtype)
    ids = torch.tensor([6, 0, 3, 3], dtype=index)
    assert torch.equal(rows_of(weight, ids), weight[ids.long()])
    assert torch.equal(rows_of(weight[:, 0].contiguous(), ids), weight[ids.long(), 0])
    assert rows_of(weight, ids[:0]).shape == (0, 5)


def test_each_table_has_its_own_update() -> None:
    layer = make({"user": "sparse", "item": "dense"})
    assert [block.columns for block in layer.blocks] == [(1, 2), (0,)]
    tables, columns, flat = by_hand(layer)
    probe(columns, flat).backward()
    first, second = layer(IDS, [FLAT])[0]
    probe([second[:, 0], first[:, 0], first[:, 1]], layer(IDS, [FLAT]).flat[0]).backward()
    (weight, ids, grad), *more = layer.touched()
    assert more == []
    assert weight is layer.slices["user"].weight
    assert not weight.requires_grad
    got = torch.zeros(5, 3).double()
    got[ids] = grad
    for name, (dense, start, stop) in layer.slices.items():
        want = tables[name].grad.clone()
        want[0] = 0
        torch.testing.assert_close(got if name == "user" else dense.grad[start:stop], want)


def test_auto_counts_the_rows_of_all_tables() -> None:
    few = Embedding({"a": 10, "b": 10}, 2, update={"b": "sparse"})
    assert [few.slices[name].weight.requires_grad for name in ("a", "b")] == [True, False]
    many = Embedding({"a": 600_000, "b": 500_000}, 1, update={"b": "dense"})
    assert [many.slices[name].weight.requires_grad for name in ("a", "b")] == [False, True]


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_a_table_grows_into_its_spare_rows(update: str) -> None:
    layer = Embedding({"a": 4, "b": 3}, 2, columns=["a", "b"], update=update, spare={"a": 3}, std=0.5)
    assert layer.table("a").shape == (4, 2)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.grow("a", 6, torch.Generator().manual_seed(1))
    again = torch.empty(2, 2).normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(layer.table("a")[4:], again)
    assert torch.equal(layer.table("a")[:4], before["a.weight"])
    assert torch.equal(layer.table("b"), before["b.weight"])
    found = layer(torch.tensor([[5, 2]])).columns[0]
    assert torch.equal(found[0], torch.stack([layer.table("a")[5], layer.table("b")[2]]))
    with pytest.raises(ValueError, match="table 'a' uses 6 rows and owns 7, so it cannot have 8"):
        layer.grow("a", 8)
    with pytest.raises(ValueError, match="cannot have 5"):
        layer.grow("a", 5)


def test_a_grown_table_is_loaded_where_there_is_room(tmp_path: Path) -> None:
    layer = Embedding({"a": 4, "b": 3}, 2, spare={"a": 3})
    layer.grow("a", 6)
    save_file(layer.state_dict(), tmp_path / "w.safetensors")
    roomy = Embedding({"a": 4, "b": 3}, 2, spare={"a": 2})
    roomy.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(roomy.table("a"), layer.table("a"))
    with pytest.raises(RuntimeError, match=r"table 'a.weight' is \[4, 2\] here and \[6, 2\]"):
        Embedding({"a": 4, "b": 3}, 2, spare={"a": 1}).load_state_dict(load_file(tmp_path / "w.safetensors"))


def test_renewed_rows_start_afresh() -> None:
    layer = make()
    before = layer.table("item").clone()
    layer.renew("item", torch.tensor([3, 5]), torch.Generator().manual_seed(2))
    changed = (layer.table("item") != before).any(1)
    assert changed.tolist() == [False, False, False, True, False, True]
    assert layer.table("item").abs().max() <= max(1.0, before.abs().max())
