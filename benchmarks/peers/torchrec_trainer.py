"""TorchRec's tables with the optimizer fused into their backward pass (Adam on touched rows), under plain networks.

The dense networks are those of plain_torch.py under bf16 autocast, compiled by nobody; only the tables differ.
"""

from importlib import metadata

import torch
from _worker import Trainer, count, read, serve
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from plain_torch import DCNV2, DLRM
from torch import nn


class Fused(nn.Module):
    """All tables in one kernel: ids [B, F] to [B, F, E]."""

    def __init__(self, case):
        super().__init__()
        cuda = case["device"] == "cuda"
        place = EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST
        device = ComputeDevice.CUDA if cuda else ComputeDevice.CPU
        self.tables = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, case["width"], place, device) for rows in case["sizes"]],
            optimizer=EmbOptimType.ADAM if cuda else EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=case["learning_rate"],
        )
        self.tables.init_embedding_weights_uniform(-0.01, 0.01)
        self.shape = (len(case["sizes"]), case["width"])

    def forward(self, ids):
        """[B, F, E]."""
        values = ids.T.contiguous().view(-1).long()
        offsets = torch.arange(len(values) + 1, device=values.device)
        return self.tables(values, offsets).view(len(ids), *self.shape)


class FusedFields(nn.Module):
    """As `Fields` of plain_torch.py, on fused tables."""

    def __init__(self, case):
        super().__init__()
        self.fused = Fused(case)
        self.numbers = nn.Parameter(0.01 * torch.randn(case["numbers"], case["width"]))

    def forward(self, ids, dense):
        """[B, N, E]."""
        return torch.cat([dense[:, :, None] * self.numbers, self.fused(ids)], dim=1)


class FusedDLRM(DLRM):
    """DLRM on fused tables."""

    def __init__(self, case):
        super().__init__({**case, "sizes": [1] * len(case["sizes"])})
        self.tables = Fused(case)

    def forward(self, ids, dense):
        """Logits [B]."""
        x = self.bottom(dense)
        slots = torch.cat([x[:, None], self.tables(ids).to(x.dtype)], dim=1)
        dots = (slots @ slots.mT)[:, self.pairs[0], self.pairs[1]]
        return self.head(self.top(torch.cat([x, dots], dim=1))).squeeze(1)


def model_of(case):
    if case["model"] == "dlrm":
        return FusedDLRM(case)
    model = DCNV2({**case, "sizes": [1] * len(case["sizes"])})
    model.fields = FusedFields(case)
    return model


def make(case):
    ids, dense, label = (torch.from_numpy(part) for part in read(case))
    device = torch.device(case["device"])
    model = model_of(case).to(device).train()
    own = [weight for name, weight in model.named_parameters() if "tables" not in name]
    optimizer = torch.optim.Adam(own, lr=case["learning_rate"])
    lower = torch.autocast(device.type, torch.bfloat16, enabled=case["precision"] == "bf16")
    loss_of = nn.BCEWithLogitsLoss()

    def batches():
        order = torch.randperm(len(ids))
        for start in range(0, len(ids) - case["batch"] + 1, case["batch"]):
            part = order[start : start + case["batch"]]
            yield ids[part].to(device), dense[part].to(device), label[part].to(device)

    def step(batch):
        ids, dense, label = batch
        with lower:
            logits = model(ids, dense)
        loss = loss_of(logits.float(), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Trainer(f"TorchRec {metadata.version('torchrec')}", count(model), batches, step)


if __name__ == "__main__":
    serve(make)
