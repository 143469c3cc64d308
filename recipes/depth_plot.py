"""The plot of depth: AUC on MovieLens-1M against the number of cross layers."""

from typing import Any

from experiments import CROSSED

from weft.study.lines import Line, plot


def drawn(records: list[dict[str, Any]]) -> str:
    """The SVG of the records that are there."""
    found = {
        (record["model"], int(record["experiment"].rpartition("-")[2])): record["metrics"]["auc"]["value"]
        for record in records
        if record["experiment"].startswith("depth-")
    }
    lines = []
    for model in CROSSED:
        depths = sorted(depth for name, depth in found if name == model)
        if depths:
            lines.append(Line(model, depths, [found[model, depth] for depth in depths]))
    title = "Cross layers beside 400-400-400, MovieLens-1M, one seed"
    return plot(title, "cross layers", "test AUC", lines or [Line("not run yet", [1], [0.5])], log=False)
