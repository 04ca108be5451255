"""The generations of a collection's vectors: one is current; others are being filled, or are kept to go back to."""

import sqlite3
import time

from server.catalog.database import Database
from server.records import Generation

COLUMNS = "number, fingerprint, dim, vector_dtype, n_rows"
DROPPED_AT_ONCE = 20_000  # passages removed in one transaction; others write between two


class Generations:
    """The table of generations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self) -> Generation | None:
        """Return the current generation, or None while nothing was ever opened for writing."""
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT {COLUMNS} FROM generations "
                "WHERE number = (SELECT value FROM meta WHERE key = 'generation')"
            ).fetchone()
        return Generation(*found) if found else None

    def get(self, number: int) -> Generation | None:
        """Return a generation, or None."""
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT {COLUMNS} FROM generations WHERE number = ?", (number,)
            ).fetchone()
        return Generation(*found) if found else None

    def numbers(self) -> list[int]:
        """Return the numbers of all generations, ascending."""
        with self._database.reading() as connection:
            return [
                number for (number,) in connection.execute("SELECT number FROM generations ORDER BY number")
            ]

    def encoder(self, number: int) -> tuple[str | None, str | None]:
        """Return the settings, as JSON, of a generation's encoder and of the one that it took the place of."""
        if self._database.format_version == 1:
            return None, None  # it couldn't be changed then
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT encoder, replaces FROM generations WHERE number = ?", (number,)
            ).fetchone()
        return found if found else (None, None)

    def retired(self) -> list[tuple[int, float]]:
        """Return (number, seconds since 1970) of generations whose place another took, oldest first."""
        with self._database.reading() as connection:
            return connection.execute(
                "SELECT number, retired_at FROM generations WHERE retired_at IS NOT NULL ORDER BY retired_at"
            ).fetchall()

    def begin(self, number: int, fingerprint: str, dim: int, vector_dtype: str) -> Generation:
        """Make a generation without rows the current one: a new collection's first."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO generations VALUES (?, ?, ?, ?, 0, NULL, NULL, NULL)",
                (number, fingerprint, dim, vector_dtype),
            )
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('generation', ?)", (number,))
        return Generation(number, fingerprint, dim, vector_dtype, 0)

    def prepare(
        self, number: int, fingerprint: str, dim: int, vector_dtype: str, encoder: str, replaces: str
    ) -> Generation:
        """Add a generation without rows beside the current one, to be filled."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO generations VALUES (?, ?, ?, ?, 0, ?, ?, NULL)",
                (number, fingerprint, dim, vector_dtype, encoder, replaces),
            )
        return Generation(number, fingerprint, dim, vector_dtype, 0)

    def prepare_successor(self) -> Generation:
        """Add a generation without rows that is to take the current one's place, made by the same model.

        Until it does so it is the leftover; from then on the one before is.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO generations SELECT (SELECT max(number) + 1 FROM generations), fingerprint, dim, "
                "vector_dtype, 0, encoder, replaces, NULL FROM generations "
                "WHERE number = (SELECT value FROM meta WHERE key = 'generation')"
            )
            connection.execute("INSERT OR REPLACE INTO meta SELECT 'leftover', max(number) FROM generations")
            found = connection.execute(
                f"SELECT {COLUMNS} FROM generations ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return Generation(*found)

    def succeed(self) -> None:
        """Let the leftover take the current generation's place, and be that one the leftover: in one transaction."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE meta SET value = (SELECT sum(value) FROM meta WHERE key IN ('generation', 'leftover')) - value "
                "WHERE key IN ('generation', 'leftover')"
            )

    def leftover(self) -> int | None:
        """Return the number of the generation that a compaction fills, or that it has emptied; None without one."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT value FROM meta WHERE key = 'leftover'").fetchone()
        return found[0] if found else None

    def set_encoder(self, number: int, encoder: str, replaces: str) -> None:
        """Write down a generation's encoder, and what the configuration said then."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE generations SET encoder = ?, replaces = ? WHERE number = ?",
                (encoder, replaces, number),
            )

    def switch(self, number: int, job: str, result: str) -> None:
        """Make a filled generation the current one, retire the one before, and end the job: all in one transaction."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE generations SET retired_at = ? "
                "WHERE number = (SELECT value FROM meta WHERE key = 'generation')",
                (time.time(),),
            )
            connection.execute("UPDATE generations SET retired_at = NULL WHERE number = ?", (number,))
            connection.execute("UPDATE meta SET value = ? WHERE key = 'generation'", (number,))
            connection.execute(
                "UPDATE jobs SET status = 'done', done = total, result = ? WHERE id = ?", (result, job)
            )

    def drop(self, number: int) -> None:
        """Remove a generation that isn't current, with its passages. Its files are the caller's to delete."""

        def drop(connection: sqlite3.Connection) -> bool:
            n_dropped = connection.execute(
                "DELETE FROM passages WHERE generation = ?1 AND row IN "
                "(SELECT row FROM passages WHERE generation = ?1 ORDER BY row LIMIT ?2)",
                (number, DROPPED_AT_ONCE),
            ).rowcount
            return n_dropped == DROPPED_AT_ONCE

        self._database.in_steps(drop)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM generations WHERE number = ?", (number,))
            connection.execute("DELETE FROM meta WHERE key = 'leftover' AND value = ?", (number,))
