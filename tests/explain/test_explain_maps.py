"""Pictures over rows: means and deviations by hand, pairs in order, and the planted pair first."""

import pytest
import torch
from torch import Tensor, nn

from weft.batch import Batch
from weft.explain.maps import maps_of_row, maps_over, pairs
from weft.models import FieldMap, create, entry, names
from weft.models._contract import unwrapped
from weft.testing import cross_only, fit, tiny

AB = ("a", "b")


class Draws(nn.Module):
    """Draws what it is told to, a part of the rows at a time."""

    def __init__(self, *values_BRC: Tensor, signed: bool, rows: tuple[str, ...] = AB) -> None:
        super().__init__()
        self.values, self.signed, self.names = list(values_BRC), signed, rows

    def field_maps(self, batch: Batch) -> list[FieldMap]:
        return [FieldMap("drawn", self.names, AB, self.values.pop(0), signed=self.signed)]


class Around(nn.Module):
    """A network around another."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def inner(self) -> nn.Module:
        return self.model

    def served(self) -> nn.Module:
        return self.model


def batches(count: int) -> list[Batch]:
    return [tiny()[1]] * count


def test_a_strength_is_the_mean_over_all_rows() -> None:
    value_BRC = torch.arange(24.0).view(6, 2, 2).sin()
    (found,) = maps_over(Draws(value_BRC[:5], value_BRC[5:], signed=False), batches(2))
    torch.testing.assert_close(torch.tensor(found.values), value_BRC.mean(0))
    assert (found.title, found.rows, found.columns, found.diverging) == ("drawn", AB, AB, False)


def test_a_strength_of_what_goes_both_ways_is_the_deviation() -> None:
    value_BRC = torch.arange(24.0).view(6, 2, 2).sin()
    (found,) = maps_over(Draws(value_BRC[:5], value_BRC[5:], signed=True), batches(2))
    torch.testing.assert_close(torch.tensor(found.values), value_BRC.std(0, correction=0))
    assert found.title == "drawn, deviation over rows"


def test_a_picture_of_the_weights_is_shown_as_it_is() -> None:
    value_1RC = torch.tensor([[[1.0, -2.0], [3.0, 0.5]]])
    (found,) = maps_over(Draws(value_1RC, value_1RC, signed=True), batches(2))
    assert found.values == value_1RC[0].tolist()
    assert found.diverging


def test_a_row_is_shown_with_its_signs() -> None:
    value_BRC = torch.tensor([[[1.0, -2.0], [3.0, 0.5]]])
    (found,) = maps_of_row(Draws(value_BRC, signed=True), tiny()[1])
    assert found.values == value_BRC[0].tolist()
    assert found.diverging


def test_pairs_are_of_different_fields_both_directions_together() -> None:
    value = torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, -4.0], [0.0, -2.0, 9.0]]).double().numpy()
    found = pairs(("a", "b", "c"), ("a", "b", "c"), value)
    assert [(pair.fields, pair.strength) for pair in found] == [
        (("b", "c"), -3.0),
        (("a", "b"), 0.5),
        (("a", "c"), 0.0),
    ]


def test_layers_by_fields_have_no_pairs() -> None:
    (found,) = maps_over(Draws(torch.ones(3, 1, 2), signed=False, rows=("layer 1",)), batches(1))
    assert found.pairs == ()


def test_several_pictures_of_the_same_pairs_are_averaged_last() -> None:
    class Two(Draws):
        def field_maps(self, batch: Batch) -> list[FieldMap]:
            return [FieldMap(title, AB, AB, value) for title, value in zip("xy", self.values, strict=True)]

    x, y = torch.arange(8.0).view(2, 2, 2), torch.ones(2, 2, 2)
    *_, mean = maps_over(Two(x, y, signed=False), batches(1))
    assert mean.title == "mean of these 2"
    torch.testing.assert_close(torch.tensor(mean.values), (x.mean(0) + y.mean(0)) / 2)


def test_what_stands_around_a_model_is_looked_through() -> None:
    value_BRC = torch.ones(1, 2, 2)
    (found,) = maps_over(Around(Around(Draws(value_BRC, signed=False))), batches(1))
    assert found.values == value_BRC[0].tolist()


@pytest.mark.parametrize("kind", ["pal", "watch_next"])
def test_a_model_with_a_position_draws_as_without(kind: str) -> None:
    fields, batch = tiny()
    options = {"embedding_dim": 4, "hidden": [4]}
    plain = create("dcn_v2", fields, options, seed=0).eval()
    around = create("dcn_v2", fields, {**options, "position": {"kind": kind}}, seed=0).eval()
    unwrapped(around).load_state_dict(plain.state_dict())
    assert maps_over(around, [batch]) == maps_over(plain, [batch])


def test_a_model_that_draws_nothing_has_no_maps() -> None:
    fields, batch = tiny()
    assert maps_over(create("lr", fields), [batch]) == ()
    assert maps_of_row(create("lr", fields), batch) == ()


def drawing() -> list[str]:
    return [name for name in names("ranker") if hasattr(entry(name).model, "field_maps")]


@pytest.mark.parametrize("name", drawing())
def test_every_drawing_model_puts_the_planted_pair_first(name: str) -> None:
    """Where it draws pairs; where it draws layers by fields, noise is not first."""
    world = cross_only()
    wanted = {"embedding_dim": 8, "embedding_std": 0.1, "hidden": [16], "batch_norm": False}
    options = {key: value for key, value in wanted.items() if key in entry(name).config.__struct_fields__}
    model = create(name, world.fields, options, seed=0)
    fit(model, world.train, steps=150, rate=0.02)
    model.eval()
    found = maps_over(model, [world.test])
    assert found
    for one in found[-1:]:
        if one.pairs:
            assert set(one.pairs[0].fields) == {"a", "b"}, [(pair.fields, pair.strength) for pair in one.pairs]
        else:
            strength = torch.tensor(one.values).mean(0)
            assert one.columns[int(strength.argmax())] in ("a", "b")
