import dataclasses
import math

import pytest
import torch
from msgspec.structs import replace

from weft.batch import Fields
from weft.errors import Unsupported
from weft.models import create, entry, names, score
from weft.testing import check, fit, tiny

RANKERS = [n for n in names("ranker") if "fitted" not in entry(n).kinds]


@pytest.mark.parametrize("name", names())
def test_every_model_keeps_the_contract(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", [n for n in names() if "embedding_update" in entry(n).config.__struct_fields__])
def test_every_model_keeps_the_contract_with_touched_rows(name: str) -> None:
    check(name, {"embedding_update": "sparse"})


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_dcn_v2_keeps_the_contract_in_every_structure(structure: str, hidden: tuple[int, ...]) -> None:
    options = {"structure": structure, "hidden": hidden, "batch_norm": False, "widths": {"item": 5, "genres": 2}}
    check("dcn_v2", options)


@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_fm_keeps_the_contract_with_fields_of_their_own_width(pooling: str) -> None:
    check("fm", {"pooling": pooling, "widths": {"item": 3, "hour.bucket": 2}, "embedding_dim": 4})


@pytest.mark.parametrize("name", [n for n in names() if "embedding_dim" in entry(n).config.__struct_fields__])
def test_two_models_of_one_store_are_strangers(name: str) -> None:
    fields, _ = tiny()
    first, second = create(name, fields), create(name, fields)
    mine = {p.data_ptr() for p in first.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in second.parameters())


@pytest.mark.parametrize("name", names())
def test_several_outputs_are_given_or_refused(name: str) -> None:
    fields, batch = tiny()
    wanted = {"[8, 3]", f"model '{name}' gives one number a row and the labels need 3"}
    try:
        found = str(list(score(create(name, replace(fields, outputs=3)), batch).shape))
    except Unsupported as error:
        found = str(error).partition(";")[0]
    assert found in wanted


def test_the_models_named_for_several_outputs_give_them() -> None:
    fields, batch = tiny()
    for name in ("lr", "mlp", "dcn_v2"):
        assert score(create(name, replace(fields, outputs=3)), batch).shape == (8, 3)


@pytest.mark.parametrize("name", RANKERS)
def test_bf16_changes_little_and_logits_are_single_precision(name: str) -> None:
    fields, batch = tiny()
    model = create(name, fields, seed=3).eval()
    with torch.no_grad():
        full = score(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = score(model, batch)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)


def test_a_seed_draws_the_weights_and_leaves_the_generator_alone() -> None:
    fields, batch = tiny()
    torch.manual_seed(5)
    want = torch.rand(1)
    torch.manual_seed(5)
    first, second = (create("fm", fields, seed=1).eval() for _ in range(2))
    assert torch.equal(torch.rand(1), want)
    assert torch.equal(score(first, batch), score(second, batch))


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("kind", ["ids", "dense", "ragged"])
def test_a_store_may_have_columns_of_one_kind_only(name: str, kind: str) -> None:
    fields, batch = tiny()
    kept = Fields(users=fields.users, items=fields.items, **{kind: getattr(fields, kind)})
    batch = dataclasses.replace(
        batch,
        ids=batch.ids if kind == "ids" else batch.ids[:, :0],
        dense=batch.dense if kind == "dense" else batch.dense[:, :0],
        ragged=batch.ragged if kind == "ragged" else {},
    )
    if (name, kind) == ("dhen", "dense"):
        with pytest.raises(Unsupported, match="multiplies pairs of slots and gets one slot"):
            create(name, kept)
        return
    model = create(name, kept, {"embedding_update": "sparse"})
    losses = fit(model, batch, steps=5, rate=0.01)
    assert all(math.isfinite(loss) for loss in losses)
    assert score(model.eval(), batch).shape == (8,)


def test_one_side_of_a_store_is_a_store() -> None:
    fields, batch = tiny()
    model = create("dcn_v2", fields.of("item")).eval()
    assert score(model, batch.of(fields, "item")).shape == (8,)
