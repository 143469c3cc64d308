"""The contract that every registered model keeps, as functions: `check(name)` raises AssertionError where it does not.

    from weft.testing import check
    check("my_model")

Dimension key: B rows.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields as columns_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft.batch import Batch, DenseField, Field, Fields, Graph, Ragged
from weft.losses import accidental_hits, for_task, sampled_softmax, without
from weft.models import Fitted, Retriever, Source, Splits, create, embeddings, entry, reads_graph, score, splits
from weft.models._contract import vectors_of

Options = Mapping[str, Any]

NO_DROPOUT: Options = {"dropout": 0.0, "unknown_share": 0.0}


def tiny(labels: int = 1) -> tuple[Fields, Batch]:
    """Eight rows with a column of every kind, and their fields; several labels are different ones."""
    fields = Fields(
        ids=(
            Field(name="user", side="user", rows=6),
            Field(name="item", side="item", rows=7),
            Field(name="hour.bucket", side="context", rows=5),
        ),
        dense=(DenseField(name="hour", side="context"), DenseField(name="tempo", side="item")),
        ragged=(
            Field(name="genres", side="item", rows=6, kind="set"),
            Field(name="recent", side="user", rows=7, kind="sequence", table="item", max_length=3),
        ),
        user="user",
        item="item",
        users=6,
        items=7,
        outputs=labels,
    )
    row = torch.arange(8)
    ids_BF = torch.stack([2 + row % 4, 2 + row % 5, row % 5], dim=1)
    batch = Batch(
        ids=ids_BF.int(),
        dense=torch.stack([row.float().sin(), (3.0 * row).cos()], dim=1),
        ragged={"genres": _genres(), "recent": _recent()},
        label=torch.stack([torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0]).roll(t) for t in range(labels)], dim=1),
        position=1 + row // 2,
        user=ids_BF[:, 0],
        item=ids_BF[:, 1],
    )
    return fields, batch


def _genres() -> Ragged:
    values = torch.tensor([2, 3, 2, 4, 5, 2, 3, 4, 1, 5], dtype=torch.int32)
    return Ragged(values, torch.tensor([0, 2, 3, 3, 5, 6, 8, 9, 10]), torch.arange(1.0, 11.0))


def _recent() -> Ragged:
    values = torch.tensor([2, 3, 4, 6, 5, 1, 2, 2, 3, 5], dtype=torch.int32)
    return Ragged(values, torch.tensor([0, 0, 1, 3, 6, 6, 8, 9, 10]))


def tiny_graph() -> Graph:
    """The graph of the eight rows: their users and items, linked where the label is 1."""
    fields, batch = tiny()
    assert batch.user is not None
    assert batch.item is not None
    assert batch.label is not None
    return Graph(
        users=fields.users,
        items=fields.items,
        edges=torch.stack([batch.user, batch.item])[:, batch.label[:, 0] == 1].long(),
        user_rows=_side(batch.of(fields, "user"), batch.user, fields.users),
        item_rows=_side(batch.of(fields, "item"), batch.item, fields.items),
    )


def _side(batch: Batch, id_B: Tensor, count: int) -> Batch:
    """A row for each id: the first that the batch has of it, or else the first of all."""
    mine = [(id_B == i).nonzero().flatten().tolist() for i in range(count)]
    rows = _take(batch, [found[0] if found else 0 for found in mine])
    return replace(rows, ids=torch.arange(count, dtype=batch.ids.dtype)[:, None])


def fit(model: nn.Module, batch: Batch, *, task: str = "binary", steps: int = 150, rate: float = 0.05) -> list[float]:
    """A plain loop: Adam on what has gradients, row-wise Adagrad on touched rows; returns the losses."""
    loss_of = for_task(task)

    def loss() -> Tensor:
        assert batch.label is not None
        return loss_of(score(model, batch), batch.label, batch.weight)

    return _descended(model, loss, steps, rate)


def fit_vectors(model: nn.Module, batch: Batch, *, steps: int = 150, rate: float = 0.05) -> list[float]:
    """The same for a retriever, by the softmax over the items of the batch; all rows are taken for positive ones."""

    def loss() -> Tensor:
        assert isinstance(model, Retriever)
        assert batch.item is not None
        user_BE, item_BE, _ = vectors_of(model, batch)
        negative_BB = without(user_BE @ item_BE.T, accidental_hits(batch.item, batch.item))
        return sampled_softmax((user_BE * item_BE).sum(1), negative_BB, batch.weight)

    return _descended(model, loss, steps, rate)


def _descended(model: nn.Module, loss_now: Callable[[], Tensor], steps: int, rate: float) -> list[float]:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    squares: dict[int, Tensor] = {}
    losses: list[float] = []
    model.train()
    for _ in range(steps):
        loss = loss_now()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        _descend(model, squares, 4 * rate)
        losses.append(loss.item())
    return losses


def _descend(model: nn.Module, squares: dict[int, Tensor], rate: float) -> None:
    for layer in embeddings(model):
        for weight, ids, grad in layer.touched():
            square = squares.setdefault(id(weight), weight.new_full((len(weight), 1), 1e-10))
            square.index_add_(0, ids, grad.square().mean(1, keepdim=True))
            weight.detach().index_add_(0, ids, grad / square[ids].sqrt(), alpha=-rate)


def check(name: str, options: Options | None = None, *, labels: int = 1) -> None:
    """Check a registered model by its kinds; several labels are for rankers that learn them."""
    kinds = entry(name).kinds
    if "fitted" in kinds:
        check_fitted(name, options)
    elif "retriever" in kinds:
        check_retriever(name, options)
    else:
        check_ranker(name, options, labels=labels)


def check_ranker(name: str, options: Options | None = None, *, labels: int = 1) -> None:
    """Shapes, finite, batch of one, row independence, every weight moves, save and load, memorises, threads.

    Of a ranker that splits also that its parts join to the scores of the full rows.
    """
    fields, batch = tiny(labels)
    make = _maker(name, fields, options)
    _check_scores(make(), batch)
    _check_parts(make(), fields, batch)
    _check_learner(make, batch)


def check_retriever(name: str, options: Options | None = None) -> None:
    """As for a ranker; each side's vectors alone are those of the full rows; the softmax sets a user's items first."""
    fields, batch = tiny()
    make = _maker(name, fields, options)
    model = make().eval()
    assert isinstance(model, Retriever), f"{name} has not the methods of a Retriever"
    user_BE, item_BE = model.vectors(batch)
    torch.testing.assert_close(model.user_vectors(replace(batch.of(fields, "user", "context"), item=None)), user_BE)
    items = replace(batch.of(fields, "item"), user=None)
    torch.testing.assert_close(model.item_vectors(items), item_BE)
    drawn = replace(batch, negatives=_take(items, [4, 0, 1]))
    torch.testing.assert_close(vectors_of(model, drawn), (user_BE, item_BE, item_BE[[4, 0, 1]]))
    _check_scores(model, batch)
    _check_learner(make, batch)
    _check_softmax(make(), batch)


def check_fitted(name: str, options: Options | None = None) -> None:
    """Shapes, finite, row independence, fitting twice changes nothing, save and load; a source proposes its best."""
    fields, batch = tiny()
    make = _maker(name, fields, options)
    model = make()
    assert isinstance(model, Fitted), f"{name} has no `fit`"
    model.fit([batch])
    once = _state(model)
    model.fit(_slices(batch, 3))
    for key, value in _state(model).items():
        assert torch.allclose(value, once[key]), f"{key} depends on how the rows are cut into batches"
    _check_scores(model, batch)
    _check_saved(make, model, batch)
    if isinstance(model, Source):
        found = model.candidates(torch.tensor([2, 3]), 3)
        assert found.shape == (2, 3), f"candidates must be [U, K], got {list(found.shape)}"
        assert (found >= 2).all(), "padding and unknown are no candidates"
        assert model.candidates(torch.tensor([2]), 10_000).shape[1] <= fields.items - 2, "more candidates than items"


def _maker(name: str, fields: Fields, options: Options | None) -> Callable[[], nn.Module]:
    known = entry(name).config.__struct_fields__
    settings = {key: value for key, value in NO_DROPOUT.items() if key in known} | dict(options or {})
    graph = tiny_graph() if reads_graph(name) else None
    return lambda: create(name, fields, settings, seed=1, graph=graph)


@torch.no_grad()
def _check_scores(model: nn.Module, batch: Batch) -> None:
    model.eval()
    logits = score(model, batch)
    labels = 1 if batch.label is None else batch.label.shape[1]
    wanted = (len(batch),) if labels == 1 else (len(batch), labels)
    assert logits.shape == wanted, f"logits must be {'[B]' if labels == 1 else '[B, T]'}, got {list(logits.shape)}"
    assert torch.isfinite(logits).all(), "logits must be finite"
    for b in range(len(batch)):
        alone = score(model, _take(batch, [b]))
        torch.testing.assert_close(alone, logits[b : b + 1], msg=lambda m: f"a row alone has another score: {m}")
    assert score(model, _take(batch, [])).shape == (0, *logits.shape[1:]), "a batch without rows must give no logit"
    backwards = list(range(len(batch)))[::-1]
    torch.testing.assert_close(score(model, _take(batch, backwards)), logits.flip(0))


@torch.no_grad()
def _check_parts(model: nn.Module, fields: Fields, batch: Batch) -> None:
    if not splits(model):
        return
    assert isinstance(model, Splits)
    model.eval()
    user = model.user_part(replace(batch.of(fields, "user", "context"), item=None))
    item = model.item_part(replace(batch.of(fields, "item"), user=None))
    for part in (user, item):
        assert all(len(tensor) == len(batch) for tensor in part.values()), "a part must have one row a row of the batch"
    wanted = score(model, replace(batch, position=None))
    torch.testing.assert_close(model.join(user, item), wanted, msg=lambda m: f"parts joined score differently: {m}")
    one = {name: tensor[:1] for name, tensor in user.items()}
    each = {name: tensor[torch.zeros(len(batch), dtype=torch.int64)] for name, tensor in user.items()}
    torch.testing.assert_close(
        model.join(one, item), model.join(each, item), msg=lambda m: f"one user does not go with every item: {m}"
    )


def _check_learner(make: Callable[[], nn.Module], batch: Batch) -> None:
    _check_every_weight_moves(make(), batch)
    trained = make()
    losses = fit(trained, batch)
    assert losses[-1] < 0.02 < losses[0], f"eight rows are not memorised: loss {losses[0]:.3f} to {losses[-1]:.3f}"
    _check_padding(trained)
    _check_saved(make, trained, batch)
    _check_threads(make, batch)


def _check_softmax(model: nn.Module, batch: Batch) -> None:
    assert batch.label is not None
    liked = _take(batch, batch.label[:, 0].nonzero().flatten().tolist())
    fit_vectors(model, liked)
    model.eval()
    assert isinstance(model, Retriever)
    assert liked.item is not None
    assert liked.user is not None
    with torch.no_grad():
        user_BE, item_BE = model.vectors(liked)
    score_BB = user_BE @ item_BE.T
    strange_BB = liked.user[:, None] != liked.user
    strange_BB &= ~accidental_hits(liked.item, liked.item)
    best_B = score_BB.masked_fill(~strange_BB, -torch.inf).amax(1)
    assert (score_BB.diagonal() > best_B).all(), "the softmax leaves other users' items above the user's own"


def _check_every_weight_moves(model: nn.Module, batch: Batch) -> None:
    before = _state(model)
    fit(model, batch, steps=2)
    model.eval()
    moved = {key for key, value in _state(model).items() if not torch.equal(value, before[key])}
    still = {key for key in before if not key.endswith("num_batches_tracked")} - moved
    assert not still, f"training does not move {sorted(still)}"


def _check_padding(model: nn.Module) -> None:
    for layer in embeddings(model):
        for name in layer.slices:
            assert not layer.table(name)[0].any(), f"the padding row of table {name!r} moved"


@torch.no_grad()
def _check_saved(make: Callable[[], nn.Module], model: nn.Module, batch: Batch) -> None:
    again = make()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(model.state_dict(), path)
        again.load_state_dict(load_file(path))
    same = torch.equal(score(again.eval(), batch), score(model.eval(), batch))
    assert same, "a saved and loaded model scores differently"


def _check_threads(make: Callable[[], nn.Module], batch: Batch) -> None:
    """In double precision, because matrix products round in an order that depends on the threads."""
    found: list[Tensor] = []
    double = replace(batch, dense=batch.dense.double())
    for count in (1, 2):
        with _threads(count):
            model = make().double()
            fit(model, double, steps=3, rate=1e-3)
            found.append(score(model.eval(), double).detach())
    torch.testing.assert_close(*found, msg=lambda m: f"one and two threads differ: {m}")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def _slices(batch: Batch, size: int) -> list[Batch]:
    rows = list(range(len(batch)))
    return [_take(batch, rows[i : i + size]) for i in range(0, len(batch), size)]


def _take(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch, in this order."""
    columns = {c.name: getattr(batch, c.name) for c in columns_of(batch) if c.name != "ragged"}
    taken = {name: column[rows] for name, column in columns.items() if column is not None}
    return replace(batch, ragged={name: _take_ragged(r, rows) for name, r in batch.ragged.items()}, **taken)


def _take_ragged(ragged: Ragged, rows: list[int]) -> Ragged:
    spans = [torch.arange(int(ragged.offsets[b]), int(ragged.offsets[b + 1])) for b in rows]
    at = torch.cat([torch.empty(0, dtype=torch.int64), *spans])
    lengths = ragged.offsets.diff()[rows]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Ragged(ragged.values[at], offsets, None if ragged.weights is None else ragged.weights[at])
