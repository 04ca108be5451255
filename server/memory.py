"""Giving memory back to the machine: glibc keeps what was freed unless it is told not to."""

import contextlib
import ctypes
import os
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGE_BYTES = 1 << 20

GROUPS = Path("/sys/fs/cgroup")


def keep_memory_small() -> None:
    """Make buffers of a megabyte and more return to the system as soon as they are freed; few arenas for the rest.

    Without it glibc raises its own thresholds with every large buffer, and each thread that handled a batch
    keeps the batch's memory. Does nothing where the C library isn't glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)
        mallopt(M_ARENA_MAX, 2)


def limit_bytes() -> int:
    """Return how much memory this process may use: the machine's, or its control group's limit where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in group_limit_files():
        # No such file: no such group. "max": no limit.
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


def group_limit_files() -> list[Path]:
    """Return where limits of this process's control groups may stand: as a container sees them, and as the host does.

    Both versions of control groups; a line of /proc/self/cgroup is `number:controllers:path`.
    """
    files = [GROUPS / "memory.max", GROUPS / "memory" / "memory.limit_in_bytes"]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                files.append(GROUPS / path.lstrip("/") / "memory.max")
            elif "memory" in controllers.split(","):
                files.append(GROUPS / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
    return files


def give_back() -> None:
    """Return free memory inside the heap to the system; milliseconds, so after large requests only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
