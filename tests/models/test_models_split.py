"""The split network is its formula, works apart for users and items, and sees what a sum of both sides cannot."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from flat_for_tests import assert_model_is, double_tiny, head_of, x0_of
from msgspec.structs import replace
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from weft.batch import Batch, Field, Fields
from weft.errors import ConfigError, Unsupported
from weft.layers import MLP
from weft.models import create, score
from weft.models._contract import advice
from weft.models._parts import splits
from weft.testing import check, fit, make_lopsided, tiny, two_camps

Options = Mapping[str, Any]

SMALL: Options = {"embedding_dim": 3, "hidden": (4, 2), "joint": (3,), "batch_norm": False}


def through(net: MLP, x: Tensor) -> Tensor:
    for layer in net.layers:
        x = torch.relu(layer.weight @ x + layer.bias) if isinstance(layer, nn.Linear) else x
    return x


def slow(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    """Each network sees the fields of its sides, one after the other; the joint one sees user first, then item."""
    halves = []
    for sides, inputs, net in (
        (("user", "context"), model.user_inputs, model.user_net),
        (("item",), model.item_inputs, model.item_net),
    ):
        found = x0_of(inputs, fields.of(*sides), batch.of(fields, *sides), b)
        halves.append(through(net, torch.cat([*found.values()])))
    return head_of(model, through(model.joint, torch.cat(halves)))


@pytest.mark.parametrize(
    "options", [{}, {"joint": ()}, {"hidden": ()}, {"hidden": (), "joint": ()}, {"widths": {"item": 2, "genres": 4}}]
)
def test_it_is_its_formula_in_value_and_gradient(options: Options) -> None:
    fields, batch = double_tiny()
    model = make_lopsided(create("split", fields, {**SMALL, "embedding_update": "dense", **options}))
    assert_model_is(slow, model, fields, batch)


@pytest.mark.parametrize("options", [{}, {"joint": ()}, {"hidden": ()}, {"joint": (8, 4), "batch_norm": False}])
def test_it_keeps_the_contract_over_its_options(options: Options) -> None:
    check("split", {"hidden": (8,), **options})


def test_several_labels_have_their_own_outputs() -> None:
    check("split", {"hidden": (8,)}, labels=3)


def test_each_network_reads_its_own_side_only() -> None:
    fields, batch = tiny()
    model = create("split", fields, SMALL, seed=1)
    score(model, batch).sum().backward()
    read = {part: set(getattr(model, part).embedding.slices) for part in ("user_inputs", "item_inputs")}
    assert read == {"user_inputs": {"user", "hour.bucket", "item"}, "item_inputs": {"item", "genres"}}
    user = model.user_part(batch.of(fields, "user", "context"))
    item = model.item_part(batch.of(fields, "item"))
    assert {name: list(tensor.shape) for name, tensor in user.items()} == {"first.0": [8, 3]}
    assert splits(model)
    torch.testing.assert_close(model.eval().join(user, item), score(model, batch))


def test_crosses_of_user_and_item_are_not_read_and_it_says_so() -> None:
    fields, _ = tiny()
    pair = Field(name="user x item", side="pair", rows=9, cross=True)
    model = create("split", replace(fields, ids=(*fields.ids, pair)), SMALL, seed=1).eval()
    assert advice(model) == ["split does not read what is of user and item at once: user x item; mlp and others do"]
    assert advice(create("split", fields, SMALL)) == []


def test_a_side_without_features_is_refused() -> None:
    fields, _ = tiny()
    with pytest.raises(Unsupported, match="'split' needs a feature on each side, and the schema has none of item"):
        create("split", fields.of("user", "context"))
    with pytest.raises(Unsupported, match="weighs a sequence of item ids by the item that is scored"):
        create("split", fields, {"pooling": "target"})


@pytest.mark.parametrize(("joint", "low", "high"), [((16,), 0.95, 1.0), ((), 0.0, 0.6)])
def test_a_joint_layer_finds_what_a_sum_of_both_sides_cannot(joint: tuple[int, ...], low: float, high: float) -> None:
    """Even users like even items, odd users odd ones: only the two together tell."""
    camps = two_camps()
    options = {"embedding_dim": 8, "hidden": (16,), "joint": joint, "embedding_std": 0.3, "batch_norm": False}
    model = create("split", camps.fields, options, seed=0)
    fit(model, camps.train, steps=150, rate=0.02)
    with torch.no_grad():
        found = roc_auc_score(camps.train.label[:, 0], score(model.eval(), camps.train))
    assert low <= found <= high


def test_options_name_tables_of_either_side_and_no_others() -> None:
    fields, _ = tiny()
    model = create("split", fields, {**SMALL, "widths": {"genres": 5, "user": 2}})
    assert {slot.name: slot.width for slot in model.item_inputs.slots}["genres"] == 5
    assert {slot.name: slot.width for slot in model.user_inputs.slots}["user"] == 2
    with pytest.raises(ConfigError, match="`widths` names the table 'genre'"):
        create("split", fields, {**SMALL, "widths": {"genre": 5}})
