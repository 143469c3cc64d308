import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from weft.layers import MLP, Cross, CrossNet, Head, Numeric, linear, pairwise, pool
from weft.testing import make_lopsided


def lopsided(*shape: int) -> Tensor:
    return torch.arange(1.0, math.prod(shape) + 1).mul(1.7).cos().view(shape).double()


def assert_same_value_and_gradient(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> None:
    a, b = ([t.detach().clone().requires_grad_() for t in inputs] for _ in range(2))
    out_a, out_b = fast(*a), slow(*b)
    torch.testing.assert_close(out_a, out_b)
    probe = lopsided(*out_a.shape)
    for got, want in zip(torch.autograd.grad(out_a, a, probe), torch.autograd.grad(out_b, b, probe), strict=True):
        torch.testing.assert_close(got, want)


def with_weights(layer: nn.Module, *names: str) -> Callable[..., Tensor]:
    """The layer as a function of its weights and then of its inputs."""

    def call(*given: Tensor) -> Tensor:
        weights = dict(zip(names, given[: len(names)], strict=True))
        return torch.func.functional_call(layer, weights, given[len(names) :])

    return call


def slow_cross(w: Tensor, b: Tensor, x0: Tensor, x: Tensor) -> Tensor:
    size = len(b)
    rows = [
        [x0[n, r] * (sum(w[r, c] * x[n, c] for c in range(size)) + b[r]) + x[n, r] for r in range(size)]
        for n in range(len(x))
    ]
    return torch.stack([torch.stack(row) for row in rows])


def test_cross_is_the_paper_equation() -> None:
    layer = make_lopsided(Cross(3))
    weights = [p.detach() for p in layer.parameters()]
    fast = with_weights(layer, "linear.weight", "linear.bias")
    assert_same_value_and_gradient(fast, slow_cross, *weights, lopsided(2, 3), lopsided(2, 3) + 1)


def test_the_bias_of_a_cross_is_inside_the_product() -> None:
    layer = Cross(3).double()
    nn.init.zeros_(layer.linear.weight)
    nn.init.ones_(layer.linear.bias)
    x0, x = lopsided(2, 3), lopsided(2, 3) - 2
    torch.testing.assert_close(layer(x0, x), x0 + x)


def test_crosses_follow_each_other_from_the_same_start() -> None:
    net = make_lopsided(CrossNet(3, 2))
    first, second = ([p.detach() for p in layer.parameters()] for layer in net.layers)
    x0 = lopsided(2, 3)
    assert_same_value_and_gradient(net, lambda x: slow_cross(*second, x, slow_cross(*first, x, x)), x0)


def test_a_net_of_crosses_is_cross_after_cross() -> None:
    net = make_lopsided(CrossNet(3, 3))
    names, weights = zip(*((name, p.detach()) for name, p in net.named_parameters()), strict=True)

    def one_by_one(*given: Tensor) -> Tensor:
        *weights, x0 = given
        x = x0
        for w, b in zip(weights[::2], weights[1::2], strict=True):
            x = x + x0 * (x @ w.T + b)
        return x

    assert_same_value_and_gradient(with_weights(net, *names), one_by_one, *weights, lopsided(4, 3))


def test_the_backward_pass_of_crosses_passes_gradcheck() -> None:
    net = make_lopsided(CrossNet(3, 2))
    names, weights = zip(*((name, p.detach().requires_grad_()) for name, p in net.named_parameters()), strict=True)
    assert torch.autograd.gradcheck(with_weights(net, *names), (*weights, lopsided(4, 3).requires_grad_()))


def test_crosses_of_a_single_precision_block_are_lowered_by_autocast() -> None:
    net = make_lopsided(CrossNet(3, 2)).float()
    x0 = lopsided(4, 3).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), net(x0), rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert {p.grad.dtype for p in (x0, *net.parameters())} == {torch.float32}


def test_pairwise_is_the_sum_of_all_dot_products() -> None:
    def slow(e: Tensor) -> Tensor:
        pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
        return torch.stack([(e[:, i] * e[:, j]).sum(-1) for i, j in pairs]).sum(0)

    assert_same_value_and_gradient(pairwise, slow, lopsided(3, 4, 2))


def test_pairwise_adds_in_single_precision() -> None:
    e_BNE = torch.full((1, 300, 1), 0.1, dtype=torch.bfloat16)
    one = e_BNE[0, 0, 0].double().item()
    assert pairwise(e_BNE).item() == pytest.approx(300 * 299 / 2 * one * one, rel=1e-5)


def test_numeric_is_value_times_vector() -> None:
    layer = make_lopsided(Numeric(3, 2))

    def slow(v: Tensor, x: Tensor) -> Tensor:
        return torch.stack([torch.stack([row[d] * v[d] for d in range(3)]) for row in x])

    assert_same_value_and_gradient(with_weights(layer, "weight"), slow, layer.weight.detach(), lopsided(4, 3))


