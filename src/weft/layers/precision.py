"""The number format of matrix products."""

import torch
from torch import Tensor


def lowered(x: Tensor) -> Tensor:
    """The tensor in the precision that autocast asks for, so that it is cast once and not in every layer it enters."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
