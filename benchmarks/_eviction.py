"""A cap on how much of memory-mapped files may be in memory, page cache included, without rights on the machine.

Whenever more of the files is in memory than the cap, all of it is taken out: the mappings of this process are let go
(their pages come back from the file when they are read) and the page cache is told that it needs them no more. That is
harder than a machine of that size would be, which would take out the oldest pages only. Linux.
"""

import ctypes
import os
import threading
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
PROT_READ, MAP_SHARED, MADV_DONTNEED = 1, 1, 4
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Eviction:
    """Keeps what is in memory of some files at or under `cap` bytes, looking every `every` seconds.

    Attributes:
        evictions: How often all of it was taken out.
        most: Most bytes that were found in memory at a look.
    """

    def __init__(self, files: list[Path], cap: int, every: float = 0.02) -> None:
        self._files = [(path, path.stat().st_size) for path in files]
        self._cap, self._every = cap, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.evictions, self.most = 0, 0

    def start(self) -> None:
        """Empty the files' memory and begin to watch it."""
        self._evict()
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            held = sum(in_memory(path, size) for path, size in self._files)
            self.most = max(self.most, held)
            if held > self._cap:
                self._evict()
                self.evictions += 1
            time.sleep(self._every)

    def _evict(self) -> None:
        for start, stop in mappings({str(path.resolve()) for path, _ in self._files}):
            _libc.madvise(start, stop - start, MADV_DONTNEED)
        for path, _ in self._files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory(path: Path, size: int) -> int:
    """Bytes of a file that are in memory."""
    if not size:
        return 0
    pages = -(-size // PAGE)
    found = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file:
        place = _libc.mmap(None, size, PROT_READ, MAP_SHARED, file.fileno(), 0)
        _libc.mincore(place, size, found)
        _libc.munmap(place, size)
    return sum(bytes(found).translate(_LOWEST_BIT)) * PAGE


_LOWEST_BIT = bytes(value & 1 for value in range(256))


def mappings(paths: set[str]) -> list[tuple[int, int]]:
    """Where this process has mapped some files: start and stop of each mapping."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in paths:
            start, stop = (int(number, 16) for number in parts[0].split("-"))
            found.append((start, stop))
    return found
