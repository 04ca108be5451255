"""The inbox at work: documents that are safe but not encoded yet, encoded and stored in the order of arrival.

One thread, a small batch at a time. A document leaves the inbox in the transaction that stores it, so that a restart
goes on where the last batch was committed. Whatever the encoder or the disk refuses for reasons of its own is tried
again; a document that is to blame itself is set aside, named in its job, and the others go on.
"""

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import structlog

from index.errors import IndexFault
from server.catalog.job_table import JobTable
from server.checking import CheckedDocument, packed, unpacked
from server.encoders.encoder import Encoder
from server.encoders.errors import (
    EncoderError,
    EncodingFailed,
    EncodingStopped,
    RemoteEncoderDown,
    RemoteEncoderRefused,
    TextNotEncodable,
)
from server.errors import GenerationChangedError, InputError, ServiceError, StoppingError
from server.ingest import Added
from server.jobs import Job, Jobs, saved
from server.live import Live
from server.memory import give_back
from server.records import InboxDocument

BATCH_CHARACTERS = 1 << 16
"""Text that is encoded and stored in one go, and what a kill at the wrong moment makes be encoded twice.

About 15 batches of the model. Texts of like length go into a batch together, and the shorter ones are padded: of 6000
paragraphs of 130 characters 9 % more tokens went through the model than they have; 29 % with a quarter of this, 5 %
with twice as much or any more.
"""

