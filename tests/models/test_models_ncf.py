"""GMF, the tower of NCF and NeuMF: the formulas, the published starting values, pre-training, and what each can do."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from msgspec.structs import replace as with_fields
from torch import Tensor, nn

from weft.batch import FIRST_ID, UNKNOWN, Batch
from weft.errors import ConfigError, Unsupported
from weft.layers import Embedding
from weft.models import create, embeddings, entry, option_names, search_space
from weft.models._contract import Assembled, roles_only
from weft.testing import check, fit, make_lopsided, tiny, two_camps
from weft.train.recipe import Recipe, resolve

Weights = dict[str, Tensor]
NAMES = ("gmf", "ncf_mlp", "neumf")


def slow_product(w: Weights, name: str, u: int, i: int) -> list[Tensor]:
    p, q = w[f"{name}.user.weight"][u], w[f"{name}.item.weight"][i]
    return [p[k] * q[k] for k in range(len(p))]


def slow_tower(w: Weights, name: str, u: int, i: int) -> list[Tensor]:
    x = [*w[f"{name}.user.weight"][u], *w[f"{name}.item.weight"][i]]
    for layer in itertools.count(0, 2):
        if f"tower.layers.{layer}.weight" not in w:
            return x
        weight, bias = w[f"tower.layers.{layer}.weight"], w[f"tower.layers.{layer}.bias"]
        x = [
            sum((r * v for r, v in zip(row, x, strict=True)), b).clamp(min=0)
            for row, b in zip(weight, bias, strict=True)
        ]


def slow_logit(w: Weights, x: list[Tensor]) -> Tensor:
    return sum((h * v for h, v in zip(w["head.linear.weight"][0], x, strict=True)), w["head.linear.bias"][0])


def slow_gmf(w: Weights, u: int, i: int) -> Tensor:
    return slow_logit(w, slow_product(w, "embedding", u, i))


def slow_ncf_mlp(w: Weights, u: int, i: int) -> Tensor:
    return slow_logit(w, slow_tower(w, "embedding", u, i))


def slow_neumf(w: Weights, u: int, i: int) -> Tensor:
    return slow_logit(w, [*slow_product(w, "gmf_embedding", u, i), *slow_tower(w, "mlp_embedding", u, i)])


FORMULAS = [
    ("gmf", {"embedding_dim": 3}, slow_gmf),
    ("ncf_mlp", {"layers": (6, 4, 3)}, slow_ncf_mlp),
    ("ncf_mlp", {"layers": (6,)}, slow_ncf_mlp),
    ("neumf", {"embedding_dim": 2, "layers": (6, 5, 3)}, slow_neumf),
    ("neumf", {"embedding_dim": 3, "layers": (4,)}, slow_neumf),
]


def gradients(model: nn.Module) -> Weights:
    """By the names of the state_dict, whole tables or touched rows."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and "stacked" not in name}
    for path, layer in ((path, m) for path, m in model.named_modules() if isinstance(m, Embedding)):
        whole = {id(s.weight): s.weight.grad for s in layer.slices.values()}
        for touched in layer.touched():
            whole[id(touched.weight)] = torch.zeros_like(touched.weight).index_copy_(0, touched.ids, touched.grad)
        found |= {f"{path}.{n}.weight": whole[id(s.weight)][s.start : s.stop] for n, s in layer.slices.items()}
    return found


@pytest.mark.parametrize(("name", "options", "slow"), FORMULAS)
@pytest.mark.parametrize("update", ["dense", "sparse"])
@pytest.mark.parametrize("rows", [8, 1])
def test_a_model_is_its_formula_in_value_and_gradient(
    name: str, options: dict[str, Any], slow: Any, update: str, rows: int
) -> None:
    fields, batch = tiny()
    batch = Batch(
        ids=batch.ids[:rows], dense=batch.dense[:rows], ragged={}, user=batch.user[:rows], item=batch.item[:rows]
    )
    model = make_lopsided(create(name, fields, {**options, "embedding_update": update}))
    w = {key: value.clone().requires_grad_() for key, value in model.state_dict().items()}
    want_B = torch.stack([slow(w, u, i) for u, i in zip(batch.user.tolist(), batch.item.tolist(), strict=True)])
    logit_B = model(batch)
    torch.testing.assert_close(logit_B, want_B)
    probe_B = torch.arange(1.0, rows + 1).double().cos()
    logit_B.backward(probe_B)
    want_B.backward(probe_B)
    found = gradients(model)
    assert found.keys() == w.keys()
    for key, weight in w.items():
        want = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(found[key], want, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mf", {"biases": False}),
        ("gmf", {"embedding_dim": 1}),
        ("ncf_mlp", {"layers": (8,)}),
        ("ncf_mlp", {"layers": (2, 16, 3), "embedding_update": "sparse"}),
        ("ncf_mlp", {"layers": (128, 64, 32, 16, 8)}),
        ("neumf", {"embedding_dim": 3, "layers": (6,), "embedding_update": "sparse"}),
        ("neumf", {"embedding_dim": 32, "layers": (64, 32)}),
    ],
)
def test_the_contract_holds_with_options(name: str, options: dict[str, Any]) -> None:
    check(name, options)


