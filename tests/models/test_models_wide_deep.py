"""Wide & Deep: what each part reads, that the logits are added, and what it says without crosses."""

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import polars as pl
import pytest
import torch
from flat_for_tests import assert_model_is, deep_of, double_tiny, head_of, x0_of
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from weft.batch import FIRST_ID, UNKNOWN, Batch, Field, Fields, Ragged
from weft.data.store import prepare
from weft.errors import Unsupported
from weft.models import create, parameter_groups, score
from weft.models._contract import advice
from weft.schema import Categorical, Cross, Label, Roles, Schema
from weft.testing import World, cross_only, fit, make_lopsided, tiny
from weft.train.recipe import resolve
from weft.train.run import train

SMALL = {"embedding_dim": 3, "hidden": (4, 2), "batch_norm": False}


def crossed() -> tuple[Fields, Batch]:
    """The tiny world with an id cross in front of other columns, and a crossed set."""
    fields, batch = double_tiny()
    cross = Field(name="user_x_hour", side="pair", rows=9, cross=True)
    both = Field(name="genres_x_hour", side="pair", rows=8, kind="set", cross=True)
    pairs = Ragged(torch.tensor([2, 3, 4, 5, 6, 7, 1, 2]), torch.arange(9), None)
    fields = msgspec.structs.replace(fields, ids=(fields.ids[0], cross, *fields.ids[1:]), ragged=(*fields.ragged, both))
    column_B = 2 + torch.arange(8) % 7
    ids = torch.cat([batch.ids[:, :1], column_B[:, None].int(), batch.ids[:, 1:]], dim=1)
    return fields, replace(batch, ids=ids, ragged=batch.ragged | {"genres_x_hour": pairs})


def slow(model: nn.Module, fields: Fields, batch: Batch, b: int) -> Tensor:
    wide = sum(x0_of(model.wide.inputs, fields, batch, b).values())
    deep = deep_of(model, torch.cat([*x0_of(model.inputs, *without_crosses(fields, batch), b).values()]))
    return wide + head_of(model, deep)


def without_crosses(fields: Fields, batch: Batch) -> tuple[Fields, Batch]:
    plain = [i for i, f in enumerate(fields.ids) if not f.cross]
    ids = tuple(fields.ids[i] for i in plain)
    ragged = tuple(f for f in fields.ragged if not f.cross)
    return msgspec.structs.replace(fields, ids=ids, ragged=ragged), replace(batch, ids=batch.ids[:, plain])


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_logit_is_wide_plus_deep_with_one_bias(outputs: int) -> None:
    fields, batch = crossed()
    fields = msgspec.structs.replace(fields, outputs=outputs)
    options = {**SMALL, "widths": {"item": 2}}
    model = make_lopsided(create("wide_deep", fields, {**options, "embedding_update": "dense"}))
    assert_model_is(slow, model, fields, batch)
    by_rows = make_lopsided(create("wide_deep", fields, {**options, "embedding_update": "sparse"}))
    assert_model_is(slow, by_rows, fields, batch)


def test_the_deep_part_has_no_cross_and_the_wide_part_has_all() -> None:
    fields, _ = crossed()
    model = create("wide_deep", fields)
    deep, wide = ({slot.name for slot in inputs.slots} for inputs in (model.inputs, model.wide.inputs))
    assert wide - deep == {"user_x_hour", "genres_x_hour"}
    assert deep < wide
    assert model.wide.inputs.width == len(fields.ids) + len(fields.ragged) + len(fields.dense)


def test_the_wide_weights_are_a_group_and_the_bias_is_the_only_one_beside_the_deep_layers() -> None:
    model = create("wide_deep", crossed()[0], {**SMALL})
    groups = parameter_groups(model)
    assert {id(p) for p in groups["wide"]} == {id(p) for p in model.wide.parameters()}
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert biases == ["deep.layers.0.bias", "deep.layers.2.bias", "head.linear.bias"]


def test_a_cross_that_training_never_met_adds_nothing() -> None:
    fields, batch = crossed()
    model = create("wide_deep", fields, SMALL, seed=0)
    single = replace(batch, dense=batch.dense.float())
    before = score(model.eval(), single)
    assert not model.wide.inputs.embedding.table("user_x_hour").any(), "wide weights start from zero"
    fit(model, single, steps=20)
    unseen = single.ids.clone()
    unseen[:, 1] = UNKNOWN
    without = unseen.clone()
    without[:, 1] = 0
    after = score(model.eval(), replace(single, ids=unseen))
    assert not torch.equal(after, before)
    assert torch.equal(after, score(model, replace(single, ids=without)))