def slow_pool(rows: Tensor, offsets: Tensor, weights: Tensor, how: str) -> Tensor:
    out = []
    for b in range(len(offsets) - 1):
        chosen = [v for v in range(offsets[b], offsets[b + 1]) if weights[v] != 0]
        parts = [weights[v] * rows[v] for v in chosen]
        total = sum(weights[v] for v in chosen)
        if not chosen:
            out.append(torch.zeros(rows.shape[1], dtype=rows.dtype))
        elif how == "max":
            out.append(torch.stack([rows[v] for v in chosen]).amax(0))
        else:
            out.append(sum(parts) / (total if how == "mean" else 1))
    return torch.stack(out)


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
def test_pooling_is_the_formula(how: str) -> None:
    offsets = torch.tensor([0, 0, 3, 4, 6, 6])
    weights = torch.tensor([0.5, 2.0, 0.0, 0.0, 1.0, 3.0]).double()
    assert_same_value_and_gradient(
        lambda rows: pool(rows, offsets, weights, how),
        lambda rows: slow_pool(rows, offsets, weights, how) + 0 * rows.sum(),
        lopsided(6, 2),
    )


def test_pooling_learns_weights_too() -> None:
    offsets = torch.tensor([0, 2, 4])
    assert_same_value_and_gradient(
        lambda rows, w: pool(rows, offsets, w, "mean"),
        lambda rows, w: slow_pool(rows, offsets, w, "mean"),
        lopsided(4, 2),
        lopsided(4) + 2,
    )


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
def test_a_batch_of_empty_sets_pools_to_zero(how: str) -> None:
    pooled = pool(torch.zeros(0, 3), torch.zeros(3, dtype=torch.int64), torch.zeros(0), how)
    assert torch.equal(pooled, torch.zeros(2, 3))


def test_an_mlp_is_linear_norm_activation() -> None:
    layer = make_lopsided(MLP(3, (2,), activation="tanh", batch_norm=True))
    w, gamma, beta = (p.detach() for p in layer.parameters())

    def slow(w: Tensor, gamma: Tensor, beta: Tensor, x: Tensor) -> Tensor:
        h = torch.stack([torch.stack([sum(w[r, c] * row[c] for c in range(3)) for r in range(2)]) for row in x])
        mean = h.sum(0) / len(h)
        spread = ((h - mean) ** 2).sum(0) / len(h)
        return torch.tanh((h - mean) / (spread + 1e-5).sqrt() * gamma + beta)

    names = ("layers.0.weight", "layers.1.norm.weight", "layers.1.norm.bias")
    assert_same_value_and_gradient(with_weights(layer, *names), slow, w, gamma, beta, lopsided(4, 3))


def test_an_mlp_drops_out_in_training_only() -> None:
    layer = MLP(50, (50,), dropout=0.5)
    x = torch.ones(20, 50)
    kept = (layer(x) != 0).float().mean() / (layer.eval()(x) != 0).float().mean()
    assert 0.4 < kept < 0.6


def test_no_hidden_layer_passes_the_input_through() -> None:
    layer = MLP(3, ())
    x = torch.randn(2, 3)
    assert layer.width == 3
    assert torch.equal(layer(x), x)


def test_batch_norm_takes_a_training_batch_of_one_row() -> None:
    layer = MLP(3, (4,), batch_norm=True)
    x = torch.randn(1, 3)
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_linear_maps_start_as_the_recipe_says() -> None:
    layer = linear(300, 100)
    assert not layer.bias.any()
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.05)


def test_a_head_is_linear_over_the_concatenation() -> None:
    head = make_lopsided(Head([2, 3], 2))
    w, b = (p.detach() for p in head.parameters())

    def slow(w: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([left, right], 1) @ w.T + b

    fast = with_weights(head, "linear.weight", "linear.bias")
    assert_same_value_and_gradient(fast, slow, w, b, lopsided(4, 2), lopsided(4, 3) - 1)


def test_the_backward_pass_of_a_head_passes_gradcheck() -> None:
    head = make_lopsided(Head([2, 3], 2))
    inputs = (*(p.detach().requires_grad_() for p in head.parameters()), lopsided(4, 2), lopsided(4, 3) - 1)
    assert torch.autograd.gradcheck(with_weights(head, "linear.weight", "linear.bias"), inputs)


def test_a_head_keeps_full_precision_under_autocast() -> None:
    head, x = Head([16], 1), torch.randn(100, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(x)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(x))


def test_the_gradients_of_a_head_in_half_precision_are_near_those_in_full() -> None:
    head = make_lopsided(Head([16], 1)).float()
    x = lopsided(100, 16).bfloat16().requires_grad_()
    full = x.detach().float().requires_grad_()
    probe = lopsided(100, 1).float()
    for got, want in zip(
        torch.autograd.grad(head(x), [x, head.linear.weight], probe),
        torch.autograd.grad(head(full), [full, head.linear.weight], probe),
        strict=True,
    ):
        torch.testing.assert_close(got.float(), want, rtol=0.02, atol=0.02)
