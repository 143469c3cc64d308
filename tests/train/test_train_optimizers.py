"""Each rule against its formula written out slowly, against torch's own, and what a step may touch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from weft.errors import ConfigError
from weft.layers import Embedding
from weft.train.optimizers import ONLY_ROWS, RULES, Optimizer, RowOptimizer
from weft.train.recipe import Recipe

STEPS = ([2, 5, 2], [5, 3, 3], [2, 3, 7])


class Net(nn.Module):
    """Two tables of one width, a first-order part and a linear map."""

    def __init__(self, update: Any = "dense", rows: int = 9, spare: int = 0) -> None:
        super().__init__()
        self.embedding = Embedding({"a": rows, "b": 5}, 3, columns=["a", "b"], update=update, spare={"a": spare})
        self.wide = Embedding({"a": rows}, 1, columns=["a"], update=update)
        self.linear = nn.Linear(6, 1)
        with torch.no_grad():
            for i, table in enumerate(self.tables()):
                table[1:] = torch.arange(1.0, table[1:].numel() + 1).add(i).sin().view_as(table[1:])
            for i, parameter in enumerate(self.linear.parameters()):
                parameter.copy_(torch.arange(1.0, parameter.numel() + 1).add(i).cos().view_as(parameter))

    def tables(self) -> list[Tensor]:
        return [self.embedding.table("a"), self.embedding.table("b"), self.wide.table("a")]

    def forward(self, a: list[int]) -> Tensor:
        ids = torch.tensor([[i, i % 4 + 1] for i in a])
        deep = self.linear(torch.cat([block.flatten(1) for block in self.embedding(ids).columns], dim=1))
        return ((deep + self.wide(ids[:, :1]).columns[0].flatten(1)).tanh() * (1 + ids[:, :1])).sum()


def learn(net: Net, recipe: Recipe, steps: Any = STEPS) -> Optimizer:
    optimizer = Optimizer(net, recipe)
    for rows in steps:
        one_step(net, optimizer, rows)
    return optimizer


def one_step(net: Net, optimizer: Optimizer, rows: list[int]) -> Tensor:
    optimizer.zero_grad()
    net(rows).backward()
    norm = optimizer.prepare()
    optimizer.step()
    return norm


def slow(rule: str, w: float, grads: list[float], rate: float, l1: float, l2: float) -> float:
    """One weight whose gradient comes every step, with Python floats."""
    s = mean = square = z = n = 0.0
    for t, g in enumerate(grads, start=1):
        match rule:
            case "sgd":
                w -= rate * g
            case "adagrad" | "rowwise_adagrad":
                s += g * g
                w -= rate * g / (s**0.5 + 1e-10)
            case "adam" | "adamw":
                mean = 0.9 * mean + 0.1 * g
                square = 0.999 * square + 0.001 * g * g
                w -= rate * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * mean / (square**0.5 + 1e-8)
            case "ftrl":
                sigma = ((n + g * g) ** 0.5 - n**0.5) / rate
                z, n = z + g - sigma * w, n + g * g
                sign = 1 if z > 0 else -1
                w = 0.0 if abs(z) <= l1 else -(z - sign * l1) / ((1 + n**0.5) / rate + l2)
    return w


@pytest.mark.parametrize("rule", sorted(RULES))
def test_rule_is_its_formula(rule: str) -> None:
    grads = [0.3, -0.2, 0.5, 0.7]
    weight = torch.tensor([[9.0], [0.4], [9.0]], dtype=torch.float64)
    optimizer = RowOptimizer(rule, 0.1, l1=0.01, l2=0.2)
    optimizer.add(weight)
    for g in grads:
        optimizer.tick()
        optimizer.update_rows(weight, torch.tensor([1]), torch.tensor([[g]], dtype=torch.float64))
    assert weight[1].item() == pytest.approx(slow(rule, 0.4, grads, 0.1, 0.01, 0.2))
    assert weight[[0, 2]].tolist() == [[9.0], [9.0]]


def test_rowwise_adagrad_has_one_number_a_row() -> None:
    weight = torch.zeros(4, 2)
    optimizer = RowOptimizer("rowwise_adagrad", 1.0)
    optimizer.add(weight)
    optimizer.update_rows(weight, torch.tensor([3]), torch.tensor([[3.0, 4.0]]))
    assert optimizer.state[weight][0].tolist() == [0, 0, 0, 12.5]
    torch.testing.assert_close(weight[3], -torch.tensor([3.0, 4.0]) / 12.5**0.5)


def test_ftrl_gives_exact_zeros() -> None:
    weight = torch.full((2, 1), 0.01)
    optimizer = RowOptimizer("ftrl", 0.1, l1=1.0)
    optimizer.add(weight)
    optimizer.update_rows(weight, torch.tensor([1]), torch.tensor([[0.5]]))
    assert weight[1].item() == 0.0


def test_lazy_adam_is_torchs_sparse_adam() -> None:
    net = Net("sparse")
    table = nn.Embedding.from_pretrained(net.embedding.table("a").clone(), freeze=False, sparse=True)
    theirs = torch.optim.SparseAdam(table.parameters(), lr=0.01)
    ours = RowOptimizer("adam", 0.01)
    weight = table.weight.detach().clone()
    ours.add(weight)
    for rows in STEPS:
        theirs.zero_grad()
        (table(torch.tensor(rows)).tanh() * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
        grad = table.weight.grad.coalesce()
        ours.tick()
        ours.update_rows(weight, grad.indices()[0], grad.values())
        theirs.step()
    torch.testing.assert_close(weight, table.weight.detach())


@pytest.mark.parametrize("rule", ["adagrad", "sgd"])
def test_touched_rows_move_as_in_the_dense_table(rule: str) -> None:
    """Ids stand twice in a batch, and these rules leave absent rows alone: sparse and dense are the same."""
    dense, sparse = Net("dense"), Net("sparse")
    recipe = Recipe(optimizer=rule, learning_rate=0.1, clip=float("inf"))
    learn(dense, recipe)
    learn(sparse, recipe)
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(sparse.state_dict()[name], tensor)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_rows_that_are_not_touched_do_not_move(rule: str) -> None:
    net = Net("sparse")
    before = net.embedding.table("a").clone()
    learn(net, Recipe(embedding_optimizer=rule, learning_rate=0.1))
    moved = (net.embedding.table("a") != before).any(1)
    assert moved.nonzero().flatten().tolist() == [2, 3, 5, 7]


@pytest.mark.parametrize("rule", ONLY_ROWS)
def test_rules_that_torch_lacks_work_on_whole_tables(rule: str) -> None:
    """A gradient of zero changes nothing under these rules, so whole tables move as touched rows do."""
    dense, sparse = Net("dense"), Net("sparse")
    for net in (dense, sparse):
        learn(net, Recipe(wide_optimizer=rule, wide_learning_rate=0.1, clip=float("inf"), optimizer="sgd"))
    torch.testing.assert_close(dense.wide.table("a"), sparse.wide.table("a"))


class Counter(TorchDispatchMode):
    """Counts the elements that operations give, but for updates in place, which count what is written."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        written = args[3] if func.overloadpacket is torch.ops.aten.index_copy_ else out
        self.elements += written.numel() if isinstance(written, Tensor) else 0
        return out


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_cost_of_a_step_does_not_grow_with_the_table(rule: str) -> None:
    counts = []
    for rows in (10, 10_000):
        net = Net("sparse", rows=rows)
        optimizer = Optimizer(net, Recipe(embedding_optimizer=rule, wide_optimizer=rule))
        net([2, 5, 2]).backward()
        with Counter() as counter:
            optimizer.prepare()
            optimizer.step()
        counts.append(counter.elements)
    assert counts[0] == counts[1] < 2000


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1 << 17, 7):
        monkeypatch.setattr("weft.train.optimizers.CHUNK", size)
        net = Net("sparse")
        learn(net, Recipe(learning_rate=0.1))
        found.append(net.state_dict())
    torch.testing.assert_close(*found)


