"""The demo: the whole road on the simulated music service, from tables to recommendations."""

import shlex
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from weft.artifacts import refuse_existing
from weft.data import catalog
from weft.data.store import Store, prepare
from weft.evaluate.evaluator import evaluate
from weft.evaluate.report import Report, Value, number
from weft.recommend.recommender import Recommender, render
from weft.train.run import train

MARK, SERVED = "weft-demo.txt", "bundles"
COLUMNS = {"auc": "AUC", "logloss": "logloss", "ne": "NE", "ndcg@10": "NDCG@10"}
MODELS: dict[str, tuple[str, ...]] = {
    "popularity": (),
    "lr": ("train.epochs=5",),
    "dcn_v2": ("hidden=[128, 64]", "train.epochs=5"),
}


def demo(out: str | Path, *, rows: int = 300_000, seed: int = 0, console: Console) -> dict[str, Report]:
    """Simulate, prepare, train three models, compare them, recommend.

    Args:
        out: The folder that is made; what an earlier demo made there is replaced, anything else is refused.
        rows: Impressions to simulate.
        seed: Of the simulation and of training.
        console: Where the tables are printed.

    Returns:
        The test report of each model.
    """
    start = time.perf_counter()
    folder = _fresh(Path(out))
    console.rule("1. a music service: users, tracks, impressions with planted tastes")
    data = catalog.get("music", folder / "data", options={"rows": rows, "seed": seed})
    console.rule("2. tables to a store")
    store = prepare(data / "schema.toml", folder / "store")
    _print_store(store, console)
    console.rule("3. three models, one loop")
    for model, sets in MODELS.items():
        train(store, model, out=folder / model, preset="bars", sets=sets, seed=seed, console=console)
    reports = {model: evaluate(folder / model) for model in MODELS}
    _print_reports(reports, console)
    console.rule("4. recommendations")
    recommender = Recommender.load(folder / "dcn_v2")
    user = recommender.most_active_user()
    answer = recommender.recommend(user, k=10)
    render(answer, console)
    _print_next(folder, user, time.perf_counter() - start, console)
    return reports


def _fresh(folder: Path) -> Path:
    """The folder, without what an earlier demo made there; what a person added stays."""
    if not (folder / MARK).is_file():
        refuse_existing(folder, "demo")
    for name in ("data", "store", SERVED, *MODELS):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("made by weft demo; a new demo replaces what it made here\n", encoding="utf-8")
    return folder


def _print_store(store: Store, console: Console) -> None:
    rows = ", ".join(f"{len(store.split(name)):,} {name}" for name in ("train", "valid", "test"))
    fields = store.fields
    console.print(
        f"{rows} rows; {fields.users - 2:,} users, {fields.items - 2:,} tracks; "
        f"{len(fields.ids)} id fields, {len(fields.dense)} numbers, {len(fields.ragged)} sets and sequences",
        highlight=False,
    )


def _print_reports(reports: dict[str, Report], console: Console) -> None:
    table = Table("model", *COLUMNS.values(), "parameters")
    for model, report in reports.items():
        cells = [_cell(report.metrics.get(key)) for key in COLUMNS]
        table.add_row(model, *cells, f"{report.parameters:,}")
    console.print(table)
    report = reports["dcn_v2"]
    said = f"test split, {report.rows:,} rows, 95 % intervals; protocol: {report.protocol}"
    console.print(said, highlight=False, markup=False)
    console.print(verdict(reports), highlight=False)


def verdict(reports: dict[str, Report]) -> str:
    """Whether dcn_v2's AUC lies above lr's beyond both intervals, in words."""
    cross, linear = (reports[name].metrics["auc"] for name in ("dcn_v2", "lr"))
    apart = cross.low is not None and linear.high is not None and cross.low > linear.high
    found = "beyond the intervals: the planted crosses were found" if apart else "but the intervals overlap"
    return f"dcn_v2 against lr: AUC {number(cross.value)} against {number(linear.value)}, {found}"


def _cell(value: Value | None) -> str:
    if value is None or value.value is None:
        return "-"
    return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"


def _print_next(folder: Path, user: str | int, seconds: float, console: Console) -> None:
    console.rule("5. where to go on")
    console.print(f"that took {seconds:.0f} s; everything lies in {folder}", highlight=False, markup=False)
    place = {name: shlex.quote(str(folder / name)) for name in ("store", "dcn_v2", "deepfm", f"{SERVED}/music")}
    for line in (
        f"weft recommend {place['dcn_v2']} --user {shlex.quote(str(user))} -k 20",
        f"weft describe {place['store']}",
        f"weft train {place['store']} --model deepfm --out {place['deepfm']}",
        f"weft evaluate {place['dcn_v2']} --protocol full",
        f"weft bundle {place['dcn_v2']} --out {place[f'{SERVED}/music']}",
        f"weft serve {place[f'{SERVED}/music']}",
    ):
        console.print(f"next: {line}", highlight=False, markup=False, soft_wrap=True)
