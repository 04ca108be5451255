"""One thread that owns the model, and the line in front of it: queries first, ingest in small batches."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.encoders.errors import EncoderError, EncoderUnavailable, EncodingFailed, first_line
from server.encoders.fingerprint import Role

Vectors = NDArray[np.float32]
# Batches of queries in a row while documents wait; then they have one turn. Else searches that never pause
# would stop an ingest for good.
QUERY_BATCHES_IN_A_ROW = 16


def do_nothing() -> None:
    pass


@dataclass(frozen=True, eq=False)
class Job:
    """Texts, as the model takes them, to be encoded in one batch. `longest` is the tokens of the longest."""

    inputs: Sequence[Any]
    longest: int
    role: Role
    done: Future[Vectors] = field(default_factory=Future)


def cut_into_batches(lengths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.intp]]:
    """Put texts of like length together, longest first, in batches of at most `batch_tokens` padded tokens.

    Args:
        lengths: int64 (n_texts,), tokens of each text; more than `batch_tokens` makes a batch of its own.

    Returns:
        The rows of each batch, every row once. Equal lengths keep their order.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        n_rows = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + n_rows])
        start += n_rows
    return batches


class JobLine:
    """Jobs that wait, and which of them are next. Not locked: EncodingQueue does that."""

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._waiting: dict[Role, deque[Job]] = {role: deque() for role in Role}
        self._query_batches = 0  # in a row, while documents waited

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def add(self, job: Job) -> None:
        self._waiting[job.role].append(job)

    def take(self) -> list[Job]:
        """What to encode together now: as many queries as one batch holds, oldest first; else documents."""
        queries, documents = self._waiting[Role.QUERY], self._waiting[Role.DOCUMENT]
        if documents and (not queries or self._query_batches == QUERY_BATCHES_IN_A_ROW):
            self._query_batches = 0
            return [documents.popleft()]
        if not queries:
            return []
        self._query_batches = self._query_batches + 1 if documents else 0
        jobs = [queries.popleft()]
        n_texts, longest = len(jobs[0].inputs), jobs[0].longest
        while queries:
            n_texts += len(queries[0].inputs)
            longest = max(longest, queries[0].longest)
            if n_texts * longest > self._batch_tokens:
                break
            jobs.append(queries.popleft())
        return jobs


class EncodingQueue:
    """Calls `embed` in one thread of its own, a batch at a time, for callers in any thread.

    After `idle_s` without a job it calls `rest`, once, in the same thread; 0: never.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[Any], Role], Vectors],
        line: JobLine,
        idle_s: float = 0,
        rest: Callable[[], None] = do_nothing,
    ) -> None:
        self._embed = embed
        self._line = line
        self._idle_s = idle_s
        self._rest = rest
        self._is_resting = False
        self._closed = False
        self._changed = threading.Condition()  # guards _line and _closed
        # A daemon, so that a server that fails to start can still end.
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    def submit(self, inputs: Sequence[Any], longest: int, role: Role) -> Future[Vectors]:
        """Put one batch in line; the vectors come, or an error.

        EncodingFailed: `embed` raised a foreign error, its cause. EncoderUnavailable: the queue is closed, or was
        before the batch's turn came. Any other EncoderError: `embed` raised it.

        Raises:
            EncoderUnavailable: the queue is closed.
        """
        job = Job(inputs, longest, role)
        with self._changed:
            if self._closed:
                raise EncoderUnavailable("the encoder is closed", hint="Start the server again.")
            self._line.add(job)
            self._changed.notify()
        return job.done

    def close(self) -> None:
        """Let the batch at work finish, turn away those that wait, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                came = self._changed.wait_for(
                    lambda: self._closed or len(self._line),
                    self._idle_s if self._idle_s and not self._is_resting else None,
                )
                if self._closed:
                    self._turn_away()
                    return
                jobs = self._line.take()
            if came:
                self._is_resting = False
                self._encode(jobs)
            else:
                self._is_resting = True
                self._rest()

    def _turn_away(self) -> None:
        while turned_away := self._line.take():
            for job in turned_away:
                closed = EncoderUnavailable("the encoder was closed", hint="Send the request again later.")
                job.done.set_exception(closed)

    def _encode(self, jobs: list[Job]) -> None:
        inputs = [each for job in jobs for each in job.inputs]
        try:
            vectors = self._embed(inputs, jobs[0].role)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread lives on and the callers get it
            if len(jobs) > 1:  # one caller's text may be to blame; the others need not suffer
                for job in jobs:
                    self._encode([job])
                return
            jobs[0].done.set_exception(_told(error, jobs[0]))
            return
        start = 0
        for job in jobs:
            job.done.set_result(vectors[start : start + len(job.inputs)])
            start += len(job.inputs)


def _told(error: Exception, job: Job) -> EncoderError:
    """What the caller is told when its batch failed."""
    if isinstance(error, EncoderError):
        return error
    failed = EncodingFailed(
        f"the model failed on {len(job.inputs)} texts of up to {job.longest} tokens: {first_line(error)}",
        hint="If it is short of memory, lower encoder.batch_tokens or passages.max_tokens.",
    )
    failed.__cause__ = error
    return failed
