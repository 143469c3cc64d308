"""From a Parquet file to a store: `weft.prepare` beside FuxiCTR's preparation and beside only reading the file.

    python benchmarks/prepare_speed.py [--quick] [--json FILE] [--profile SCHEMA]

Made-up tables of 13 numbers and 26 texts, the shape of Criteo. FuxiCTR gets the same rows as one file a split, because
its own splitting does not work on the tables that it reads lazily; its label, numbers and texts are treated as weft's.
Each preparation is a process of its own; the two take turns. Time is that of the call, without imports.

Memory is what the process holds itself (anonymous and shared pages): mapped files and page cache are not in. The
largest table runs under a cap of 2 GiB: a process that holds more is ended.
"""

import argparse
import cProfile
import os
import pstats
import statistics
import sys
import tempfile
from pathlib import Path

import polars as pl
import torch

import weft
from _contest import CannotRun, Trainer, environment
from _data import NUMBERS, TEXTS, raw
from _memory import watched
from _records import WORK, Record, Records, run
from _timing import median_seconds, seconds_of
from weft.data import catalog

CAP_MIB = 2048
REPEATS = 3


def prepared(schema: Path, cap_mib: float | None = None) -> Record:
    """One preparation in a process of its own."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        command = [sys.executable, __file__, "--prepare", str(schema), f"{folder}/store"]
        went = watched(command, environment(torch.get_num_threads()), cap_mib)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    seconds = None if went.capped else float(went.output)
    return {
        "prepare_seconds": seconds,
        "own_mib": went.own_mib,
        "resident_mib": went.resident_mib,
        "store_mib": size / 2**20,
        "capped": went.capped,
    }


def tables(schema: Path) -> list[Path]:
    """The files of a raw table."""
    return sorted(schema.parent.glob("*.parquet"))


def rows_of(schema: Path) -> int:
    """Rows of a raw table."""
    return int(pl.scan_parquet(tables(schema)).select(pl.len()).collect().item())


def alone(schema: Path, repeats: int, cap_mib: float | None = None) -> Record:
    """The preparation, and how long polars reads the same file into memory where it fits."""
    runs = [prepared(schema, cap_mib) for _ in range(repeats)]
    rows = rows_of(schema)
    found: Record = {"rows": rows, "threads": torch.get_num_threads(), "cap_mib": cap_mib, "runs": runs}
    if any(one["capped"] for one in runs):
        return found
    seconds = statistics.median(one["prepare_seconds"] for one in runs)
    found |= {"prepare_seconds": seconds, "rows_per_second": rows / seconds}
    found |= {"own_mib": max(one["own_mib"] for one in runs), "store_mib": runs[0]["store_mib"]}
    if rows <= 10_000_000:
        found["read_seconds"] = median_seconds(lambda: pl.read_parquet(tables(schema)), 3)
    return found


def beside_fuxictr(schema: Path, repeats: int) -> Record:
    """Both libraries in turn on the same rows."""
    found: Record = {"rows": rows_of(schema), "threads": torch.get_num_threads(), "left_out": {}}
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        case = {
            "files": split_files(schema, Path(folder)),
            "numeric": [f"i{i}" for i in range(NUMBERS)],
            "texts": [f"c{i}" for i in range(TEXTS)],
            "folder": folder,
            "threads": found["threads"],
            "device": "cpu",
        }
        try:
            with Trainer("fuxictr", case) as peer:
                return found | in_turns(schema, peer, repeats)
        except CannotRun as reason:
            return found | {"left_out": {"fuxictr": str(reason)}, "weft_seconds": prepared(schema)["prepare_seconds"]}


def in_turns(schema: Path, peer: Trainer, repeats: int) -> Record:
    """Preparations of both in turn, and the median of their ratios."""
    ours, theirs = [], []
    for _ in range(repeats):
        theirs.append(peer.ask("prepare")["seconds"])
        ours.append(prepared(schema)["prepare_seconds"])
    return {
        "peer": peer.about["library"],
        "weft_runs": ours,
        "peer_runs": theirs,
        "weft_seconds": statistics.median(ours),
        "peer_seconds": statistics.median(theirs),
        "ratio": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
    }


def split_files(schema: Path, folder: Path) -> dict[str, str]:
    """The rows as three files, eight, one and one of ten."""
    frame = pl.read_parquet(tables(schema))
    ends = [0, frame.height * 8 // 10, frame.height * 9 // 10, frame.height]
    found = {}
    for i, name in enumerate(("train", "valid", "test")):
        path = folder / f"{name}.parquet"
        frame[ends[i] : ends[i + 1]].write_parquet(path)
        found[f"{name}_data"] = str(path)
    return found


def movielens(repeats: int) -> Record:
    """MovieLens-1M with the protocol `ctr`."""
    data = os.environ.get("WEFT_DATA")
    if data is None:
        return {"skipped": "WEFT_DATA is not set"}
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        catalog.get("movielens-1m", Path(folder) / "ml", protocol="ctr", source=Path(data) / "ml-1m")
        return alone(Path(folder) / "ml" / "schema.toml", repeats)


def measure(records: Records, quick: bool) -> None:
    """All tables that have no record yet."""
    WORK.mkdir(exist_ok=True)
    few, some, many, distinct = (5_000, 20_000, 40_000, 5_000) if quick else (500_000, 5_000_000, 20_000_000, 560_000)
    repeats = 1 if quick else REPEATS
    records.measured(f"fuxictr-{few}", lambda: beside_fuxictr(raw(few, distinct), repeats))
    records.measured(f"weft-{few}", lambda: alone(raw(few, distinct), repeats))
    records.measured(f"weft-{some}", lambda: alone(raw(some, distinct), min(2, repeats)))
    records.measured(f"weft-{many}-capped", lambda: alone(raw(many, 10 * few * 3 // 10), 1, CAP_MIB))
    records.measured("movielens-1m", lambda: movielens(repeats))


def page(found: dict[str, Record]) -> list[str]:
    """The section of docs/benchmarks.md."""
    lines = ["| table | rows | prepare s | rows/s | own memory MiB | store MiB | only read s |", "| --- " * 7 + "|"]
    for key, record in found.items():
        if "rows_per_second" in record:
            read = f"{record['read_seconds']:.3f}" if "read_seconds" in record else ""
            cap = " (cap 2,048)" if record["cap_mib"] else ""
            lines.append(
                f"| {key} | {record['rows']:,} | {record['prepare_seconds']:.2f} | {record['rows_per_second']:,.0f} | "
                f"{record['own_mib']:,.0f}{cap} | {record['store_mib']:,.0f} | {read} |"
            )
        elif any(one["capped"] for one in record.get("runs", [])):
            lines.append(f"| {key} | {record['rows']:,} | ended: it held more than {record['cap_mib']:,} MiB | | | | |")
    for record in found.values():
        if "ratio" in record:
            lines += [
                "",
                f"{record['rows']:,} rows in turns: {record['peer']} {record['peer_seconds']:.1f} s, weft "
                f"{record['weft_seconds']:.2f} s; median ratio {record['ratio']:.1f}.",
            ]
    left = [f"* {why}" for record in found.values() for why in record.get("left_out", {}).values()]
    left += [f"* {key}: {record['skipped']}" for key, record in found.items() if "skipped" in record]
    return lines + (["", "Left out:", "", *left] if left else [])


def targets(found: dict[str, Record]) -> list[tuple[str, float | None, float]]:
    """What was asked for: in words, what was measured, at least what."""
    capped = found.get("weft-20000000-capped")
    margin = None if capped is None or "own_mib" not in capped else CAP_MIB / capped["own_mib"]
    return [
        ("preparation against FuxiCTR, 0.5 M rows", found.get("fuxictr-500000", {}).get("ratio"), 20.0),
        ("preparation of 20 M rows: the cap of 2 GiB over what was held", margin, 1.0),
    ]


def profile(schema: Path) -> None:
    """Where the time of a preparation goes."""
    with tempfile.TemporaryDirectory() as folder:
        found = cProfile.Profile()
        found.runcall(weft.prepare, schema, f"{folder}/store")
        pstats.Stats(found).sort_stats("tottime").print_stats(20)


def main() -> None:
    """Measure, or do what a process of its own is for."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path)
    arguments, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    if arguments.prepare:
        schema, out = arguments.prepare
        print(seconds_of(lambda: weft.prepare(schema, out)))
    elif arguments.profile:
        profile(arguments.profile)
    else:
        run(measure, __doc__, page)


if __name__ == "__main__":
    main()
