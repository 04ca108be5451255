"""Long work that runs beside requests, as people see and steer it: what, how far, how long still."""

import json
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from server.catalog.job_table import JobTable
from server.catalog.stored_json import read_json
from server.errors import JobStateError, NotFoundError
from server.pace import Pace
from server.records import InboxDocument, SavedJob

MAX_KEPT = 100  # ended jobs that are remembered
ENDED = ("done", "failed", "cancelled")
STATUSES = ("waiting", "running", "paused", *ENDED)
UNITS = {"ingest": "documents", "reembed": "documents"}  # of the other types: rows
LOOK_S = 0.2  # how soon a job that stands still notices that the server stops: nobody wakes it for that

Asked = Literal["pause", "resume", "cancel"]


@dataclass
class Job:
    """One piece of work. Done and changed by one thread; any other reads it, and asks for a pause or an end."""

    type: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "waiting"  # one of STATUSES
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""  # "": that of the type
    error: str | None = None
    result: dict[str, Any] | None = None
    wishes: dict[str, Any] = field(default_factory=dict)  # what was asked for, as JSON can say it
    created_at: float = field(default_factory=time.time)  # seconds since 1970, UTC
    wanted: str = "run"  # run, pause or cancel: what people want of the thread that does it
    is_durable: bool = False  # outlives a restart, and can be paused
    pace: Pace = field(default_factory=Pace, repr=False, compare=False)
    _asked: threading.Condition = field(default_factory=threading.Condition, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.unit = self.unit or UNITS.get(self.type, "rows")

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ENDED

    def begin(self, stage: str = "") -> bool:
        """Say that the work goes on from here: at its start, after a restart, after a wait.

        Nothing is said, and False returned, where meanwhile something else is wanted.
        """
        with self._asked:
            if self.wanted == "run":
                self.status, self.stage = "running", stage
                self.pace.start(self.done)
            return self.wanted == "run"

    def wait(self, why: str) -> None:
        """Say what the work waits for; `begin` says that it goes on."""
        with self._asked:
            self.status, self.stage = "waiting", why

    def end(self, status: Literal["done", "failed", "cancelled"], error: str | None = None) -> None:
        """Say how it ended."""
        with self._asked:
            if status == "done":
                self.done = self.total
            self.stage, self.error, self.status = "", error, status

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far the work is."""
        with self._asked:
            self.stage, self.done, self.total = stage, done, total
            self.pace.mark(done)

    def ask(self, what: Asked) -> None:
        """Ask for a pause, for going on, or for an end; the thread that does the work sees it in `wanted`.

        Raises:
            JobStateError: the job has ended, or can't be paused.
        """
        with self._asked:
            if self.has_ended:
                raise JobStateError(f"the job is {self.status} already")
            if what != "cancel" and not self.is_durable:
                raise JobStateError(f"a {self.type} can't be paused", "Cancel it, and start it again later.")
            if self.wanted == "cancel":
                raise JobStateError("the job is being cancelled")
            self.wanted = "run" if what == "resume" else what
            if self.wanted == "pause" and self.status == "waiting":
                self.status = "paused"
            elif self.wanted == "run" and self.status == "paused":
                self.status = "waiting"
            self._asked.notify_all()

    def wait_until_resumed(self, stopping: threading.Event) -> None:
        """Stand still, as `paused`, for as long as a pause is wanted and `stopping` isn't set.

        Returns at once where no pause is wanted; else the caller looks at `wanted` and `stopping` again.
        """
        if self.wanted != "pause":
            return
        self.rest()
        with self._asked:
            while self.wanted == "pause" and not stopping.is_set():
                self._asked.wait(LOOK_S)
        if self.wanted == "run":
            self.begin()

    def rest(self) -> None:
        """Say that the work stands still, if that is wanted."""
        with self._asked:
            if self.wanted == "pause":
                self.status = "paused"

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        with self._asked:  # all of one moment
            rate = self.pace.rate() if self.status == "running" else None
            eta_s = round((self.total - self.done) / rate, 1) if rate and 0 < self.done < self.total else None
            return {
                "id": self.id,
                "type": self.type,
                "status": self.status,
                "stage": self._told_stage(),
                "progress": {
                    "done": self.done,
                    "total": self.total,
                    "unit": self.unit,
                    "rate": None if rate is None else round(rate, 1),
                    "eta_s": eta_s,
                },
                "wishes": self.wishes,
                "created_at": datetime.fromtimestamp(self.created_at, UTC).isoformat(timespec="milliseconds"),
                "error": self.error,
                "result": self.result,
            }

    def _told_stage(self) -> str:
        """What it does; or what it was asked for and its thread hasn't seen yet."""
        if self.wanted == "cancel" and not self.has_ended:
            return "being cancelled"
        if self.wanted == "pause" and self.status == "running":
            return "being paused"
        return self.stage


class Jobs:
    """The jobs of one collection, oldest first: those of this process, and durable ones of earlier ones too."""

    def __init__(self, table: JobTable | None = None) -> None:
        """Load what an earlier process left: its unfinished jobs wait, or are paused, as they were."""
        self._table = table
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._listeners: list[Callable[[], None]] = []
        if table is not None:
            table.forget_leftovers()
            for saved in table.all():
                self._jobs[saved.id] = _loaded(saved)

    def add(self, job: Job, durable: bool = False, documents: Sequence[InboxDocument] = ()) -> Job:
        """Remember a job, forgetting the oldest that has ended where there are too many.

        Args:
            durable: write it to the catalog, so that it outlives a restart; needs a table.
            documents: of a durable job: what it is to store, committed with it in one transaction.

        Raises:
            DiskFullError, StorageError: of a durable job; nothing is remembered.
        """
        job.is_durable = durable
        if durable:
            assert self._table is not None
            self._table.add(saved(job), documents)
        with self._lock:
            self._jobs[job.id] = job
            ended = [each for each in self._jobs.values() if each.has_ended]
            for each in ended[: max(0, len(self._jobs) - MAX_KEPT)]:
                del self._jobs[each.id]
        return job

    def save(self, job: Job) -> None:
        """Commit how a durable job stands; of others nothing is kept. Raises DiskFullError, StorageError."""
        if job.is_durable and self._table is not None:
            with self._saving:  # so that the later state is the one that stays
                self._table.save(saved(job))

    def ask(self, identifier: str, what: Asked) -> Job:
        """Ask something of a job, and tell those who do the work. A durable job's answer outlives a restart.

        Raises:
            NotFoundError: there is no such job.
            JobStateError: it has ended, or can't be paused.
            DiskFullError, StorageError: it is asked, but a restart would forget that.
        """
        job = self.get(identifier)
        job.ask(what)
        for listener in self._listeners:
            listener()
        if job.is_durable and self._table is not None:
            with self._saving:  # the status alone: whoever does the work saves how far it is
                self._table.save_status(job.id, saved(job).status)
        return job

    def on_ask(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, in any thread, after something was asked of a job."""
        self._listeners.append(listener)

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

    def unfinished(self, of_type: str) -> list[Job]:
        """Return the jobs of a type that haven't ended, the oldest first."""
        return [job for job in reversed(self.all()) if job.type == of_type and not job.has_ended]


def saved(job: Job) -> SavedJob:
    """Return a job as the catalog keeps it: what people asked for counts as done, so that a restart holds to it."""
    status = job.status
    if not job.has_ended and job.wanted != "run":
        status = {"pause": "paused", "cancel": "cancelled"}[job.wanted]
    return SavedJob(
        job.id, job.type, status, job.done, job.total, json.dumps(job.wishes),
        None if job.result is None else json.dumps(job.result), job.error, job.created_at,
    )  # fmt: skip


def _loaded(saved: SavedJob) -> Job:
    return Job(
        saved.type,
        saved.id,
        "waiting" if saved.status == "running" else saved.status,
        done=saved.done,
        total=saved.total,
        error=saved.error,
        result=None if saved.result is None else read_json(saved.result, f"the result of job {saved.id}"),
        wishes=read_json(saved.wishes, f"the wishes of job {saved.id}"),
        created_at=saved.created_at,
        wanted="pause" if saved.status == "paused" else "run",
        is_durable=True,
    )
