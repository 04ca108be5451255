"""The thread that keeps the index in shape: measures the disk, makes the first pass anew as the collection grows."""

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import structlog

from index.disk import DiskSpeed, measure_disk, wave_rows
from index.errors import IndexFault, MemoryFullError
from index.plan import Wish
from index.planner import READ_MS
from index.two_pass import TwoPassIndex, vector_path
from server.background import stand_back
from server.budget import RESERVE_BYTES, Budget, budget_of, held_bytes, wish_of
from server.job_threads import carry_out
from server.jobs import Job, Jobs
from server.memory import limit_bytes, room
from server.settings import IndexSettings
from server.store import LocalStore

POOL = 80
"""Candidates of a search of k = 10, for which the size of a wave is chosen."""

CACHED_SHARE = 0.5
"""Vectors that take less than this part of the memory are expected to stay in the page cache."""

SETTLE_S = 0.2
"""How often who waits for the thread looks whether it still has to."""

RETRY_GROWTH = (
    1.1  # rows, against those at which making a first pass failed, before it is tried again by itself
)


@dataclass(frozen=True)
class _Task:
    job: Job
    wish: Wish


class Upkeep:
    """Runs index work one after another, in one thread, beside searches and writes."""

    def __init__(self, store: LocalStore, settings: IndexSettings, jobs: Jobs) -> None:
        self._store = store
        self._settings = settings
        self._jobs = jobs
        self._wake: queue.SimpleQueue[_Task | threading.Event | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed_at = 0  # rows
        self.disk: DiskSpeed | None = None

    def start(self) -> None:
        """Start the thread; it measures the disk first."""
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()
        self.wake()

    def wake(self) -> None:
        """Let the thread look whether there is something to do; returns at once."""
        self._wake.put(None)

    def rebuild(self, wish: Wish) -> Job:
        """Have the first pass made anew by a wish of its own; returns at once."""
        job = self._jobs.add(Job("rebuild", total=self._index.n_rows))
        self._wake.put(_Task(job, wish))
        return job

    def wish(self) -> Wish:
        """Return what the settings ask for."""
        return wish_of(self._settings, self._store.shape.prefix_dim, self._budget)

    def check_room(self, n_new: int) -> None:
        """Look whether so many passages more can be kept, with what memory there is now and as the codes may grow.

        Raises:
            MemoryFullError: they can't.
        """
        now = room()
        if now.free_bytes < RESERVE_BYTES:
            raise MemoryFullError(
                f"{now.free_bytes / 2**20:,.0f} MiB of memory are left of {now.limit_bytes / 2**20:,.0f} MiB "
                f"({now.source}); {RESERVE_BYTES >> 20} MiB are kept back for searches"
            )
        self._index.check_room(self.wish(), n_new)

    @cached_property
    def _budget(self) -> Budget:
        """Looked up once, when the model is loaded: what is free for a moment must not change the codes."""
        return budget_of(self._settings, room(), held_bytes(self._index))

    def settle(self, is_enough: Callable[[], bool]) -> None:
        """Wait until the first pass suits the rows there are, or until `is_enough` says to wait no longer."""
        while not is_enough() and self._thread is not None:
            done = threading.Event()
            self._wake.put(done)
            while not done.wait(SETTLE_S):
                if is_enough():
                    return
            if self._failed_at or not self._index.rebuild_due(self.wish()):
                return

    def stop(self) -> None:
        """Ask the thread to give up what it is doing; nothing of it is kept."""
        self._stopping.set()
        self._wake.put(None)

    def close(self) -> None:
        """Stop and wait; jobs whose turn hasn't come are ended. Nobody may ask for anything any more."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
        while not self._wake.empty():
            if isinstance(task := self._wake.get(), _Task):
                task.job.end(
                    "cancelled", "other files took this index's place before its turn; begin it again"
                )

    @property
    def _index(self) -> TwoPassIndex:
        return self._store.index

    def _run(self) -> None:
        stand_back()
        self._measure_disk()
        while not self._stopping.is_set():
            task = self._wake.get()
            if self._stopping.is_set():
                break
            if isinstance(task, _Task):
                self._rebuild(task)
            elif self._index.n_rows >= self._failed_at * RETRY_GROWTH and self._index.rebuild_due(
                self.wish()
            ):
                job = self._jobs.add(Job("rebuild", total=self._index.n_rows))
                self._rebuild(_Task(job, self.wish()))
            if isinstance(task, threading.Event):
                task.set()

    def _rebuild(self, task: _Task) -> None:
        job, log = task.job, structlog.get_logger()
        carry_out(job, lambda: self._make_first_pass(task))
        # One that failed is tried again as the rows grow; whoever cancels it doesn't want it begun again at once.
        self._failed_at = 0 if job.status == "done" else self._index.n_rows
        if job.status == "failed":
            log.warning("making a first pass failed", detail=job.error)
        elif job.result:
            made = job.result["evidence"]
            log.info("first pass made", rows=made["rows"], seconds=made["seconds"], **job.result["plan"])

    def _make_first_pass(self, task: _Task) -> dict[str, Any] | None:
        job = task.job
        self._measure_disk()
        wish = replace(task.wish, working_bytes=max(0, room().free_bytes - RESERVE_BYTES))
        report = self._index.rebuild(wish, self._read_ms(), lambda: self._is_unwanted(job), job.progress)
        if report is None:
            return None if self._is_unwanted(job) else {}
        return {"plan": report.plan.told(), "evidence": report.evidence}

    def _is_unwanted(self, job: Job) -> bool:
        return self._stopping.is_set() or job.wanted == "cancel"

    def _measure_disk(self) -> None:
        path = vector_path(self._store.folder, self._store.shape)
        with contextlib.suppress(IndexFault, OSError):
            self.disk = measure_disk(path)
        # A file too small to be measured stays in the page cache: everything is read at once.
        wave = POOL if self.disk is None else wave_rows(self.disk, POOL)
        self._index.wave_rows = 0 if wave >= POOL else wave

    def _read_ms(self) -> float:
        """Return what reading one full vector is expected to take while many are asked for, in milliseconds."""
        vectors_bytes = self._index.n_rows * self._index.row_bytes
        if self.disk is None or vectors_bytes < CACHED_SHARE * limit_bytes():
            return READ_MS
        return max(READ_MS, 1e3 / self.disk.parallel_reads_per_s)
