"""Position towers around any ranker: PAL's product, Watch Next's sum, what they refuse and how they serve."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from weft.batch import Batch
from weft.errors import ConfigError, Unsupported
from weft.losses import for_task
from weft.models import Retriever, create, names, parameter_groups, score, served, set_output_bias, unwrapped
from weft.models._predict import predict
from weft.testing import check_ranker, fit, make_lopsided, position_bias, tiny

PAL: dict[str, Any] = {"kind": "pal"}
WATCH_NEXT: dict[str, Any] = {"kind": "watch_next", "dropout": 0.0}
SMALL = {name: {"hidden": [16], "dropout": 0.0} for name in ("mlp", "deepfm", "dcn_v2")}


def double(model: str, position: dict[str, Any], labels: int = 1) -> tuple[Any, Batch]:
    """A lopsided wrapped model in double precision, in training mode, and rows for it."""
    fields, batch = tiny(labels)
    options = {**SMALL.get(model, {}), "batch_norm": False} if model in SMALL else {}
    wrapped = create(model, fields, {**options, "position": position}, seed=1)
    return make_lopsided(wrapped).train(), replace(batch, dense=batch.dense.double())


def without_position(batch: Batch) -> Batch:
    return replace(batch, position=None)


def tower_by_hand(model: Any, position: int, *features: int) -> Tensor:
    """w · relu(E_1[position] + E_2[feature] + ...) + b."""
    tables = [model.tower.get_parameter(f"tables.{i}.weight") for i in range(1 + len(features))]
    sum_H = sum(table[i] for table, i in zip(tables, (position, *features), strict=True))
    head: Tensor = model.tower.head.linear.weight @ sum_H.relu() + model.tower.head.bias
    return head


# ---- formulas ----


@pytest.mark.parametrize("name", ["lr", "dcn_v2", "mf"])
@pytest.mark.parametrize("rows", [1, 8])
def test_trap_12_pal_is_the_product_of_two_probabilities_in_loss_and_gradient(name: str, rows: int) -> None:
    model, batch = double(name, PAL)
    main = score(unwrapped(model), batch)
    shown = torch.cat([tower_by_hand(model, int(p)) for p in batch.position])
    assert batch.label is not None
    y = batch.label[:rows, 0].double()
    product = (main.sigmoid() * shown.sigmoid())[:rows]
    slow = -(y * product.log() + (1 - y) * (-product).log1p()).mean()
    fast = for_task("binary")(model(batch)[:rows], y, None)
    torch.testing.assert_close(fast, slow)
    weights = [p for p in model.parameters() if p.requires_grad]
    for got, want in zip(torch.autograd.grad(fast, weights), torch.autograd.grad(slow, weights), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["lr", "deepfm", "mf"])
def test_trap_12_watch_next_is_the_sum_of_two_logits(name: str) -> None:
    model, batch = double(name, {**WATCH_NEXT, "features": ["hour.bucket"]})
    column = 2
    shown = [tower_by_hand(model, int(p), int(i)) for p, i in zip(batch.position, batch.ids[:, column], strict=True)]
    torch.testing.assert_close(model(batch), score(unwrapped(model), batch) + torch.cat(shown))


def test_pal_may_read_bias_features_too() -> None:
    model, batch = double("lr", {**PAL, "features": ["hour.bucket"]})
    shown = [tower_by_hand(model, int(p), int(i)) for p, i in zip(batch.position, batch.ids[:, 2], strict=True)]
    want = score(unwrapped(model), batch).sigmoid() * torch.cat(shown).sigmoid()
    torch.testing.assert_close(model(batch).sigmoid(), want)


def test_a_known_curve_multiplies_and_is_not_learned() -> None:
    model, batch = double("lr", {**PAL, "curve": [1.0, 0.5, 0.25]})
    seen = torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=torch.float64)[batch.position - 1]
    torch.testing.assert_close(model(batch).sigmoid(), score(unwrapped(model), batch).sigmoid() * seen)
    assert not [name for name, _ in model.named_parameters() if name.startswith("tower")]
    torch.testing.assert_close(model.position_curve(4), torch.tensor([1.0, 0.5, 0.25, 0.25]))


@pytest.mark.parametrize(("kind", "outputs"), [("pal", 1), ("watch_next", 3)])
def test_several_labels_share_what_was_seen_and_have_a_sum_each(kind: str, outputs: int) -> None:
    fields, batch = tiny(3)
    model = create("mlp", fields, {"hidden": [8], "position": {"kind": kind}, "tasks": {"kind": "shared_bottom"}})
    model = model.eval()
    shown = model.tower(batch.position[:, None])
    assert shown.shape == (8, outputs)
    inside = score(model.inner(), batch)
    want = (inside.sigmoid() * shown.sigmoid()).logit() if kind == "pal" else inside + shown
    torch.testing.assert_close(model(batch), want)
    assert model(without_position(batch)).shape == (8, 3)


def test_long_positions_are_clipped() -> None:
    model, batch = double("lr", {**PAL, "max_position": 2})
    long = replace(batch, position=torch.full((8,), 1_000))
    torch.testing.assert_close(model(long), model(replace(batch, position=torch.full((8,), 2))))
    assert len(model.tower.tables[0].weight) == 3


# ---- serving ----


def test_pal_serves_the_probability_given_that_it_is_seen() -> None:
    model, batch = double("dcn_v2", PAL)
    model.eval()
    assert torch.equal(model(without_position(batch)), unwrapped(model)(batch))
    assert served(model) is unwrapped(model)
    first = model(replace(batch, position=torch.ones(8, dtype=torch.int64)))
    assert not torch.allclose(first, model(without_position(batch))), "not the probability of a click at position 1"


def test_watch_next_serves_with_everything_missing() -> None:
    model, batch = double("dcn_v2", {**WATCH_NEXT, "features": ["hour.bucket"]})
    model.eval()
    want = unwrapped(model)(batch) + tower_by_hand(model, 0, 0)
    torch.testing.assert_close(model(without_position(batch)), want)
    assert served(model) is model


def test_predicting_drops_the_position() -> None:
    fields, batch = tiny()
    for position in (PAL, WATCH_NEXT):
        model = create("mlp", fields, {"position": position}, seed=2)
        fit(model, batch, steps=20)
        moved = replace(batch, position=batch.position.flip(0))
        assert (predict(model, [batch]) == predict(model, [moved])).all()
        assert (predict(model, [batch], keep_position=True) != predict(model, [moved], keep_position=True)).any()


def test_a_wrapped_retriever_is_no_retriever_in_training_and_one_in_pals_serving() -> None:
    model = create("mf", tiny()[0], {"position": PAL})
    assert not isinstance(model, Retriever), "its dot product is not what is trained"
    assert isinstance(served(model), Retriever)
    assert not isinstance(served(create("mf", tiny()[0], {"position": WATCH_NEXT})), Retriever)


# ---- dropout ----


def dropped(model: Any, batch: Batch, draws: int = 400) -> Tensor:
    """How often each row was told nothing [B]."""
    missing = score(unwrapped(model), batch) + tower_by_hand(model, 0, 0)
    return torch.stack([torch.isclose(model(batch), missing) for _ in range(draws)]).float().mean(0)


@pytest.mark.parametrize(("given", "share"), [({}, 0.1), ({"dropout": 0.4}, 0.4), ({"dropout": 0.0}, 0.0)])
def test_watch_next_drops_all_bias_features_of_a_share_of_the_train_rows(given: dict[str, float], share: float) -> None:
    torch.manual_seed(0)
    model, batch = double("lr", {"kind": "watch_next", "features": ["hour.bucket"], **given})
    found = dropped(model, batch)
    assert found.mean().item() == pytest.approx(share, abs=0.02)
    assert ((found - share).abs() < 0.1).all()
    assert not dropped(model.eval(), batch, draws=3).any(), "only in training"


# ---- refusals ----


@pytest.mark.parametrize("name", names("fitted"))
@pytest.mark.parametrize("position", [PAL, WATCH_NEXT])
def test_models_without_gradients_are_refused(name: str, position: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=f"models that learn by gradients, and '{name}' does not; leave out"):
        create(name, tiny()[0], {"position": position})


@pytest.mark.parametrize(
    ("position", "task", "message"),
    [
        (PAL, "multiclass", "which class a place on the page favours; leave out"),
        (WATCH_NEXT, "multiclass", "which class a place on the page favours; leave out"),
        (PAL, "regression", "the label's task is regression; set position.kind=watch_next"),
    ],
)
def test_labels_that_do_not_fit_are_refused(position: dict[str, Any], task: str, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        create("mlp", msgspec.structs.replace(tiny()[0], task=task), {"position": position})


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({}, "options of `position`: .*required field `kind`"),
        ({"kind": "pall"}, "Invalid enum value 'pall'"),
        ({"kind": "pal", "drop": 0.1}, r"there is no 'drop'; did you mean dropout\?"),
        ({"kind": "pal", "dropout": 0.1}, "`dropout` is of watch_next: pal serves without its tower; leave it out"),
        ({"kind": "watch_next", "curve": [1.0]}, "`curve` is the whole tower of pal"),
        ({"kind": "pal", "curve": [1.0], "features": ["user"]}, "leave out `features`"),
        ({"kind": "pal", "curve": [0.0]}, "> 0.0"),
        ({"kind": "pal", "features": ["users"]}, r"names no column of single ids: 'users'; did you mean user\?"),
        ({"kind": "pal", "max_position": 0}, ">= 1.*max_position"),
    ],
)
def test_options_are_checked(position: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("mlp", tiny()[0], {"position": position})


def test_training_rows_must_tell_their_position() -> None:
    fields, batch = tiny()
    for position in (PAL, WATCH_NEXT):
        with pytest.raises(Unsupported, match="this batch does not tell; set `position` in \\[roles\\]"):
            fit(create("lr", fields, {"position": position}), without_position(batch), steps=1)


# ---- the contract ----


@pytest.mark.parametrize("name", ["lr", "mf", "deepfm", "dcn_v2"])
@pytest.mark.parametrize(
    "position",
    [
        PAL,
        {**PAL, "features": ["hour.bucket"], "hidden": [8, 4]},
        WATCH_NEXT,
        {**WATCH_NEXT, "features": ["hour.bucket", "user"], "hidden": []},
    ],
)
def test_wrapped_models_keep_the_contract(name: str, position: dict[str, Any]) -> None:
    check_ranker(name, {**SMALL.get(name, {}), "position": position})


def test_a_tower_that_is_dropped_at_times_memorises_all_the_same() -> None:
    torch.manual_seed(0)
    fields, batch = tiny()
    losses = fit(create("mlp", fields, {"dropout": 0.0, "position": {"kind": "watch_next"}}, seed=1), batch)
    assert losses[-1] < 0.02


@pytest.mark.parametrize("position", [{**PAL, "hidden": [16, 8]}, WATCH_NEXT])
def test_bf16_changes_little_and_logits_are_single_precision(position: dict[str, Any]) -> None:
    fields, batch = tiny()
    model = create("dcn_v2", fields, {**SMALL["dcn_v2"], "position": position}, seed=3)
    fit(model, batch, steps=20, rate=0.01)
    model.eval()
    with torch.no_grad():
        full = score(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = score(model, batch)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)


def test_groups_of_parameters_are_those_of_the_model_and_the_tower_is_dense() -> None:
    fields = tiny()[0]
    plain = {k: len(v) for k, v in parameter_groups(create("deepfm", fields)).items()}
    model = create("deepfm", fields, {"position": {**PAL, "features": ["user"]}})
    groups = parameter_groups(model)
    tower = list(model.tower.parameters())
    assert {k: len(v) for k, v in groups.items()} == {**plain, "dense": plain["dense"] + len(tower)}
    assert {id(p) for p in tower} <= {id(p) for p in groups["dense"]}


@pytest.mark.parametrize("name", ["lr", "mf", "mlp"])
def test_the_output_bias_is_that_of_the_model_inside(name: str) -> None:
    model = create(name, tiny()[0], {"position": PAL})
    set_output_bias(model, ["binary"], [0.2])
    assert unwrapped(model).bias is model.bias if name != "mlp" else model.inner().head.bias is model.bias
    assert model.bias.item() == pytest.approx(-1.386294)
    assert create("mf", tiny()[0], {"biases": False, "position": PAL}).bias is None


def test_the_architecture_inside_is_reachable_through_both_wrappers() -> None:
    model = create("mlp", tiny(3)[0], {"position": PAL, "tasks": {"kind": "shared_bottom"}})
    assert type(model).__name__ == "Position"
    assert type(model.inner()).__name__ == "Tasks"
    plain = create("mlp", tiny()[0], {"position": PAL})
    assert type(unwrapped(plain)).__name__ == "DeepRanker"
    assert unwrapped(unwrapped(plain)) is unwrapped(plain)


# ---- a world whose answer is known ----


def order_of_items(model: Any, world: Any) -> list[int]:
    with torch.no_grad():
        return score(model.eval(), world.items).argsort(descending=True).tolist()


@pytest.mark.parametrize("position", [PAL, {"kind": "watch_next"}])
def test_position_towers_recover_relevance_where_a_plain_ranker_learns_the_page(position: dict[str, Any]) -> None:
    """A page that puts good items low: clicks alone order them the wrong way round."""
    torch.manual_seed(0)
    world = position_bias()
    truth = world.relevance.argsort(descending=True).tolist()
    plain, wrapped = (create("lr", world.fields, options, seed=0) for options in ({}, {"position": position}))
    fit(plain, world.train, steps=120)
    fit(wrapped, world.train, steps=120)
    assert order_of_items(wrapped, world) == truth
    assert order_of_items(plain, world) != truth
    curve = wrapped.position_curve(len(world.seen))
    if position is PAL:
        torch.testing.assert_close(curve, world.seen / world.seen[0], atol=0.05, rtol=0)
        relevance = served(wrapped)(world.items).sigmoid()
        torch.testing.assert_close(relevance, world.relevance, atol=0.08, rtol=0)
    else:
        assert (curve.diff() < 0).all()


def test_where_the_page_is_a_function_of_the_item_only_a_known_curve_tells_them_apart() -> None:
    """Each item always stands at one place: clicks say nothing of what is place and what is item."""
    world = position_bias(shuffled=0.0)
    learned = create("lr", world.fields, {"position": PAL}, seed=0)
    known = create("lr", world.fields, {"position": {**PAL, "curve": world.seen.tolist()}}, seed=0)
    for model in (learned, known):
        fit(model, world.train, steps=120)
    truth = world.relevance.argsort(descending=True).tolist()
    assert order_of_items(learned, world) != truth
    assert order_of_items(known, world) == truth


def test_the_curve_of_a_tower_with_features_is_an_average_over_rows() -> None:
    model, batch = double("lr", {**PAL, "features": ["hour.bucket"]})
    with pytest.raises(ConfigError, match="depends on the bias features; give `batch`"):
        model.position_curve(3)
    seen = torch.stack(
        [torch.cat([tower_by_hand(model, p, int(i)) for i in batch.ids[:, 2]]).sigmoid().mean() for p in (1, 2, 3)]
    )
    torch.testing.assert_close(model.position_curve(3, batch), (seen / seen[0]).float())
