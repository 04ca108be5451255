"""Sending many documents to a running server: in batches, with patience, the faulty ones singled out."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from server.client import Client, JobAnswer, RefusedError, UnreachableError
from server.incoming import Document, Skipped, Skips

Answer = TypeVar("Answer")

BATCH_DOCUMENTS = 256  # the server encodes texts of like length together: 64 took a quarter longer
BATCH_BYTES = 256 * 1024  # about 15 s of encoding on two cores, so that the progress bar moves
LATER_DOCUMENTS, LATER_BYTES = 5000, 4 << 20  # where the server encodes later: each batch is a job there
JOB_POLL_S = 0.5  # between two looks at a job
MAX_ATTEMPTS = 6  # at one request, when the server is busy or gone; about a minute in all
MAX_WAIT_S = 30.0  # between two attempts, whatever Retry-After says


@dataclass
class IngestReport:
    """What the server has acknowledged so far, and what it refused."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    passages: int = 0
    accepted: int = 0  # safe on the server, and encoded later
    jobs: list[str] = field(default_factory=list)  # the jobs that do it
    refused: Skips = field(default_factory=Skips)
    warnings: list[str] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """Documents that are safe on the server now."""
        return self.created + self.updated + self.unchanged


def ingest(
    client: Client,
    documents: Iterable[Document],
    report: IngestReport,
    on_done: Callable[[int], None] = lambda n: None,
    pause: Callable[[float], None] = time.sleep,
    wait: bool = True,
) -> None:
    """Send documents in batches; `report` is up to date at every moment, also when this raises.

    A request is stored whole or not at all, so a batch that the server finds fault with is halved until the
    faulty document stands alone; that one is reported and the others are stored. A busy server, or one that
    went away after the first answer, gets MAX_ATTEMPTS attempts with a `pause` between: sending a document
    again is harmless, as each has an id. The later of two documents with one id stays.

    Args:
        on_done: called with the number of documents that are finished, stored or refused; where nobody waits for
            their encoding, accepted.
        wait: False: have the server accept them, and encode them later. It may do so by itself, with a long text or
            while a program that encodes for it is down; `follow` waits for these.

    Raises:
        UnreachableError: the server doesn't answer, or no longer.
        RefusedError: it refuses for a reason that is no document's: key, full disk, an error of its own.
    """
    patiently(client.info, pause, reached=False)  # key and address are wrong before anything is read
    limits = (BATCH_DOCUMENTS, BATCH_BYTES) if wait else (LATER_DOCUMENTS, LATER_BYTES)
    sender = _Sender(client, report, on_done, pause, wait)
    for batch in _batches(documents, report, on_done, *limits):
        sender.add(batch)


def follow(
    client: Client,
    report: IngestReport,
    on_done: Callable[[int], None] = lambda n: None,
    pause: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] = lambda why: None,
    poll: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the server has stored what it accepted; `report` then has it as if it had been stored at once.

    Args:
        on_done: called with the number of documents that are finished.
        tell: called once for each reason why a job stands still.

    Raises:
        UnreachableError, RefusedError: as `ingest` does.
    """
    while report.jobs:
        done, last = 0, ""
        while (job := _look(client, report.jobs[0], pause)) is not None:
            progress = job["progress"]
            on_done(progress["done"] - done)
            done = progress["done"]
            if job["status"] in ("done", "failed", "cancelled"):
                on_done(progress["total"] - done)
                _settle(report, job)
                break
            why = {
                "paused": f"paused; `twopass jobs resume {job['id']}` lets it go on",
                "waiting": job["stage"],
            }
            if (now := why.get(job["status"], "")) and now != last:
                tell(now)
                last = now
            poll(JOB_POLL_S)
        del report.jobs[0]


def _look(client: Client, identifier: str, pause: Callable[[float], None]) -> JobAnswer | None:
    """Return a job; None if the server has forgotten it, as it does with those that ended long ago."""
    try:
        return patiently(lambda: client.job(identifier), pause, reached=True)
    except RefusedError as error:
        if error.code != "not_found":
            raise
        return None


def _settle(report: IngestReport, job: JobAnswer) -> None:
    """Count what became of a job's documents."""
    result, total = job["result"] or {}, job["progress"]["total"]
    for name in ("created", "updated", "unchanged", "passages"):
        setattr(report, name, getattr(report, name) + result.get(name, 0))
    report.accepted -= total
    failed = result.get("failed", {"count": 0, "documents": []})
    for each in failed["documents"]:
        report.refused.add(Skipped(each["id"], each["reason"]))
    report.refused.count += failed["count"] - len(failed["documents"])  # those that it doesn't name
    if job["status"] != "done":
        left = total - job["progress"]["done"]
        report.refused.add(
            Skipped(f"job {job['id']}", f"{job['status']} before {left} documents were stored")
        )


@dataclass(frozen=True)
class _Written:
    """A document as the JSON that is sent."""

    id: str
    body: bytes


def _batches(
    documents: Iterable[Document],
    report: IngestReport,
    on_done: Callable[[int], None],
    most_documents: int,
    most_bytes: int,
) -> Iterator[list[_Written]]:
    batch: list[_Written] = []
    ids: set[str] = set()
    n_bytes = 0
    for document in documents:
        try:
            body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:  # NaN, or half a surrogate pair
            report.refused.add(Skipped(document["id"], f"can't be written as JSON: {error}"))
            on_done(1)
            continue
        full = len(batch) == most_documents or n_bytes + len(body) > most_bytes
        if batch and (full or document["id"] in ids):
            yield batch
            batch, ids, n_bytes = [], set(), 0
        batch.append(_Written(document["id"], body))
        ids.add(document["id"])
        n_bytes += len(body)
    if batch:
        yield batch


@dataclass(frozen=True)
class _Sender:
    """Sends batches, and counts what became of them."""

    client: Client
    report: IngestReport
    on_done: Callable[[int], None]
    pause: Callable[[float], None]
    wait: bool

    def add(self, batch: list[_Written]) -> None:
        bodies = [document.body for document in batch]
        try:
            answer = patiently(lambda: self.client.add(bodies, self.wait), self.pause, reached=True)
        except RefusedError as error:
            if error.status not in (400, 413, 422) or not error.code:
                raise
            if len(batch) > 1:
                middle = len(batch) // 2
                self.add(batch[:middle])
                self.add(batch[middle:])
            else:
                self.report.refused.add(Skipped(batch[0].id, str(error)))
                self.on_done(1)
            return
        report = self.report
        if "job" in answer:
            report.accepted += len(batch)
            report.jobs.append(answer["job"]["id"])
            if not self.wait:
                self.on_done(len(batch))
            return
        report.created += answer["created"]
        report.updated += answer["updated"]
        report.unchanged += answer["unchanged"]
        report.passages += answer["passages"]
        report.warnings += answer["warnings"]
        self.on_done(len(batch))


def patiently(call: Callable[[], Answer], pause: Callable[[float], None], reached: bool = True) -> Answer:
    """Call until it succeeds; again while the server is busy, or gone once it was `reached`: MAX_ATTEMPTS times.

    Raises:
        UnreachableError, RefusedError: what the last attempt raised.
    """
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return call()
        except UnreachableError:
            if not reached:
                raise
            wait_s = None
        except RefusedError as error:
            if error.status not in (429, 503):
                raise
            wait_s = error.retry_after_s
        pause(min(float(2**attempt) if wait_s is None else wait_s, MAX_WAIT_S))
    return call()
