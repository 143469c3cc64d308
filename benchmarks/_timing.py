"""What the benchmarks share: medians of repeated calls, the machine's description, peak memory."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "numpy", "polars", "safetensors", "scikit-learn")


def median_seconds(call: Callable[[], object], repeats: int, warm: int = 2) -> float:
    """Median wall time of a call."""
    for _ in range(warm):
        call()
    return statistics.median(seconds_of(call) for _ in range(repeats))


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seconds_in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall times [rounds] of each call; they take turns, so that a busy moment meets all, after a round of warming."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            taken = seconds_of(call)
            if number:
                seconds[name].append(taken)
    return seconds


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> str:
    """Processor, cores and system in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores, {platform.system()}"


def memory_gib() -> float:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def load() -> float:
    """How many processes wanted a core in the last minute; above what was measured the machine was not quiet."""
    return round(os.getloadavg()[0], 2)


def versions() -> dict[str, str]:
    """Python and the libraries that decide the speed."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}
