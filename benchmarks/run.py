"""All benchmarks, and the page docs/benchmarks.md from what they found.

    WEFT_DATA=folder python benchmarks/run.py [--quick] [--only SECTION ...] [--page]

Each section is a script of its own, and each of its measurements is a record in benchmarks/results/SECTION.json: what
has a record is not measured again, so an interrupted suite goes on where it was. To measure something again, remove its
record or the file. `--quick` measures tiny sizes into a temporary folder and prints the page it would make, to show
that all works. The machine should be quiet; the page says how busy it was.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from _records import ROOT, Record

HERE = Path(__file__).resolve().parent
RESULTS, PAGE, PICTURES = HERE / "results", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks"


class Section(NamedTuple):
    """A script and what stands above its numbers."""

    name: str
    title: str


SECTIONS = (
    Section("prepare_speed", "From a Parquet file to a store"),
    Section("train_speed", "Training, rows a second"),
    Section("quality", "Speed costs no quality"),
    Section("small_data", "Small data and fixed costs"),
    Section("load_speed", "Loading"),
    Section("evaluate_speed", "Evaluation"),
    Section("growth", "How cost grows"),
    Section("gpu", "On a GPU"),
    Section("rank_one_user", "Ranking many candidates for one user"),
    Section("recommend_speed", "Recommending from a bundle"),
    Section("serve_load", "Serving over HTTP"),
    Section("index_speed", "Finding the nearest items"),
    Section("propagation_speed", "Propagation over a graph"),
)


def main() -> None:
    """Run what is asked for, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], help="sections by name")
    parser.add_argument("--page", action="store_true", help="measure nothing, only write the page")
    arguments = parser.parse_args()
    unknown = set(arguments.only) - {section.name for section in SECTIONS}
    if unknown:
        sys.exit(f"no section is named {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in SECTIONS)}")
    chosen = [s for s in SECTIONS if s.name in (arguments.only or s.name) and (HERE / f"{s.name}.py").is_file()]
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            failed = measure(chosen, Path(folder), ["--quick"])
            print(page(Path(folder))[0])
    else:
        failed = [] if arguments.page else measure(chosen, RESULTS, [])
        write(RESULTS)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def measure(sections: list[Section], results: Path, options: list[str]) -> list[str]:
    """Run the scripts one after the other; the names of those that failed."""
    failed = []
    for section in sections:
        print(f"== {section.name}", flush=True)
        command = [sys.executable, str(HERE / f"{section.name}.py"), *options, "--json", str(_file(results, section))]
        if subprocess.run(command, check=False).returncode:
            failed.append(section.name)
    return failed


def write(results: Path) -> None:
    """Write the page and its pictures."""
    text, pictures = page(results)
    PAGE.write_text(text)
    PICTURES.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        (PICTURES / name).write_text(picture)


def page(results: Path) -> tuple[str, dict[str, str]]:
    """The page, and its pictures by name."""
    found = {s: json.loads(_file(results, s).read_text()) for s in SECTIONS if _file(results, s).is_file()}
    pictures: dict[str, str] = {}
    body: list[str] = []
    asked: list[tuple[str, float | None, float]] = []
    for section, whole in found.items():
        module = importlib.import_module(section.name)
        records = whole.get("records", whole)
        body += [f"## {section.title}", "", *_about(module, section, whole), *_numbers(module, records), ""]
        pictures |= module.plots(records) if hasattr(module, "plots") else {}
        asked += module.targets(records) if hasattr(module, "targets") else []
    head = [
        "# Benchmarks",
        "",
        "Written by `benchmarks/run.py` (`make bench`) from the records in `benchmarks/results/`. Each figure is a "
        "ratio taken in one run, beside a peer or a floor; times alone say nothing about another machine. How each is "
        "taken stands in the script of the section. "
        "`benchmarks/peers/setup.sh` installs the other libraries, each in an environment of its own.",
        "",
        *_targets(asked),
    ]
    return "\n".join([*head, *body]), pictures


def _file(results: Path, section: Section) -> Path:
    return results / f"{section.name}.json"


def _about(module: Any, section: Section, whole: Record) -> list[str]:
    """Where and when a section was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    records = [r for r in whole.get("records", {}).values() if "load" in r]
    when = sorted({record["date"] for record in records})
    loads = [load for record in records for load in record["load"][:1]]
    busy = f" When a measurement began, {min(loads):.1f} to {max(loads):.1f} processes wanted a core." if loads else ""
    dates = f" {when[0]}{f' to {when[-1]}' if len(when) > 1 else ''}." if when else ""
    first = (module.__doc__ or "").splitlines()[0]
    return [f"{first} Script: `benchmarks/{section.name}.py`.", "", f"{whole['machine']}; {versions}.{dates}{busy}", ""]


def _numbers(module: Any, records: dict[str, Record]) -> list[str]:
    """The section's own page, or a plain table of its records."""
    if hasattr(module, "page"):
        return list(module.page(records))
    lines = ["| record | numbers |", "| --- | --- |"]
    for key, record in records.items():
        if isinstance(record, dict):
            shown = ", ".join(
                f"{name} {_shown(value)}" for name, value in record.items() if name not in ("load", "took")
            )
            lines.append(f"| {key} | {shown} |")
    return lines


def _shown(value: Any) -> str:
    """A value with four digits.

    >>> _shown(0.123456), _shown({"a": 1.0}), _shown([1, 2.5])
    ('0.1235', '(a 1)', '[1, 2.5]')
    """
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_shown(part)}' for name, part in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _targets(asked: list[tuple[str, float | None, float]]) -> list[str]:
    """The table of what was wanted."""
    lines = ["## What was wanted", "", "| figure | at least | measured | |", "| --- | --- | --- | --- |"]
    for words, value, least in asked:
        verdict = "not measured" if value is None else "reached" if value >= least else "**missed**"
        lines.append(f"| {words} | {least:g} | {'' if value is None else f'{value:.4g}'} | {verdict} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
