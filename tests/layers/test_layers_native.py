"""Each loop in C equals torch's way, and without a compiler torch's way is taken."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from weft.layers import CrossNet, Head, native
from weft.testing import make_lopsided
from weft.train.optimizers import RowOptimizer

needs_compiler = pytest.mark.skipif(not native.available(), reason="no C compiler: torch's way is the only one")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The kernels are not there."""
    with monkeypatch.context() as patch:
        patch.setattr(native, "_found", lambda: None)
        yield patch


def lopsided(*shape: int, start: float = 1.0) -> torch.Tensor:
    return torch.arange(start, start + torch.Size(shape).numel()).sin().view(shape)


@needs_compiler
def test_rows_under_adam(without: pytest.MonkeyPatch) -> None:
    found = []
    for fast in (False, True):
        if fast:
            without.undo()
        weight = lopsided(50, 5).clone()
        rows = RowOptimizer("adam", 0.03)
        rows.add(weight)
        for step in range(4):
            ids = torch.arange(step, 50, step + 2)
            rows.tick()
            rows.update_rows(weight, ids, lopsided(len(ids), 5, start=7.0 * step))
        found.append([weight, *rows.state[weight]])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def value_and_gradients(module: torch.nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = module(*leaves)
    out.backward(lopsided(*out.shape, start=3.0).to(out.dtype))
    return [out.detach(), *(x.grad for x in leaves), *(p.grad for p in module.parameters())]


@needs_compiler
@pytest.mark.parametrize("rows", [1, 5, 200])
@pytest.mark.parametrize("make", [lambda: CrossNet(19, 3), lambda: CrossNet(4, 1)])
def test_crosses_in_bf16(rows: int, make: object, without: pytest.MonkeyPatch) -> None:
    net = make_lopsided(make()).float()
    x = lopsided(rows, net.layers[0].linear.in_features)
    found = []
    for fast in (False, True):
        if fast:
            without.undo()
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found.append([t.float().clone() for t in value_and_gradients(net, x)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02 * max(1.0, float(want.abs().max())))


@needs_compiler
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_head_of_bf16_rows_has_single_precision(rows: int, without: pytest.MonkeyPatch) -> None:
    head = make_lopsided(Head([7, 3], 1)).float()
    parts = [lopsided(rows, 7).bfloat16(), lopsided(rows, 3, start=9.0).bfloat16()]
    slow = value_and_gradients(make_lopsided(Head([7, 3], 1)), *(part.double() for part in parts))
    without.undo()
    fast = value_and_gradients(head, *parts)
    torch.testing.assert_close(fast[0].double(), slow[0], rtol=1e-6, atol=1e-6)
    for got, want in zip(fast[1:], slow[1:], strict=True):
        exact = got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=1e-5 if exact else 0.01, atol=1e-5 if exact else 0.01)


@needs_compiler
def test_threads_change_no_bit() -> None:
    x, weight, grad = lopsided(301, 33).bfloat16(), lopsided(1, 33), lopsided(301, 1)
    found = []
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(
            [native.dot(x, weight), *native.dot_backward(x, weight, grad), *native.cross_backward(x, x, x, None)]
        )
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@needs_compiler
def test_what_is_not_finite_stays_so() -> None:
    x, weight = lopsided(3, 4).bfloat16(), lopsided(1, 4)
    worst = torch.tensor([0x7FFFFFFF, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    grad = torch.cat([worst, torch.tensor([torch.inf])])[:, None]
    rows, _ = native.dot_backward(x, weight, grad)
    assert rows[:2].isnan().all()
    assert rows[2].isinf().all()


def test_a_library_that_others_could_write_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert stat.S_IMODE(native._own_folder().stat().st_mode) & 0o077 == 0
    (tmp_path / "weft").chmod(0o777)
    with pytest.raises(PermissionError, match="open to others"):
        native._own_folder()


def test_no_compiler_means_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(tmp_path / "absent"))
    assert native._found.__wrapped__() is None
    assert not [name for name in os.listdir(tmp_path / "weft") if name.endswith(".so")]


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_NATIVE", "0")
    assert native._found.__wrapped__() is None
