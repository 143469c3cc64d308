"""DeepCTR-Torch's models on the rows of a case, with the loader and the update of its `fit`.

Its `fit` cannot be asked for single updates, so `step` is the body of its loop. It reads ids and numbers from one float
matrix, and numbers enter its networks as they are, so that only cases without numbers have the same architecture.
"""

from importlib import metadata

import numpy as np
import torch
from _worker import Trainer, count, read, serve
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DCN, DeepFM
from torch.utils.data import DataLoader, TensorDataset


def model_of(case):
    columns = [SparseFeat(f"c{i}", rows, embedding_dim=case["width"]) for i, rows in enumerate(case["sizes"])]
    plain = {"l2_reg_embedding": 0, "l2_reg_linear": 0, "init_std": 0.01, "dnn_use_bn": case["batch_norm"]}
    plain |= {"dnn_hidden_units": case["hidden"]}
    if case["model"] == "deepfm":
        return DeepFM(columns, columns, **plain)
    assert case["model"] == "dcn_v2"
    return DCN([], columns, cross_num=case["cross"], cross_parameterization="matrix", l2_reg_cross=0, **plain)


def make(case):
    assert not case["numbers"], "numbers would enter as they are"
    ids, _, label = read(case)
    rows = TensorDataset(torch.from_numpy(ids.astype(np.float64)), torch.from_numpy(label))
    model = model_of(case)
    model.compile(torch.optim.Adam(model.parameters(), lr=case["learning_rate"]), "binary_crossentropy")
    model.train()

    def step(batch):
        x, y = batch[0].float(), batch[1].float()
        predicted = model(x).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted, y, reduction="sum")
        (loss + model.get_regularization_loss() + model.aux_loss).backward()
        model.optim.step()
        return loss.item() / len(y)

    return Trainer(
        f"DeepCTR-Torch {metadata.version('deepctr-torch')}",
        count(model),
        lambda: DataLoader(rows, case["batch"], shuffle=True, drop_last=True),
        step,
    )


if __name__ == "__main__":
    serve(make)
