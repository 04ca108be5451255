"""Sending many documents to a running server: in batches, with patience, the faulty ones singled out."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from server.client import Client, RefusedError, UnreachableError
from server.incoming import Document, Skipped, Skips

Answer = TypeVar("Answer")

BATCH_DOCUMENTS = 256  # the server encodes texts of like length together: 64 took a quarter longer
BATCH_BYTES = 256 * 1024  # about 15 s of encoding on two cores, so that the progress bar moves
MAX_ATTEMPTS = 6  # at one request, when the server is busy or gone; about a minute in all
MAX_WAIT_S = 30.0  # between two attempts, whatever Retry-After says


@dataclass
class IngestReport:
    """What the server has acknowledged so far, and what it refused."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    passages: int = 0
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
) -> None:
    """Send documents in batches; `report` is up to date at every moment, also when this raises.

    A request is stored whole or not at all, so a batch that the server finds fault with is halved until the
    faulty document stands alone; that one is reported and the others are stored. A busy server, or one that
    went away after the first answer, gets MAX_ATTEMPTS attempts with a `pause` between: sending a document
    again is harmless, as each has an id. The later of two documents with one id stays.

    Args:
        on_done: called with the number of documents that are finished, stored or refused.

    Raises:
        UnreachableError: the server doesn't answer, or no longer.
        RefusedError: it refuses for a reason that is no document's: key, full disk, an error of its own.
    """
    _patiently(client.info, pause, reached=False)  # key and address are wrong before anything is read
    for batch in _batches(documents, report, on_done):
        _add(client, batch, report, on_done, pause)


@dataclass(frozen=True)
class _Written:
    """A document as the JSON that is sent."""

    id: str
    body: bytes


def _batches(
    documents: Iterable[Document], report: IngestReport, on_done: Callable[[int], None]
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
        full = len(batch) == BATCH_DOCUMENTS or n_bytes + len(body) > BATCH_BYTES
        if batch and (full or document["id"] in ids):
            yield batch
            batch, ids, n_bytes = [], set(), 0
        batch.append(_Written(document["id"], body))
        ids.add(document["id"])
        n_bytes += len(body)
    if batch:
        yield batch


def _add(
    client: Client,
    batch: list[_Written],
    report: IngestReport,
    on_done: Callable[[int], None],
    pause: Callable[[float], None],
) -> None:
    try:
        answer = _patiently(lambda: client.add(document.body for document in batch), pause, reached=True)
    except RefusedError as error:
        if error.status not in (400, 413, 422) or not error.code:
            raise
        if len(batch) > 1:
            middle = len(batch) // 2
            _add(client, batch[:middle], report, on_done, pause)
            _add(client, batch[middle:], report, on_done, pause)
        else:
            report.refused.add(Skipped(batch[0].id, str(error)))
            on_done(1)
        return
    report.created += answer["created"]
    report.updated += answer["updated"]
    report.unchanged += answer["unchanged"]
    report.passages += answer["passages"]
    report.warnings += answer["warnings"]
    on_done(len(batch))


def _patiently(call: Callable[[], Answer], pause: Callable[[float], None], reached: bool) -> Answer:
    """Call until it succeeds; again while the server is busy, or gone once it was `reached`."""
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
