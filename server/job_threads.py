"""Jobs done beside requests: in threads of their own, and each ended as its work ended."""

import threading
from collections.abc import Callable
from typing import Any, Literal

import structlog

from index.errors import IndexFault
from server.background import stand_back
from server.encoders.errors import EncoderError
from server.errors import ConflictError, ServiceError, StoppingError
from server.jobs import Job, Jobs
from server.memory import give_back

Work = Callable[[Callable[[], bool]], dict[str, Any] | None]
"""Takes what says whether to give up; returns the result, {} if there is nothing to tell, None if it gave up."""


def carry_out(job: Job, work: Callable[[], dict[str, Any] | None]) -> None:
    """Do a job's work in the calling thread, and end the job: done, cancelled where the work gave up, else failed.

    That the job has ended is the last thing to happen: whoever sees it may begin the next at once.
    """
    job.begin()
    ended: tuple[Literal["done", "failed", "cancelled"], str | None] = ("cancelled", None)
    try:
        result = work()
    except (IndexFault, EncoderError, ServiceError) as error:
        ended = "failed", str(error)
    except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for the job's end
        structlog.get_logger().warning("a job failed", type=job.type, kind=type(error).__name__)
        ended = "failed", f"unforeseen: {type(error).__name__}"
    else:
        if result is not None:
            job.result, ended = result or None, ("done", None)
    give_back()
    job.end(*ended)


class JobThreads:
    """Does jobs of one type, each in a thread of its own that stands back behind searches, one at a time."""

    def __init__(self, jobs: Jobs, what: str, queues: bool = False) -> None:
        """Do nothing yet.

        Args:
            what: names such a job where another is refused beside it: "a backup".
            queues: a job waits for those before it, and isn't refused.
        """
        self._jobs = jobs
        self._what = what
        self._queues = queues
        self._stopping = threading.Event()
        self._beginning = threading.Lock()
        self._turn = threading.Lock()  # who works
        self._threads: list[threading.Thread] = []

    def begin(self, job: Job, work: Work) -> Job:
        """Begin a job; returns at once.

        Raises:
            ConflictError: one of its type is under way.
            StoppingError: the server is shutting down.
        """
        with self._beginning:
            self.check_open()
            if not self._queues and (running := self._jobs.unfinished(job.type)):
                raise ConflictError(
                    f"{self._what} is under way, job {running[0].id}", "Wait for it, or cancel it."
                )
            self._jobs.add(job)
            thread = threading.Thread(target=self._run, args=[job, work], name=job.type, daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()
        return job

    def check_open(self) -> None:
        """Raise StoppingError once the server is shutting down."""
        if self._stopping.is_set():
            raise StoppingError("the server is shutting down")

    def wait(self) -> None:
        """Wait for every job that was begun."""
        with self._beginning:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """Ask what is under way to give up, and begin nothing more."""
        self._stopping.set()

    def close(self) -> None:
        """Stop and wait."""
        self.stop()
        self.wait()

    def _run(self, job: Job, work: Work) -> None:
        stand_back()
        with self._turn:
            carry_out(job, lambda: work(lambda: self._stopping.is_set() or job.wanted == "cancel"))
