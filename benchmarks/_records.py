"""Records of measurements in a JSON file; what has one is not measured again, so that a suite can be interrupted."""

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from _timing import load, machine, memory_gib, versions

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".bench"  # tables and stores that the benchmarks make, not in git

Record = dict[str, Any]


class Records:
    """The records of one section by key, in the file `path` if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.found: dict[str, Record] = {}
        if path is not None and path.is_file():
            self.found = json.loads(path.read_text())["records"]

    def measured(self, key: str, call: Callable[[], Record]) -> Record:
        """The record `key`: as it is in the file, or measured now, printed and written.

        A record with a reason under `skipped` was not measured, and is tried again.
        """
        if "skipped" in self.found.get(key, {"skipped": ""}):
            before, start = load(), time.perf_counter()
            record = call()
            circumstances = {"load": [before, load()], "took": round(time.perf_counter() - start, 1)}
            self.found[key] = {**record, "date": f"{date.today()}", **circumstances}
            self._write()
            print(key, json.dumps(_short(self.found[key])), flush=True)
        return self.found[key]

    def _write(self) -> None:
        if self._path is None:
            return
        whole = {
            "machine": machine(),
            "memory_gib": round(memory_gib(), 1),
            "versions": versions(),
            "records": self.found,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(whole, indent=1) + "\n")
        partial.replace(self._path)


def _short(value: Any) -> Any:
    """Numbers with four digits, long lists left out, for a terminal."""
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items() if not (isinstance(part, list) and len(part) > 8)}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def run(
    measure: Callable[[Records, bool], None],
    about: str | None,
    page: Callable[[dict[str, Record]], list[str]] = lambda found: [],
) -> None:
    """The command line of a section: `measure(records, quick)`, then its tables are printed."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, in seconds: shows that all works")
    parser.add_argument("--json", type=Path, help="where the records lie; what is there is not measured again")
    arguments = parser.parse_args()
    print(f"{machine()}, {memory_gib():.0f} GiB; torch {versions()['torch']}, polars {versions()['polars']}")
    records = Records(arguments.json)
    measure(records, arguments.quick)
    print("\n".join(page(records.found)))
