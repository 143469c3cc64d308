"""Updates: torch's fused optimizers for whole parameters, and rules that touch only the rows of a batch for tables.

A rule is a pure function of the touched rows, their summed gradients and their state:

    rule(rows, grad, state, settings) -> rows, state

so a step costs the same whatever the size of the table. It is used on whole parameters too, where torch has no such
rule (`ftrl`, `rowwise_adagrad`).

Dimension key: U touched rows, E width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weft.errors import ConfigError
from weft.layers import native
from weft.layers.embedding import Embedding, Touched, rows_of
from weft.models._contract import embeddings, parameter_groups
from weft.train.recipe import Recipe

State = tuple[Tensor, ...]
BETA1, BETA2 = 0.9, 0.999
CHUNK = 131_072  # elements updated at once: what a rule needs in between stays in the cache
ADAM_EPS, ADAGRAD_EPS, FTRL_BETA = 1e-8, 1e-10, 1.0


class Hyper(NamedTuple):
    """Numbers of a rule: `step` is the global step, counted from 1."""

    learning_rate: float
    step: int = 1
    l1: float = 0.0
    l2: float = 0.0


def sgd(w_UE: Tensor, g_UE: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
    """Gradient descent: w - lr g."""
    return w_UE.sub(g_UE, alpha=hyper.learning_rate), state


def adagrad(w_UE: Tensor, g_UE: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
    """Adagrad: w - lr g / (sqrt(s) + eps), s the sum of squared gradients. Duchi et al., JMLR 2011."""
    sum_UE = state[0].addcmul(g_UE, g_UE)
    return w_UE.addcdiv(g_UE, sum_UE.sqrt().add_(ADAGRAD_EPS), value=-hyper.learning_rate), (sum_UE,)


def rowwise_adagrad(w_UE: Tensor, g_UE: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
    """Adagrad with one number a row: s grows by the mean over the row of the squared gradients."""
    sum_U = state[0] + g_UE.square().mean(1)
    step_U = -hyper.learning_rate / (sum_U.sqrt() + ADAGRAD_EPS)
    return w_UE.addcmul(g_UE, step_U[:, None]), (sum_U,)


def lazy_adam(w_UE: Tensor, g_UE: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
    """Adam whose moments of a row decay only when the row is touched; the bias is corrected by the global step.

    The same as torch.optim.SparseAdam; another method than Adam, whose rows move on while they are absent.
    """
    mean_UE = state[0].lerp(g_UE, 1 - BETA1)
    square_UE = (state[1] * BETA2).addcmul_(g_UE, g_UE, value=1 - BETA2)
    root_UE = square_UE.sqrt().add_(ADAM_EPS)
    return w_UE.addcdiv(mean_UE, root_UE, value=-_adam_size(hyper)), (mean_UE, square_UE)


def _adam_size(hyper: Hyper) -> float:
    """The learning rate, corrected for the bias of both moments."""
    shrunk: float = (1 - BETA2**hyper.step) ** 0.5 / (1 - BETA1**hyper.step)
    return hyper.learning_rate * shrunk


def ftrl(w_UE: Tensor, g_UE: Tensor, state: State, hyper: Hyper) -> tuple[Tensor, State]:
    """FTRL-Proximal with L1 and L2. McMahan et al., KDD 2013, algorithm 1, with beta = 1.

    The algorithm starts from zero: the first gradient of a weight forgets its initial value but for its share in z.
    A weight that has had no gradient yet stays where it is.
    """
    rate = hyper.learning_rate
    z_UE, n_UE = state
    grown_UE = n_UE.addcmul(g_UE, g_UE)
    root_UE = grown_UE.sqrt()
    z_UE = z_UE + g_UE - (root_UE - n_UE.sqrt()) / rate * w_UE
    shrunk_UE = z_UE.sign() * (z_UE.abs() - hyper.l1).clamp_min_(0)
    new_UE = -shrunk_UE / ((FTRL_BETA + root_UE) / rate + hyper.l2)
    return torch.where(grown_UE > 0, new_UE, w_UE), (z_UE, grown_UE)


def lazy_adam_in_place(weight: Tensor, ids_U: Tensor, g_UE: Tensor, state: State, hyper: Hyper) -> bool:
    """`lazy_adam` on rows of a table in one pass; False where the machine has no such kernel."""
    mean, square = state
    size, betas = _adam_size(hyper), (BETA1, BETA2)
    return native.adam_rows(weight, mean, square, ids_U, g_UE, size=size, betas=betas, eps=ADAM_EPS)


class Rule(NamedTuple):
    """A rule.

    Attributes:
        update: Rows, gradients and state to rows and state.
        state: Names; one that begins with `row` has one number a row.
        in_place: The same on some rows of a table in place, where it can: then it returns True.
    """

    update: Callable[[Tensor, Tensor, State, Hyper], tuple[Tensor, State]]
    state: tuple[str, ...]
    in_place: Callable[[Tensor, Tensor, Tensor, State, Hyper], bool] | None = None


RULES: dict[str, Rule] = {
    "sgd": Rule(sgd, ()),
    "adagrad": Rule(adagrad, ("sum",)),
    "rowwise_adagrad": Rule(rowwise_adagrad, ("row_sum",)),
    "adam": Rule(lazy_adam, ("exp_avg", "exp_avg_sq"), lazy_adam_in_place),
    "adamw": Rule(lazy_adam, ("exp_avg", "exp_avg_sq"), lazy_adam_in_place),
    "ftrl": Rule(ftrl, ("z", "n")),
}
ONLY_ROWS = ("rowwise_adagrad", "ftrl")


class RowOptimizer:
    """One rule over weights seen as [rows, E], with its state beside them."""

    def __init__(self, rule: str, learning_rate: float, *, l1: float = 0.0, l2: float = 0.0) -> None:
        self.rule = RULES[rule]
        self.learning_rate = learning_rate
        self.l1, self.l2 = l1, l2
        self.steps = 0
        self.state: dict[Tensor, State] = {}

    def add(self, weight: Tensor) -> None:
        """Make the state of a weight, all zeros."""
        rows = _as_rows(weight.detach())
        self.state[weight] = tuple(
            rows.new_zeros(len(rows)) if name.startswith("row") else torch.zeros_like(rows) for name in self.rule.state
        )

    def tick(self) -> None:
        """Begin the next global step."""
        self.steps += 1

    @torch.no_grad()
    def update_rows(self, weight: Tensor, ids_U: Tensor, grad_UE: Tensor) -> None:
        """Update some rows of a weight [rows, E] in place; `ids_U` are distinct."""
        in_place = self.rule.in_place
        if in_place is not None and in_place(weight, ids_U, grad_UE, self.state[weight], self._hyper()):
            return
        size = max(1, CHUNK // weight.shape[1])
        for ids, grad in zip(torch.split(ids_U, size), torch.split(grad_UE, size), strict=True):
            self._update_chunk(weight, ids, grad)

    def _update_chunk(self, weight: Tensor, ids_U: Tensor, grad_UE: Tensor) -> None:
        state = self.state[weight]
        rows, part = self._update(rows_of(weight, ids_U), grad_UE, [rows_of(s, ids_U) for s in state])
        for whole, new in zip((weight, *state), (rows, *part), strict=True):
            whole.index_copy_(0, ids_U, new)

    @torch.no_grad()
    def update_all(self, weight: Tensor) -> None:
        """Update a whole parameter [rows, ...] in place from its `grad`, where it has one."""
        if weight.grad is None:
            return
        rows = _as_rows(weight)
        new, state = self._update(rows, _as_rows(weight.grad), self.state[weight])
        for old, value in zip((rows, *self.state[weight]), (new, *state), strict=True):
            old.copy_(value)

    def _update(self, rows: Tensor, grad: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, State]:
        return self.rule.update(rows, grad, tuple(state), self._hyper())

    def _hyper(self) -> Hyper:
        return Hyper(self.learning_rate, self.steps, self.l1, self.l2)


def _as_rows(weight: Tensor) -> Tensor:
    return weight.view(len(weight) if weight.dim() else 1, -1)


class Piece(NamedTuple):
    """A stretch of a parameter's rows that has a name of its own outside: an embedding table in its stacked weight."""

    name: str
    start: int
    stop: int


