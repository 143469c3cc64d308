import pytest
import torch
from sklearn.metrics import roc_auc_score

from weft.batch import FIRST_ID, Batch
from weft.models import create, score
from weft.testing import World, cross_only, fit, third_order, two_camps

SMALL = {"embedding_dim": 8, "embedding_std": 0.1}
CROSSES_ONLY = {"embedding_dim": 8, "embedding_std": 0.3, "hidden": ()}
DEEP = {"embedding_dim": 8, "hidden": (32,)}


def auc(world: World, name: str, options: dict[str, object]) -> float:
    model = create(name, world.fields, options, seed=0)
    fit(model, world.train, steps=100, rate=0.02)
    with torch.no_grad():
        return float(roc_auc_score(world.test.label[:, 0], score(model.eval(), world.test)))


@pytest.mark.parametrize(
    ("name", "options", "finds"),
    [
        ("lr", {}, False),
        ("fm", SMALL, True),
        ("deepfm", DEEP, True),
        ("mlp", DEEP, True),
        ("dcn_v2", {**CROSSES_ONLY, "num_cross": 1}, True),
    ],
)
def test_cross_only_world(name: str, options: dict[str, object], finds: bool) -> None:
    reached = auc(cross_only(), name, options)
    assert reached > 0.99 if finds else reached < 0.55


@pytest.mark.parametrize(
    ("name", "options", "finds"),
    [
        ("lr", {}, False),
        ("fm", SMALL, False),
        ("dcn_v2", {**CROSSES_ONLY, "num_cross": 1}, False),
        ("dcn_v2", {**CROSSES_ONLY, "num_cross": 2}, True),
        ("dcn_v2", {**CROSSES_ONLY, "num_cross": 2, "embedding_update": "sparse"}, True),
    ],
)
def test_third_order_world(name: str, options: dict[str, object], finds: bool) -> None:
    reached = auc(third_order(), name, options)
    assert reached > 0.99 if finds else reached < 0.56


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_mf_finds_the_withheld_item_of_two_camps(update: str) -> None:
    camps = two_camps()
    model = create("mf", camps.fields, {**SMALL, "embedding_update": update}, seed=0)
    fit(model, camps.train, steps=100)
    everyone = torch.arange(20) + FIRST_ID
    none = torch.zeros(20, 0)
    batch = Batch(ids=none.long(), dense=none, ragged={}, user=everyone, item=everyone)
    with torch.no_grad():
        score_UI = model.eval().user_vectors(batch) @ model.item_vectors(batch).T
    assert torch.equal(score_UI.masked_fill(camps.likes_UI, -torch.inf).argmax(1), camps.answer_U)
