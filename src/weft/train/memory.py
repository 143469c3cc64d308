"""How the process keeps its memory while it trains."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGEST, NEVER = 1 << 26, 2**31 - 1


def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed, where it is glibc, so that the next step finds it again.

    Left alone it returns a step's activations to the system at the end of the step, and the next step takes a page
    fault for every 4 KiB of them, a tenth of its time. Tensors of up to 64 MiB are kept; the process does not shrink.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, NEVER)
