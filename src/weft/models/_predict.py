"""Logits of many rows, without gradients, and the number format of a forward pass."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weft.batch import Batch
from weft.models._contract import score


def predict(
    model: nn.Module, batches: Iterable[Batch], *, precision: str = "fp32", keep_position: bool = False
) -> NDArray[np.float32]:
    """Logits [N] or [N, T] of all rows, in order; the model is left in evaluation mode.

    Args:
        model: Any model; batches are brought to its device.
        batches: The rows.
        precision: fp32 or bf16.
        keep_position: Without it the model does not see where the rows were shown.
    """
    model.eval()
    device = device_of(model)
    parts: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for batch in batches:
            seen = batch.to(device) if keep_position else replace(batch, position=None).to(device)
            with autocast(precision, device):
                logits = score(model, seen)
            parts.append(logits.float().cpu().numpy())
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass: bf16 runs matrix products in bfloat16, fp32 leaves all as it is."""
    if precision == "fp32":
        return nullcontext()
    assert precision == "bf16", precision
    return torch.autocast(device.type, dtype=torch.bfloat16)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights lie; the CPU for one without any."""
    weight = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if weight is None else weight.device
