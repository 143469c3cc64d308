"""Training states on disk, from which a killed run goes on as if nothing had happened.

    RUN/checkpoint/12/{weights,optimizer,loss,random}.safetensors, state.json, manifest.json
    RUN/checkpoint/latest        the number of the newest whole state

A state is written to a new folder and synced; then the pointer moves; then the states nobody needs are removed. The
state of the best epoch stays until the run ends: its weights become the run's.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft import artifacts
from weft.errors import ArtifactError
from weft.train.loop import Progress
from weft.train.optimizers import Optimizer

KIND = "checkpoint"
WEIGHTS, OPTIMIZER, RANDOM, STATE = "weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"
LOSS = "loss.safetensors"  # what a loss has learned of the data, where it learns anything
# A state is saved no more often than lets saving take this share of the time.
SHARE_OF_TIME = 0.05


class State(Struct, frozen=True, kw_only=True):
    """What `state.json` holds.

    Attributes:
        progress: Where training stands.
        number: Of this state, from 1.
        best: Number of the state of the best epoch.
        lines: Bytes of `metrics.jsonl` that were written before this state.
        seconds: Time spent in training.
    """

    progress: Progress = Progress()
    number: int = 0
    best: int | None = None
    lines: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The training states of one run."""

    def __init__(self, run: Path, *, seconds: float) -> None:
        self.folder = run / "checkpoint"
        self._seconds = seconds
        self._due = time.monotonic() + seconds

    def due(self) -> bool:
        """Whether it is time to save a state in the middle of an epoch."""
        return time.monotonic() >= self._due

    def save(
        self, state: State, model: nn.Module, optimizer: Optimizer, *, loss: nn.Module | None = None, best: bool = False
    ) -> State:
        """Save `state` as the next one, move the pointer, remove what is neither the newest nor the best."""
        started = time.monotonic()
        number = state.number + 1
        state = replace(state, number=number, best=number if best else state.best)
        target = self.folder / str(number)
        shutil.rmtree(target, ignore_errors=True)
        with artifacts.new_folder(target, KIND) as folder:
            save_file(plain(model.state_dict()), folder / WEIGHTS)
            save_file(optimizer.tensors(), folder / OPTIMIZER)
            save_file({} if loss is None else plain(loss.state_dict()), folder / LOSS)
            save_file(random_state(), folder / RANDOM)
            (folder / STATE).write_bytes(msgspec.json.encode(state))
        artifacts.write_atomic(self.folder / "latest", str(number).encode())
        self._keep({str(state.number), str(state.best)})
        ended = time.monotonic()
        self._due = ended + max(self._seconds, (ended - started) / SHARE_OF_TIME)
        return state

    def latest(self) -> State | None:
        """The newest state; None where none was saved. ArtifactError if it is damaged."""
        pointer = self.folder / "latest"
        if not pointer.is_file():
            return None
        folder = self.folder / pointer.read_text()
        artifacts.verify(folder, KIND)
        try:
            return msgspec.json.decode((folder / STATE).read_bytes(), type=State)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{str(folder / STATE)!r} is of another version ({error}); train again") from error

    def restore(self, state: State, model: nn.Module, optimizer: Optimizer, *, loss: nn.Module | None = None) -> None:
        """Put model, optimizer, loss and random numbers where they were when `state` was saved."""
        folder = self.folder / str(state.number)
        model.load_state_dict(load_file(folder / WEIGHTS))
        optimizer.load(load_file(folder / OPTIMIZER))
        if loss is not None:
            loss.load_state_dict(load_file(folder / LOSS))
        set_random_state(load_file(folder / RANDOM))

    def file(self, number: int, name: str) -> Path:
        """A file of a state."""
        return self.folder / str(number) / name

    def remove(self) -> None:
        """Remove all states: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, names: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


def plain(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: contiguous, without a graph."""
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def random_state() -> dict[str, Tensor]:
    """The state of torch's default generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put torch's default generators back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
