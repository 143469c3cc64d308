"""What every trainer of the benchmarks does alike: read a case, make steps when asked, answer in JSON lines.

Run with the interpreter of the library that is measured, so standard library, NumPy and torch only. The first argument
is the case as JSON:

    model, width, cross, hidden, bottom, top, batch_norm     the network
    data                                                     folder of encoded rows: ids.npy, dense.npy, label.npy
    sizes                                                    rows of the table of each id column
    numbers                                                  columns of dense.npy that are read, all or none
    batch, precision, threads, device, learning_rate         training
"""

import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch

READY = 16  # batches that lie ready where the loader is not measured


@dataclass
class Trainer:
    """A model with its optimizer.

    Attributes:
        library: Name and version.
        parameters: Number of weights.
        batches: Makes one epoch of batches, through the library's own loader.
        step: One update; returns the loss.
        more: Further requests by name.
    """

    library: str
    parameters: int
    batches: object
    step: object
    more: dict = field(default_factory=dict)


def serve(make):
    """Read the case, make the trainer, answer requests until the input ends."""
    case = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")  # what libraries print must not come between the answers
    os.dup2(2, 1)
    torch.set_num_threads(case["threads"])
    torch.manual_seed(case.get("seed", 0))
    if case.get("eviction"):
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    trainer = make(case)
    _say(answers, {"library": trainer.library, "parameters": trainer.parameters})
    requests = {
        "steps": _Steps(trainer, case["device"]),
        "epoch": _Epoch(trainer),
        "memory": lambda: {"peak_mib": peak_mib()},
        **trainer.more,
    }
    for line in sys.stdin:
        request = json.loads(line)
        _say(answers, requests[request.pop("do")](**request))


def _say(answers, answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def peak_mib():
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class _Steps:
    """Some updates, on batches that lie ready or as the loader brings them."""

    def __init__(self, trainer, device):
        self.trainer, self.cuda = trainer, device == "cuda"
        self.ready, self.place, self.loaded = [], 0, None

    def __call__(self, count, loader):
        seconds, losses = [], []
        for _ in range(count):
            self._wait()
            start = time.perf_counter()
            batch = self._next_loaded() if loader else self._next_ready()
            start = start if loader else time.perf_counter()
            losses.append(float(self.trainer.step(batch)))
            self._wait()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "losses": losses}

    def _wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def _next_ready(self):
        if not self.ready:
            self.ready = list(islice(self.trainer.batches(), READY))
        self.place += 1
        return self.ready[self.place % len(self.ready)]

    def _next_loaded(self):
        while True:
            if self.loaded is None:
                self.loaded = iter(self.trainer.batches())
            batch = next(self.loaded, None)
            if batch is not None:
                return batch
            self.loaded = None


class _Epoch:
    """One pass over all rows through the loader."""

    def __init__(self, trainer):
        self.trainer = trainer

    def __call__(self):
        start, losses = time.perf_counter(), []
        for batch in self.trainer.batches():
            losses.append(float(self.trainer.step(batch)))
        return {"seconds": time.perf_counter() - start, "steps": len(losses), "loss": sum(losses) / len(losses)}


def read(case):
    """Ids [n, F], dense [n, D] or [n, 0] and label [n] of the case."""
    folder = Path(case["data"])
    ids, dense, label = (np.load(folder / f"{name}.npy") for name in ("ids", "dense", "label"))
    return ids, dense[:, : case["numbers"]], label[:, 0]


def count(model):
    """Number of weights of a module."""
    return sum(weight.numel() for weight in model.parameters())
