"""How many processor cores a model may keep busy, and how it divides them."""

import contextlib
import math
import os
from pathlib import Path

QUOTA = Path(
    "/sys/fs/cgroup/cpu.max"
)  # as a container with a limit sees its own: microseconds of each period


def n_cores(quota: Path = QUOTA) -> int:
    """Cores that this process may use; of a container held to a share of them, rounded up.

    More threads than that would take turns, each waiting for the others at every step of the model.
    """
    n_there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
        allowed_us, period_us = quota.read_text().split()
        return max(1, min(n_there, math.ceil(int(allowed_us) / int(period_us))))
    return n_there


def threads_and_lanes(cores: int) -> tuple[int, int]:
    """Threads that work on one batch, and batches that are encoded at once: two, each on half of the cores.

    Measured on two cores with all-MiniLM-L6-v2, texts a second in batches of 64 × 16 tokens: one batch at a time on
    two threads 416, two at a time on one thread each 500 (float32); 704 and 981 (int8). A single short query takes
    as long on one thread as on two.
    """
    return (max(1, cores // 2), 2) if cores > 1 else (1, 1)
