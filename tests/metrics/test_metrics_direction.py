"""Which way a metric points: said once, for all that trains, compares and explains by one."""

from weft.metrics import more_is_better
from weft.train.objective import METRICS


def test_which_way_is_better() -> None:
    less = {"logloss", "ne", "rmse", "mae", "poisson_deviance", "click.logloss"}
    for name in (*less, "auc", "gauc", "ndcg@10", "click.accuracy", "hr@5"):
        assert more_is_better(name) == (name not in less)


def test_of_what_training_monitors_only_auc_and_accuracy_rise() -> None:
    monitored = {name for of_task in METRICS.values() for name in of_task}
    assert {name for name in monitored if more_is_better(name)} == {"auc", "accuracy"}
