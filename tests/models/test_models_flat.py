"""DCN, DCN-V2, DCN-Mix, GDCN: formulas, contract over the options, planted worlds, pictures of pairs and gates."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from flat_for_tests import assert_model_is, deep_of, double_tiny, head_of, x0_of
from msgspec.structs import replace
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from weft.batch import Batch, Fields
from weft.errors import ConfigError
from weft.models import Explains, FieldMap, Represents, config, create, entry, score, search_space
from weft.testing import World, check, cross_only, fit, make_lopsided, third_order, tiny
from weft.train.recipe import resolve

Options = Mapping[str, Any]

SMALL: Options = {"embedding_dim": 3, "hidden": (4, 2), "batch_norm": False, "widths": {"item": 2, "genres": 4}}
CROSSES_ONLY: Options = {"embedding_dim": 8, "embedding_std": 0.3, "hidden": ()}
LOW: Options = {"rank": 4}
FLAT: list[tuple[str, Options]] = [
    ("dcn", {}),
    ("dcn_v2", {}),
    ("dcn_v2", {"rank": 2}),
    ("dcn_mix", {"rank": 2}),
    ("dcn_mix", {"rank": 2, "experts": 1, "gate": "sigmoid", "cross_activation": "relu"}),
    ("dcn_mix", {"rank": 2, "gate": "constant", "cross_activation": "hardtanh"}),
    ("dcn_mix", {"rank": 2, "experts": 3, "shared_gates": True}),
    ("gdcn_s", {}),
    ("gdcn_p", {}),
]


def slow_vector(model: nn.Module, x0: Tensor) -> Tensor:
    x = x0
    for weight, bias in zip(model.cross.weight, model.cross.bias, strict=True):
        x = x0 * (x @ weight) + bias + x
    return x


def slow_matrix(model: nn.Module, x0: Tensor) -> Tensor:
    x = x0
    for layer in model.cross.layers:
        x = x0 * (layer.linear.weight @ x + layer.linear.bias) + x
    return x


def slow_low_rank(model: nn.Module, x0: Tensor) -> Tensor:
    x = x0
    for down, up, bias in zip(model.cross.down, model.cross.up, model.cross.bias, strict=True):
        x = x0 * (up @ (down @ x) + bias) + x
    return x


def slow_mix(model: nn.Module, x0: Tensor) -> Tensor:
    """With softmax gates and tanh."""
    net, x = model.cross, x0
    for layer, bias in enumerate(net.bias):
        gates = torch.softmax(net.gate[layer, :, 0] @ x, 0)
        experts = [
            x0 * (net.up[layer, i].T @ torch.tanh(net.core[layer, i] @ torch.tanh(net.down[layer, i] @ x)) + bias)
            for i in range(len(gates))
        ]
        x = sum(g * e for g, e in zip(gates, experts, strict=True)) + x
    return x


def slow_gated(model: nn.Module, c0: Tensor) -> Tensor:
    c = c0
    for layer in model.cross.layers:
        opened = torch.sigmoid(layer.gate.weight @ c)
        c = c0 * (layer.cross.weight @ c + layer.cross.bias) * opened + c
    return c


SLOW = {
    "dcn": slow_vector,
    "dcn_v2": slow_matrix,
    "dcn_v2 rank": slow_low_rank,
    "dcn_mix": slow_mix,
    "gdcn_p": slow_gated,
    "gdcn_s": slow_gated,
}


@pytest.mark.parametrize(
    ("kind", "options", "stacked"),
    [
        ("dcn", {}, False),
        ("dcn", {"structure": "stacked"}, True),
        ("dcn_v2", {}, False),
        ("dcn_v2", {"structure": "stacked"}, True),
        ("dcn_v2 rank", {"rank": 2}, False),
        ("dcn_v2 rank", {"rank": 2, "structure": "stacked"}, True),
        ("dcn_mix", {"rank": 2, "experts": 3}, False),
        ("dcn_mix", {"rank": 2, "experts": 3, "structure": "stacked"}, True),
        ("gdcn_p", {}, False),
        ("gdcn_s", {}, True),
    ],
)
def test_a_flat_model_is_its_formula_in_value_and_gradient(kind: str, options: Options, stacked: bool) -> None:
    fields, batch = double_tiny()
    chosen = {**SMALL, "num_cross": 2, "embedding_update": "dense", **options}
    model = make_lopsided(create(kind.split()[0], fields, chosen))

    def slow(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
        x0 = torch.cat([*x0_of(model.inputs, fields, batch, b).values()])
        cross = SLOW[kind](model, x0)
        return head_of(model, deep_of(model, cross)) if stacked else head_of(model, cross, deep_of(model, x0))

    assert_model_is(slow, model, fields, batch)


@pytest.mark.parametrize("kind", SLOW)
def test_without_hidden_layers_the_crosses_alone_make_the_logit(kind: str) -> None:
    fields, batch = double_tiny()
    options = {**SMALL, "hidden": (), "embedding_update": "dense"} | ({"rank": 2} if "rank" in kind else {})
    model = make_lopsided(create(kind.split()[0], fields, options))

    def slow(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
        return head_of(model, SLOW[kind](model, torch.cat([*x0_of(model.inputs, fields, batch, b).values()])))

    assert_model_is(slow, model, fields, batch)


@pytest.mark.parametrize(("name", "options"), FLAT)
@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_flat_models_keep_the_contract_over_their_options(name: str, options: Options, structure: str) -> None:
    shape = {} if name.startswith("gdcn") else {"structure": structure}
    hidden = () if structure == "stacked" and name != "gdcn_p" else (8,)
    check(name, {**SMALL, "hidden": hidden, "num_cross": 2, **shape, **options})


@pytest.mark.parametrize(("name", "options"), FLAT)
def test_logits_are_one_linear_map_of_what_represent_gives(name: str, options: Options) -> None:
    fields, batch = tiny()
    model = create(name, replace(fields, outputs=3), {**SMALL, **options}, seed=0).eval()
    assert isinstance(model, Represents)
    parts = model.represent(batch)
    assert [part.shape[1] for part in parts] == [*model.head.widths]
    assert score(model, batch).shape == (8, 3)
    torch.testing.assert_close(score(model, batch), model.head(*parts))


def trained(world: World, name: str, options: Options) -> tuple[nn.Module, float]:
    model = create(name, world.fields, {**CROSSES_ONLY, **options}, seed=0)
    fit(model, world.train, steps=100, rate=0.02)
    with torch.no_grad():
        return model, float(roc_auc_score(world.test.label[:, 0], score(model.eval(), world.test)))


IN_WORLDS: list[tuple[str, Options]] = [
    ("dcn_v2", {}),
    ("dcn_v2", LOW),
    ("dcn_mix", LOW),
    ("dcn_mix", {**LOW, "gate": "sigmoid"}),
    ("dcn_mix", {**LOW, "gate": "constant", "cross_activation": "hardtanh"}),
    ("dcn_mix", {**LOW, "gate": "constant", "experts": 1, "cross_activation": "identity"}),
    ("gdcn_s", {}),
    ("gdcn_p", {}),
]


@pytest.mark.parametrize(("name", "options"), [("dcn", {}), *IN_WORLDS])
def test_one_cross_layer_finds_the_planted_pair(name: str, options: Options) -> None:
    assert trained(cross_only(), name, {**options, "num_cross": 1})[1] > 0.99


@pytest.mark.parametrize(("name", "options"), [("dcn", {}), *IN_WORLDS])
def test_two_cross_layers_find_the_planted_triple(name: str, options: Options) -> None:
    assert trained(third_order(), name, {**options, "num_cross": 2})[1] > 0.99


@pytest.mark.parametrize(
    ("name", "options"), [("dcn", {}), ("dcn_v2", {}), ("dcn_v2", LOW), IN_WORLDS[5]], ids=lambda value: str(value)
)
def test_one_cross_layer_without_a_non_linearity_has_products_of_two_only(name: str, options: Options) -> None:
    assert trained(third_order(), name, {**options, "num_cross": 1})[1] < 0.56


def pairs(picture: FieldMap) -> dict[frozenset[str], float]:
    """The strength of each pair of two fields, whichever is multiplied with the other."""
    found: dict[frozenset[str], float] = {}
    for i, row in enumerate(picture.rows):
        for j, column in enumerate(picture.columns):
            if i != j:
                key = frozenset((row, column))
                found[key] = found.get(key, 0.0) + float(picture.value_BRC.mean(0)[i, j])
    return found


@pytest.mark.parametrize("num_cross", [1, 2])
@pytest.mark.parametrize(("name", "options"), IN_WORLDS)
def test_the_planted_pair_is_the_strongest_in_every_layer(name: str, options: Options, num_cross: int) -> None:
    world = cross_only()
    model, reached = trained(world, name, {**options, "num_cross": num_cross})
    assert reached > 0.99
    assert isinstance(model, Explains)
    pictures = [p for p in model.field_maps(world.test) if "Frobenius" in p.title]
    assert len(pictures) == num_cross
    for picture in pictures:
        strength = pairs(picture)
        assert max(strength, key=lambda pair: strength[pair]) == {"a", "b"}, picture.title


@pytest.mark.parametrize("num_cross", [1, 2])
@pytest.mark.parametrize("name", ["gdcn_s", "gdcn_p"])
def test_the_gates_are_open_widest_for_the_planted_pair(name: str, num_cross: int) -> None:
    world = cross_only()
    model, _ = trained(world, name, {"num_cross": num_cross})
    gates = model.field_maps(world.test)[0]
    assert gates.rows == tuple(f"layer {n + 1}" for n in range(num_cross))
    assert gates.columns == ("a", "b", "noise")
    assert gates.value_BRC.shape == (2_000, num_cross, 3)
    for open_N in gates.value_BRC.mean(0):
        assert open_N.argsort(descending=True)[:2].sort().values.tolist() == [0, 1]


@pytest.mark.parametrize(("name", "options"), [case for case in FLAT if case[0] != "dcn"])
def test_pictures_name_every_field_in_the_order_of_the_block_and_need_no_gradient(name: str, options: Options) -> None:
    fields, batch = tiny()
    model = create(name, fields, {**SMALL, **options, "num_cross": 2}, seed=0).eval()
    for picture in model.field_maps(batch):
        assert picture.columns == tuple(slot.name for slot in model.inputs.slots)
        assert picture.value_BRC.shape[1:] == (len(picture.rows), len(picture.columns))
        assert picture.value_BRC.shape[0] in (1, len(batch))
        assert not picture.value_BRC.requires_grad
        assert torch.isfinite(picture.value_BRC).all()


def test_a_picture_of_dcn_v2_is_the_norm_of_the_blocks_of_its_weights() -> None:
    fields, batch = double_tiny()
    model = make_lopsided(create("dcn_v2", fields, {**SMALL, "num_cross": 2}))
    picture = model.field_maps(batch)[1]
    assert picture.title == "layer 2: Frobenius norm of the blocks of W"
    start = dict(zip((s.name for s in model.inputs.slots), _starts(model), strict=True))
    block = model.cross.layers[1].linear.weight[start["item"] :, start["genres"] :][:2, :4]
    found = picture.value_BRC[0, picture.rows.index("item"), picture.columns.index("genres")]
    torch.testing.assert_close(found, torch.linalg.matrix_norm(block.detach()))


def _starts(model: nn.Module) -> list[int]:
    ends = torch.tensor([slot.width for slot in model.inputs.slots]).cumsum(0).tolist()
    return [0, *ends[:-1]]


def test_a_picture_of_gates_is_one_map_a_row() -> None:
    fields, batch = double_tiny()
    model = make_lopsided(create("gdcn_p", fields, SMALL))
    gates = model.field_maps(batch)[0]
    c0 = model.inputs(batch)
    opened = torch.sigmoid(c0 @ model.cross.layers[0].gate.weight.T)
    start = _starts(model)[gates.columns.index("genres")]
    torch.testing.assert_close(
        gates.value_BRC[:, 0, gates.columns.index("genres")], opened[:, start : start + 4].mean(1)
    )


def test_every_option_of_the_mix_reaches_its_crosses() -> None:
    fields, batch = tiny()
    own = {"num_cross": 3, "experts": 2, "rank": 5}
    plain, shared = (create("dcn_mix", fields, {**own, "shared_gates": share}, seed=0) for share in (False, True))
    assert plain.cross.down.shape == (3, 2, 5, plain.inputs.width)
    assert (plain.cross.gate.shape[0], shared.cross.gate.shape[0]) == (3, 1)
    scores = [
        score(create("dcn_mix", fields, {**own, **options, "embedding_std": 1.0}, seed=0).eval(), batch)
        for options in ({}, {"gate": "sigmoid"}, {"cross_activation": "relu"}, {"cross_activation": "hardtanh"})
    ]
    assert len({score_B[0].item() for score_B in scores}) == 4


def test_shared_gates_without_gates_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`shared_gates`.*gate = 'constant' has none; choose"):
        create("dcn_mix", tiny()[0], {"gate": "constant", "shared_gates": True})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "hard"}, r"Invalid enum value 'hard'.*gate"),
        ({"cross_activation": "sigmoid"}, r"Invalid enum value 'sigmoid'.*cross_activation"),
        ({"experts": 0}, r">= 1.*experts"),
        ({"rank": 0}, r">= 1.*rank"),
    ],
)
def test_options_of_the_mix_are_checked(options: Options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config("dcn_mix", options)


def test_low_rank_has_fewer_weights_and_full_rank_stays_the_default() -> None:
    fields, _ = tiny()
    full, low = (create("dcn_v2", fields, {"rank": rank}) for rank in (None, 4))
    width = full.inputs.width
    assert sum(p.numel() for p in full.cross.parameters()) == 3 * (width * width + width)
    assert sum(p.numel() for p in low.cross.parameters()) == 3 * (2 * width * 4 + width)
    assert config("dcn_v2").rank is None


def test_the_gated_crosses_alone_have_the_published_settings_in_a_preset() -> None:
    for name in ("gdcn_s", "gdcn_p"):
        options, _ = resolve(name, preset="paper")
        assert (options["embedding_dim"], options["num_cross"], options["dropout"]) == (16, 3, 0.5)
        assert options["hidden"] == (400, 400, 400)


def test_presets_of_the_papers_differ_from_the_common_recipe() -> None:
    mix, recipe = resolve("dcn_mix", preset="paper")
    assert (mix["gate"], mix["cross_activation"], recipe.clip) == ("constant", "hardtanh", 10.0)
    assert resolve("dcn", preset="paper").recipe.clip == 100.0
    assert resolve("dcn", preset="paper").recipe.batch_size == 512


SHARED = {"train.learning_rate", "train.l2"}
DEEP = {"embedding_dim", "hidden", "dropout", "batch_norm"}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("lr", set()),
        ("fm", {"embedding_dim"}),
        ("mlp", DEEP),
        ("deepfm", DEEP),
        ("wide_deep", DEEP),
        ("dcn", {*DEEP, "num_cross", "structure"}),
        ("dcn_v2", {*DEEP, "num_cross", "structure"}),
        ("dcn_mix", {*DEEP, "num_cross", "structure", "experts", "rank", "cross_activation", "gate"}),
        ("gdcn_s", {*DEEP, "num_cross"}),
        ("gdcn_p", {*DEEP, "num_cross"}),
    ],
)
def test_each_config_says_what_a_search_may_vary(name: str, own: set[str]) -> None:
    space = search_space(entry(name).config)
    assert set(space) == own | SHARED
    for key, values in space.items():
        for value in values.options if hasattr(values, "options") else (values.low, values.high):
            if not key.startswith("train."):
                config(name, {key: value})
