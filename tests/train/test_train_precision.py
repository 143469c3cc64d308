"""Devices and number formats by name."""

import pytest
import torch

from weft.errors import ConfigError
from weft.models._predict import autocast
from weft.train.precision import choose_device, choose_precision, has_bf16

CPU = torch.device("cpu")


def test_auto_is_bf16_where_the_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, name in (({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert choose_precision("auto", CPU) == name


def test_this_machine_answers() -> None:
    assert isinstance(has_bf16(CPU), bool)


def test_names() -> None:
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_device("cpu") == CPU
    with pytest.raises(ConfigError, match="must be auto, fp32 or bf16, got 'fp8'"):
        choose_precision("fp8", CPU)
    with pytest.raises(ConfigError, match="must be auto, cpu or cuda, got 'tpu'"):
        choose_device("tpu")


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ConfigError, match="no GPU"):
        choose_device("cuda")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_lowers_matrix_products(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
