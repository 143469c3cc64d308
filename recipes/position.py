"""Position bias, measured: does a wrapped ranker find what people like, where the place on the page decides as well?

    WEFT_DATA=path/to/the/raw/files python recipes/position.py [--work DIR]

First on the simulated music service, whose true relevance is kept: a plain ranker, both wrappers, and PAL with a curve
measured on the randomised share, at several correlations of the logging policy with relevance. Half of the story is
that policy's own liking for some tracks: it puts them first whether they please or not, and a ranker that takes clicks
as they are learns to do the same. Then on 10,000 rows of Open Bandit: what a trained ranker's policy would have earned.

Resumable: each part leaves a JSON file in the work folder. The tables are those of docs/results.md.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import weft
from weft import metrics
from weft.batch import FIRST_ID
from weft.data import catalog
from weft.data.music import MusicConfig
from weft.data.store import Store
from weft.metrics import Interval, off_policy
from weft.models.position import Position
from weft.runs import SavedRun
from weft.scoring import Scorer

Found = dict[str, Any]
Floats = NDArray[np.floating[Any]]

ROWS, BIAS, FAVOURITISM, SLATE = 120_000, 1.0, 0.8, 10
CORRELATIONS = (-0.8, -0.4, 0.0, 0.4, 0.8)
RANKER = ("hidden=[64, 64]", "dropout=0.1", "train.l2=1e-4", "train.batch_size=1024", "train.learning_rate=2e-3")
KINDS = {
    "plain": (),
    "pal": ("position.kind=pal",),
    "watch_next": ("position.kind=watch_next",),
    "pal, curve of the randomised rows": ("position.kind=pal", "position.curve={curve}"),
}
SMALL = ("hidden=[16]", "embedding_dim=4", "train.l2=1e-3", "train.batch_size=256", "train.epochs=10")
TEMPERATURE, CLIP = 0.5, 10.0


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/position"), help="where stores, runs and parts lie")
    print("\n".join(page(study(parser.parse_args().work))))


def study(work: Path) -> Found:
    """Everything that the tables show; finished parts are read from `work`."""
    work.mkdir(parents=True, exist_ok=True)
    music = [part(work / f"music-{c}", partial(on_music, correlation=c)) for c in CORRELATIONS]
    return {"music": music, "bandit": part(work / "bandit", on_bandit)}


def part(work: Path, make: Callable[[Path], Found]) -> Found:
    """A part from its file, or made in its folder and written beside it."""
    path = work.with_name(f"{work.name}.json")
    if not path.is_file():
        path.write_text(json.dumps(make(work), indent=1))
    found: Found = json.loads(path.read_text())
    return found


# ---- the simulated music service ----


def on_music(
    work: Path, correlation: float, *, rows: int = ROWS, kinds: Mapping[str, tuple[str, ...]] = KINDS
) -> Found:
    """Some kinds of the ranker on one music service; the first one is the plain ranker."""
    config = MusicConfig(
        rows=rows,
        slate=SLATE,
        position_bias=BIAS,
        policy_correlation=correlation,
        policy_favouritism=FAVOURITISM,
    )
    store = music_store(work, config)
    curve = randomised_curve(work, store)
    known = [round(min(1.0, max(interval.value, 1e-3)), 4) for interval in curve]
    found: dict[str, Found] = {}
    ndcg: dict[str, Floats] = {}
    for kind, sets in kinds.items():
        wanted = [*RANKER, *(text.format(curve=known) for text in sets)]
        run = trained(store.path, work / f"run-{len(found)}", wanted)
        scores = Scorer(run.load_model(), run.transforms, store.items).rows(store.split("test"))
        ndcg[kind] = slate_ndcg(work, store, scores)
        model = run.load_model()
        found[kind] = {
            "ndcg": plain(metrics.bootstrap_mean(ndcg[kind], seed=0)),
            "gain": plain(metrics.paired_difference(ndcg[kind], ndcg["plain"], seed=0)),
            "mean": float(np.exp(-np.logaddexp(0, -scores.astype(np.float64))).mean()),
            "curve": model.position_curve(SLATE).tolist() if isinstance(model, Position) else [],
        }
    return {
        "correlation": correlation,
        "rows": rows,
        "requests": len(ndcg["plain"]),
        "relevance": float(truth(work, store)["relevance"].to_numpy().mean()),
        "planted": [place**-BIAS for place in range(1, SLATE + 1)],
        "randomised": [plain(interval) for interval in curve],
        "kinds": found,
    }


def music_store(work: Path, config: MusicConfig) -> Store:
    """The prepared store of a music service; its tables lie beside it."""
    if not (work / "store").is_dir():
        options = {name: getattr(config, name) for name in MusicConfig.__struct_fields__}
        if not (work / "tables").is_dir():
            catalog.get("music", work / "tables", options={k: v for k, v in options.items() if v is not None})
        weft.prepare(work / "tables" / "schema.toml", work / "store")
    return Store.open(work / "store")


def plain(interval: Interval) -> dict[str, float]:
    """An interval as a dict."""
    return interval._asdict()


def trained(store: Path, out: Path, sets: list[str]) -> SavedRun:
    """The run of a folder; trained or finished when it is missing."""
    resume = (out / "run.toml").is_file()
    return weft.train(store, "mlp", out=out, sets=() if resume else sets, resume=resume)


def randomised_curve(work: Path, store: Store) -> list[Interval]:
    """P(seen | position) relative to the first position, from the train rows whose order was random."""
    rows = pl.read_parquet(work / "tables" / "interactions.parquet", columns=["randomised", "played", "position"])
    mine = rows.head(len(store.split("train"))).filter(pl.col("randomised") == 1)
    return off_policy.examination(mine["played"].to_numpy(), mine["position"].to_numpy(), seed=0)


def truth(work: Path, store: Store) -> pl.DataFrame:
    """What was true of the test rows; the tables stand in time order and test is the newest."""
    return pl.read_parquet(work / "tables" / "truth.parquet").tail(len(store.split("test")))


def slate_ndcg(work: Path, store: Store, scores: Floats) -> Floats:
    """NDCG of each whole request of the test rows, with the true relevance as gain."""
    group = store.split("test").group
    assert group is not None
    _, request, size = np.unique(group, return_inverse=True, return_counts=True)
    whole = np.flatnonzero(size[request] == SLATE)
    order = whole[np.lexsort((-scores[whole], request[whole]))]
    gains = truth(work, store)["relevance"].to_numpy()[order].reshape(-1, SLATE)
    return metrics.ndcg_gains(gains, -np.sort(-gains, axis=1), SLATE)


# ---- Open Bandit ----


def on_bandit(work: Path) -> Found:
    """What the policies of a trained ranker would earn on the newest half of the random log, beside bts's own."""
    store = bandit_store(work)
    run = trained(store.path, work / "run", [*SMALL, "position.kind=pal"])
    train, test = store.split("train"), store.split("test")
    assert train.label is not None
    assert test.label is not None
    assert test.propensity is not None
    assert test.item is not None
    click, shown = test.label[:, 0], test.item - FIRST_ID
    arms = np.broadcast_to(np.arange(FIRST_ID, len(store.items)), (len(test), len(store.items) - FIRST_ID))
    score = Scorer(run.load_model(), run.transforms, store.items).candidates(test, arms).astype(np.float64)
    best = (score == score.max(1, keepdims=True)) / (score == score.max(1, keepdims=True)).sum(1, keepdims=True)
    soft = np.exp((score - score.max(1, keepdims=True)) / TEMPERATURE)
    soft /= soft.sum(1, keepdims=True)
    row = np.arange(len(test))
    random, bts = (pl.read_parquet(work / policy / "interactions.parquet") for policy in ("random-men", "bts-men"))
    logged, clicks = random["click"].to_numpy(), bts["click"].to_numpy()
    uniform = np.full(len(bts), 1 / arms.shape[1])
    model = run.load_model()
    assert isinstance(model, Position)
    return {
        "rows": len(test),
        "clicks": int(click.sum()),
        "train_rows": len(train),
        "train_clicks": int(train.label[:, 0].sum()),
        "arms": arms.shape[1],
        "curve": [plain(i) for i in off_policy.examination(logged, random["position"].to_numpy(), seed=0)],
        "learned": model.position_curve(3).tolist(),
        "policies": {
            "uniform, its own log": worth(logged, np.ones(len(logged))),
            "uniform, the newest half of it": worth(click, np.ones(len(test))),
            "softmax of the ranker": worth(click, off_policy.importance_weight(soft[row, shown], test.propensity)),
            "best of the ranker": worth(click, off_policy.importance_weight(best[row, shown], test.propensity)),
            "bts, its own log": worth(clicks, np.ones(len(bts))),
            "uniform, from the log of bts": worth(
                clicks, off_policy.importance_weight(uniform, bts["propensity_score"].to_numpy())
            ),
        },
    }


