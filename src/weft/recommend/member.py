"""A run as a member of a bundle: a model over the catalogue, and how it proposes.

Dimension key: I items, E width of vectors.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from weft.batch import FIRST_ID
from weft.models import Retriever
from weft.models import Source as ProposesItems
from weft.models._contract import roles_only
from weft.recommend.index import Index
from weft.runs import RunConfig, SavedRun, load_model, read_config
from weft.scoring import Scorer
from weft.transforms.catalogue import Catalogue
from weft.transforms.encode import Transforms

INDEX, PARTS = "index", "parts.safetensors"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a bundle, ready to score.

    Attributes:
        name: In the pipeline.
        id: Of the run's manifest.
        config: What decided the run.
        scorer: The model over the bundle's catalogue.
        index: Of a retriever that is a source.
        exact: Scores every item where it proposes, instead of giving its own lists.
    """

    name: str
    id: str
    config: RunConfig
    scorer: Scorer
    index: Index | None = None
    exact: bool = False

    @property
    def model(self) -> nn.Module:
        """As it serves."""
        return self.scorer.model

    @property
    def is_retriever(self) -> bool:
        """Whether users and items have vectors."""
        return isinstance(self.model, Retriever)

    @property
    def is_source(self) -> bool:
        """Whether the model itself proposes items."""
        return isinstance(self.model, ProposesItems)

    @property
    def needs_id(self) -> bool:
        """Whether it knows nothing of users and items but their ids."""
        return roles_only(self.model)

    @property
    def how(self) -> str:
        """How it proposes, in words."""
        if self.index is None:
            return "its own lists" if self.is_source else "every item scored"
        return f"{self.index.facts.kind} index, recall {self.index.facts.recall:.3f}"

    @cached_property
    def unit_vectors(self) -> NDArray[np.float32]:
        """Item vectors of length 1 [I, E], for likeness; zeros stay zeros."""
        vectors = self.scorer.item_vectors()
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
        return unit


def member_of(run: SavedRun, transforms: Transforms, catalogue: Catalogue, name: str) -> Member:
    """A run over a catalogue."""
    model = load_model(run.path, run.config, transforms.fields)
    scorer = Scorer(model, transforms, catalogue.items, intercept=run.intercept)
    return Member(name=name, id=run.id, config=run.config, scorer=scorer)


def read_member(folder: Path, name: str, id: str, transforms: Transforms, catalogue: Catalogue) -> Member:
    """A run as it lies in a bundle."""
    config = read_config(folder)
    parts = load_file(folder / PARTS) if (folder / PARTS).is_file() else None
    model = load_model(folder, config, transforms.fields)
    scorer = Scorer(model, transforms, catalogue.items, intercept=config.intercept, parts=parts)
    index = Index.load(folder / INDEX, model=id) if (folder / INDEX).is_dir() else None
    return Member(name=name, id=id, config=config, scorer=scorer, index=index)


def findable(member: Member, catalogue: Catalogue) -> NDArray[np.bool_]:
    """The items [I] that a retriever has something to say of; one that knows ids alone says nothing of new items."""
    found = np.ones(len(catalogue.items), bool) if not member.needs_id else catalogue.counts > 0
    found[:FIRST_ID] = False
    return found
