"""Make the numbers of docs/results.md: real data, three to five seeds, the published figures beside ours.

    WEFT_DATA=path/to/the/raw/files python recipes/results.py --work runs/results [--only frappe ml1m ml100k]

Resumable: a finished run is not made again, an interrupted one goes on from its checkpoint. The last step writes
docs/results.json and, from it, docs/results.md.
"""

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import weft
from weft.data import catalog
from weft.errors import ArtifactError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One model on one protocol of one data set, some seeds or folds."""

    name: str
    title: str
    data: str
    source: str
    protocol: str
    model: str
    seeds: tuple[int, ...]
    preset: str | None = None
    sets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("auc", "logloss")
    fold_is_seed: bool = False
    published: str = ""


FRAPPE = {"data": "frappe", "source": "frappe", "protocol": "ctr", "preset": "bars"}
ML1M = {"data": "movielens-1m", "source": "ml-1m", "protocol": "ctr", "preset": "bars"}
ML100K: dict[str, Any] = {
    "data": "movielens-100k",
    "source": "ml-100k",
    "protocol": "rating",
    "seeds": (1, 2, 3, 4, 5),
    "metrics": ("rmse",),
    "fold_is_seed": True,
}

EXPERIMENTS = (
    Experiment(
        name="ml1m-dcn_v2",
        title="MovieLens-1M `ctr`",
        model="dcn_v2",
        seeds=(0, 1, 2),
        published="DCN-V2 .8950/.3170 (its paper, other split); record of any model .9092/.2958",
        **ML1M,
    ),
    Experiment(
        name="frappe-dcn_v2",
        title="Frappe",
        model="dcn_v2",
        seeds=(0, 1, 2, 3, 4),
        sets=("num_cross=4",),
        published="DCN-V2 on the official train: mean of 5 .98382/.15204; FuxiCTR on these files .98366/.1511, .98437/.1529",
        **FRAPPE,
    ),
)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results")
    parser.add_argument("--only", nargs="*", default=[], help="data sets: names that begin with one of these")
    arguments = parser.parse_args()
    for experiment in EXPERIMENTS:
        if not arguments.only or experiment.name.startswith(tuple(arguments.only)):
            run(experiment, arguments.work)