@pytest.mark.parametrize("name", NAMES)
def test_several_outputs_have_a_row_of_the_head_each(name: str) -> None:
    fields, batch = tiny()
    assert create(name, with_fields(fields, outputs=3))(batch).shape == (8, 3)


def many_rows() -> Any:
    return with_fields(tiny()[0], users=2_002, items=3_002)


def test_starting_values_are_the_published_ones() -> None:
    model = create("neumf", many_rows(), {"embedding_dim": 24, "layers": (80, 40, 20)}, seed=1)
    for layer in embeddings(model):
        for name in ("user", "item"):
            values = layer.table(name)[FIRST_ID:]
            assert values.std().item() == pytest.approx(0.01, rel=0.05)
            assert abs(values.mean().item()) < 0.0005
    first, _, second, _ = model.tower.layers
    for weight, edge in (
        (first.weight, math.sqrt(6 / (80 + 40))),
        (second.weight, math.sqrt(6 / (40 + 20))),
        (model.head.linear.weight, math.sqrt(3 / (24 + 20))),
    ):
        assert 0.9 * edge < weight.abs().max().item() <= edge
        assert weight.std().item() == pytest.approx(edge / math.sqrt(3), rel=0.2)
    for bias in (first.bias, second.bias, model.head.bias):
        assert not bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_users_and_items_that_training_has_not_seen_have_zero_vectors(name: str) -> None:
    for layer in embeddings(create(name, many_rows())):
        for table in ("user", "item"):
            assert not layer.table(table)[: UNKNOWN + 1].any()
            assert layer.table(table)[FIRST_ID:].any(1).all()


def test_layers_are_those_of_the_published_code() -> None:
    model = create("ncf_mlp", tiny()[0])
    assert model.embedding.table("user").shape == (6, 32)
    assert [tuple(layer.weight.shape) for layer in model.tower.layers[::2]] == [(32, 64), (16, 32), (8, 16)]
    assert model.head.widths == (8,)
    halved = [(8 * 2**depth, *(8 * 2**k for k in reversed(range(depth)))) for depth in range(5)]
    assert halved[0] == (8,)
    assert halved[4] == (128, 64, 32, 16, 8)
    for depth, layers in enumerate(halved):
        tower = create("ncf_mlp", tiny()[0], {"layers": layers}).tower
        assert sum(isinstance(layer, nn.Linear) for layer in tower.layers) == depth


@pytest.mark.parametrize("name", ["ncf_mlp", "neumf"])
@pytest.mark.parametrize("layers", [(), (15, 8)])
def test_an_odd_first_layer_is_refused(name: str, layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=rf"an even number, got \[{', '.join(map(str, layers))}\]"):
        create(name, tiny()[0], {"layers": layers})


@pytest.mark.parametrize("name", NAMES)
def test_a_store_without_roles_is_refused(name: str) -> None:
    fields, batch = tiny()
    with pytest.raises(Unsupported, match=f"model '{name}' needs a user and an item role"):
        create(name, with_fields(fields, users=0))
    with pytest.raises(Unsupported, match="this batch has no `item`"):
        create(name, fields)(dataclasses.replace(batch, item=None))


# ---- What each can do ----


