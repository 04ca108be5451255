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


def threads_and_lanes(cores: int, precision: str) -> tuple[int, int]:
    """Threads that work on one batch, and batches that are encoded at once.

    Two batches: of int8 each on half of the cores, of float32 on as many as are free. Measured on two cores with
    all-MiniLM-L6-v2, 1 and 2 threads in turns: a query alone took 6.05 and 4.94 ms, documents came at 366 and 317
    texts a second (float32); 2.90 and 3.22 ms, 869 and 824 (int8). One float32 batch at a time on both:
    6.49 ms, 347 texts a second, beside 6.93 and 312 for two; searches side by side weren't tried with it.
    """
    if cores == 1:
        return 1, 1
    return (max(1, cores // 2) if precision == "int8" else cores), 2