class Optimizer:
    """All updates of a model: each parameter group under its rule, L2 and clipping before them.

    Per step: `zero_grad`, backward, `prepare` (collects touched rows, adds L2, clips), `step`.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        groups = parameter_groups(model)
        self._model = model
        self._embeddings = embeddings(model)
        self._recipe = recipe
        self._parameters = list(model.parameters())
        self._touched: list[Touched] = []
        self._torch: dict[str, tuple[torch.optim.Optimizer, float]] = {}
        self._rows: dict[str, tuple[RowOptimizer, float]] = {}
        self._owner: dict[Tensor, RowOptimizer] = {}
        self._l2 = [p for name in ("wide", "embedding") for p in groups[name] if recipe.l2]
        self._refuse_sparse_l2()
        for name, parameters in groups.items():
            self._add_group(name, parameters)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def scale(self, factor: float) -> None:
        """Multiply the recipe's learning rates by `factor`, not below its floor."""
        for optimizer, base in self._torch.values():
            for group in optimizer.param_groups:
                group["lr"] = self._scaled(base, factor)
        for rows, base in self._rows.values():
            rows.learning_rate = self._scaled(base, factor)

    def learning_rates(self) -> dict[str, float]:
        """The rates in use, by parameter group."""
        whole = {name: optimizer.param_groups[0]["lr"] for name, (optimizer, _) in self._torch.items()}
        return whole | {name: rows.learning_rate for name, (rows, _) in self._rows.items()}

    @torch.no_grad()
    def prepare(self) -> Tensor:
        """Collect the touched rows, add L2, clip. Returns the norm of all gradients before clipping."""
        self._touched = [touched for embedding in self._embeddings for touched in embedding.touched()]
        for parameter in self._l2:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(parameter, alpha=self._recipe.l2)
        gradients = [p.grad for p in self._parameters if p.grad is not None] + [t.grad for t in self._touched]
        norm = nn.utils.get_total_norm(gradients)
        _clip(gradients, norm, self._recipe.clip)
        return norm

    def step(self) -> None:
        """Update everything."""
        for optimizer, _ in self._torch.values():
            optimizer.step()
        for rows, _ in self._rows.values():
            rows.tick()
        for weight, rows in self._owner.items():
            rows.update_all(weight)
        for touched in self._touched:
            self._owner[touched.weight].update_rows(touched.weight, touched.ids, touched.grad)
        self._touched = []

    def tensors(self) -> dict[str, Tensor]:
        """The state, `PARAMETER/STATE` by the names of the model's state_dict: one entry a table, not a stacked one."""
        found = {f"{name}/steps": torch.tensor(rows.steps) for name, (rows, _) in self._rows.items()}
        pieces = _pieces(self._model)
        for weight, state in self._states():
            for key, tensor in state.items():
                for piece in pieces[weight]:
                    part = tensor[piece.start : piece.stop] if tensor.dim() else tensor.clone()
                    found[f"{piece.name}/{key}"] = part.contiguous()
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the state that `tensors` gave."""
        pieces = _pieces(self._model)
        for name, (rows, _) in self._rows.items():
            rows.steps = int(tensors[f"{name}/steps"])
        for optimizer, _ in self._torch.values():
            for weight in optimizer.param_groups[0]["params"]:
                optimizer.state[weight] = _loaded(weight, pieces[weight], tensors)
        for weight, owner in self._owner.items():
            loaded = _loaded(weight, pieces[weight], tensors)
            owner.state[weight] = tuple(loaded[key] for key in owner.rule.state)

    def forget(self, weight: Tensor, rows: Tensor) -> None:
        """Set the state of some rows [n] of a weight to zero: they hold new values now."""
        for of, state in self._states():
            for tensor in state.values() if of is weight else ():
                if tensor.dim():
                    tensor[rows] = 0

    def _states(self) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        for optimizer, _ in self._torch.values():
            yield from optimizer.state.items()
        for weight, rows in self._owner.items():
            yield weight, dict(zip(rows.rule.state, rows.state[weight], strict=True))

    def _scaled(self, base: float, factor: float) -> float:
        return min(base, max(base * factor, self._recipe.min_learning_rate))

    def _refuse_sparse_l2(self) -> None:
        if any(not parameter.requires_grad for parameter in self._l2):
            raise ConfigError(
                f"`train.l2` = {self._recipe.l2} decays whole embedding tables, and of some this model updates only "
                f"touched rows ({', '.join(self._touched_tables())}); set train.l2=0, or embedding_update=dense"
            )

    def _touched_tables(self) -> list[str]:
        """Names of the tables that are updated by touched rows, the first few."""
        slices = [layer.slices for layer in self._embeddings]
        names = [name for of in slices for name, part in of.items() if not part.weight.requires_grad]
        return [*names[:3], "..."] if len(names) > 3 else names

    def _add_group(self, name: str, parameters: Sequence[nn.Parameter]) -> None:
        rule = getattr(self._recipe, f"{name}_optimizer", None) or self._recipe.optimizer
        rate = getattr(self._recipe, f"{name}_learning_rate", None) or self._recipe.learning_rate
        whole = [p for p in parameters if p.requires_grad and rule not in ONLY_ROWS]
        by_rows = [p for p in parameters if not p.requires_grad or rule in ONLY_ROWS]
        if whole:
            decay = self._recipe.weight_decay if name == "dense" else 0.0
            self._torch[name] = _torch_optimizer(rule, whole, rate, decay), rate
        if by_rows:
            rows = RowOptimizer(rule, rate, l1=self._recipe.ftrl_l1, l2=self._recipe.ftrl_l2)
            self._rows[name] = rows, rate
            for parameter in by_rows:
                rows.add(parameter)
                self._owner[parameter] = rows


def _loaded(weight: Tensor, pieces: Sequence[Piece], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a weight from that of its pieces; rows that no piece names have none yet."""
    prefix = f"{pieces[0].name}/"
    found: dict[str, Tensor] = {}
    for key in (name.removeprefix(prefix) for name in tensors if name.startswith(prefix)):
        first = tensors[f"{prefix}{key}"]
        whole = first.new_zeros(len(weight), *first.shape[1:]) if first.dim() else first.clone()
        for piece in pieces if first.dim() else ():
            whole[piece.start : piece.stop] = tensors[f"{piece.name}/{key}"]
        found[key] = whole.to(weight.device)
    return found


