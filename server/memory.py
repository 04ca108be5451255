"""How much memory there is, and giving it back: glibc keeps what was freed unless it is told not to."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
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


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Nothing that is made inside is looked through for garbage, then or later: for imports, whose objects stay.

    Importing the server takes a seventh less time so, and a full collection later has less to go through.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True)
class Room:
    """What this process, with all that shares its limit, may use, and what of it is free."""

    limit_bytes: int
    free_bytes: int  # page cache counts as free: the kernel drops it before it kills anybody
    source: str  # the machine, or the file with the limit


def room() -> Room:
    """Look how much memory is left: of the machine, or of its control group where that leaves less. Takes 0.1 ms."""
    found = [_machine_room()]
    for path in group_limit_files():
        # No such file: no such group. "max": no limit.
        with contextlib.suppress(OSError, ValueError, KeyError):
            found.append(_group_room(path))
    tightest = min(found, key=lambda each: each.limit_bytes)
    return Room(tightest.limit_bytes, min(each.free_bytes for each in found), tightest.source)


def _machine_room() -> Room:
    lines = Path("/proc/meminfo").read_text().splitlines()
    told = {name: int(rest.split()[0]) << 10 for name, rest in (line.split(":", 1) for line in lines)}
    return Room(told["MemTotal"], told["MemAvailable"], "the machine")


def _group_room(limit_file: Path) -> Room:
    """A control group's; both versions. What lies in a tmpfs counts as used, as it can't be dropped."""
    limit = int(limit_file.read_text())
    is_first = limit_file.name == "memory.limit_in_bytes"
    used = int((limit_file.parent / ("memory.usage_in_bytes" if is_first else "memory.current")).read_text())
    lines = (limit_file.parent / "memory.stat").read_text().splitlines()
    stat = {name: int(value) for name, value in (line.split() for line in lines)}
    cache = stat["total_cache" if is_first else "file"] - stat["total_shmem" if is_first else "shmem"]
    cache += stat.get("slab_reclaimable", 0)
    return Room(limit, max(0, limit - used + cache), str(limit_file))


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
