"""The memory of another process, watched from outside: what it holds itself, apart from files that lie in memory."""

import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Watched(NamedTuple):
    """How a command went.

    Attributes:
        output: What it printed.
        own_mib: Most anonymous and shared memory that it held, MiB; mapped files and page cache are not in.
        resident_mib: Most memory that it held with mapped files.
        capped: Whether it was ended because it held more than the cap.
    """

    output: str
    own_mib: float
    resident_mib: float
    capped: bool


def watched(command: Sequence[str], environment: dict[str, str], cap_mib: float | None = None) -> Watched:
    """Run a command and look at its memory every 5 ms; with a cap it is ended as soon as it holds more.

    Raises:
        subprocess.CalledProcessError: The command failed by itself.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        watch = Watch(process, cap_mib)
        watch.start()
        output, errors = process.communicate()
        watch.join()
    if process.returncode and not watch.capped:
        raise subprocess.CalledProcessError(process.returncode, command, output, errors[-2000:])
    return Watched(output, watch.own, watch.resident, watch.capped)


class Watch(threading.Thread):
    """Looks at the memory of a process until that ends; `own` and `resident` are the most that it held, MiB."""

    def __init__(self, process: "subprocess.Popen[str]", cap: float | None = None) -> None:
        super().__init__(daemon=True)
        self._process, self._cap = process, cap
        self.own, self.resident, self.capped = 0.0, 0.0, False

    def run(self) -> None:
        while self._process.poll() is None:
            own, resident = memory_mib(self._process.pid)
            self.own, self.resident = max(self.own, own), max(self.resident, resident)
            if self._cap is not None and own > self._cap:
                self.capped = True
                self._process.kill()
            time.sleep(0.005)


def memory_mib(pid: int) -> tuple[float, float]:
    """What a process holds: its own memory, and all that is resident; MiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    kib = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.startswith(("Rss", "VmRSS"))}
    return (kib.get("RssAnon", 0) + kib.get("RssShmem", 0)) / 1024, kib.get("VmRSS", 0) / 1024
