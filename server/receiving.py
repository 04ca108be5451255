"""Documents on their way into the inbox: accepted as a whole, however many pieces they come in, or not at all."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from server.catalog.job_table import RECEIVING, JobTable
from server.checking import CheckedDocument, NewDocument, packed
from server.errors import DuplicateIdError, InputError
from server.inbox import Inbox, new_job
from server.jobs import Job, saved
from server.live import Live


@dataclass(frozen=True)
class Accepted:
    """Documents that survive a power loss from now on, and are encoded and stored later."""

    job: Job
    ids: list[str] | None  # None where there may be too many to tell
    warnings: list[str]


class Receiving:
    """One request's documents, piece by piece. One thread at a time."""

    def __init__(
        self, inbox: Inbox, table: JobTable, using: Callable[[], AbstractContextManager[Live]]
    ) -> None:
        self._inbox = inbox
        self._table = table
        self._using = using
        self._job = new_job()
        self._held: list[CheckedDocument] = []  # the newest piece, which may be the last
        self._places: dict[str, str] = {}  # where its ids stand

    def add(self, documents: Sequence[NewDocument]) -> None:
        """Check a piece and keep it; what came before is committed, but not accepted yet.

        Raises:
            InputError, TooLargeError, StoppingError, DiskFullError, StorageError: `drop` everything.
        """
        with self._using() as live:
            live.ingest.check_running()
            live.ingest.check_room(len(documents))
            checked = live.ingest.checks.checked(documents)
        ids = [each.id for each in checked]
        seen = self._table.ids_in(self._job.id, ids) if self._job.total else set()
        for document, identifier in zip(documents, ids, strict=True):
            if identifier in seen or identifier in self._places:
                earlier = self._places.get(identifier, "an earlier line")
                raise DuplicateIdError(
                    f"{earlier} and {document.where} have the same id {identifier!r}", f"{document.where}.id"
                )
        if self._held:
            self._job.total += len(self._held)
            receiving = replace(saved(self._job), status=RECEIVING)
            self._table.add(receiving, [packed(each) for each in self._held])
        self._held = checked
        self._places = {each: document.where for each, document in zip(ids, documents, strict=True)}

    def accept(self) -> Accepted:
        """Commit the rest, and with it the whole.

        Raises:
            InputError, DiskFullError, StorageError: `drop` everything.
        """
        if not self._held:
            raise InputError("there are no documents in the request", "documents", "Send at least one.")
        return Accepted(self._inbox.accept(self._held, self._job), None, [])

    def drop(self) -> None:
        """Take back what was committed; nothing was accepted."""
        if self._job.total:
            self._table.forget(self._job.id)
