"""Which way a metric points."""

LESS_IS_BETTER = ("logloss", "ne", "rmse", "mae", "poisson_deviance")


def more_is_better(metric: str) -> bool:
    """Whether a larger value of the metric is a better one; the name may begin with that of a label.

    >>> more_is_better("click.auc"), more_is_better("logloss"), more_is_better("ndcg@10")
    (True, False, True)
    """
    return metric.rpartition(".")[2] not in LESS_IS_BETTER
