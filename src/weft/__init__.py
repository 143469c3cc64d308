"""weft: tables of interactions in, recommendations out.

    store = weft.prepare("schema.toml", "store")
    run = weft.train(store, "dcn_v2", out="run")
    report = weft.evaluate("run")
    weft.Recommender.load("run").recommend("some user", k=10)

Every public name stands in `__all__` and is imported when it is first used, so that `import weft` loads no torch and no
polars. `weft.train`, `weft.evaluate` and `weft.explain` are packages that can be called.
"""

import atexit
import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

# msgspec's types can crash the interpreter when its last collection frees them (its issue 717): it frees nothing.
atexit.register(gc.freeze)

if TYPE_CHECKING:
    from weft import models as models
    from weft.batch import Batch as Batch
    from weft.batch import Fields as Fields
    from weft.data.describe import describe as describe
    from weft.data.store import Store as Store
    from weft.data.store import prepare as prepare
    from weft.errors import WeftError as WeftError
    from weft.evaluate.evaluator import evaluate as evaluate
    from weft.evaluate.predict import predict as predict
    from weft.evaluate.report import Report as Report
    from weft.explain.explainer import explain as explain
    from weft.models import create as create_model
    from weft.recommend.bundle import bundle as bundle
    from weft.recommend.pipeline import Pipeline as Pipeline
    from weft.recommend.recommender import Recommender as Recommender
    from weft.schema import (
        Categorical,
        ColumnSplit,
        Count,
        Cross,
        Dense,
        Label,
        LastSplit,
        MultiHot,
        Protocol,
        RandomSplit,
        Roles,
        Schema,
        Sequence,
        Tables,
        TimeSplit,
    )
    from weft.study.compare import compare as compare
    from weft.train.run import train as train

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Categorical",
    "ColumnSplit",
    "Count",
    "Cross",
    "Dense",
    "Fields",
    "Label",
    "LastSplit",
    "MultiHot",
    "Pipeline",
    "Protocol",
    "RandomSplit",
    "Recommender",
    "Report",
    "Roles",
    "Schema",
    "Sequence",
    "Store",
    "Tables",
    "TimeSplit",
    "WeftError",
    "__version__",
    "bundle",
    "compare",
    "create_model",
    "describe",
    "evaluate",
    "explain",
    "models",
    "predict",
    "prepare",
    "train",
]

_PACKAGES = ("evaluate", "explain", "models", "train")
_HOMES = {
    "Batch": "weft.batch",
    "Fields": "weft.batch",
    "Pipeline": "weft.recommend.pipeline",
    "Recommender": "weft.recommend.recommender",
    "Report": "weft.evaluate.report",
    "Store": "weft.data.store",
    "WeftError": "weft.errors",
    "bundle": "weft.recommend.bundle",
    "compare": "weft.study.compare",
    "describe": "weft.data.describe",
    "predict": "weft.evaluate.predict",
    "prepare": "weft.data.store",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    if name in _PACKAGES:
        return import_module(f"weft.{name}")
    if name == "create_model":
        return import_module("weft.models").create
    return getattr(import_module(_HOMES.get(name, "weft.schema")), name)


def __dir__() -> list[str]:
    return __all__