def bandit_store(work: Path) -> Store:
    """The prepared store of the random log, half of it for testing; the tables of both logs lie beside it."""
    source = Path(os.environ["WEFT_DATA"]) / "open-bandit"
    for policy in ("random-men", "bts-men"):
        if not (work / policy).is_dir():
            options = {"valid": 0.1, "test": 0.5}
            catalog.get("open-bandit", work / policy, protocol=policy, source=source, options=options)
    if not (work / "store").is_dir():
        weft.prepare(work / "random-men" / "schema.toml", work / "store")
    return Store.open(work / "store")


def worth(click: Floats, weight: Floats) -> Found:
    """The estimates of a policy's click rate, and what they stand on."""
    return {
        "ips": plain(off_policy.ips(click, weight, seed=0)),
        "clipped": plain(off_policy.ips(click, off_policy.clipped(weight, CLIP), seed=0)),
        "snips": plain(off_policy.snips(click, weight, seed=0)),
        "rows": off_policy.effective_rows(weight),
        "clicks": int(((click > 0) & (weight > 0)).sum()),
    }


# ---- the page ----


def page(found: Found) -> list[str]:
    """The tables in Markdown."""
    return [*music_lines(found["music"]), "", *bandit_lines(found["bandit"])]


def music_lines(parts: list[Found]) -> list[str]:
    """One block of rows a correlation; the gain is paired with the plain ranker's requests."""
    places = (2, 5, SLATE)
    head = ["policy's correlation with relevance", "ranker", "NDCG", "gain over plain", "mean P(play)"]
    rows = [[*head, *(f"P(seen, {place}) / P(seen, 1)" for place in places)]]
    for part in parts:
        name = f"{part['correlation']:+.1f}"
        rows.append([name, "truth", "1", "", f"{part['relevance']:.3f}", *at(part["planted"], places)])
        for kind, row in part["kinds"].items():
            gain = "" if kind == "plain" else ranged(row["gain"], signed=True)
            curve = at(row["curve"], places) if row["curve"] else ["" for _ in places]
            rows.append([name, kind, ranged(row["ndcg"]), gain, f"{row['mean']:.3f}", *curve])
    return [
        f"Music service of {parts[0]['rows']:,} impressions in slates of {SLATE}; P(seen at p) = p^-{BIAS:g}. Of what "
        f"the logging policy sorts by besides relevance, {FAVOURITISM:.0%} of the variance is its own liking for single"
        " tracks; a tenth of the requests stands in random order. NDCG of the true relevance within "
        f"{parts[0]['requests']:,} test requests, one seed; the curve of `watch_next` is a ratio of odds.",
        "",
        *table(rows),
    ]


