"""What the phases of the registry promise, on a store: any model searches a small catalogue and ranks given items."""

import numpy as np
import pytest
import torch

from weft.data.graph import train_graph
from weft.data.load import Loader
from weft.data.store import Store
from weft.models import Fitted, Source, create, names
from weft.models._registry import reads_graph
from weft.scoring import Scorer, best

USERS, K = np.arange(2, 8), 5


@pytest.fixture(params=names())
def scorer(request: pytest.FixtureRequest, camps: Store) -> Scorer:
    """Each model of the registry over the catalogue of the two camps."""
    name = request.param
    model = create(name, camps.fields, {}, seed=4, graph=train_graph(camps) if reads_graph(name) else None)
    if isinstance(model, Fitted):
        model.fit(Loader(camps.split("train"), 64, shuffle="none").batches(0))
    return Scorer(model.eval(), camps.transforms, camps.items)


def test_it_finds_the_best_items_of_a_small_catalogue_exactly(scorer: Scorer, camps: Store) -> None:
    users = camps.users.take(USERS)
    places, values = best(scorer.catalogue(users), K)
    for u in range(len(USERS)):
        pairs = scorer.transforms.join(users.take(slice(u, u + 1)), camps.items)
        alone = scorer.rows(pairs)
        np.testing.assert_allclose(values[u], -np.sort(-alone)[:K], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone[places[u]], values[u], rtol=1e-4, atol=1e-5)


def test_it_ranks_given_candidates_as_it_ranks_them_in_the_catalogue(scorer: Scorer, camps: Store) -> None:
    users = camps.users.take(USERS)
    given = np.random.default_rng(0).permuted(np.tile(np.arange(2, len(camps.items)), (len(USERS), 1)), axis=1)[:, :7]
    whole = np.take_along_axis(scorer.catalogue(users), given, 1)
    np.testing.assert_allclose(scorer.candidates(users, given), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scorer", names("source"), indirect=True)
def test_a_source_proposes_what_scores_best(scorer: Scorer, camps: Store) -> None:
    assert isinstance(scorer.model, Source)
    scores = scorer.catalogue(camps.users.take(USERS))
    proposed = scorer.model.candidates(torch.from_numpy(USERS), K).numpy()
    _, values = best(scores[:, 2:], K)
    np.testing.assert_allclose(np.take_along_axis(scores, proposed, 1), values, rtol=1e-6)
