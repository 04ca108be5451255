"""Long work that runs beside requests, as people see it: what, how far, how long still."""

import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from server.errors import NotFoundError

MAX_KEPT = 100
"""Ended jobs that are remembered. Jobs live in memory: those of index work start anew when they are needed."""


@dataclass
class Job:
    """One piece of work. Changed by the thread that does it, read by any."""

    type: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "waiting"  # waiting, running, done, failed, cancelled
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = "rows"
    error: str | None = None
    result: dict[str, Any] | None = None
    started: float | None = None  # time.monotonic()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far the work is."""
        self.stage, self.done, self.total = stage, done, total

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        eta_s = None
        if self.status == "running" and self.started is not None and 0 < self.done < self.total:
            eta_s = round((time.monotonic() - self.started) / self.done * (self.total - self.done), 1)
        return {
            "id": self.id,
            "type": self.type,
            "status": self.status,
            "stage": self.stage,
            "progress": {"done": self.done, "total": self.total, "unit": self.unit, "eta_s": eta_s},
            "error": self.error,
            "result": self.result,
        }


class Jobs:
    """The jobs of one process, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def add(self, job: Job) -> Job:
        """Remember a job, forgetting the oldest that has ended where there are too many."""
        with self._lock:
            self._jobs[job.id] = job
            ended = [each for each in self._jobs.values() if each.status in ("done", "failed", "cancelled")]
            for each in ended[: max(0, len(self._jobs) - MAX_KEPT)]:
                del self._jobs[each.id]
        return job

    def get(self, identifier: str) -> Job:
        """Return a job. Raises NotFoundError."""
        with self._lock:
            job = self._jobs.get(identifier)
        if job is None:
            raise NotFoundError(f"there is no job with the id {identifier!r}", "GET /jobs lists the ids.")
        return job

    def all(self) -> list[Job]:
        """Return the jobs, the newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))
