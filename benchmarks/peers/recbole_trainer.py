"""RecBole's models, loader and update on the rows of a case, and its full-ranking evaluation.

It makes tables from the values it reads, so it reads one row here, is told the sizes of the case and given its rows.
Its DCN V2 always has batch norm and computes the penalty of the crosses' weights, also where it counts nothing.
"""

import logging
import tempfile
import time
from pathlib import Path

import _old_numpy  # noqa: F401, before RecBole
import numpy as np
import recbole
import torch
from _worker import Trainer, count, read, serve
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer

COMMON = {
    "use_gpu": False,
    "show_progress": False,
    "reproducibility": False,
    "state": "ERROR",
    "LABEL_FIELD": "label",
    "RATING_FIELD": "rating",
}


def config_of(model, dataset, folder, **more):
    logging.disable(logging.INFO)
    return Config(
        model=model,
        dataset=dataset,
        config_dict={**COMMON, "data_path": str(folder), "checkpoint_dir": str(folder), **more},
    )


def train_config(case, folder):
    names = [f"c{i}" for i in range(len(case["sizes"]))]
    place = Path(folder) / "bench"
    place.mkdir()
    lines = ["\t".join([*(f"{name}:token" for name in names), "label:float"]), *["\t".join(["1"] * (len(names) + 1))]]
    (place / "bench.inter").write_text("\n".join(lines) + "\n")
    own = {"mixed": False, "structure": "parallel", "cross_layer_num": case["cross"], "reg_weight": 0}
    return config_of(
        {"dcn_v2": "DCNV2", "deepfm": "DeepFM"}[case["model"]],
        "bench",
        folder,
        USER_ID_FIELD="c0",
        ITEM_ID_FIELD="c1",
        load_col={"inter": [*names, "label"]},
        train_neg_sample_args=None,
        train_batch_size=case["batch"],
        learning_rate=case["learning_rate"],
        embedding_size=case["width"],
        mlp_hidden_size=case["hidden"],
        dropout_prob=0.0,
        eval_args={"mode": "labeled", "split": {"RS": [1, 0, 0]}},
        metrics=["AUC"],
        valid_metric="AUC",
        **own,
    )


def make_trainer(case):
    assert not case["numbers"], "numbers are not passed on"
    folder = tempfile.mkdtemp(prefix="recbole-")
    config = train_config(case, folder)
    dataset = create_dataset(config)
    dataset._change_feat_format()
    sizes = {f"c{i}": rows for i, rows in enumerate(case["sizes"])}
    dataset.num = lambda field: sizes.get(field, 1)
    ids, _, label = read(case)
    columns = {f"c{i}": torch.from_numpy(ids[:, i].astype(np.int64)) for i in range(ids.shape[1])}
    dataset.inter_feat = Interaction({**columns, "label": torch.from_numpy(label)})
    model = get_model(config["model"])(config, dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    loader = TrainDataLoader(config, dataset, None, shuffle=True)
    model.train()

    def step(batch):
        trainer.optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        trainer._check_nan(loss)
        loss.backward()
        trainer.optimizer.step()
        return loss.item()

    def whole():
        return (batch for batch in loader if len(batch) == case["batch"])

    return Trainer(f"RecBole {recbole.__version__}", count(model), whole, step)


def make_evaluator(case):
    """Its evaluation of given vectors: files NAME.part{1,2,3}.inter, NAME.item, vectors.npz in the folder `ranking`."""
    folder = Path(case["ranking"])
    config = config_of(
        "BPR",
        folder.name,
        folder.parent,
        benchmark_filename=["part1", "part2", "part3"],
        USER_ID_FIELD="user_id",
        ITEM_ID_FIELD="item_id",
        load_col={"inter": ["user_id", "item_id"], "item": ["item_id"]},
        metric_decimal_place=9,
        embedding_size=case["width"],
        metrics=["Recall", "NDCG"],
        topk=[20],
        valid_metric="NDCG@20",
        eval_batch_size=case["eval_batch_size"],
        eval_args={"mode": "full", "order": "RO", "group_by": "user"},
    )
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = get_model("BPR")(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, model)
    trainer.eval_collector.data_collect(train)
    vectors = np.load(folder / "vectors.npz")
    _fill(model.user_embedding.weight, vectors["user"], dataset.field2id_token["user_id"])
    _fill(model.item_embedding.weight, vectors["item"], dataset.field2id_token["item_id"])

    def evaluate():
        start = time.perf_counter()
        found = trainer.evaluate(test, load_best_model=False)
        return {"seconds": time.perf_counter() - start, **{name: float(value) for name, value in found.items()}}

    return Trainer(f"RecBole {recbole.__version__}", count(model), None, None, {"evaluate": evaluate})


@torch.no_grad()
def _fill(weight, vectors, tokens):
    """Give each token the vector of its number; row 0 is its padding."""
    weight[1:] = torch.from_numpy(vectors[np.array(tokens[1:], dtype=np.int64)])


def make(case):
    return make_evaluator(case) if "ranking" in case else make_trainer(case)


if __name__ == "__main__":
    serve(make)
