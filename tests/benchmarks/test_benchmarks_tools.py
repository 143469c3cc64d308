"""What the benchmarks rest on: floors, records, caps, and that trainers of a case have the same architecture."""

import importlib
import json
import mmap
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
DENSE, WIDTH, HIDDEN, CROSSES, BATCH = 13, 4, (24, 16), 2, 64


def tool(name: str) -> ModuleType:
    for folder in (FOLDER, FOLDER / "peers"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return importlib.import_module(name)


def case(folder: Path, model: str, **more: Any) -> dict[str, Any]:
    data = tool("_data")
    sizes = data.sizes_of(2_000, DENSE)
    if not (folder / "rows").is_dir():
        data.write_encoded(folder / "rows", sizes, 8 * BATCH, DENSE)
    return {
        "model": model,
        "data": str(folder / "rows"),
        "sizes": sizes,
        "numbers": DENSE,
        "width": WIDTH,
        "cross": CROSSES,
        "hidden": list(HIDDEN),
        "bottom": [24, 16],
        "top": [16, 8],
        "batch_norm": False,
        "update": "sparse",
        "batch": BATCH,
        "precision": "fp32",
        "threads": 1,
        "device": "cpu",
        "learning_rate": 0.01,
        **more,
    }


@pytest.mark.parametrize(
    ("model", "norm"), [("dcn_v2", False), ("dcn_v2", True), ("deepfm", False), ("deepfm", True), ("dlrm", False)]
)
def test_plain_pytorch_has_the_architecture_of_weft(model: str, norm: bool, tmp_path: Path) -> None:
    spec = case(tmp_path, model, batch_norm=norm)
    ours, plain = tool("weft_trainer").make(spec), tool("plain_torch").make(spec)
    spare = sum(HIDDEN) if norm else 0  # biases before a batch norm, which weft leaves out
    assert plain.parameters - ours.parameters == spare


@pytest.mark.parametrize("trainer", ["weft_trainer", "plain_torch"])
def test_a_trainer_learns_the_planted_labels(trainer: str, tmp_path: Path) -> None:
    made = tool(trainer).make(case(tmp_path, "dcn_v2"))
    epochs = [[float(made.step(batch)) for batch in made.batches()] for _ in range(6)]
    assert [len(losses) for losses in epochs] == [8] * 6
    assert np.mean(epochs[-1]) < np.mean(epochs[0]) - 0.05


def test_the_floor_counts_the_products_of_the_formula(tmp_path: Path) -> None:
    made = tool("weft_trainer").make(case(tmp_path, "dcn_v2"))
    floor = made.more["floor"](1)
    width = (DENSE + 26) * WIDTH
    layers = [(width, width)] * CROSSES + list(pairwise((width, *HIDDEN)))
    of_layers = 6 * BATCH * sum(a * b for a, b in layers)
    of_head = 6 * BATCH * (width + HIDDEN[-1])
    assert floor["flops"] in (of_layers, of_layers + of_head)  # a machine with a C compiler has no product for the head
    assert floor["alone"] > 0
    assert floor["in_order"] > 0


def test_the_floor_does_not_train(tmp_path: Path) -> None:
    one, other = (tool("weft_trainer").make(case(tmp_path, "dcn_v2")) for _ in range(2))
    batch = next(iter(one.batches()))
    one.more["floor"](1)
    assert float(one.step(batch)) == float(other.step(batch))


def test_the_floor_repeats_products_with_their_layout() -> None:
    x, w = torch.randn(6, 4), torch.randn(5, 4)
    floor = tool("_floor").Floor(lambda: x @ w.T)
    assert floor.flops == 2 * 6 * 4 * 5
    (call,) = floor._calls.values()
    assert call().shape == (6, 5)
    assert call.args[1].stride() == w.T.stride()


def test_a_record_is_measured_once_and_a_skipped_one_again(tmp_path: Path) -> None:
    records, calls = tool("_records").Records(tmp_path / "found.json"), []

    def measure(record: dict[str, Any]) -> dict[str, Any]:
        calls.append(record)
        return record

    records.measured("a", lambda: measure({"value": 1}))
    records.measured("b", lambda: measure({"skipped": "no data"}))
    again = tool("_records").Records(tmp_path / "found.json")
    assert again.measured("a", lambda: measure({"value": 2}))["value"] == 1
    assert again.measured("b", lambda: measure({"value": 3}))["value"] == 3
    assert len(calls) == 3
    assert json.loads((tmp_path / "found.json").read_text())["records"]["b"]["value"] == 3


def test_a_process_that_holds_more_than_the_cap_is_ended() -> None:
    code = "import time; x = bytearray(120 << 20); time.sleep(0.3); print(len(x))"
    command, environment = [sys.executable, "-c", code], dict(os.environ)
    free = tool("_memory").watched(command, environment)
    assert not free.capped
    assert free.own_mib > 120
    assert free.output.strip() == str(120 << 20)
    capped = tool("_memory").watched(command, environment, cap_mib=60)
    assert capped.capped
    assert not capped.output


def test_pages_of_a_file_are_taken_out_of_memory_and_read_again(tmp_path: Path) -> None:
    path, size = tmp_path / "rows.npy", 8 << 20
    content = np.random.default_rng(0).integers(0, 255, size, np.uint8).tobytes()
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    eviction = tool("_eviction")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == content
        assert eviction.in_memory(path, size) == size
        watch = eviction.Eviction([path], 1 << 20, every=0.001)
        watch.start()
        time.sleep(0.05)
        if not watch.evictions and eviction.in_memory(path, size) == size:
            watch.stop()
            pytest.skip("this file system keeps its pages in memory")
        assert mapped[:] == content
        time.sleep(0.1)
        watch.stop()
        assert watch.evictions >= 1
        assert eviction.in_memory(path, size) <= 1 << 20
        assert mapped[-1024:] == content[-1024:]


def test_the_exponent_of_a_power_law() -> None:
    growth, x = tool("growth"), [10, 100, 1000]
    assert growth.exponent(x, [3 * n**1.5 for n in x]) == pytest.approx(1.5)
    assert growth.slopes(x, [1, 10, 1000]) == pytest.approx([1, 2])


def test_the_page_is_written_from_records(tmp_path: Path) -> None:
    run, records = tool("run"), tool("_records").Records(tmp_path / "growth.json")
    growth = tool("growth")
    records.measured("table-dcn_v2", lambda: growth.line("table", "rows of the tables", [10, 100], [1.0, 1.02]))
    text, pictures = run.page(tmp_path)
    assert "## How cost grows" in text
    assert "| dcn_v2, step at the smallest table over step at the largest | 0.9 | 0.9804 | reached |" in text
    assert list(pictures) == ["growth-table.svg"]
