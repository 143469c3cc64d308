"""Rows a second in training: weft, plain PyTorch and other libraries in turn, beside the machine's matrix products.

    python benchmarks/train_speed.py [--quick] [--json FILE] [--only KEY ...] [--alone] [--profile KEY]

The shape: 13 numbers as value x vector and 26 id fields of width 16 (624 wide), batch 4096; dcn_v2 is three full-rank
cross layers beside 400-400-400. All trainers read the same encoded rows, are processes of their own and make some
steps in turn; a figure is the median over rounds of the ratio within a round. "Step" is an update on batches that lie
ready, as the library's own loader made them; "with loader" is an update and the wait for its batch.

The floor of a step is its matrix products, written down as the step makes them and repeated between the rounds.
"Fraction" is against each product repeated alone, "in order" against all of them once in the step's order.

Libraries that take numbers as they are, or always have batch norm, are measured on 39 id fields, which is as wide, with
the same settings for weft. Where all trainers of a case would not fit into memory together, each runs alone.
"""

import argparse
import statistics
import sys
from typing import Any, NamedTuple

from _contest import SCRIPTS, ratio, start, take_turns
from _data import NUMBERS, encoded, sizes_of
from _records import Record, Records, run
from _timing import memory_gib

ROWS = 1 << 18
PRECISIONS = ("bf16", "fp32")
MODELS = ("dcn_v2", "deepfm", "dlrm", "autoint", "gdcn_p", "dhen")
SIZES = (500_000, 10_000_000, 50_000_000)
SHARE_OF_MEMORY = 0.75


class Contest(NamedTuple):
    """One case and who takes part beside weft.

    Attributes:
        key: Of its record.
        model: Registry name.
        rows: Rows of all embedding tables.
        peers: Trainers besides weft.
        numbers: Columns of numbers; 0 where id fields stand for them.
        batch_norm: In the deep part.
        precisions: Of weft.
    """

    key: str
    model: str
    rows: int
    peers: tuple[str, ...] = ()
    numbers: int = NUMBERS
    batch_norm: bool = False
    precisions: tuple[str, ...] = PRECISIONS


def contests() -> list[Contest]:
    """All cases, the most wanted first."""
    both = ("plain", "fuxictr")
    found = [Contest("dcn_v2-500000", "dcn_v2", SIZES[0], both), Contest("dcn_v2-10000000", "dcn_v2", SIZES[1], both)]
    found += [Contest(f"{model}-{SIZES[0]}", model, SIZES[0], both) for model in ("deepfm", "dlrm")]
    found += [Contest(f"{model}-{SIZES[0]}", model, SIZES[0], ("fuxictr",)) for model in ("autoint", "gdcn_p")]
    found += [Contest(f"dhen-{SIZES[0]}", "dhen", SIZES[0])]
    found += [Contest(f"dcn_v2-ids-{SIZES[0]}", "dcn_v2", SIZES[0], ("deepctr_torch",), numbers=0)]
    found += [Contest(f"deepfm-ids-{SIZES[0]}", "deepfm", SIZES[0], ("deepctr_torch", "recbole"), numbers=0)]
    norm = {"numbers": 0, "batch_norm": True}
    found += [Contest(f"dcn_v2-ids-norm-{SIZES[0]}", "dcn_v2", SIZES[0], ("torch_rechub", "recbole"), **norm)]
    found += [Contest(f"deepfm-ids-norm-{SIZES[0]}", "deepfm", SIZES[0], ("torch_rechub",), **norm)]
    found += [Contest(f"dcn_v2-{SIZES[2]}", "dcn_v2", SIZES[2], ("fuxictr",))]
    found += [Contest(f"{model}-{SIZES[1]}", model, SIZES[1], both) for model in ("deepfm", "dlrm")]
    known = {contest.key for contest in found}
    rest = [Contest(f"{model}-{rows}", model, rows) for rows in SIZES for model in MODELS]
    return found + [contest for contest in rest if contest.key not in known]


def case_of(contest: Contest, precision: str = "fp32", threads: int | None = None, rows: int = ROWS) -> dict[str, Any]:
    """What a trainer must know."""
    import torch

    return {
        "model": contest.model,
        "width": 16,
        "cross": 3,
        "hidden": [400, 400, 400],
        "bottom": [512, 256, 64],
        "top": [512, 256],
        "batch_norm": contest.batch_norm,
        "data": str(encoded(contest.rows, rows, contest.numbers)),
        "sizes": sizes_of(contest.rows, contest.numbers),
        "numbers": contest.numbers,
        "update": "sparse",
        "batch": 4096,
        "precision": precision,
        "threads": threads or torch.get_num_threads(),
        "device": "cpu",
        "learning_rate": 1e-3,
    }


