"""Jobs that outlive a restart, and the inbox: documents that are safe but not encoded yet."""

import json
import sqlite3
from collections.abc import Iterator, Sequence

from server.catalog.database import Database
from server.catalog.stored_json import read_json
from server.errors import StaleWriteError
from server.records import InboxDocument, SavedJob

KEPT = 100  # ended jobs that are remembered
ENDED = "('done', 'failed', 'cancelled')"
COLUMNS = "id, type, status, done, total, wishes, result, error, created_at"
DROPPED_AT_ONCE = 20_000  # documents removed in one transaction; others write between two
RECEIVING = "receiving"  # a job whose documents are still on their way in


class JobTable:
    """The tables of jobs and of the inbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: SavedJob, documents: Sequence[InboxDocument] = ()) -> None:
        """Commit a job, with the documents that it is to store; forget the oldest ended ones where there are many.

        A job that is RECEIVING is added again and again, each time with more of its documents.
        """
        with self._database.transaction() as connection:
            connection.execute(
                f"INSERT INTO jobs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET status = excluded.status, total = excluded.total",
                (job.id, job.type, job.status, job.done, job.total, job.wishes, job.result, job.error,
                 job.created_at),
            )  # fmt: skip
            connection.executemany(
                "INSERT INTO inbox (job, id, text, metadata, vector) VALUES (?, ?, ?, ?, ?)",
                [(job.id, each.id, each.text, each.metadata, each.vector) for each in documents],
            )
            connection.execute(
                f"DELETE FROM jobs WHERE status IN {ENDED} AND id NOT IN (SELECT job FROM inbox) AND id NOT IN "
                f"(SELECT id FROM jobs WHERE status IN {ENDED} ORDER BY rowid DESC LIMIT ?)",
                (KEPT,),
            )

    def save(self, job: SavedJob) -> None:
        """Commit how a job stands."""
        with self._database.transaction() as connection:
            _save(connection, job)

    def save_status(self, job: str, status: str) -> None:
        """Commit what a job is to do, or has done."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET status = ? WHERE id = ?", (status, job))

    def forget_leftovers(self) -> None:
        """Commit that what a kill left is gone: of requests that never ended, and of jobs that were cancelled."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM inbox WHERE job IN (SELECT id FROM jobs WHERE status IN (?, 'cancelled'))",
                (RECEIVING,),
            )
            connection.execute("DELETE FROM jobs WHERE status = ?", (RECEIVING,))

    def all(self) -> list[SavedJob]:
        """Return every job, oldest first."""
        with self._database.reading() as connection:
            found = connection.execute(f"SELECT {COLUMNS} FROM jobs ORDER BY rowid").fetchall()
        return [SavedJob(*each) for each in found]

    def waiting(self, job: str, limit: int, characters: float = float("inf")) -> list[InboxDocument]:
        """Return a job's first documents in the inbox, in the order of arrival.

        At most `limit`, and one or as many as have together `characters` of text that is to be encoded. What isn't
        counts a sixty-fourth: text that came with its vector, and the bytes of that.
        """
        found: list[InboxDocument] = []
        with self._database.reading() as connection:
            for each in connection.execute(
                "SELECT number, id, text, metadata, vector FROM inbox WHERE job = ? ORDER BY number LIMIT ?",
                (job, limit),
            ):
                document = InboxDocument(*each)
                size = len(document.text or "")
                if document.vector is not None:
                    size = (size + len(document.vector)) // 64
                characters -= size
                if found and characters < 0:
                    break
                found.append(document)
        return found

    def still_waiting(self, numbers: Sequence[int]) -> set[int]:
        """Return those of the documents that are in the inbox."""
        found = self._database.select_in("SELECT number FROM inbox WHERE number IN ({})", (), numbers)
        return {number for (number,) in found}

    def ids_in(self, job: str, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that a job has a document of in the inbox."""
        # The plus keeps SQLite from going through all of the job's documents, of which there may be a million.
        found = self._database.select_in("SELECT id FROM inbox WHERE +job = ? AND id IN ({})", (job,), ids)
        return {identifier for (identifier,) in found}

    def texts_waiting(self, ids: Sequence[str]) -> Iterator[tuple[str, str | None, bool]]:
        """Yield id, text and whether a vector came with it, of what waits under those ids, in the order of arrival."""
        for identifier, text, vector_bytes in self._database.select_in(
            "SELECT inbox.id, text, length(vector) FROM inbox JOIN jobs ON job = jobs.id "
            f"WHERE status != '{RECEIVING}' AND inbox.id IN ({{}}) ORDER BY number",
            (),
            ids,
        ):
            yield identifier, text, vector_bytes is not None

    def latest(self, identifier: str) -> InboxDocument | None:
        """Return the document that waits under an id, the newest where there are several; None if there is none."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT number, inbox.id, text, metadata, vector FROM inbox JOIN jobs ON job = jobs.id "
                "WHERE inbox.id = ? AND status != ? ORDER BY number DESC LIMIT 1",
                (identifier, RECEIVING),
            ).fetchone()
        return InboxDocument(*found) if found else None

    def n_waiting(self, job: str | None = None) -> int:
        """Return how many documents wait in the inbox, of one job or of all."""
        which = "job = ?" if job is not None else "job IN (SELECT id FROM jobs WHERE status != ?)"
        with self._database.reading() as connection:
            (found,) = connection.execute(
                f"SELECT count(*) FROM inbox WHERE {which}", (RECEIVING if job is None else job,)
            ).fetchone()
        return int(found)

    def drop(self, numbers: Sequence[int], of: SavedJob | None = None) -> None:
        """Commit that documents leave the inbox without being stored, and how their job stands then."""
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM inbox WHERE number = ?", [(each,) for each in numbers])
            if of is not None:
                _save(connection, of)

    def forget(self, job: str) -> None:
        """Commit that a job is gone, with its documents in the inbox."""
        self.drop_all(job)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def drop_all(self, job: str) -> int:
        """Commit that all documents of a job leave the inbox, some thousands at a time; return how many."""
        n_dropped = 0

        def drop(connection: sqlite3.Connection) -> bool:
            nonlocal n_dropped
            n = connection.execute(
                "DELETE FROM inbox WHERE number IN (SELECT number FROM inbox WHERE job = ? LIMIT ?)",
                (job, DROPPED_AT_ONCE),
            ).rowcount
            n_dropped += n
            return n == DROPPED_AT_ONCE

        self._database.in_steps(drop)
        return n_dropped


def leave(connection: sqlite3.Connection, numbers: Sequence[int], counts: dict[str, int]) -> None:
    """Inside the transaction that stores documents of one job: take them out of the inbox, and count them in the job.

    What waits under their ids and came earlier leaves too: it is older. `counts` are added to the job's result.

    Raises:
        StaleWriteError: one of them isn't there any more, as it was overtaken, deleted or cancelled.
    """
    job = connection.execute("SELECT job FROM inbox WHERE number = ?", (numbers[0],)).fetchone()
    for number in numbers:
        connection.execute(
            "DELETE FROM inbox WHERE id = (SELECT id FROM inbox WHERE number = ?1) AND number < ?1", (number,)
        )
        if not connection.execute("DELETE FROM inbox WHERE number = ?", (number,)).rowcount:
            raise StaleWriteError("a document left the inbox while it was being encoded")
    (result,) = connection.execute("SELECT result FROM jobs WHERE id = ?", job).fetchone()
    counted = read_json(result or "{}", "the result of a job")
    for name, n in counts.items():
        counted[name] = counted.get(name, 0) + n
    connection.execute(
        "UPDATE jobs SET done = done + ?, result = ? WHERE id = ?", (len(numbers), json.dumps(counted), *job)
    )


def _save(connection: sqlite3.Connection, job: SavedJob) -> None:
    connection.execute(
        "UPDATE jobs SET status = ?, done = ?, total = ?, wishes = ?, result = ?, error = ? WHERE id = ?",
        (job.status, job.done, job.total, job.wishes, job.result, job.error, job.id),
    )
