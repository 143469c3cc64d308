import pytest
import torch

from weft.layers import Dropout

SHAPE = (301, 407)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.75])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_share_is_dropped_and_the_mean_stays(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    y = Dropout(share)(torch.ones(SHAPE, dtype=dtype))
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(share, abs=4 * (share * (1 - share) / y.numel()) ** 0.5)
    assert y[y != 0].unique().tolist() == pytest.approx(
        [1 / (1 - share)], rel=1e-2 if dtype == torch.bfloat16 else 1e-4
    )


def test_values_are_dropped_independently_of_each_other() -> None:
    torch.manual_seed(2)
    kept = Dropout(0.5)(torch.ones(1, 200_000))[0] != 0
    for gap in (1, 2, 3, 4, 5, 8):
        agree = (kept[gap:] == kept[:-gap]).double().mean().item()
        assert agree == pytest.approx(0.5, abs=0.005), f"values {gap} apart"


def test_the_gradient_passes_where_the_value_did() -> None:
    torch.manual_seed(3)
    x = torch.randn(7, 9, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (y / x).detach())
    assert x.grad.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)


def test_each_call_draws_anew_and_a_seed_draws_again() -> None:
    layer, x = Dropout(0.5), torch.ones(SHAPE)
    torch.manual_seed(4)
    first, second = layer(x), layer(x)
    torch.manual_seed(4)
    assert not torch.equal(first, second)
    assert torch.equal(first, layer(x))


@pytest.mark.parametrize("share", [0.0, 1e-9])
def test_nothing_is_dropped_without_a_share_or_outside_training(share: float) -> None:
    x = torch.randn(3, 5)
    assert Dropout(share)(x) is x
    assert Dropout(0.5).eval()(x) is x


def test_even_the_largest_share_leaves_finite_values() -> None:
    assert Dropout(0.999999)(torch.ones(SHAPE)).isfinite().all()
