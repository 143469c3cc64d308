"""The feedback loop over a week: plays per request of a service that learns every night, and of a frozen copy.

    python recipes/feedback.py --out docs/results/feedback.json

Both services start with one bundle of the music world (two_tower proposes, dcn_v2 ranks, a tenth of the places goes to
chance) and have the same visits. Over the week the users' tastes turn and tracks are added. After each day one of them
runs `weft learn`, which publishes behind its gate. Intervals are bootstraps over requests.
"""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

import weft
from weft.data import catalog
from weft.data.music import MusicConfig
from weft.learn.gate import Bounds
from weft.learn.loop import Learning, Outcome, learn
from weft.learn.showing import serving
from weft.learn.simulate import Client, Day, gain, render, simulate
from weft.recommend.pipeline import Explore, Pipeline, Rank, Source
from weft.serve.settings import Limits, Settings
from weft.serve.store import EventStore
from weft.study.lines import Line, plot

WINDOW = 0.5  # seconds: the world's days pass in minutes of the service's clock
MODELS: dict[str, tuple[str, ...]] = {
    "two_tower": ("embedding_dim=16", "train.epochs=4", "train.batch_size=256"),
    "dcn_v2": ("hidden=[64, 32]", "embedding_dim=8", "train.epochs=4", "train.batch_size=128"),
}
PIPELINE = Pipeline(
    sources=(Source(run="two_tower", quota=200),), ranking=(Rank(run="dcn_v2"),), final=(Explore(share=0.1),)
)


def make_bundle(folder: Path, config: MusicConfig) -> Path:
    """The world's tables, a store, two runs and their bundle."""
    data = catalog.get(
        "music", folder / "data", options={"rows": config.rows, "users": config.users, "seed": config.seed}
    )
    store = weft.prepare(data / "schema.toml", folder / "store")
    for model, sets in MODELS.items():
        weft.train(store, model, out=folder / model, sets=sets)
    weft.bundle([folder / model for model in MODELS], folder / "bundles" / "first", pipeline=PIPELINE)
    return folder / "bundles" / "first"


def service(bundle: Path, store: Path) -> AbstractContextManager[str]:
    """A service with a log of its own; its URL."""
    limits = Limits(outcome_seconds=WINDOW, events_hourly=None)
    return serving(Settings(bundle=str(bundle), store=str(store), limits=limits, level="error"))


def week(
    folder: Path, bundle: Path, config: MusicConfig, settings: Learning, *, days: int, requests: int, turn: float
) -> tuple[dict[str, tuple[Day, ...]], list[Outcome]]:
    """The week of both services, and what came of each night."""
    log, outcomes = EventStore(folder / "learning.db"), []
    with service(bundle, folder / "learning.db") as first, service(bundle, folder / "frozen.db") as second:
        clients = [Client(first), Client(second)]

        def night(_: Sequence[Day]) -> None:
            time.sleep(2 * WINDOW)
            outcomes.append(learn(bundle, log, settings))
            there = log.current()
            assert there is not None
            name = Path(there.path).name
            clients[0].ask("POST", "/v1/bundles/activate", {"bundle": name, "reason": "the night is over"})

        found = simulate(clients, config, days=days, requests=requests, turn=turn, hear=night)
    log.close()
    return dict(zip(("learning", "frozen"), found, strict=True)), outcomes


def main() -> None:
    """Run the week, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/feedback.json"))
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--turn", type=float, default=3.0)
    asked = parser.parse_args()
    config, console = MusicConfig(rows=asked.rows, users=asked.users), Console()
    settings = Learning(window=WINDOW, epochs=4, bounds=Bounds(margin=0.03, old_margin=0.5, calibration=2.0))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = make_bundle(folder, config)
        days, outcomes = week(
            folder, bundle, config, settings, days=asked.days, requests=asked.requests, turn=asked.turn
        )
    render(days, console)
    for outcome in outcomes:
        console.print(str(outcome), highlight=False)
    found = report(asked, days, outcomes)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    asked.out.with_suffix(".svg").write_text(drawn(found), encoding="utf-8")
    print("\n".join(page(found)))


def page(found: dict[str, Any]) -> list[str]:
    """The table of docs/results.md."""
    lines = ["| day | learning | frozen | gain |", "| --- | --- | --- | --- |"]
    for day, values in enumerate(zip(*found["plays"].values(), found["gain"], strict=True), 1):
        lines.append(f"| {day} | " + " | ".join(_said(value) for value in values) + " |")
    return [*lines, "", f"Gain of the whole week: {_said(found['gain_of_the_week'])}."]


def drawn(found: dict[str, Any]) -> str:
    """The SVG of the table."""
    lines = [
        Line(name, range(1, 1 + len(rates)), [value["value"] for value in rates])
        for name, rates in found["plays"].items()
    ]
    return plot("A week in which tastes turn", "day", "plays per request", lines, log=False)


def _said(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def report(asked: argparse.Namespace, days: dict[str, tuple[Day, ...]], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The table as plain values."""
    found = gain(days["learning"], days["frozen"])
    rates = {name: [day.rate._asdict() for day in mine] for name, mine in days.items()}
    return {
        "rows": asked.rows,
        "users": asked.users,
        "requests": asked.requests,
        "turn": asked.turn,
        "plays": rates,
        "gain": [value._asdict() for value in found.days],
        "gain_of_the_week": found.whole._asdict(),
        "nights": [{"action": one.action, "rows": one.rows} for one in outcomes],
    }


if __name__ == "__main__":
    main()