def measure_contest(contest: Contest, rounds: int, steps: int, rows: int = ROWS) -> Record:
    """One case: all trainers in turn, or each alone where they do not fit into memory together."""
    names = {f"weft-{precision}": "weft" for precision in contest.precisions} | {p: p for p in contest.peers}
    cases = {
        key: case_of(contest, key.removeprefix("weft-") if key in names and "weft" in key else "fp32", rows=rows)
        for key in names
    }
    together = sum(memory_of(name, contest.rows) for name in names.values()) < SHARE_OF_MEMORY * memory_gib()
    groups = [names] if together else [{key: name} for key, name in names.items()]
    found: Record = {"model": contest.model, "table_rows": contest.rows, "threads": cases[next(iter(cases))]["threads"]}
    found |= {"in_turns": together, "left_out": {}, "trainers": {}}
    for group in groups:
        trainers, left_out = measure_group(group, cases, rounds, steps)
        found["trainers"] |= trainers
        found["left_out"] |= left_out
    return found | {"ratios": ratios(found["trainers"])}


def memory_of(name: str, table_rows: int) -> float:
    """GiB that a trainer needs about: the weights of width 16 with two moments, and a gradient where it is whole."""
    return 1 + table_rows * 16 * 4 * (3 if name == "weft" else 4.5) / 2**30