def _torch_optimizer(rule: str, parameters: list[nn.Parameter], rate: float, decay: float) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": rate, "weight_decay": decay, "fused": True}
    match rule:
        case "adam":
            return torch.optim.Adam(parameters, **options)
        case "adamw":
            return torch.optim.AdamW(parameters, **options)
        case "adagrad":
            return torch.optim.Adagrad(parameters, **options)
    assert rule == "sgd"
    return torch.optim.SGD(parameters, **options)


def _clip(gradients: Iterable[Tensor], norm: Tensor, most: float) -> None:
    """Scale all gradients so that their norm is at most `most`; as torch.nn.utils.clip_grad_norm_ does."""
    factor = most / (norm.item() + 1e-6)
    if factor < 1:
        for gradient in gradients:
            gradient.mul_(factor)


def _pieces(model: nn.Module) -> dict[Tensor, list[Piece]]:
    """The names of each parameter's rows; a stacked embedding weight has one a table."""
    pieces: dict[Tensor, list[Piece]] = {}
    for name, p in model.named_parameters():
        pieces[p] = [Piece(name, 0, len(p) if p.dim() else 1)]
    for prefix, module in model.named_modules():
        if isinstance(module, Embedding):
            stacked: dict[Tensor, list[Piece]] = {}
            for table, (weight, start, stop) in module.slices.items():
                stacked.setdefault(weight, []).append(Piece(f"{prefix}.{table}.weight".lstrip("."), start, stop))
            pieces.update(stacked)
    return pieces
