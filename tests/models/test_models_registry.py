import msgspec
import pytest
import torch
from torch import nn

from weft.batch import Fields
from weft.errors import ConfigError, Unsupported
from weft.layers import Embedding
from weft.models import (
    Fitted,
    Retriever,
    Source,
    config,
    create,
    embeddings,
    entry,
    names,
    parameter_groups,
    register,
    score,
    set_output_bias,
)
from weft.testing import tiny

KINDS = {"ranker", "retriever", "fitted", "source"}
PHASES = {"candidate generation", "ranking", "final ranking"}


def test_the_models_of_the_first_landing_are_there() -> None:
    assert {"popularity", "lr", "fm", "mf", "mlp", "deepfm", "dcn_v2"} <= set(names())
    assert "mf" in names("retriever")
    assert "mf" not in names("ranker")


@pytest.mark.parametrize("name", names())
def test_every_entry_says_what_a_person_needs(name: str) -> None:
    known = entry(name)
    assert known.name == name
    assert known.kinds
    assert set(known.kinds) <= KINDS
    assert known.phases
    assert set(known.phases) <= PHASES
    for text in (known.strengths, known.weaknesses, known.choose):
        assert text.endswith(".")
    assert known.paper
    assert issubclass(known.config, msgspec.Struct)
    assert known.config.__struct_config__.frozen
    assert known.config.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("name", names())
def test_kinds_are_true(name: str) -> None:
    model = create(name, tiny()[0])
    kinds = set(entry(name).kinds)
    assert isinstance(model, Retriever) == ("retriever" in kinds)
    assert isinstance(model, Fitted) == ("fitted" in kinds)
    assert isinstance(model, Source) == ("source" in kinds)


@pytest.mark.parametrize("name", names())
def test_phases_are_true(name: str) -> None:
    """What can search or propose generates candidates and can rank given ones too; the last phase needs features."""
    known = entry(name)
    phases = set(known.phases)
    searches = bool({"retriever", "source"} & set(known.kinds))
    assert ("candidate generation" in phases) == searches
    assert "ranking" in phases or (phases == {"final ranking"} and not searches)
    if "final ranking" in phases:
        assert "ranker" in known.kinds
        assert not getattr(known.model, "roles_only", False)


def test_an_unknown_model_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"no model named 'dcnv2'; did you mean dcn_v2 or dcn\?"):
        create("dcnv2", Fields())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_crosses": 2}, r"model 'dcn_v2' has no option 'num_crosses'; did you mean num_cross\?"),
        ({"num_cross": "2"}, r"options of model 'dcn_v2': Expected `int`, got `str` - at `\$.num_cross`"),
        ({"num_cross": 0}, r">= 1.*num_cross"),
        ({"dropout": 1.0}, r"< 1.0.*dropout"),
        ({"structure": "serial"}, r"Invalid enum value 'serial'.*structure"),
        ({"hidden": [400, 0]}, r">= 1.*hidden\[1\]"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config("dcn_v2", options)


def test_options_come_from_toml_as_they_are() -> None:
    assert config("dcn_v2", {"hidden": [8, 4], "dropout": 0}).hidden == (8, 4)


def test_a_whole_config_is_an_option_too() -> None:
    model = create("dcn_v2", tiny()[0], config("dcn_v2", {"num_cross": 1}))
    assert len(model.cross.layers) == 1


def test_a_width_for_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`widths` names the table 'items'.*did you mean item\?"):
        create("mlp", tiny()[0], {"widths": {"items": 4}})


def test_a_model_without_features_is_refused() -> None:
    with pytest.raises(Unsupported, match="no feature to read"):
        create("lr", Fields())


def test_a_name_is_registered_once() -> None:
    class Other(nn.Module):
        class Config(msgspec.Struct):
            pass

    with pytest.raises(ConfigError, match=r"'lr' is already registered by weft\.models\.lr"):
        register("lr")(Other)


def test_every_parameter_has_one_group() -> None:
    model = create("deepfm", tiny()[0])
    groups = parameter_groups(model)
    grouped = [id(p) for group in groups.values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in groups["wide"]} == {id(p) for p in model.wide.parameters()}
    inputs = model.slots.inputs
    tables = [inputs.numeric.weight, inputs.embedding.slices["user"].weight]
    assert [id(p) for p in groups["embedding"]] == [id(p) for p in tables], "the vectors of numeric columns are a table"
    assert id(model.head.bias) in {id(p) for p in groups["dense"]}


def test_embedding_layers_are_found() -> None:
    found = embeddings(create("deepfm", tiny()[0]))
    assert len(found) == 2
    assert all(isinstance(layer, Embedding) for layer in found)


@pytest.mark.parametrize("name", ["lr", "fm", "mf", "mlp", "deepfm", "dcn_v2"])
@pytest.mark.parametrize(("task", "mean", "start"), [("binary", 0.2, -1.386294), ("regression", 3.5, 3.5)])
def test_a_model_can_start_at_the_mean(name: str, task: str, mean: float, start: float) -> None:
    fields, batch = tiny()
    model = create(name, fields, {"embedding_std": 0.0}).eval()
    before = score(model, batch)
    set_output_bias(model, [task], [mean])
    torch.testing.assert_close(score(model, batch) - before, torch.full((8,), start))


def test_starting_at_the_mean_leaves_other_models_alone() -> None:
    fields, batch = tiny()
    model = create("mf", fields, {"biases": False})
    before = score(model, batch)
    set_output_bias(model, ["regression"], [3.5])
    assert torch.equal(score(model, batch), before)
