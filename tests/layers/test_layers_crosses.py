"""The crosses of DCN, DCN-V2 at low rank, DCN-Mix and GDCN: each equals its formula written out number by number."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from weft.layers import CrossNet
from weft.layers.blocks import block_norms, field_means
from weft.layers.gated_cross import GatedCross, GatedCrossNet
from weft.layers.low_rank_cross import LowRankCrossNet, MixCrossNet, stacked_maps
from weft.layers.vector_cross import VectorCrossNet
from weft.testing import make_lopsided

Weights = Mapping[str, Tensor]
Row = list[Tensor]

SLOW_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "hardtanh": lambda x: x.clamp(-1, 1),
    "relu": lambda x: x * (x > 0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + (-x).exp()),
    "identity": lambda x: x,
}


def lopsided(*shape: int) -> Tensor:
    return torch.arange(1.0, math.prod(shape) + 1).mul(1.7).cos().view(shape).double()


def dot(left: Tensor, right: Tensor | Row) -> Tensor:
    return sum(x * y for x, y in zip(left, right, strict=True))


def assert_is_formula(net: nn.Module, slow_row: Callable[[Weights, Row], Row], rows: int, width: int) -> None:
    """Same value and same gradient of every weight and of the input as the formula, row by row."""
    names, weights = zip(*((name, p.detach()) for name, p in net.named_parameters()), strict=True)

    def fast(*given: Tensor) -> Tensor:
        return torch.func.functional_call(net, dict(zip(names, given, strict=False)), given[-1:])

    def slow(*given: Tensor) -> Tensor:
        called = dict(zip(names, given, strict=False))
        return torch.stack([torch.stack(slow_row(called, list(row))) for row in given[-1]])

    found = []
    for function in (fast, slow):
        given = [t.clone().requires_grad_() for t in (*weights, lopsided(rows, width))]
        out = function(*given)
        found.append((out, *torch.autograd.grad(out, given, lopsided(*out.shape) + 1.5)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


def slow_vector(w: Weights, x0: Row) -> Row:
    x = x0
    for weight, bias in zip(w["weight"], w["bias"], strict=True):
        scalar = dot(weight, x)
        x = [x0[d] * scalar + bias[d] + x[d] for d in range(len(x0))]
    return x


def slow_low_rank(w: Weights, x0: Row) -> Row:
    x = x0
    for down, up, bias in zip(w["down"], w["up"], w["bias"], strict=True):
        inside = [dot(row, x) for row in down]
        x = [x0[d] * (dot(up[d], inside) + bias[d]) + x[d] for d in range(len(x0))]
    return x


def slow_mix(w: Weights, x0: Row, *, activation: str, gate: str) -> Row:
    g, x = SLOW_ACTIVATIONS[activation], x0
    for layer, bias in enumerate(w["bias"]):
        experts = range(w["down"].shape[1])
        mix = [torch.ones_like(x[0]) for _ in experts]
        if "gate" in w:
            logits = [dot(w["gate"][min(layer, len(w["gate"]) - 1), i, 0], x) for i in experts]
            total = sum(logit.exp() for logit in logits)
            mix = [logit.exp() / total if gate == "softmax" else 1 / (1 + (-logit).exp()) for logit in logits]
        new = [torch.zeros_like(x[0])] * len(x0)
        for i in experts:
            first = [g(dot(row, x)) for row in w["down"][layer, i]]
            second = [g(dot(row, first)) for row in w["core"][layer, i]]
            out = [dot(w["up"][layer, i, :, d], second) + bias[d] for d in range(len(x0))]
            new = [new[d] + mix[i] * x0[d] * out[d] for d in range(len(x0))]
        x = [new[d] + x[d] for d in range(len(x0))]
    return x


def slow_gated(w: Weights, c0: Row) -> Row:
    c = c0
    for layer in range(len(w) // 3):
        weight, bias, gate = (w[f"layers.{layer}.{name}"] for name in ("cross.weight", "cross.bias", "gate.weight"))
        opened = [1 / (1 + (-dot(row, c)).exp()) for row in gate]
        c = [c0[d] * (dot(weight[d], c) + bias[d]) * opened[d] + c[d] for d in range(len(c0))]
    return c


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("depth", [1, 3])
def test_vector_crosses_are_the_paper_equation(rows: int, depth: int) -> None:
    assert_is_formula(make_lopsided(VectorCrossNet(5, depth)), slow_vector, rows, 5)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("depth", [1, 3])
def test_low_rank_crosses_are_the_paper_equation(rows: int, depth: int) -> None:
    assert_is_formula(make_lopsided(LowRankCrossNet(5, depth, rank=2)), slow_low_rank, rows, 5)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("depth", [1, 3])
def test_gated_crosses_are_the_paper_equation(rows: int, depth: int) -> None:
    assert_is_formula(make_lopsided(GatedCrossNet(5, depth)), slow_gated, rows, 5)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("gate", ["softmax", "sigmoid", "constant"])
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_a_mix_of_experts_is_the_paper_equation(rows: int, gate: str, experts: int, shared: bool) -> None:
    net = make_lopsided(MixCrossNet(5, 2, experts=experts, rank=2, gate=gate, shared_gates=shared))
    assert_is_formula(net, lambda w, x: slow_mix(w, x, activation="tanh", gate=gate), rows, 5)


@pytest.mark.parametrize("activation", sorted(SLOW_ACTIVATIONS))
def test_the_activation_of_an_expert_works_twice_in_its_rank(activation: str) -> None:
    net = make_lopsided(MixCrossNet(4, 1, experts=2, rank=3, activation=activation))
    assert_is_formula(net, lambda w, x: slow_mix(w, x, activation=activation, gate="softmax"), 3, 4)


def test_trap_1_the_bias_of_a_vector_cross_is_outside_the_product() -> None:
    net = VectorCrossNet(3, 1).double()
    nn.init.zeros_(net.weight)
    nn.init.ones_(net.bias)
    x0 = lopsided(2, 3)
    torch.testing.assert_close(net(x0), x0 + 1)


def test_trap_1_the_bias_of_a_low_rank_cross_is_inside_the_product() -> None:
    net = LowRankCrossNet(3, 1, rank=2).double()
    nn.init.zeros_(net.up)
    nn.init.ones_(net.bias)
    x0 = lopsided(2, 3)
    torch.testing.assert_close(net(x0), x0 + x0)


NETS: dict[str, Callable[[], nn.Module]] = {
    "vector": lambda: VectorCrossNet(6, 2),
    "low rank": lambda: LowRankCrossNet(6, 2, rank=2),
    "mix": lambda: MixCrossNet(6, 2, experts=3, rank=2),
    "constant mix": lambda: MixCrossNet(6, 2, experts=3, rank=2, gate="constant", activation="hardtanh"),
    "gated": lambda: GatedCrossNet(6, 2),
}


@pytest.mark.parametrize("kind", NETS)
def test_trap_2_a_batch_of_one_keeps_its_axis_and_is_the_same_row(kind: str) -> None:
    net = make_lopsided(NETS[kind]())
    all_BD = net(lopsided(4, 6))
    for b in range(4):
        one_BD = net(lopsided(4, 6)[b : b + 1])
        assert one_BD.shape == (1, 6)
        torch.testing.assert_close(one_BD[0], all_BD[b])
    assert net(lopsided(4, 6)[:0]).shape == (0, 6)


def test_trap_3_each_expert_starts_with_the_spread_of_its_own_fans() -> None:
    torch.manual_seed(0)
    net = MixCrossNet(100, 2, experts=4, rank=32)
    for weights, fans in ((net.down, 132), (net.up, 132), (net.core, 64), (net.gate, 101)):
        for matrix in weights.detach().flatten(0, 1):
            assert matrix.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.25)
    assert net.down.std().item() == pytest.approx(0.123, rel=0.02)
    torch.manual_seed(0)
    wrong = nn.init.xavier_normal_(torch.empty(4, 100, 32))
    assert wrong.std().item() == pytest.approx(0.0245, rel=0.05), "what the trap would give"


def test_trap_3_stacked_maps_are_xavier_map_by_map() -> None:
    torch.manual_seed(3)
    stacked = stacked_maps(2, 3, 5, 4)
    torch.manual_seed(3)
    for matrix in stacked.detach().view(6, 5, 4):
        assert torch.equal(matrix, nn.init.xavier_normal_(torch.empty(5, 4)))


def test_trap_4_gates_belong_to_a_layer_or_are_shared_and_one_expert_needs_no_softmax() -> None:
    assert MixCrossNet(6, 3, experts=4, rank=2).gate.shape == (3, 4, 1, 6)
    assert MixCrossNet(6, 3, experts=4, rank=2, shared_gates=True).gate.shape == (1, 4, 1, 6)
    assert MixCrossNet(6, 3, experts=1, rank=2).gate is None
    assert MixCrossNet(6, 3, experts=1, rank=2, gate="sigmoid").gate.shape == (3, 1, 1, 6)
    assert MixCrossNet(6, 3, experts=4, rank=2, gate="constant").gate is None


def test_one_linear_expert_of_gate_1_is_the_low_rank_cross() -> None:
    low = make_lopsided(LowRankCrossNet(5, 2, rank=3))
    mix = MixCrossNet(5, 2, experts=1, rank=3, activation="identity", gate="constant").double()
    with torch.no_grad():
        mix.down.copy_(low.down[:, None])
        mix.core.copy_(torch.eye(3))
        mix.up.copy_(low.up.transpose(1, 2)[:, None])
        mix.bias.copy_(low.bias)
    torch.testing.assert_close(mix(lopsided(4, 5)), low(lopsided(4, 5)))


def test_the_bias_of_a_mix_is_inside_each_expert_so_that_gates_weigh_it() -> None:
    x0 = lopsided(2, 5)
    for gate, times in (("constant", 3.0), ("softmax", 1.0), ("sigmoid", 1.5)):
        net = MixCrossNet(5, 1, experts=3, rank=2, gate=gate).double()
        nn.init.zeros_(net.up)
        nn.init.ones_(net.bias)
        if net.gate is not None:
            nn.init.zeros_(net.gate)
        torch.testing.assert_close(net(x0), x0 + times * x0)


def test_trap_5_a_closed_gate_takes_the_cross_and_leaves_the_residual() -> None:
    layer = make_lopsided(GatedCross(4))
    nn.init.constant_(layer.gate.weight, -1e4)
    c0, c = lopsided(3, 4), lopsided(3, 4).abs() + 1
    closed, _ = layer(c0, c)
    torch.testing.assert_close(closed, c)


def test_trap_5_a_gate_has_no_bias_and_reads_c_not_c0() -> None:
    layer = make_lopsided(GatedCross(4))
    assert layer.gate.bias is None
    c0, c = lopsided(3, 4), lopsided(3, 4) - 2
    _, open_BD = layer(c0, c)
    torch.testing.assert_close(open_BD, torch.sigmoid(c @ layer.gate.weight.T))
    assert (layer(c0, torch.zeros_like(c))[1] == 0.5).all()


def test_trap_5_a_gated_cross_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    layer = GatedCross(400)
    assert 0 <= layer.cross.bias.min() < 0.02 < 0.98 < layer.cross.bias.max() <= 1
    assert layer.cross.bias.mean().item() == pytest.approx(0.5, abs=0.05)
    for weight in (layer.cross.weight, layer.gate.weight):
        assert weight.abs().max().item() == pytest.approx(1 / 20, rel=0.01)
        assert weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)


def test_equal_rows_of_a_matrix_give_back_the_product_of_the_vector_cross() -> None:
    """W = 1 w^T: x_0 * (W x_0) = x_0 (w · x_0)."""
    vector = make_lopsided(VectorCrossNet(5, 1))
    full, low = CrossNet(5, 1).double(), LowRankCrossNet(5, 1, rank=1).double()
    with torch.no_grad():
        vector.bias.zero_()
        full.layers[0].linear.weight.copy_(vector.weight.expand(5, 5))
        low.down.copy_(vector.weight[:, None])
        low.up.fill_(1)
    torch.testing.assert_close(full(lopsided(3, 5)), vector(lopsided(3, 5)))
    torch.testing.assert_close(low.matrices()[0], vector.weight.expand(5, 5))
    torch.testing.assert_close(low(lopsided(3, 5)), vector(lopsided(3, 5)))


def test_vector_crosses_start_as_linear_maps_to_one_number() -> None:
    torch.manual_seed(0)
    net = VectorCrossNet(2_000, 3)
    assert not net.bias.any()
    assert net.weight.std().item() == pytest.approx(math.sqrt(2 / 2_001), rel=0.05)


@pytest.mark.parametrize("kind", NETS)
def test_crosses_are_lowered_by_autocast_and_train_in_full_precision(kind: str) -> None:
    net = make_lopsided(NETS[kind]()).float()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(0.3)
    x0 = lopsided(4, 6).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), net(x0), rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert {p.grad.dtype for p in (x0, *net.parameters())} == {torch.float32}


def test_matrices_of_low_rank_crosses_are_what_they_multiply_by() -> None:
    net = make_lopsided(LowRankCrossNet(4, 2, rank=2))
    nn.init.zeros_(net.bias)
    x0 = lopsided(3, 4)
    first = x0 + x0 * (x0 @ net.matrices()[0].T)
    torch.testing.assert_close(net(x0), first + x0 * (first @ net.matrices()[1].T))


@pytest.mark.parametrize("gate", ["softmax", "sigmoid", "constant"])
def test_matrices_of_a_linear_mix_are_what_a_row_is_multiplied_by_at_its_gates(gate: str) -> None:
    net = make_lopsided(MixCrossNet(4, 2, experts=3, rank=2, activation="identity", gate=gate))
    nn.init.zeros_(net.bias)
    x0 = lopsided(1, 4)
    matrices = net.matrices(x0)
    assert matrices.shape == (2, 4, 4)
    first = x0 + x0 * (x0 @ matrices[0].T)
    torch.testing.assert_close(net(x0), first + x0 * (first @ matrices[1].T))


def test_matrices_of_a_mix_are_taken_at_the_mean_gate_of_the_rows() -> None:
    net = make_lopsided(MixCrossNet(4, 1, experts=3, rank=2))
    mean = torch.softmax(lopsided(5, 4) @ net.gate[0, :, 0].T, 1).mean(0)
    want = sum(mean[k] * net.up[0, k].T @ net.core[0, k] @ net.down[0, k] for k in range(3))
    torch.testing.assert_close(net.matrices(lopsided(5, 4))[0], want)


def test_gates_are_those_of_the_forward_pass() -> None:
    net = make_lopsided(GatedCrossNet(4, 2))
    c0 = lopsided(3, 4)
    opened = net.gates(c0)
    assert opened.shape == (3, 2, 4)
    c = c0
    for layer, open_BD in zip(net.layers, opened.unbind(1), strict=True):
        c = c0 * layer.cross(c) * open_BD + c
    torch.testing.assert_close(net(c0), c)


def test_blocks_of_fields_of_different_width() -> None:
    matrix = lopsided(6, 6)
    norms = block_norms(torch.stack([matrix, 2 * matrix]), [1, 3, 2])
    assert norms.shape == (2, 3, 3)
    torch.testing.assert_close(norms[0, 1, 2], torch.linalg.matrix_norm(matrix[1:4, 4:6]))
    torch.testing.assert_close(norms[1, 2, 0], 2 * torch.linalg.matrix_norm(matrix[4:6, :1]))
    torch.testing.assert_close(field_means(matrix, [1, 3, 2])[:, 1], matrix[:, 1:4].mean(1))
