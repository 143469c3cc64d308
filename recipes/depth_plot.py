"""The plot of depth: AUC on MovieLens-1M against the number of cross layers."""

from typing import Any

from experiments import CROSSED
from plots import Axis, line_plot


def drawn(records: list[dict[str, Any]]) -> str:
    """The SVG of the records that are there."""
    found = {
        (record["model"], int(record["experiment"].rpartition("-")[2])): record["metrics"]["auc"]["value"]
        for record in records
        if record["experiment"].startswith("depth-")
    }
    series = {
        model: sorted((float(depth), auc) for (name, depth), auc in found.items() if name == model) for model in CROSSED
    }
    series = {model: line for model, line in series.items() if line}
    return line_plot(
        series or {"not run yet": [(1.0, 0.5)]},
        Axis("cross layers"),
        Axis("test AUC"),
        title="Cross layers beside 400-400-400, MovieLens-1M, one seed",
    )
