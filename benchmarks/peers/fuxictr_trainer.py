"""FuxiCTR's models, trainer and loader on the rows of a case; its models are read from a checkout, see setup.sh.

Its DLRM joins columns of numbers as if they were matrices of one column, and its loaders give vectors: they are seen as
matrices here, without which it stops.
"""

import importlib.util
import os
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
from _worker import Trainer, count, read, serve
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader

PLACES = {
    "dcn_v2": ("DCNv2/src/DCNv2.py", "DCNv2"),
    "deepfm": ("DeepFM/DeepFM_torch/src/DeepFM.py", "DeepFM"),
    "dlrm": ("DLRM/src/DLRM.py", "DLRM"),
    "autoint": ("AutoInt/src/AutoInt.py", "AutoInt"),
    "gdcn_p": ("GDCN/src/GDCN.py", "GDCNP"),
}


def source():
    """The checkout with the folder model_zoo."""
    own = Path(__file__).resolve().parents[2] / ".peers" / "FuxiCTR"
    folder = Path(os.environ.get("FUXICTR_SOURCE", own)) / "model_zoo"
    if not folder.is_dir():
        raise SystemExit("FuxiCTR's wheel lacks its models; set FUXICTR_SOURCE to a checkout of version 2.3.10")
    return folder


def model_class(name):
    path, attribute = PLACES[name]
    spec = importlib.util.spec_from_file_location(attribute, source() / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, attribute)


def feature_map(case):
    """What FuxiCTR's own preparation would have written about the columns."""
    found = FeatureMap("bench", "")
    for i in range(case["numbers"]):
        found.features[f"i{i}"] = {"source": "", "type": "numeric"}
    for i, rows in enumerate(case["sizes"]):
        found.features[f"c{i}"] = {"source": "", "type": "categorical", "vocab_size": rows}
    found.labels = ["label"]
    found.num_fields = found.get_num_fields()
    found.default_emb_dim = case["width"]
    found.set_column_index()
    return found


def options(case, folder):
    own = {
        "dcn_v2": {"parallel_dnn_hidden_units": case["hidden"], "num_cross_layers": case["cross"]},
        "deepfm": {"hidden_units": case["hidden"]},
        "dlrm": {"bottom_mlp_units": case["bottom"], "top_mlp_units": case["top"]},
        "autoint": {"dnn_hidden_units": [], "attention_layers": 3, "num_heads": 2, "attention_dim": 64},
        "gdcn_p": {"dnn_hidden_units": case["hidden"], "num_cross_layers": case["cross"]},
    }
    return {
        "embedding_dim": case["width"],
        "learning_rate": case["learning_rate"],
        "batch_norm": case["batch_norm"],
        "net_dropout": case.get("dropout", 0),
        "embedding_regularizer": case.get("l2"),
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC", "logloss"],
        "monitor": "AUC",
        "verbose": 0,
        "model_root": folder,
        "gpu": -1,
        **own[case["model"]],
    }


def write(case, folder):
    """The rows as the Parquet file that its loader reads; returns the path."""
    ids, dense, label = read(case)
    columns = {f"i{i}": dense[:, i] for i in range(dense.shape[1])}
    columns |= {f"c{i}": ids[:, i] for i in range(ids.shape[1])}
    path = f"{folder}/{Path(case['data']).name}.parquet"
    pl.DataFrame({**columns, "label": label}).write_parquet(path)
    return path


def loader(columns, path, case, shuffle):
    return RankDataLoader(
        columns, stage="train", train_data=path, batch_size=case["batch"], shuffle=shuffle, data_format="parquet"
    )[0]


def make(case):
    keeper = tempfile.TemporaryDirectory(prefix="fuxictr-")
    Path(keeper.name, "bench").mkdir()  # its checkpoints go there
    columns = feature_map(case)
    model = model_class(case["model"])(columns, **options(case, keeper.name))
    model._max_gradient_norm = 10.0
    model.train()
    train = loader(columns, write(case, keeper.name), case, True)

    def fit(valid, test, epochs):
        """Its own training with early stopping, then its own evaluation of both splits."""
        judged = {
            name: loader(columns, write({**case, "data": data}, keeper.name), case, False)
            for name, data in (("valid", valid), ("test", test))
        }
        start = time.perf_counter()
        model.fit(train, validation_data=judged["valid"], epochs=epochs, max_gradient_norm=10.0)
        seconds = time.perf_counter() - start
        found = {name: {k: float(v) for k, v in model.evaluate(part).items()} for name, part in judged.items()}
        return {"seconds": seconds, "epochs": model._epoch_index + 1, **found, "kept": bool(keeper)}

    return Trainer(
        f"FuxiCTR {metadata.version('fuxictr')}",
        count(model),
        lambda: whole(train, case["batch"]),
        lambda batch: model.train_step(as_columns(batch) if case["model"] == "dlrm" else batch).item(),
        {"fit": fit},
    )


def as_columns(batch):
    """The numbers of a batch as matrices of one column."""
    return {name: value[:, None] if name.startswith("i") else value for name, value in batch.items()}


def whole(batches, size):
    """The batches of full size: the last one of an epoch is left out, as by the other trainers."""
    return (batch for batch in batches if len(batch["label"]) == size)


def prepare(files, numbers, texts, folder):
    """FuxiCTR's preparation of Parquet files of the splits; returns the seconds it took."""
    from fuxictr.preprocess import FeatureProcessor, build_dataset

    features = [
        {"name": numbers, "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
        {"name": texts, "active": True, "dtype": "str", "type": "categorical"},
    ]
    start = time.perf_counter()
    processor = FeatureProcessor(
        feature_cols=features,
        label_col={"name": "label", "dtype": "float"},
        dataset_id=f"prepared{np.random.default_rng().integers(1 << 30)}",
        data_root=folder,
    )
    build_dataset(processor, **files, data_format="parquet", min_categr_count=1)
    return time.perf_counter() - start


def prepare_or_train(case):
    """A trainer, or one that only prepares tables where the case names `files`."""
    if "files" not in case:
        return make(case)

    def again():
        return {"seconds": prepare(case["files"], case["numeric"], case["texts"], case["folder"])}

    return Trainer(f"FuxiCTR {metadata.version('fuxictr')}", 0, None, None, {"prepare": again})


if __name__ == "__main__":
    serve(prepare_or_train)
