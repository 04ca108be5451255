"""Threads that work beside searches."""

import contextlib
import os
import threading

NICENESS = 10
"""How far such a thread stands back behind searches, on Unix's scale of 19."""


def stand_back() -> None:
    """Lower the priority of the calling thread alone. Not everyone may, or has a priority for each thread."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