def test_clipping_is_torchs() -> None:
    ours, theirs = Net(), Net()
    recipe = Recipe(optimizer="sgd", learning_rate=0.1, clip=0.5)
    optimizer = Optimizer(ours, recipe)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for rows in STEPS:
        norm = one_step(ours, optimizer, rows)
        sgd.zero_grad()
        theirs(rows).backward()
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs.parameters(), 0.5))
        sgd.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_clipping_counts_touched_rows() -> None:
    norms = []
    for update in ("dense", "sparse"):
        net = Net(update)
        norms.append(one_step(net, Optimizer(net, Recipe(clip=0.1)), [2, 5, 2]))
    torch.testing.assert_close(*norms)


def test_l2_moves_rows_that_the_batch_has_not() -> None:
    net = Net()
    optimizer = Optimizer(net, Recipe(l2=0.5, clip=float("inf")))
    absent = net.embedding.table("a")[6].clone()
    first_order = net.wide.table("a")[6].clone()
    optimizer.zero_grad()
    net([2, 5]).backward()
    plain = {id(p): p.grad.clone() for p in net.parameters()}
    optimizer.prepare()
    for module in (net.embedding, net.wide):
        weight = next(module.parameters())
        torch.testing.assert_close(weight.grad, plain[id(weight)] + 0.5 * weight)
    torch.testing.assert_close(net.linear.weight.grad, plain[id(net.linear.weight)])
    optimizer.step()
    assert (net.embedding.table("a")[6].abs() < absent.abs()).all()
    assert (net.wide.table("a")[6].abs() < first_order.abs()).all()


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_padding_stays_zero(update: str) -> None:
    net = Net(update)
    learn(net, Recipe(l2=0.0 if update == "sparse" else 0.1), steps=[[0, 2], [0, 0]])
    assert not any(table[0].any() for table in net.tables())