BATCH_DOCUMENTS = 1024
"""Documents stored in one go, where their texts are short or they bring vectors."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before something that failed is tried again; it doubles

MAX_NAMED = 100  # documents that a job names among those that failed

PROBE = "a"  # a text that every model can encode


class Inbox:
    """Takes documents in and encodes them in a thread of its own, job by job, the oldest first."""

    def __init__(
        self, jobs: Jobs, table: JobTable, using: Callable[[], AbstractContextManager[Live]]
    ) -> None:
        """`using` gives what serves now, kept open inside its block; it may be another each time."""
        self._jobs = jobs
        self._table = table
        self._using = using
        self._stopping = threading.Event()
        self._new = threading.Event()  # there may be something to do
        self._asked = threading.Event()  # something was asked of a job, or of the thread: waits end
        self._thread: threading.Thread | None = None
        self._limit = BATCH_DOCUMENTS
        self._pause_s = FIRST_PAUSE_S
        jobs.on_ask(self._heed)

    def start(self) -> None:
        """Start the thread; it goes on with what a restart interrupted."""
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end at the next batch; what is committed stays, the rest waits in the inbox."""
        self._stopping.set()
        self._heed()

    def close(self) -> None:
        """Stop and wait."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def accept(self, documents: Sequence[CheckedDocument], job: Job | None = None) -> Job:
        """Commit documents to the inbox as one job; when this returns they survive a power loss.

        Args:
            job: one of whose documents some are committed already; None: a new one.

        Raises:
            DiskFullError, StorageError: nothing is accepted.
        """
        job = job or new_job()
        job.total += len(documents)
        self._jobs.add(job, durable=True, documents=[packed(each) for each in documents])
        self._new.set()
        return job

    def _heed(self) -> None:
        self._asked.set()
        self._new.set()

    # In the thread

    def _run(self) -> None:
        while True:
            # In this order: whatever is set behind our back is seen now, or ends the next wait.
            self._asked.clear()
            self._new.clear()
            if self._stopping.is_set():
                return
            job = None
            try:
                job = self._next()
                if job is None:
                    self._new.wait()
                    continue
                self._work(job)
                self._pause_s = FIRST_PAUSE_S
            except (EncodingStopped, StoppingError, GenerationChangedError):
                continue  # the server stops, or the job is cancelled; or another model serves now, and encodes it
            except RemoteEncoderDown as error:
                self._wait_for_encoder(job, error)
            except (EncoderError, IndexFault, ServiceError) as error:
                self._pause(job, str(error))
            except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the thread
                structlog.get_logger().warning("storing from the inbox failed", kind=type(error).__name__)
                self._pause(job, f"unforeseen: {type(error).__name__}")

    def _next(self) -> Job | None:
        """The oldest job that may go on; those that shall not are ended or put to rest."""
        found = None
        for job in self._jobs.unfinished("ingest"):
            if job.wanted == "cancel":
                self._cancel(job)
            elif job.wanted == "pause":
                job.rest()
            elif found is None:
                found = job
        return found

    def _work(self, job: Job) -> None:
        """Store the next documents of a job, or end it."""
        documents = self._table.waiting(job.id, self._limit, BATCH_CHARACTERS)
        if not documents:
            self._finish(job)
            return
        if job.status != "running":
            job.done = job.total - self._table.n_waiting(job.id)
            if not job.begin("encoding"):
                return  # a pause was asked for, and told, since the job was chosen
        with self._using() as live:
            numbers, checked = [], []
            for document in documents:
                try:
                    checked.append(unpacked(document, live.store.shape.dim))
                    numbers.append(document.number)
                except InputError as error:
                    self._set_aside(job, document, error)
            documents = [each for each in documents if each.number in set(numbers)]
            if not documents:
                return
            try:
                added = live.ingest.add_waiting(checked, numbers, lambda: self._is_unwanted(job))
            except TextNotEncodable as error:
                self._set_aside(job, documents[error.position], error)
                return
            except (EncodingFailed, RemoteEncoderRefused) as error:
                self._look_for_the_cause(job, documents, live.encoder, error)
                return
            live.upkeep.wake()
        self._limit = min(2 * self._limit, BATCH_DOCUMENTS)
        job.result = _with_counts(job.result or {}, added)
        job.progress("encoding", job.done + len(added.ids), job.total)

    def _is_unwanted(self, job: Job) -> bool:
        return self._stopping.is_set() or job.wanted == "cancel"

    def _look_for_the_cause(
        self, job: Job, documents: Sequence[InboxDocument], encoder: Encoder | None, error: EncoderError
    ) -> None:
        """After an error that doesn't say which text it is about: halve, until the document stands alone.

        Raises:
            EncoderError: `error`, where no text at all can be encoded now.
        """
        try:
            if encoder is not None:
                encoder.encode_documents([PROBE], self._stopping.is_set)
        except EncoderError:
            raise error from None
        if len(documents) == 1:
            self._set_aside(job, documents[0], error)
        else:
            self._limit = len(documents) // 2

    def _set_aside(self, job: Job, document: InboxDocument, error: Exception) -> None:
        """Take out a document that can't be stored; its job names it."""
        result = dict(job.result or {})
        failed = result.get("failed") or {"count": 0, "documents": []}
        named = failed["documents"]
        if len(named) < MAX_NAMED:
            named = [*named, {"id": document.id, "reason": str(error)}]
        result["failed"] = {"count": failed["count"] + 1, "documents": named}
        stands = replace(saved(job), done=job.done + 1, result=json.dumps(result))
        self._table.drop([document.number], stands)
        job.result = result
        job.progress("encoding", job.done + 1, job.total)

    def _finish(self, job: Job) -> None:
        result = dict(job.result or {})
        counted = sum(result.get(name, 0) for name in ("created", "updated", "unchanged"))
        result["overtaken"] = job.total - counted - result.get("failed", {}).get("count", 0)
        job.result = result
        job.end("done")
        self._tell(job)

    def _cancel(self, job: Job) -> None:
        self._table.drop_all(job.id)
        job.end("cancelled")
        self._tell(job)

    def _tell(self, job: Job) -> None:
        self._jobs.save(job)
        structlog.get_logger().info(
            "ingest job ended", job=job.id, status=job.status, **_counts_alone(job.result or {})
        )
        give_back()

    def _wait_for_encoder(self, job: Job | None, error: RemoteEncoderDown) -> None:
        if job is not None:
            job.wait(str(error))
        # Not inside `using`: another model may take this one's place meanwhile.
        with self._using() as live:
            encoder = live.encoder
        if encoder is not None:
            encoder.wait_until_back(self._asked)

    def _pause(self, job: Job | None, why: str) -> None:
        if job is not None and not job.has_ended:
            job.wait(f"{why}; tried again in {self._pause_s:g} s")
        self._asked.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def new_job() -> Job:
    """Return a job that stores documents, with nothing counted yet."""
    return Job("ingest", result={"created": 0, "updated": 0, "unchanged": 0, "passages": 0})


def _with_counts(result: dict[str, Any], added: Added) -> dict[str, Any]:
    counts = {name: getattr(added, name) for name in ("created", "updated", "unchanged", "passages")}
    return {**result, **{name: result.get(name, 0) + n for name, n in counts.items()}}


def _counts_alone(result: dict[str, Any]) -> dict[str, int]:
    """A job's counts for the log: no ids."""
    counts = {name: n for name, n in result.items() if name != "failed"}
    return {**counts, "failed": result.get("failed", {}).get("count", 0)}
