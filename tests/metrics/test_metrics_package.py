"""The door of the room."""

import subprocess
import sys

from weft import metrics


def test_every_public_name_is_there_and_sorted() -> None:
    assert metrics.__all__ == sorted(metrics.__all__)
    assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_the_room_needs_numpy_only() -> None:
    code = "import sys, weft.metrics; print(*({'torch', 'polars', 'sklearn', 'scipy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