def ranked_first(name: str, options: dict[str, Any]) -> Tensor:
    """The best item that each user of two camps has not had."""
    camps = two_camps()
    model = create(name, camps.fields, options, seed=0)
    fit(model, camps.train, steps=120)
    user, item = (
        grid.flatten() + FIRST_ID for grid in torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    )
    none = torch.zeros(400, 0)
    with torch.no_grad():
        score_UI = model.eval()(Batch(ids=none.long(), dense=none, ragged={}, user=user, item=item)).view(20, 20)
    assert camps.answer_U.tolist() == list(range(20))
    return score_UI.masked_fill(camps.likes_UI, -torch.inf).argmax(1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gmf", {"embedding_dim": 4, "embedding_std": 0.1}),
        ("ncf_mlp", {"layers": (16, 16, 8)}),
        ("neumf", {"embedding_dim": 4, "layers": (16, 16, 8)}),
        ("neumf", {"embedding_dim": 4, "layers": (16, 16, 8), "embedding_update": "sparse"}),
    ],
)
def test_each_finds_the_withheld_item_of_two_camps(name: str, options: dict[str, Any]) -> None:
    assert ranked_first(name, options).tolist() == list(range(20))


def test_without_a_hidden_layer_every_user_gets_the_same_order() -> None:
    """A linear map of both vectors side by side is a sum: MLP-0 is popularity."""
    assert (ranked_first("ncf_mlp", {"layers": (16,)}) == torch.arange(20)).float().mean() < 0.3
    fields, batch = tiny()
    model = make_lopsided(create("ncf_mlp", fields, {"layers": (6,)}))

    def logit(user: int, item: int) -> Tensor:
        return model(dataclasses.replace(batch, user=torch.full((8,), user), item=torch.full((8,), item)))[0]

    torch.testing.assert_close(logit(2, 3) - logit(2, 4), logit(5, 3) - logit(5, 4))


# ---- Pre-training ----


def halves(fields: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
    gmf = make_lopsided(create("gmf", fields, {"embedding_dim": 3}))
    mlp = make_lopsided(create("ncf_mlp", fields, {"layers": (6, 4, 2)}))
    mlp.head.linear.weight.detach().mul_(-3)
    whole = create("neumf", fields, {"embedding_dim": 3, "layers": (6, 4, 2)}).double()
    return gmf, mlp, whole


def test_trap_13_pretraining_copies_both_halves_under_half_of_each_output() -> None:
    fields, batch = tiny()
    gmf, mlp, whole = halves(fields)
    whole.start_from({"gmf": gmf.state_dict(), "mlp": mlp.state_dict()})
    both = torch.cat([gmf.head.linear.weight, mlp.head.linear.weight], dim=1)
    assert torch.equal(whole.head.linear.weight, 0.5 * both)
    assert torch.equal(whole.head.bias, 0.5 * (gmf.head.bias + mlp.head.bias))
    torch.testing.assert_close(whole(batch), (gmf(batch) + mlp(batch)) / 2)
    for table in ("user", "item"):
        assert torch.equal(whole.gmf_embedding.table(table), gmf.embedding.table(table))
        assert torch.equal(whole.mlp_embedding.table(table), mlp.embedding.table(table))
    gmf.embedding.table("user").zero_()
    assert whole.gmf_embedding.table("user").any(), "the weights are copied, not shared"


def test_alpha_weighs_the_halves() -> None:
    """Equation (13): h = [α h_GMF, (1 - α) h_MLP]."""
    fields, batch = tiny()
    gmf, mlp, _ = halves(fields)
    whole = create("neumf", fields, {"embedding_dim": 3, "layers": (6, 4, 2), "alpha": 0.75}).double()
    whole.start_from({"gmf": gmf.state_dict(), "mlp": mlp.state_dict()})
    torch.testing.assert_close(whole(batch), 0.75 * gmf(batch) + 0.25 * mlp(batch))


def test_trap_13_each_half_has_its_own_vectors() -> None:
    model = create("neumf", tiny()[0], {"embedding_dim": 4, "layers": (8, 4)})
    tables = [key for key in model.state_dict() if key.endswith(("user.weight", "item.weight"))]
    assert len(tables) == 4
    assert len({model.state_dict()[key].data_ptr() for key in tables}) == 4


def test_trap_13_a_penalty_on_the_vectors_of_gmf_alone_can_be_escaped() -> None:
    """Vectors shrunk tenfold and an output grown a hundredfold: the same logits, a hundredth of the penalty."""
    fields, batch = tiny()
    model = make_lopsided(create("gmf", fields, {"embedding_dim": 3}))
    before, vectors = model(batch), model.embedding.slices["user"].weight
    penalty = vectors.square().sum().item()
    vectors.detach().mul_(0.1)
    model.head.linear.weight.detach().mul_(100)
    torch.testing.assert_close(model(batch), before)
    assert vectors.square().sum().item() == pytest.approx(0.01 * penalty)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dim": 5, "layers": (6, 4, 2)}, r"'gmf_embedding.user.weight' is \[6, 3\] there and \[6, 5\] here"),
        ({"embedding_dim": 3, "layers": (6, 5, 2)}, r"'tower.layers.0.weight' is \[4, 6\] there and \[5, 6\] here"),
        ({"embedding_dim": 3, "layers": (6, 4)}, r"'head.linear.weight' is \[1, 5\] there and \[1, 7\] here"),
        ({"embedding_dim": 3, "layers": (6, 4, 2, 2)}, "'tower.layers.4.weight' is missing there"),
    ],
)
def test_halves_of_other_widths_are_refused(options: dict[str, Any], message: str) -> None:
    fields, _ = tiny()
    gmf, mlp, _ = halves(fields)
    whole = create("neumf", fields, options)
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        whole.start_from({"gmf": gmf.state_dict(), "mlp": mlp.state_dict()})
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())