def measure_group(
    names: dict[str, str], cases: dict[str, Any], rounds: int, steps: int
) -> tuple[dict[str, Record], dict[str, str]]:
    """Trainers in turn: steps on ready batches and the floor, then some with the loader."""
    running, left_out = start(names, cases)
    everyone = list(running.values())
    try:
        about = {key: trainer.about for key, trainer in running.items()}
        floors: dict[str, list[Record]] = {key: [] for key in running if key.startswith("weft")}
        step: dict[str, list[float]] = {key: [] for key in running}
        losses: dict[str, list[float]] = {key: [] for key in running}
        for number in range(rounds):
            seconds, more, left = take_turns(
                running, rounds=1, steps=steps, loader=False, warm=0 if number else 2 * steps
            )
            left_out |= left
            for key in seconds:
                step[key] += seconds[key]
                losses[key] += more[key]
            for key in floors:
                if key in running:
                    floors[key].append(running[key].ask("floor", repeats=3))
        loaded, _, left = take_turns(running, rounds=max(2, rounds // 3), steps=steps, loader=True, warm=1)
        left_out |= left
        memory = {key: trainer.ask("memory")["peak_mib"] for key, trainer in running.items()}
    finally:
        for trainer in everyone:
            trainer.close()
    return {
        key: described(about[key], step[key], loaded[key], losses[key], memory[key], floors.get(key, []))
        for key in running
    }, left_out


def described(
    about: Record, step: list[float], loaded: list[float], losses: list[float], memory: float, floors: list[Record]
) -> Record:
    """The record of one trainer."""
    few = max(1, len(losses) // 5)
    found = {
        **about,
        "step_seconds": step,
        "rows_per_second": 4096 / statistics.median(step),
        "rows_per_second_with_loader": 4096 / statistics.median(loaded),
        "first_loss": statistics.mean(losses[:few]),
        "last_loss": statistics.mean(losses[-few:]),
        "peak_mib": memory,
    }
    if floors:
        alone = [floor["alone"] for floor in floors]
        found |= {
            "fraction": statistics.median(a / s for a, s in zip(alone, step, strict=True)),
            "fraction_in_order": statistics.median(
                floor["in_order"] / s for floor, s in zip(floors, step, strict=True)
            ),
            "gflops": floors[0]["flops"] / statistics.median(alone) / 1e9,
            "products": floors[0]["products"],
        }
    return found


def ratios(trainers: dict[str, Record]) -> dict[str, float]:
    """How many times as fast weft steps as each other trainer, round by round; `loader`: with the batches' loading."""
    found: dict[str, float] = {}
    for ours in (key for key in trainers if key.startswith("weft")):
        for peer in (key for key in trainers if not key.startswith("weft")):
            a, b = trainers[peer], trainers[ours]
            found[f"{ours}/{peer}"] = ratio(a["step_seconds"], b["step_seconds"])
            found[f"{ours}/{peer}/loader"] = b["rows_per_second_with_loader"] / a["rows_per_second_with_loader"]
    return found


def measure(records: Records, quick: bool, only: tuple[str, ...] = ("",), alone: bool = False) -> None:
    """All cases that have no record yet; `alone` leaves out the other libraries."""
    for contest in quick_contests() if quick else contests():
        if contest.key.startswith(only):
            contest = contest._replace(peers=()) if alone else contest
            rounds, steps, rows = (2, 2, 1 << 16) if quick else (8, 4, ROWS)
            records.measured(contest.key, lambda c=contest, r=rounds, s=steps, n=rows: measure_contest(c, r, s, n))


def quick_contests() -> list[Contest]:
    """Every trainer once, with small tables."""
    some = [c for c in contests() if c.rows == SIZES[0]]
    return [c._replace(rows=20_000, key=f"quick-{c.key}") for c in some]


def profile(key: str, steps: int = 20) -> None:
    """Where the steps of weft on a case go, by torch's profiler, in this process."""
    sys.path.insert(0, str(SCRIPTS["plain"].parent))
    import torch

    import weft_trainer

    contest = next(c for c in contests() if c.key == key)
    for precision in contest.precisions:
        trainer = weft_trainer.make(case_of(contest, precision))
        batches = [batch for batch, _ in zip(trainer.batches(), range(8), strict=False)]
        for batch in batches:
            trainer.step(batch)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            for i in range(steps):
                trainer.step(batches[i % len(batches)])
        print(f"{key} {precision}, {steps} steps")
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    lines = [
        "| case | trainer | parameters | step ms | rows/s | rows/s with loader | peak MiB | loss | products | "
        "fraction | in order |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, record in found.items():
        lines += [f"| {key} | {_cells(name, t)} |" for name, t in record["trainers"].items()]
    lines += ["", "How many times as fast weft is, median over rounds:", "", *_ratio_table(found)]
    left = [f"* {key}: {why}" for key, record in found.items() for why in record["left_out"].values()]
    return lines + (["", "Left out:", "", *left] if left else [])


def _cells(name: str, t: Record) -> str:
    """The numbers of one trainer."""
    floor = " | | "
    if "gflops" in t:
        floor = f"{t['gflops']:,.0f} GFLOP/s | {t['fraction']:.2f} | {t['fraction_in_order']:.2f}"
    return (
        f"{name} | {t['parameters']:,} | {1e3 * statistics.median(t['step_seconds']):.1f} | "
        f"{t['rows_per_second']:,.0f} | {t['rows_per_second_with_loader']:,.0f} | {t['peak_mib']:,.0f} | "
        f"{t['first_loss']:.3f} to {t['last_loss']:.3f} | {floor}"
    )


def _ratio_table(found: dict[str, Record]) -> list[str]:
    lines = [
        "| case | against | bf16 | fp32 | bf16 with loader | fp32 with loader | in turns |",
        "| --- | --- " + "| --- " * 5 + "|",
    ]
    for key, record in found.items():
        values = record["ratios"]
        for peer in sorted({name.split("/")[1] for name in values}):
            cells = [values.get(f"weft-{p}/{peer}{kind}") for kind in ("", "/loader") for p in PRECISIONS]
            shown = " | ".join("" if value is None else f"{value:.2f}" for value in cells)
            lines.append(f"| {key} | {peer} | {shown} | {'yes' if record['in_turns'] else 'no, one after the other'} |")
    return lines


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    small, large = found.get(f"dcn_v2-{SIZES[0]}"), found.get(f"dcn_v2-{SIZES[1]}")
    asked = [
        ("dcn_v2 bf16 against FuxiCTR, 0.5 M rows", _ratio(small, "weft-bf16/fuxictr"), 2.2),
        ("dcn_v2 fp32 against FuxiCTR, 0.5 M rows", _ratio(small, "weft-fp32/fuxictr"), 1.0),
        ("dcn_v2 bf16 against FuxiCTR, 10 M rows", _ratio(large, "weft-bf16/fuxictr"), 8.0),
        ("dcn_v2 bf16, share of the rate of its products", _fraction(small), 0.85),
    ]
    for model in ("deepfm", "dlrm"):
        record = found.get(f"{model}-{SIZES[0]}")
        for peer in ("fuxictr", "plain"):
            asked.append((f"{model} bf16 against {peer}, 0.5 M rows", _ratio(record, f"weft-bf16/{peer}"), 2.5))
    return asked


def _ratio(record: Record | None, name: str) -> float | None:
    return None if record is None else record["ratios"].get(name)


def _fraction(record: Record | None) -> float | None:
    trainer = {} if record is None else record["trainers"].get("weft-bf16", {})
    return trainer.get("fraction")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--profile")
    own, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    if own.profile:
        profile(own.profile)
    else:
        run(lambda records, quick: measure(records, quick, tuple(own.only), own.alone), __doc__, page)
