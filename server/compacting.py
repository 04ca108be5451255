"""Compaction: the rows that are alive move into another generation of the same model, and the old files go.

Vectors are copied as they are, in the order of their rows, and the first pass is made by what the old one's was
trained: searches answer the same before and after. Searches and writes go on meanwhile; for the last step, in which the
two change places, writes wait. What a kill interrupts is dropped at the next start, and begun anew when it is due.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from index import durable
from index.errors import IndexFault
from index.two_pass import generation_files
from server.background import stand_back
from server.errors import ConflictError
from server.job_threads import carry_out
from server.jobs import Job
from server.live import Live
from server.records import Generation
from server.reembedding import Workshop, turn
from server.row_copying import RowCopying
from server.store import LocalStore, delete_files

MIN_TOMBSTONES = 5_000
"""Dead rows below which it isn't worth while: some megabytes."""

CATALOG_ROW_BYTES = 120
"""Disk that a passage takes in the catalog for as long as there are two generations, index and log included."""

LOOK_S = 60.0
"""How often it is looked whether there is something to do."""

RETRY_S = 3600.0
"""Pause before one that failed is begun again by itself."""

SHRUNK = 1.5
"""From so many times fewer rows on, the first pass isn't only copied but planned anew."""


class Compacting:
    """One thread that drops dead rows when they are many, or when it is told to."""

    def __init__(self, workshop: Workshop) -> None:
        self._w = workshop
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._beginning = threading.Lock()
        self._not_before = 0.0  # time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; it drops what a kill has left."""
        self._thread = threading.Thread(target=self._run, name="compact", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to give up what it is doing."""
        self._stopping.set()
        self._wake.set()

    def close(self) -> None:
        """Stop and wait."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Let the thread look whether there is something to do; returns at once."""
        self._wake.set()

    def begin(self) -> Job:
        """Have dead rows dropped now, however few; returns at once.

        Raises:
            ConflictError: it is under way, the model is being changed, or there are damaged vectors.
        """
        with self._beginning:
            self._check_may_begin()
            job = self._w.jobs.add(Job("compact"))
        self._wake.set()
        return job

    def _check_may_begin(self) -> None:
        if running := self._w.jobs.unfinished("compact"):
            raise ConflictError(
                f"a compaction is under way, job {running[0].id}", "Wait for it, or cancel it."
            )
        if running := self._w.jobs.unfinished("reembed"):
            raise ConflictError(
                f"a change of the model is under way, job {running[0].id}",
                "Wait for it: it leaves dead rows behind too.",
            )
        if n_damaged := len(self._w.live().store.damage.rows):
            raise ConflictError(
                f"{n_damaged} stored vectors are damaged and not mended yet",
                "GET /stats names under damage the documents that have to be sent again or deleted; wait for the rest.",
            )

    # In the thread

    def _run(self) -> None:
        stand_back()
        with turn(self._w.changing, self._stopping) as is_mine:
            if is_mine:
                self._drop_leftover()
        while not self._stopping.is_set():
            self._wake.clear()
            if self._is_due():
                with contextlib.suppress(ConflictError):
                    self.begin()
            if jobs := self._w.jobs.unfinished("compact"):
                with turn(self._w.changing, self._stopping) as is_mine:
                    if is_mine:
                        self._work(jobs[0])
            else:
                self._wake.wait(LOOK_S)

    def _is_due(self) -> bool:
        share, index = self._w.index.compact_share, self._w.live().store.index
        n_dead = index.n_rows - index.n_live
        is_much = bool(share) and n_dead >= max(MIN_TOMBSTONES, share * index.n_rows)
        return is_much and time.monotonic() >= self._not_before

    def _work(self, job: Job) -> None:
        self._not_before = time.monotonic() + RETRY_S  # unless it succeeds
        carry_out(job, lambda: self._compact_and_tidy(job))
        if job.status == "done":
            self._not_before = 0.0
        structlog.get_logger().info(
            "compaction ended", status=job.status, detail=job.error, **(job.result or {})
        )

    def _compact_and_tidy(self, job: Job) -> dict[str, Any] | None:
        try:
            result = self._compact(job)
        finally:
            self._drop_leftover()
        if result is not None:
            job.progress("giving room back", job.total, job.total)
            with contextlib.suppress(IndexFault):  # it is used again; the next compaction tries again
                result["freed_bytes"] += self._w.catalog.give_back(self._unwanted(job))
        return result

    def _compact(self, job: Job) -> dict[str, Any] | None:
        """Return the job's result; None if it was cancelled, or the server stops."""
        started = time.monotonic()
        before = self._w.live()
        old = before.store
        n_rows, n_dead = old.index.n_rows, old.index.n_rows - old.index.n_live
        if not n_dead:
            return _told(n_rows, n_rows, 0, started)
        old_bytes = _size(old, old.generation)
        durable.check_room(old.folder, _bytes_needed(old, old_bytes), "the compaction")
        copying = RowCopying(self._w.catalog, old)
        if not copying.catch_up(self._unwanted(job), job.progress):
            return None
        if not old.index.build_for(copying.into.number, copying.n_rows, self._unwanted(job), job.progress):
            return None
        if not copying.catch_up(self._unwanted(job), job.progress):
            return None
        job.progress("changing places", copying.n_rows, copying.n_rows)
        made: list[Live] = []

        def finish() -> bool:
            copying.rest()
            live = self._w.make_live(self._opened(copying.into), before.encoder)
            self._w.catalog.generations.succeed()
            self._w.take_over(live)
            made.append(live)
            return True

        old.hand_over(finish)
        (live,) = made
        live.upkeep.start()
        before.close(keep_encoder=True)
        new = live.store
        if n_rows > SHRUNK * new.index.n_rows and not new.index.plan.is_plain:
            live.upkeep.rebuild(live.upkeep.wish())
        return _told(n_rows, new.index.n_rows, old_bytes - _size(new, new.generation), started)

    def _opened(self, generation: Generation) -> LocalStore:
        found = self._w.catalog.generations.get(generation.number)
        assert found is not None  # only this thread drops it
        return LocalStore(self._w.catalog, found, self._w.index.prefix_dim_for(found.dim))

    def _unwanted(self, job: Job) -> Callable[[], bool]:
        return lambda: self._stopping.is_set() or job.wanted == "cancel"

    def _drop_leftover(self) -> None:
        """Delete the generation that was left: the old one, or one that wasn't finished."""
        with contextlib.suppress(IndexFault):  # the next start tries again
            self._w.catalog.settle()  # a change of places that failed may still come true at the next start
            if (number := self._w.catalog.generations.leftover()) is not None:
                # The files first: what the catalog doesn't name any more isn't looked for again.
                delete_files(self._w.catalog.path.parent, number)
                self._w.catalog.generations.drop(number)


def _told(n_before: int, n_rows: int, freed_bytes: int, started: float) -> dict[str, Any]:
    return {
        "rows_before": n_before,
        "rows": n_rows,
        "freed_bytes": freed_bytes,
        "seconds": round(time.monotonic() - started, 1),
    }


def _size(store: LocalStore, generation: int) -> int:
    """Return the bytes of a generation's files."""
    found = [path for path in generation_files(store.folder, generation) if path.exists()]
    return sum(path.stat().st_size for path in found)


def _bytes_needed(store: LocalStore, old_bytes: int) -> int:
    """Return what the new generation will take beside the old one: as much of its files as is alive."""
    n_live, n_rows = store.index.n_live, store.index.n_rows
    return old_bytes * n_live // max(n_rows, 1) + CATALOG_ROW_BYTES * n_live