def test_only_neumf_is_assembled() -> None:
    assert isinstance(create("neumf", tiny()[0]), Assembled)
    assert not isinstance(create("gmf", tiny()[0]), Assembled)


# ---- Settings ----


@pytest.mark.parametrize("name", ["mf", *NAMES])
def test_roles_are_all_that_they_read(name: str) -> None:
    fields, batch = tiny()
    model = create(name, fields).eval()
    assert roles_only(model)
    bare = Batch(ids=batch.ids[:, :0], dense=batch.dense[:, :0], ragged={}, user=batch.user, item=batch.item)
    score = model if name != "mf" else lambda b: torch.stack(model.vectors(b))
    assert torch.equal(score(bare), score(batch))


@pytest.mark.parametrize(
    "around",
    [
        {"position": {"kind": "pal"}},
        {"position": {"kind": "watch_next"}},
        {"tasks": {"kind": "mmoe"}},
        {"tasks": {"kind": "shared_bottom"}, "position": {"kind": "pal"}},
    ],
)
def test_roles_are_all_that_they_read_inside_a_wrapper(around: dict[str, Any]) -> None:
    fields, batch = tiny(2)
    model = create("ncf_mlp", fields, around).eval()
    assert roles_only(model)
    bare = dataclasses.replace(batch, ids=batch.ids[:, :0], dense=batch.dense[:, :0], ragged={})
    assert torch.equal(model(bare), model(batch))


@pytest.mark.parametrize(
    ("name", "position"), [("gmf", {"kind": "pal", "features": ["hour.bucket"]}), ("lr", {"kind": "pal"})]
)
def test_a_wrapper_reads_what_its_tower_and_its_model_read(name: str, position: dict[str, Any]) -> None:
    assert not roles_only(create(name, tiny()[0], {"position": position}))


@pytest.mark.parametrize("name", ["lr", "deepfm"])
def test_other_models_read_features(name: str) -> None:
    assert not roles_only(create(name, tiny()[0]))


@pytest.mark.parametrize("segment", [None, "user"])
def test_popularity_reads_its_segment_alone(segment: str | None) -> None:
    assert roles_only(create("popularity", tiny()[0], {"segment": segment})) == (segment is None)


@pytest.mark.parametrize("name", ["mf", *NAMES])
def test_what_a_search_varies_are_options(name: str) -> None:
    space = search_space(entry(name).config)
    own = {key for key in space if not key.startswith("train.")}
    assert own <= set(option_names(name))
    assert {key.removeprefix("train.") for key in set(space) - own} <= set(Recipe.__struct_fields__)
    assert own >= {"embedding_std", *({"layers"} if "mlp" in name else {"embedding_dim"})}


@pytest.mark.parametrize("name", NAMES)
def test_the_presets_of_the_paper(name: str) -> None:
    settings = resolve(name, preset="paper")
    assert settings.recipe.negatives == 4
    assert settings.recipe.optimizer == "adam"
    assert 256 - 5 < settings.recipe.batch_size * 5 <= 256
    assert resolve("neumf", preset="pretrained").recipe.optimizer == "sgd"


def test_pretrained_needs_both_runs() -> None:
    assert resolve("neumf", sets=["pretrained.gmf=a", "pretrained.mlp=b"]).options["pretrained"] == {
        "gmf": "a",
        "mlp": "b",
    }
    with pytest.raises(ConfigError, match="missing required field `mlp`"):
        resolve("neumf", sets=["pretrained.gmf=a"])
    with pytest.raises(ConfigError, match="has no option 'pretrained'"):
        resolve("gmf", sets=["pretrained.gmf=a"])
