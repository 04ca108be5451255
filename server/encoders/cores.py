"""How many processor cores a model may keep busy, and how it divides them."""

import contextlib
import math
import os
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Lanes:
    """How many batches are encoded at once, and how many of them may be of documents."""

    batches: int = 1
    of_documents: int = 1


ONE_LANE = Lanes()


def threads_and_lanes(cores: int, precision: str) -> tuple[int, Lanes]:
    """Threads that work on one batch, and batches that are encoded at once.

    Two batches: of int8 each on half of the cores, of float32 on as many as are free, documents one at a time.
    Measured on two cores with all-MiniLM-L6-v2, (threads, batches) in turns, a query alone and documents a second.
    float32: (1, 2) 7.95 ms and 370, (2, 2) 6.93 ms and 312, (2, 1) 6.49 ms and 347, but from 16 connections 171
    searches a second instead of 204. int8: (1, 2) 2.90 ms and 869, (2, 2) 3.22 ms and 824.
    """
    if cores == 1:
        return 1, ONE_LANE
    if precision == "int8":
        return cores // 2, Lanes(2, of_documents=2)
    return cores, Lanes(2, of_documents=1)
