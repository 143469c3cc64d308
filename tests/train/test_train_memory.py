import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from weft.train.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
step = lambda: [torch.ones(2_000_000) for _ in range(8)]
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is of glibc")
def test_memory_that_is_freed_is_found_again_without_page_faults() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < 1_000 < faults("return")
