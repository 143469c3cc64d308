"""The checks of the contract bite: each broken model is caught, and for the right reason."""

from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.layers import MLP, Embedding, linear
from weft.models import _registry, register
from weft.models._inputs import InputConfig, Inputs
from weft.models._parts import ITEM, USER, FlatHalves, Part
from weft.testing import check, cross_only, make_lopsided, third_order, tiny, two_camps

FACTS: dict[str, Any] = {
    "kinds": ("ranker",),
    "phases": ("ranking",),
    "paper": "none",
    "url": "",
    "year": 0,
    "strengths": ".",
    "weaknesses": ".",
    "choose": ".",
}


class Sound(nn.Module):
    Config = InputConfig

    def __init__(self, fields: Fields, config: InputConfig) -> None:
        super().__init__()
        self.inputs = Inputs(fields, config)
        self.deep = MLP(self.inputs.width, (16,))
        self.head = linear(16, 1)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.deep(self.inputs(batch)))[:, 0]


class Column(Sound):
    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch)[:, None]


class Mixed(Sound):
    def forward(self, batch: Batch) -> Tensor:
        logits = super().forward(batch)
        return logits - logits.mean()


class Detached(Sound):
    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.deep(self.inputs(batch).detach()))[:, 0]


class Halved(Sound):
    """The first layer without its bias: what parts lose that forget it."""

    def __init__(self, fields: Fields, config: InputConfig) -> None:
        super().__init__(fields, config)
        self.halves = FlatHalves(fields, self.inputs, self.deep)
        nn.init.ones_(self.deep.layers[0].bias)

    def user_part(self, batch: Batch) -> Part:
        return self.halves.part(batch, USER)

    def item_part(self, batch: Batch) -> Part:
        return self.halves.part(batch, ITEM)

    def join(self, user: Part, item: Part, pair: Batch | None = None) -> Tensor:
        z_NH = self.halves.join(user, item, pair).first[self.deep]
        return self.head(z_NH.relu())[:, 0]


class Unused(Sound):
    def __init__(self, fields: Fields, config: InputConfig) -> None:
        super().__init__(fields, config)
        self.forgotten = linear(2, 2, bias=False)


class Constant(Sound):
    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch) * 0 + self.head.bias + 1e-3 * super().forward(batch).clamp(-1, 1)


class Leaky(Sound):
    """Keeps a thing outside its state."""

    calls = 0

    def __init__(self, fields: Fields, config: InputConfig) -> None:
        super().__init__(fields, config)
        Leaky.calls += 1
        self.shift = Leaky.calls

    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch) + 0.01 * self.shift


@pytest.fixture
def registered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    _registry.names()
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    model = request.param
    model.Config = InputConfig
    register("broken", **FACTS)(model)
    return "broken"


@pytest.mark.parametrize("registered", [Sound], indirect=True)
def test_a_sound_model_passes(registered: str) -> None:
    check(registered)


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        (Column, r"logits must be \[B\], got \[8, 1\]"),
        (Mixed, "a row alone has another score"),
        (Detached, r"training does not move \['inputs.embedding"),
        (Halved, "parts joined score differently"),
        (Unused, r"training does not move \['forgotten.weight'\]"),
        (Constant, "eight rows are not memorised"),
        (Leaky, "a saved and loaded model scores differently"),
    ],
    indirect=["registered"],
)
def test_a_broken_model_is_caught(registered: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(registered)


def test_lopsided_weights_keep_padding_at_zero() -> None:
    layer = make_lopsided(Embedding({"a": 3, "b": 2}, 2))
    assert not layer.table("b")[0].any()
    assert layer.table("b")[1].tolist() == torch.tensor([9.0, 10.0]).sin().double().tolist()


def test_worlds_are_balanced_in_every_lower_order() -> None:
    for world, order in ((cross_only(20_000), 2), (third_order(20_000), 3)):
        sign = world.train.ids % 2 * 2.0 - 1
        label = world.train.label[:, 0] * 2 - 1
        assert (label * sign.prod(1) / sign[:, -1]).abs().min() == 1
        for column in range(order):
            assert abs((label * sign[:, column]).mean()) < 0.02
            assert order == 2 or abs((label * sign[:, column] * sign[:, (column + 1) % 3]).mean()) < 0.02


def test_worlds_come_from_their_seed() -> None:
    assert torch.equal(cross_only(50, seed=1).train.ids, cross_only(50, seed=1).train.ids)
    assert not torch.equal(cross_only(50, seed=1).train.ids, cross_only(50, seed=2).train.ids)
    assert not torch.equal(cross_only(50).train.ids, cross_only(50).test.ids)


def test_the_withheld_items_are_not_in_the_train_rows() -> None:
    camps = two_camps(6)
    assert len(camps.train) == 30
    assert (camps.train.user != camps.train.item).all()


def test_tiny_has_every_kind_of_column() -> None:
    fields, batch = tiny()
    assert batch.ids.shape == (8, len(fields.ids))
    assert batch.dense.shape == (8, len(fields.dense))
    assert set(batch.ragged) == {f.name for f in fields.ragged}
    assert msgspec.json.decode(msgspec.json.encode(fields), type=Fields) == fields