def bandit_lines(part: Found) -> list[str]:
    """What each policy is worth."""
    rows = [["policy", "IPS", f"IPS, weights up to {CLIP:g}", "SNIPS", "effective rows", "clicks that count"]]
    for name, row in part["policies"].items():
        none = (
            f"0 clicks, so below {3 / row['rows']:.1%}"  # the rule of three: 95 % of so many rows would have shown one
        )
        rates = (ranged(row[key], percent=True) if row["clicks"] else none for key in ("ips", "clipped", "snips"))
        rows.append([name, *rates, f"{row['rows']:,.0f}", f"{row['clicks']}"])
    curve = ", ".join(f"{place + 1}: {ranged(interval)}" for place, interval in enumerate(part["curve"]))
    rate = part["policies"]["uniform, its own log"]["ips"]["value"]
    needed = part["arms"] * (1.96 / 0.25) ** 2 * (1 - rate) / rate
    return [
        *table(rows),
        "",
        f"A policy that always shows its best item agrees with one row in {part['arms']} of the random log. To know "
        f"its click rate within a quarter of itself takes about {needed:,.0f} rows of such a log; here are "
        f"{part['rows']:,}.",
        f"P(seen | position) / P(seen | 1) by clicks of the random log: {curve}; learned by PAL on "
        f"{part['train_clicks']} clicks: {', '.join(at(part['learned'], (1, 2, 3)))}.",
    ]


def at(curve: list[float], places: tuple[int, ...]) -> list[str]:
    """Some places of a curve."""
    return [f"{curve[place - 1]:.3f}" for place in places]


def ranged(interval: Found, *, signed: bool = False, percent: bool = False) -> str:
    """A value and its interval.

    >>> ranged({"value": 0.5, "low": 0.4, "high": 0.6}), ranged({"value": 0.1, "low": 0.0, "high": 0.2}, percent=True)
    ('0.5000 [0.4000, 0.6000]', '10.00 % [0.00, 20.00]')
    """
    value, low, high = (interval[key] * (100 if percent else 1) for key in ("value", "low", "high"))
    if percent:
        return f"{value:.2f} % [{low:.2f}, {high:.2f}]"
    sign = "+" if signed else ""
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def table(rows: list[list[str]]) -> list[str]:
    """A Markdown table; the first row is its head."""
    return [f"| {' | '.join(cells)} |" for cells in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


if __name__ == "__main__":
    main()
