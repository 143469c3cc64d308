"""L2 of the table rows that a batch looks up: values are held back as often as they occur."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weft.batch import Batch
from weft.layers import Gathered
from weft.models._contract import embeddings
from weft.train.loop import Objective


def with_row_penalty(objective: Objective, l2: float) -> Objective:
    """An objective plus l2 / 2 Σ |e|² over all table rows e that the batch looks up, divided by the rows of the batch.

    A value that stands in n rows of the data counts n times, where `l2` of whole tables counts each value once a step;
    Koren, Bell and Volinsky, IEEE Computer 2009, equation (5), for each known rating. Works on tables of which only
    touched rows are updated.
    """

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        with looked_up(model) as found:
            loss = objective(model, batch)
        return loss + l2 / 2 * torch.stack([rows.square().sum() for rows in found]).sum() / len(batch)

    return loss_of


@contextmanager
def looked_up(model: nn.Module) -> Iterator[list[Tensor]]:
    """What the embedding layers of a model give while the context lasts, one tensor a block and flat field."""
    found: list[Tensor] = []
    hooks = [layer.register_forward_hook(partial(_keep, found)) for layer in embeddings(model)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _keep(found: list[Tensor], _layer: nn.Module, _inputs: tuple[Any, ...], gathered: Gathered) -> None:
    found += [*gathered.columns, *gathered.flat]
