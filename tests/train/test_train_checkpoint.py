"""Training states: whole or not there, the newest and the best kept, everything put back."""

from pathlib import Path

import pytest
import torch
from torch import nn

from weft.errors import ArtifactError
from weft.train.checkpoint import Checkpoints, State
from weft.train.loop import Progress
from weft.train.optimizers import Optimizer
from weft.train.recipe import Recipe


def learner(seed: int = 0) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    return model, Optimizer(model, Recipe(learning_rate=0.1))


def steps(model: nn.Module, optimizer: Optimizer, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        loss = (model(torch.linspace(-1, 1, 15).view(5, 3)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.prepare()
        optimizer.step()
        losses.append(loss.item())
    return losses


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoint").iterdir()}


def test_a_restored_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    model, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, seconds=60)
    steps(model, optimizer, 3)
    state = State(progress=Progress(epoch=2, step=5, best_metrics={"auc": 0.7}, best=0.7), lines=11, seconds=1.5)
    saved = checkpoints.save(state, model, optimizer, best=True)
    straight = steps(model, optimizer, 4)

    again, optimizer2 = learner(seed=9)
    found = Checkpoints(tmp_path, seconds=60).latest()
    assert found == saved
    assert (saved.number, saved.best, saved.progress) == (1, 1, state.progress)
    checkpoints.restore(found, again, optimizer2)
    assert steps(again, optimizer2, 4) == straight, "dropout, moments and running statistics are where they were"
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    model, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, seconds=60)
    state = State()
    for best in (True, False, True, False, False):
        state = checkpoints.save(state, model, optimizer, best=best)
    assert names(tmp_path) == {"3", "5", "latest"}
    assert (state.number, state.best) == (5, 3)


def test_a_state_whose_pointer_never_moved_is_written_again(tmp_path: Path) -> None:
    model, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, seconds=60)
    first = checkpoints.save(State(), model, optimizer)
    torn = tmp_path / "checkpoint" / "2"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    assert checkpoints.latest() == first
    assert checkpoints.save(first, model, optimizer).number == 2
    assert checkpoints.latest().number == 2


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    model, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, seconds=60)
    checkpoints.save(State(), model, optimizer)
    file = checkpoints.file(1, "weights.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"weights.safetensors"):
        checkpoints.latest()


def test_no_state_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, seconds=60).latest() is None


def test_due_by_time(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, seconds=0).due()
    assert not Checkpoints(tmp_path, seconds=60).due()