def test_whole_table_l2_on_touched_rows_is_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match=r"embedding_update=dense"):
        Optimizer(Net("sparse"), Recipe(l2=0.1))


def test_learning_rates_have_a_floor() -> None:
    net = Net("sparse")
    optimizer = Optimizer(net, Recipe(learning_rate=1e-3, embedding_learning_rate=1e-7, min_learning_rate=1e-5))
    optimizer.scale(1e-3)
    assert optimizer.learning_rates() == {"dense": 1e-5, "embedding": 1e-7, "wide": 1e-5}
    optimizer.scale(1.0)
    assert optimizer.learning_rates() == {"dense": 1e-3, "embedding": 1e-7, "wide": 1e-3}


@pytest.mark.parametrize("update", ["dense", "sparse"])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_state_comes_back(update: str, rule: str) -> None:
    recipe = Recipe(embedding_optimizer=rule, learning_rate=0.05)
    straight = Net(update)
    learn(straight, recipe)
    broken = Net(update)
    saved = {name: tensor.clone() for name, tensor in learn(broken, recipe, STEPS[:2]).tensors().items()}
    optimizer = Optimizer(broken, recipe)
    optimizer.load(saved)
    one_step(broken, optimizer, STEPS[2])
    for name, tensor in straight.state_dict().items():
        assert torch.equal(broken.state_dict()[name], tensor), name


def test_state_is_keyed_by_table() -> None:
    tensors = learn(Net("sparse"), Recipe()).tensors()
    assert tensors["embedding.a.weight/exp_avg"].shape == (9, 3)
    assert tensors["embedding.b.weight/exp_avg_sq"].shape == (5, 3)
    assert tensors["wide.a.weight/exp_avg"].shape == (9, 1)
    assert tensors["linear.weight/exp_avg"].shape == (1, 6)
    assert not any("stacked" in name for name in tensors)


MIXED = {"a": "dense", "b": "sparse"}


def test_tables_under_their_own_update_learn_as_the_pure_ones_do() -> None:
    recipe = Recipe(learning_rate=0.05, clip=float("inf"))
    steps = STEPS[:1]
    mixed, dense = Net(MIXED), Net("dense")
    learn(mixed, recipe, steps)
    learn(dense, recipe, steps)
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(mixed.state_dict()[name], tensor, msg=lambda m, name=name: f"{name}: {m}")


def test_whole_table_l2_names_the_tables_that_cannot_have_it() -> None:
    with pytest.raises(ConfigError, match=r"only touched rows \(b\); set train.l2=0"):
        Optimizer(Net(MIXED), Recipe(l2=0.1))


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_a_grown_table_goes_on_from_its_state(update: str) -> None:
    recipe = Recipe(learning_rate=0.05)
    straight, broken = Net(update, spare=4), Net(update, spare=4)
    optimizer = learn(straight, recipe, STEPS[:2])
    straight.embedding.grow("a", 11, torch.Generator().manual_seed(0))
    saved = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    assert saved["embedding.a.weight/exp_avg"].shape == (11, 3)
    assert not saved["embedding.a.weight/exp_avg"][9:].any()
    broken.load_state_dict(straight.state_dict())
    again = Optimizer(broken, recipe)
    again.load(saved)
    for net, by in ((straight, optimizer), (broken, again)):
        one_step(net, by, [2, 8, 3])
    for name, tensor in straight.state_dict().items():
        assert torch.equal(broken.state_dict()[name], tensor), name


@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_forgotten_rows_have_no_state(update: str) -> None:
    net = Net(update)
    optimizer = learn(net, Recipe())
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    weight, start, _ = net.embedding.slices["b"]
    optimizer.forget(weight, start + torch.tensor([3]))
    for name, tensor in optimizer.tensors().items():
        if name.startswith("embedding.b.weight/exp"):
            assert before[name][3].any()
            assert not tensor[3].any()
            tensor[3] = before[name][3]
        assert torch.equal(tensor, before[name]), name
