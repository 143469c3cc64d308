"""Attention equals its equations, written out slot by slot."""

import math

import pytest
import torch
from torch import Tensor, nn

from formulas_for_tests import assert_layer_is, numbers
from weft.layers.attention import Encoder, FieldAttention, attention_weights
from weft.testing import make_lopsided

HEADS, WIDTH, OUT = 2, 3, 4


def slow_heads(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> list[Tensor]:
    """For each slot m the heads side by side: sum over k of softmax_k(scale <q_m, k_k>) v_k."""
    width, mixed = query.shape[1] // heads, []
    for m in range(len(query)):
        parts = []
        for h in range(heads):
            mine = slice(h * width, (h + 1) * width)
            exp = [torch.exp(scale * (query[m, mine] @ key[k, mine])) for k in range(len(key))]
            parts.append(sum(e / sum(exp) * value[k, mine] for k, e in enumerate(exp)))
        mixed.append(torch.cat(parts))
    return mixed


def normal(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    spread = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / torch.sqrt(spread + norm.eps) * norm.weight + norm.bias


def slow_interacting(layer: FieldAttention, x: Tensor) -> Tensor:
    """Equations (5) to (8) of the paper, and what the authors' code adds."""
    projected = []
    for weight in layer.projection.weight.chunk(4):
        rows = torch.stack([weight @ slot for slot in x])
        projected.append(rows.clamp(min=0) if layer.activated else rows)
    query, key, value, residual = projected
    scale = 1 / math.sqrt(OUT / HEADS) if layer.scale != 1 else 1.0
    out = [torch.relu(e + r) for e, r in zip(slow_heads(query, key, value, HEADS, scale), residual, strict=True)]
    return torch.stack([normal(e, layer.norm) if isinstance(layer.norm, nn.LayerNorm) else e for e in out])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_an_interacting_layer_is_its_equations(scaled: bool, activated: bool, layer_norm: bool) -> None:
    layer = FieldAttention(WIDTH, OUT, HEADS, scaled=scaled, activated=activated, layer_norm=layer_norm)
    assert_layer_is(make_lopsided(layer), lambda x: slow_interacting(layer, x), numbers(2, 5, WIDTH))


def test_scores_are_not_scaled_unless_asked_for() -> None:
    assert FieldAttention(WIDTH, OUT, HEADS).scale == 1.0
    assert FieldAttention(WIDTH, OUT, HEADS, scaled=True).scale == pytest.approx(1 / math.sqrt(2))


def test_attention_weights_are_shares() -> None:
    weights = attention_weights(numbers(2, 5, 4), numbers(2, 5, 4, shift=1), HEADS)
    assert weights.shape == (2, HEADS, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 5).double())


def test_the_weights_shown_are_the_weights_used() -> None:
    layer, x = make_lopsided(FieldAttention(WIDTH, OUT, HEADS)), numbers(2, 5, WIDTH)
    value, residual = layer.projection(x).chunk(4, dim=-1)[2:]
    mixed = torch.einsum("bhmk,bkhe->bmhe", layer.weights(x), value.unflatten(2, (HEADS, -1))).flatten(2)
    torch.testing.assert_close(layer(x), torch.relu(mixed + residual))


def test_attention_drops_out_in_training_only() -> None:
    layer = FieldAttention(WIDTH, OUT, HEADS, dropout=0.5)
    x = numbers(4, 5, WIDTH).float()
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_each_projection_starts_with_the_spread_of_its_own_size() -> None:
    weight = FieldAttention(100, 300, 2).projection.weight
    assert [part.std().item() for part in weight.chunk(4)] == pytest.approx([math.sqrt(2 / 400)] * 4, rel=0.03)


def slow_encoder(layer: Encoder, x: Tensor) -> Tensor:
    query, key, value = (torch.stack([w @ slot for slot in x]) for w in layer.projection.weight.chunk(3))
    mixed = slow_heads(query, key, value, layer.heads, 1 / math.sqrt(x.shape[1] / layer.heads))
    rows = []
    for slot, seen in zip(x, mixed, strict=True):
        y = normal(slot + layer.out.weight @ seen, layer.norms[0])
        inner = torch.relu(layer.first.weight @ y + layer.first.bias)
        rows.append(normal(y + layer.second.weight @ inner + layer.second.bias, layer.norms[1]))
    return torch.stack(rows)


def test_an_encoder_layer_is_its_equations() -> None:
    layer = make_lopsided(Encoder(4, HEADS, 6))
    assert_layer_is(layer, lambda x: slow_encoder(layer, x), numbers(2, 5, 4))


def test_an_encoder_layer_is_that_of_torch() -> None:
    ours = make_lopsided(Encoder(4, HEADS, 6)).eval()
    theirs = nn.TransformerEncoderLayer(4, HEADS, 6, dropout=0.0, batch_first=True).double()
    attention = theirs.self_attn
    pairs = {
        attention.in_proj_weight: ours.projection.weight,
        attention.out_proj.weight: ours.out.weight,
        theirs.linear1.weight: ours.first.weight,
        theirs.linear1.bias: ours.first.bias,
        theirs.linear2.weight: ours.second.weight,
        theirs.linear2.bias: ours.second.bias,
        theirs.norm1.weight: ours.norms[0].weight,
        theirs.norm1.bias: ours.norms[0].bias,
        theirs.norm2.weight: ours.norms[1].weight,
        theirs.norm2.bias: ours.norms[1].bias,
    }
    with torch.no_grad():
        for there, here in pairs.items():
            there.copy_(here)
        attention.in_proj_bias.zero_()
        attention.out_proj.bias.zero_()
    x = numbers(2, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x))
