"""torch-rechub's models on the rows of a case, with its loader and the update of its CTRTrainer.

Its numbers enter as they are and its networks always have batch norm, so that only cases without numbers and with batch
norm have the same architecture; its DeepFM reads the first order from the vectors and has no weights of its own for it.
"""

import os
from importlib import metadata

import torch
from _worker import Trainer, count, read, serve
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.ranking import DCNv2, DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator


def model_of(case):
    features = [SparseFeature(f"c{i}", rows, embed_dim=case["width"]) for i, rows in enumerate(case["sizes"])]
    deep = {"dims": case["hidden"]}
    if case["model"] == "deepfm":
        return DeepFM(features, features, deep)
    assert case["model"] == "dcn_v2"
    return DCNv2(features, case["cross"], deep, use_low_rank_mixture=False)


def make(case):
    assert case["batch_norm"], "it has batch norm always"
    assert not case["numbers"], "numbers would enter as they are"
    ids, _, label = read(case)
    model = model_of(case)
    trainer = CTRTrainer(model, optimizer_params={"lr": case["learning_rate"]}, model_path=os.devnull)
    columns = {f"c{i}": ids[:, i] for i in range(ids.shape[1])}
    batches, _, _ = DataGenerator(columns, label).generate_dataloader(
        x_val=columns, y_val=label, x_test=columns, y_test=label, batch_size=case["batch"]
    )
    model.train()

    def step(batch):
        x, y = batch
        loss = trainer.criterion(trainer.model(x), y.float()) + trainer.reg_loss_fn(trainer.model)
        trainer.model.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        return loss.item()

    def whole():
        return (batch for batch in batches if len(batch[1]) == case["batch"])

    return Trainer(f"torch-rechub {metadata.version('torch-rechub')}", count(model), whole, step)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    serve(make)
