"""Jobs that outlive a restart, and the inbox: documents that are safe but not encoded yet."""

import time
from collections.abc import Sequence

from server.catalog.database import Database
from server.records import InboxDocument, SavedJob

KEPT = 100  # ended jobs that are remembered
ENDED = "('done', 'failed', 'cancelled')"
COLUMNS = "id, type, status, done, total, wishes, result, error"


class JobTable:
    """The tables of jobs and of the inbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: SavedJob, documents: Sequence[InboxDocument] = ()) -> None:
        """Commit a job, with the documents that it is to store; forget the oldest ended ones where there are many."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    job.type,
                    job.status,
                    job.done,
                    job.total,
                    job.wishes,
                    job.result,
                    job.error,
                    time.time(),
                ),
            )
            connection.executemany(
                "INSERT INTO inbox (job, id, text, metadata, vector) VALUES (?, ?, ?, ?, ?)",
                [(job.id, each.id, each.text, each.metadata, each.vector) for each in documents],
            )
            connection.execute(
                f"DELETE FROM jobs WHERE status IN {ENDED} AND id NOT IN (SELECT job FROM inbox) AND id NOT IN "
                f"(SELECT id FROM jobs WHERE status IN {ENDED} ORDER BY created_at DESC LIMIT ?)",
                (KEPT,),
            )

    def save(self, job: SavedJob) -> None:
        """Commit how a job stands."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET status = ?, done = ?, total = ?, wishes = ?, result = ?, error = ? WHERE id = ?",
                (job.status, job.done, job.total, job.wishes, job.result, job.error, job.id),
            )

    def all(self) -> list[SavedJob]:
        """Return every job, oldest first."""
        with self._database.reading() as connection:
            found = connection.execute(f"SELECT {COLUMNS} FROM jobs ORDER BY created_at, rowid").fetchall()
        return [SavedJob(*each) for each in found]

    def waiting(self, job: str, limit: int) -> list[InboxDocument]:
        """Return a job's first documents in the inbox, in the order of arrival."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT number, id, text, metadata, vector FROM inbox WHERE job = ? ORDER BY number LIMIT ?",
                (job, limit),
            ).fetchall()
        return [InboxDocument(*each) for each in found]

    def n_waiting(self, job: str | None = None) -> int:
        """Return how many documents are in the inbox, of one job or of all."""
        with self._database.reading() as connection:
            (found,) = connection.execute(
                "SELECT count(*) FROM inbox WHERE ?1 IS NULL OR job = ?1", (job,)
            ).fetchone()
        return int(found)

    def drop(self, numbers: Sequence[int]) -> None:
        """Commit that documents leave the inbox without being stored."""
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM inbox WHERE number = ?", [(each,) for each in numbers])

    def drop_all(self, job: str) -> int:
        """Commit that all documents of a job leave the inbox; return how many."""
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM inbox WHERE job = ?", (job,)).rowcount
