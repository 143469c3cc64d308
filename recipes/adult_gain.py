"""What the crosses are worth on Adult: the difference in AUC of the same model with and without them, by pairs."""

from pathlib import Path
from typing import Any

import experiments
import numpy as np
from experiments import Experiment
from training import store_of, trained

from weft.data.store import Store
from weft.evaluate.evaluator import SCORE, judge
from weft.metrics.bootstrap import Weighted, replicates, weighted_auc

PAIRS = {
    "wide & deep": ("adult-wide_deep-crosses", "adult-wide_deep-plain"),
    "simply wide": ("adult-lr-crosses", "adult-lr-plain"),
}
Found = dict[str, Any]


def study(work: Path) -> Found:
    """The gain of each pair over the seeds, and its interval: test rows drawn anew, and a seed drawn for each draw."""
    return {name: _gain(*(_experiment(one) for one in pair), work.parent) for name, pair in PAIRS.items()}


def page(found: Found) -> list[str]:
    """The table of the study."""
    head = ["model", "seeds", "gain in AUC by the crosses", "of each seed"]
    rows = [
        [
            name,
            str(len(one["of_seeds"])),
            f"{one['value']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})",
            ", ".join(f"{gain:+.4f}" for gain in one["of_seeds"]),
        ]
        for name, one in found.items()
    ]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _experiment(name: str) -> Experiment:
    return next(found for found in experiments.EXPERIMENTS if found.name == name)


def _gain(crossed: Experiment, plain: Experiment, work: Path) -> Found:
    curves = [_auc(one, seed, work) for seed in crossed.seeds for one in (crossed, plain)]
    of_seeds = [first.value - second.value for first, second in zip(curves[0::2], curves[1::2], strict=True)]
    drawn = replicates(curves, seed=0, resamples=1000)
    gains_RS = drawn[:, 0::2] - drawn[:, 1::2]
    seeds_RS = np.random.default_rng(0).integers(0, len(of_seeds), gains_RS.shape)
    low, high = np.quantile(np.take_along_axis(gains_RS, seeds_RS, 1).mean(1), [0.025, 0.975])
    return {"value": float(np.mean(of_seeds)), "low": float(low), "high": float(high), "of_seeds": of_seeds}


def _auc(experiment: Experiment, seed: int, work: Path) -> Weighted:
    run, _ = trained(experiment, seed, work, "auto")
    label = Store.open(store_of(experiment, seed, work)).split("test").label
    assert label is not None
    return weighted_auc(label[:, 0], judge(run).values[SCORE])
