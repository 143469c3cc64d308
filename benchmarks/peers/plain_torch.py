"""The trainer that a PyTorch tutorial would write: nn.Embedding a field, DataLoader, Adam; no other library."""

import torch
from _worker import Trainer, count, read, serve
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Fields(nn.Module):
    """A vector for each id and, for each number, its value times a vector."""

    def __init__(self, case):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, case["width"]) for rows in case["sizes"])
        self.numbers = nn.Parameter(0.01 * torch.randn(case["numbers"], case["width"]))

    def forward(self, ids, dense):
        """[B, N, E]."""
        looked_up = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        return torch.cat([dense[:, :, None] * self.numbers, torch.stack(looked_up, dim=1)], dim=1)


def mlp(width, hidden, batch_norm):
    layers = []
    for outputs in hidden:
        layers += [nn.Linear(width, outputs), *([nn.BatchNorm1d(outputs)] if batch_norm else []), nn.ReLU()]
        width = outputs
    return nn.Sequential(*layers)


class DCNV2(nn.Module):
    """Full-rank crosses beside a deep network."""

    def __init__(self, case):
        super().__init__()
        self.fields = Fields(case)
        width = (case["numbers"] + len(case["sizes"])) * case["width"]
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(case["cross"]))
        self.deep = mlp(width, case["hidden"], case["batch_norm"])
        self.head = nn.Linear(width + case["hidden"][-1], 1)

    def forward(self, ids, dense):
        """Logits [B]."""
        x0 = x = self.fields(ids, dense).flatten(1)
        for cross in self.crosses:
            x = x0 * cross(x) + x
        return self.head(torch.cat([x, self.deep(x0)], dim=1)).squeeze(1)


class DeepFM(nn.Module):
    """A factorisation machine and a deep network on the same vectors."""

    def __init__(self, case):
        super().__init__()
        self.fields = Fields(case)
        self.first_order = Fields({**case, "width": 1})
        width = (case["numbers"] + len(case["sizes"])) * case["width"]
        self.deep = mlp(width, case["hidden"], case["batch_norm"])
        self.head = nn.Linear(case["hidden"][-1], 1)

    def forward(self, ids, dense):
        """Logits [B]."""
        e = self.fields(ids, dense)
        pairs = 0.5 * (e.sum(1).square() - e.square().sum(1)).sum(1)
        return self.first_order(ids, dense).sum((1, 2)) + pairs + self.head(self.deep(e.flatten(1))).squeeze(1)


class DLRM(nn.Module):
    """Dot products of all pairs of fields, and the numbers, feed one network."""

    def __init__(self, case):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, case["width"]) for rows in case["sizes"])
        self.bottom = mlp(case["numbers"], [*case["bottom"], case["width"]], False)
        slots = len(case["sizes"]) + 1
        self.register_buffer("pairs", torch.tril_indices(slots, slots, offset=-1))
        self.top = mlp(slots * (slots - 1) // 2 + case["width"], case["top"], False)
        self.head = nn.Linear(case["top"][-1], 1)

    def forward(self, ids, dense):
        """Logits [B]."""
        x = self.bottom(dense)
        slots = torch.stack([x, *(table(ids[:, i]) for i, table in enumerate(self.tables))], dim=1)
        dots = (slots @ slots.mT)[:, self.pairs[0], self.pairs[1]]
        return self.head(self.top(torch.cat([x, dots], dim=1))).squeeze(1)


MODELS = {"dcn_v2": DCNV2, "deepfm": DeepFM, "dlrm": DLRM}


def make(case):
    ids, dense, label = (torch.from_numpy(part) for part in read(case))
    device = torch.device(case["device"])
    model = MODELS[case["model"]](case).to(device).train()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.01)
    run = torch.compile(model) if case.get("compile") else model
    optimizer = torch.optim.Adam(model.parameters(), lr=case["learning_rate"])
    loss_of = nn.BCEWithLogitsLoss()
    lower = torch.autocast(device.type, torch.bfloat16, enabled=case["precision"] == "bf16")
    rows = TensorDataset(ids, dense, label)

    def batches():
        for batch in DataLoader(rows, case["batch"], shuffle=True, drop_last=True):
            yield [part.to(device) for part in batch]

    def step(batch):
        ids, dense, label = batch
        with lower:
            logits = run(ids, dense)
        loss = loss_of(logits.float(), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Trainer(f"plain PyTorch {torch.__version__}", count(model), batches, step)


if __name__ == "__main__":
    serve(make)
