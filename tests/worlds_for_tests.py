"""What tests of models on the planted worlds share."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from weft import testing
from weft.models import create, score
from weft.testing import World, fit


def trained_on(world: World, name: str, options: Mapping[str, Any], *, seed: int = 0, steps: int = 100) -> nn.Module:
    """A model after a short training on a world's train rows."""
    model = create(name, world.fields, options, seed=seed)
    fit(model, world.train, steps=steps, rate=0.02)
    return model.eval()


def auc_on(world: str, name: str, options: Mapping[str, Any], *, seed: int = 0, steps: int = 100) -> float:
    """AUC on the test rows of a world after a short training."""
    made: World = getattr(testing, world)()
    model = trained_on(made, name, options, seed=seed, steps=steps)
    with torch.no_grad():
        return float(roc_auc_score(made.test.label[:, 0], score(model, made.test)))


def strongest_pair(name: str, options: Mapping[str, Any], seed: int, *, steps: int = 100) -> set[str]:
    """The pair of fields that the maps of a trained model put first on the cross-only world, all maps added up."""
    world = testing.cross_only()
    strength: dict[frozenset[str], float] = {}
    for shown in trained_on(world, name, options, seed=seed, steps=steps).field_maps(world.test):
        value_RC = shown.value_BRC.std(0) if shown.signed else shown.value_BRC.mean(0)
        for i, j in combinations(range(len(shown.rows)), 2):
            pair = frozenset({shown.rows[i], shown.rows[j]})
            strength[pair] = strength.get(pair, 0.0) + float(value_RC[i, j] + value_RC[j, i])
    return set(max(strength, key=strength.__getitem__))