def test_a_store_of_crosses_only_is_refused() -> None:
    fields, _ = crossed()
    only = Fields(ids=(fields.ids[1],), ragged=(fields.ragged[-1],))
    with pytest.raises(Unsupported, match=r"deep part of model 'wide_deep'.*there are only crosses; add the features"):
        create("wide_deep", only)
    with pytest.raises(Unsupported, match="no feature to read"):
        create("wide_deep", Fields())


def with_cross(world: World) -> World:
    """The fields `a` and `b` of a planted world as a cross that somebody wrote."""
    cross = Field(name="a_x_b", side="context", rows=64 + FIRST_ID, cross=True)

    def crossed_rows(batch: Batch) -> Batch:
        a_B, b_B = (batch.ids - FIRST_ID)[:, :2].unbind(1)
        return replace(batch, ids=torch.cat([batch.ids, (8 * a_B + b_B + FIRST_ID)[:, None]], dim=1))

    fields = msgspec.structs.replace(world.fields, ids=(*world.fields.ids, cross))
    return World(fields, crossed_rows(world.train), crossed_rows(world.test))


def auc(world: World, name: str, options: dict[str, object]) -> float:
    model = create(name, world.fields, options, seed=0)
    fit(model, world.train, steps=100, rate=0.02)
    with torch.no_grad():
        return float(roc_auc_score(world.test.label[:, 0], score(model.eval(), world.test)))


def test_the_wide_part_finds_the_planted_cross_that_somebody_wrote() -> None:
    linear = {"embedding_dim": 8, "hidden": ()}
    assert auc(with_cross(cross_only()), "wide_deep", linear) > 0.99
    assert auc(cross_only(), "wide_deep", linear) < 0.55, "without the cross both parts are linear"
    assert auc(cross_only(), "lr", {}) < 0.55


def test_the_deep_part_finds_the_planted_cross_that_nobody_wrote() -> None:
    assert auc(cross_only(), "wide_deep", {"embedding_dim": 8, "hidden": (32,)}) > 0.99


def test_without_a_cross_it_says_in_one_line_what_the_wide_part_is() -> None:
    (text,) = advice(create("wide_deep", tiny()[0]))
    assert "the wide part is only logistic regression" in text
    assert 'kind = "cross"' in text
    assert advice(create("wide_deep", crossed()[0])) == []
    assert advice(nn.Sequential(create("wide_deep", tiny()[0]))) == [text], "inside another model too"
    assert advice(create("lr", tiny()[0])) == []


@pytest.mark.parametrize("cross", [False, True])
def test_whoever_trains_it_without_a_cross_reads_so(tmp_path: Path, cross: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randint(4, (200,), generator=draw).tolist() for _ in range(2))
    frame = pl.DataFrame({"a": a, "b": b, "y": [(x + z) % 2 for x, z in zip(a, b, strict=True)]})
    features = (Categorical(name="a", side="user"), Categorical(name="b", side="item"))
    schema = Schema(
        features=(*features, Cross(name="a_b", of=("a", "b"))) if cross else features,
        roles=Roles(label=(Label(name="y"),)),
    )
    store = prepare(schema, tmp_path / "store", interactions=frame)
    console = Console(file=io.StringIO(), width=400)
    sets = ["hidden=[4]", "train.epochs=1"]
    train(store, "wide_deep", out=tmp_path / "run", preset="paper", sets=sets, console=console)
    told = console.file.getvalue().count("the wide part is only logistic regression")  # type: ignore[attr-defined]
    assert told == (not cross)


def test_the_preset_paper_is_the_paper() -> None:
    options, recipe = resolve("wide_deep", preset="paper")
    assert options["embedding_dim"] == 32
    assert options["hidden"] == (1024, 512, 256)
    assert options["activation"] == "relu"
    assert not options["batch_norm"]
    assert recipe.wide_optimizer == "ftrl"
    assert recipe.ftrl_l1 > 0
    assert (recipe.optimizer, recipe.embedding_optimizer) == ("adagrad", None)
