"""Which pairs of fields does AutoInt's attention put first on MovieLens-1M, and are they the published ones?

    WEFT_DATA=path/to/the/raw/files python recipes/autoint_fields.py [--work DIR]

Song et al. (CIKM 2019, the section on explainable recommendations) average the attention over the data and find Genre
with Gender, Genre with Age, and the time of the request with the time of the release. Here the same fields, of users 1
to 2999 (whose times are all known), some seeds, attention averaged over layers, heads, both directions and test rows;
in the paper's form and in that of its authors' code.

Resumable: each seed leaves its run and its explanation in the work folder. The tables are those of docs/results.md.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import weft
from weft.data import catalog

Found = dict[str, Any]
Pair = tuple[str, str]

SEEDS = (0, 1, 2)
SETS = (
    *("embedding_dim=16", "num_layers=3", "num_heads=2", "attention_dim=32"),
    *("train.batch_size=1024", "train.learning_rate=1e-3", "train.epochs=15"),
)
CODE = ("activated=true", "scaled=true", "layer_norm=true")
FORMS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "paper": (SEEDS, SETS),
    "code": (SEEDS, (*SETS, *CODE)),
}
PUBLISHED: tuple[Pair, ...] = (("gender", "genres"), ("age", "genres"), ("release", "request_time"))


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/autoint-fields"), help="where store and runs lie")
    print("\n".join(page(study(parser.parse_args().work))))


def study(work: Path, *, forms: Mapping[str, tuple[Sequence[int], Sequence[str]]] = FORMS) -> Found:
    """Each form, its seeds and settings: train, explain, and gather the strength of each pair by seed."""
    store = _store(work)
    return {form: _of_form(work / form, store, seeds, sets) for form, (seeds, sets) in forms.items()}


def _of_form(folder: Path, store: Path, seeds: Sequence[int], sets: Sequence[str]) -> Found:
    explained = [_explained(folder / f"seed-{seed}", store, seed, sets) for seed in seeds]
    fields = sorted(explained[0]["maps"][0]["rows"])
    return {
        "rows": explained[0]["rows"],
        "auc": [one["metrics"]["auc"] for one in explained],
        "fields": fields,
        "all layers": _strengths(explained, fields, "mean of"),
        "first layer": _strengths(explained, fields, "attention of layer 1,"),
        "importance": _importance(explained),
    }


def _importance(explained: Sequence[Found]) -> dict[str, list[float]]:
    """What shuffling each feature costs in AUC, by seed."""
    worse: dict[str, list[float]] = {}
    for one in explained:
        for importance in one["importance"]:
            if importance["metric"] == "auc":
                worse.setdefault(importance["feature"], []).append(importance["worse"])
    return worse


def _store(work: Path) -> Path:
    store = work / "store"
    if not store.is_dir():
        tables = work / "tables"
        if not tables.is_dir():
            source = Path(os.environ["WEFT_DATA"]) / "ml-1m"
            catalog.get("movielens-1m", tables, protocol="autoint", source=source)
        weft.prepare(tables / "schema.toml", store)
    return store


def _explained(folder: Path, store: Path, seed: int, sets: Sequence[str]) -> Found:
    """The explanation of one seed's run."""
    run, out = folder / "run", folder / "why"
    if not out.is_dir():
        resume = (run / "run.toml").is_file()
        weft.train(store, "autoint", out=run, sets=() if resume else sets, seed=seed, resume=resume)
        weft.explain(run, out=out, rows=20_000, seed=seed)
    found: Found = json.loads((out / "explanation.json").read_bytes())
    return found


def _strengths(explained: Sequence[Found], fields: Sequence[str], title: str) -> list[Found]:
    """Each pair with its attention in each seed, the strongest on average first."""
    found = [
        {"pair": pair, "attention": [_attention(one, pair, title) for one in explained]}
        for pair in combinations(fields, 2)
    ]
    return sorted(found, key=lambda one: -statistics.mean(one["attention"]))


def _attention(explained: Found, pair: Pair, title: str) -> float:
    """The mean over the maps whose title begins so, and over both directions."""
    values = []
    for one in explained["maps"]:
        if one["title"].startswith(title):
            first, second = (one["rows"].index(field) for field in pair)
            values += [one["values"][first][second], one["values"][second][first]]
    return statistics.mean(values)


def page(found: Found) -> list[str]:
    """The tables of each form."""
    return [line for form, of_form in found.items() for line in (*_page_of_form(form, of_form), "")][:-1]


def _page_of_form(form: str, found: Found) -> list[str]:
    """The strongest pairs, where the published ones stand, and what each field is worth."""
    even = 1 / len(found["fields"])
    words = {"paper": "in the paper's form", "code": "in the form of its authors' code (ReLU, scaled, layer norm)"}
    seeds = "1 seed" if len(found["auc"]) == 1 else f"{len(found['auc'])} seeds"
    lines = [
        f"AutoInt {words[form]} on MovieLens-1M without ids, users 1 to 2999, {seeds}: "
        f"test AUC {_spread(found['auc'])}. Attention averaged over {found['rows']:,} test rows and both directions; "
        f"{even:.3f} would be even over all fields. In bold the pairs that the paper names."
    ]
    for name in ("all layers", "first layer"):
        lines += ["", f"| {name}: pair | attention | rank in each seed |", "|---|---|---|"]
        ranks = _ranks(found[name])
        for one in found[name][:8]:
            words = " × ".join(one["pair"])
            shown = f"**{words}**" if tuple(one["pair"]) in PUBLISHED else words
            lines.append(
                f"| {shown} | {_spread(one['attention'])} | {', '.join(map(str, ranks[tuple(one['pair'])]))} |"
            )
        standing = "; ".join(f"{' × '.join(pair)} {_place(found[name], pair)}" for pair in PUBLISHED)
        lines += ["", f"Published pairs among {len(found[name])}, {name}: {standing}."]
    worth = sorted(found["importance"].items(), key=lambda one: -statistics.mean(one[1]))
    words = ", ".join(f"{name} {_spread(values)}" for name, values in worth if any(values))
    return [*lines, "", f"What shuffling a field costs in AUC: {words}."]


def _ranks(pairs: list[Found]) -> dict[Pair, list[int]]:
    """The rank of each pair in each seed, from 1."""
    ranks: dict[Pair, list[int]] = {tuple(one["pair"]): [] for one in pairs}
    for seed in range(len(pairs[0]["attention"])):
        for rank, one in enumerate(sorted(pairs, key=lambda one: -one["attention"][seed]), start=1):
            ranks[tuple(one["pair"])].append(rank)
    return ranks


def _place(pairs: list[Found], pair: Pair) -> str:
    rank = [tuple(one["pair"]) for one in pairs].index(pair) + 1
    return f"is {rank}. (attention {_spread(pairs[rank - 1]['attention'])})"


def _spread(values: Sequence[float]) -> str:
    """Mean and deviation.

    >>> _spread([0.5, 0.7]), _spread([0.5])
    ('0.6000 ± 0.1414', '0.5000')
    """
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


if __name__ == "__main__":
    main()
