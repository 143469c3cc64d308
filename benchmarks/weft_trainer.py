"""weft on the rows of a case, through its own loop: the trainer that the others are measured beside."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from _worker import Trainer, count, peak_mib, serve

import weft
from _eviction import Eviction
from _floor import Floor
from weft.batch import Batch, DenseField, Field, Fields
from weft.data.load import Loader
from weft.models import create
from weft.models._registry import option_names
from weft.schema import Label
from weft.train.loop import Step, train
from weft.train.objective import objective
from weft.train.optimizers import Optimizer
from weft.train.recipe import Recipe
from weft.transforms.rows import Rows

LABELS = [Label(name="label")]
AUTOINT = {"num_layers": 3, "num_heads": 2, "attention_dim": 64, "hidden": ()}
DHEN = {"num_layers": 2, "modules": (("dot", "linear"),), "hidden": ()}


def fields_of(case: dict[str, Any]) -> Fields:
    """The columns of a case: id fields of given sizes, and numbers."""
    return Fields(
        ids=tuple(Field(name=f"c{i}", side="context", rows=rows) for i, rows in enumerate(case["sizes"])),
        dense=tuple(DenseField(name=f"i{i}", side="context") for i in range(case["numbers"])),
    )


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    """The model's options."""
    bottom = {"bottom": tuple(case["bottom"]), "hidden": tuple(case["top"]), "initialisation": "recipe"}
    own: dict[str, dict[str, Any]] = {
        "dcn_v2": {"num_cross": case["cross"]},
        "gdcn_p": {"num_cross": case["cross"]},
        "dlrm": bottom,
        "autoint": AUTOINT,
        "dhen": {"bottom": tuple(case["bottom"]), **DHEN},
    }
    every = {
        "embedding_dim": case["width"],
        "embedding_update": case["update"],
        "batch_norm": case["batch_norm"],
        "hidden": tuple(case["hidden"]),
        "dropout": case.get("dropout", 0.0),
    }
    known = option_names(case["model"])
    return {name: value for name, value in every.items() if name in known} | own.get(case["model"], {})


class OneByOne:
    """Batches for the loop that are given one at a time from outside."""

    def __init__(self, device: str) -> None:
        self.next: Batch | None = None
        self._device = device

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The given batch, again and again."""
        while True:
            assert self.next is not None
            yield self.next.to(self._device) if self._device != "cpu" else self.next


def make(case: dict[str, Any]) -> Trainer:
    """The model of a case in weft's training loop."""
    rows = Rows.load(Path(case["data"]), mmap=bool(case.get("eviction")))
    fields = fields_of(case)
    rows = rows if case["numbers"] else rows._with({**rows.columns(), "dense": rows.dense[:, :0]}, rows.ragged)
    model = create(case["model"], fields, options_of(case), seed=case.get("seed", 0)).to(case["device"])
    recipe = Recipe(batch_size=case["batch"], learning_rate=case["learning_rate"], l2=case.get("l2", 0.0))
    optimizer = Optimizer(model, recipe)
    loss_of = objective(LABELS, case["precision"], {})
    data = OneByOne(case["device"])
    events = train(model, loss_of, data, optimizer, recipe, validate=lambda model: {}, monitor="auc")
    loader = Loader(rows, case["batch"], shuffle=case.get("shuffle", "global"), drop_last=True)
    epochs = iter(range(1 << 30))

    def batches() -> Iterator[Batch]:
        return loader.batches(next(epochs))

    def step(batch: Batch) -> float:
        data.next = batch
        event = next(events)
        assert isinstance(event, Step)
        return event.loss

    products: list[Floor] = []

    def floor(repeats: int) -> dict[str, float]:
        if not products:
            batch = next(iter(batches())).to(case["device"])
            products.append(Floor(lambda: torch.autograd.backward(loss_of(model, batch))))
            optimizer.zero_grad()
            optimizer_state_untouched(optimizer)
        alone, in_order = products[0].seconds(repeats)
        return {"alone": alone, "in_order": in_order, "flops": products[0].flops, "products": products[0].products}

    def compile_dense(mode: str) -> dict[str, float]:
        """Compile everything but the look-ups and the head; nothing is compiled before the next step."""
        torch._dynamo.reset()
        for part in dense_parts(model).values():
            part.compile(mode=mode, dynamic=False)
        return {}

    more: dict[str, Any] = {"floor": floor, "compile": compile_dense}
    if case.get("eviction"):
        more["evict"] = _evicting(Path(case["data"]), case["eviction"])
    return Trainer(f"weft {weft.__version__}", count(model), batches, step, more)


def dense_parts(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The parts of a model that are tensors in, tensors out."""
    found = {name: getattr(model, name, None) for name in ("cross", "deep", "attention", "dots", "top", "layers")}
    found["bottom"] = getattr(getattr(model, "slots", None), "bottom", None)
    return {name: part for name, part in found.items() if isinstance(part, torch.nn.Module) and any(part.children())}


def optimizer_state_untouched(optimizer: Optimizer) -> None:
    """Collect and drop the gradients of the step whose products were written down."""
    optimizer.prepare()
    optimizer.zero_grad()


def _evicting(folder: Path, cap: int) -> Any:
    """Requests that begin and end a cap on the rows' share of memory."""
    watch: list[Eviction] = []

    def evict(on: bool) -> dict[str, float]:
        if on:
            watch.append(Eviction(sorted(folder.glob("*.npy")), cap))
            watch[-1].start()
            return {}
        watch[-1].stop()
        return {"evictions": watch[-1].evictions, "most": watch[-1].most, "peak_mib": peak_mib()}

    return evict


if __name__ == "__main__":
    serve(make)
