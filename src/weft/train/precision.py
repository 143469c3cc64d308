"""Where and in which number format a model is trained."""

from typing import Literal

import torch

from weft.errors import ConfigError

Precision = Literal["fp32", "bf16"]


def choose_device(device: str) -> torch.device:
    """The device that a name means: `auto` is the first GPU where there is one, else the CPU.

    >>> choose_device("cpu").type
    'cpu'
    """
    match device:
        case "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        case "cpu":
            return torch.device("cpu")
        case "cuda" if torch.cuda.is_available():
            return torch.device("cuda")
        case "cuda":
            raise ConfigError("`device` is cuda, and torch finds no GPU here; use cpu or auto")
    raise ConfigError(f"`device` must be auto, cpu or cuda, got {device!r}")


def choose_precision(precision: str, device: torch.device) -> Precision:
    """The number format of the matrix products that a name means.

    Args:
        precision: `auto`, `fp32` or `bf16`. `auto` is bf16 where the device has instructions for it.
        device: Where the model is trained.

    Raises:
        ConfigError: Another name.
    """
    match precision:
        case "auto":
            return "bf16" if has_bf16(device) else "fp32"
        case "fp32" | "bf16":
            return precision
    raise ConfigError(f"`precision` must be auto, fp32 or bf16, got {precision!r}")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
