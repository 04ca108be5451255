"""The threads that have batches encoded, and the line in front of them: queries first, ingest in small batches."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.encoders.cores import ONE_LANE, Lanes
from server.encoders.errors import EncoderError, EncoderUnavailable, EncodingFailed, first_line
from server.encoders.fingerprint import Role

Vectors = NDArray[np.float32]
# Batches of queries in a row while documents wait; then they have one turn. Else searches that never pause
# would stop an ingest for good.
QUERY_BATCHES_IN_A_ROW = 16
# What a call of the model costs whatever it is given, in tokens: a small model's weights are read from memory once.
# Measured with all-MiniLM-L6-v2 on one thread: 3.1 ms and 0.23 a token as float32, 1.5 ms and 0.09 as int8.
CALL_TOKENS = 15


def do_nothing() -> None:
    pass


@dataclass(frozen=True, eq=False)
class Job:
    """Texts, as the model takes them, to be encoded in one batch. `longest` is the tokens of the longest."""

    inputs: Sequence[Any]
    longest: int
    role: Role
    done: Future[Vectors] = field(default_factory=Future)

    @property
    def tokens(self) -> int:
        """Tokens that are encoded, padding included."""
        return len(self.inputs) * self.longest


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
    """Jobs that wait, and which of them are next. Not locked: EncodingQueue does that.

    Batches have at most `batch_tokens`, but for single texts that are longer.
    """

    def __init__(self, batch_tokens: int, lanes: Lanes = ONE_LANE) -> None:
        self.lanes = lanes
        self._batch_tokens = batch_tokens
        self._waiting: dict[Role, deque[Job]] = {role: deque() for role in Role}
        self._query_batches = 0  # in a row, while documents waited
        self._document_batches = 0  # at work

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    @property
    def has_next(self) -> bool:
        """Whether a lane that is free has something to do."""
        return bool(self._waiting[Role.QUERY]) or self._documents_may_start()

    def add(self, job: Job) -> None:
        self._waiting[job.role].append(job)

    def take(self) -> list[Job]:
        """What to encode together now: the oldest query and those that go well with it; else documents."""
        queries, documents = self._waiting[Role.QUERY], self._waiting[Role.DOCUMENT]
        if self._documents_may_start() and (not queries or self._query_batches == QUERY_BATCHES_IN_A_ROW):
            self._query_batches = 0
            self._document_batches += 1
            return [documents.popleft()]
        if not queries:
            return []
        self._query_batches = min(self._query_batches + 1, QUERY_BATCHES_IN_A_ROW) if documents else 0
        taken = self._joined(list(queries))
        self._waiting[Role.QUERY] = deque(job for job in queries if job not in taken)
        return taken

    def finish(self, taken: list[Job]) -> None:
        """What was taken is encoded."""
        if taken[0].role is Role.DOCUMENT:
            self._document_batches -= 1

    def clear(self) -> list[Job]:
        """Take all that wait."""
        jobs = [job for waiting in self._waiting.values() for job in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        return jobs

    def _documents_may_start(self) -> bool:
        return bool(self._waiting[Role.DOCUMENT]) and self._document_batches < self.lanes.of_documents

    def _joined(self, queries: Sequence[Job]) -> list[Job]:
        """The oldest query with others of like length: where padding costs less than a call of their own would.

        No more than this lane's share of what waits: the other lanes want some, too.
        """
        oldest = queries[0]
        share = sum(job.tokens for job in queries) / self.lanes.batches
        taken, n_texts, longest, n_tokens = [oldest], len(oldest.inputs), oldest.longest, oldest.tokens
        for job in sorted(queries[1:], key=lambda job: abs(job.longest - oldest.longest)):
            if n_tokens >= share:
                break
            padded = (n_texts + len(job.inputs)) * max(longest, job.longest)
            more = padded - n_texts * longest
            if padded <= self._batch_tokens and more <= job.tokens + CALL_TOKENS:
                taken.append(job)
                n_texts, longest = n_texts + len(job.inputs), max(longest, job.longest)
                n_tokens += job.tokens
        return taken


class EncodingQueue:
    """Calls `embed` in threads of its own, one for each lane, a batch at a time, for callers in any thread.

    After `idle_s` without a job it calls `rest`, once, while no lane is busy; 0: never.
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
        self._n_busy = 0
        self._is_resting = False
        self._idle_since = time.monotonic()
        self._closed = False
        self._changed = threading.Condition()  # guards all that changes
        # Daemons, so that a server that fails to start can still end.
        self._threads = [
            threading.Thread(target=self._work, name=f"encoder-{lane}", daemon=True)
            for lane in range(line.lanes.batches)
        ]
        for thread in self._threads:
            thread.start()

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

    @property
    def n_waiting(self) -> int:
        """Batches in line, those at work not counted."""
        return len(self._line)

    def close(self) -> None:
        """Let the batches at work finish, turn away those that wait, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if threading.current_thread() is not thread:
                thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            self._encode(jobs)
            with self._changed:
                self._line.finish(jobs)
                self._changed.notify()  # a lane that is free may have waited for the documents of this one
                self._n_busy -= 1
                self._idle_since = time.monotonic()

    def _next(self) -> list[Job]:
        """Wait for jobs; an empty list says that the queue is closed, and no job is left in the line."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._closed or self._line.has_next, self._patience_s()):
                if self._patience_s() == 0:
                    self._is_resting = True
                    self._rest()
            if self._closed:
                self._turn_away()
                return []
            self._is_resting = False
            self._n_busy += 1
            return self._line.take()

    def _patience_s(self) -> float | None:
        """Seconds until it is time to rest; None: it isn't coming to that."""
        if not self._idle_s or self._is_resting or self._n_busy:
            return None
        return max(0.0, self._idle_since + self._idle_s - time.monotonic())

    def _turn_away(self) -> None:
        for job in self._line.clear():
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
