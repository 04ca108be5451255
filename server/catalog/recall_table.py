"""Recall over time: points of some searches each, of which only sums are kept, and nothing of what was asked."""

import sqlite3
from dataclasses import astuple

from server.catalog.database import Database
from server.catalog.schema import RECALL_POINTS
from server.records import RecallPoint

KEPT = 1000
"""Points, the newest: one a day for almost three years, in 300 kB."""

DAY_S = 86_400
"""How long a point of live searches grows. Recall follows the first pass, and another one begins a new point anyway."""

FEWEST = 20  # live searches of a point; of fewer the interval says nothing, so that it grows on
LONGEST_S = 30 * DAY_S  # but no longer than that

COLUMNS = "source, queries, began_at, ended_at, searches, k, in_pool, found, passages, first_pass"


class RecallTable:
    """The table of points, which is made with the first of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, point: RecallPoint) -> None:
        """Commit a point: what the gauge measured as part of its newest one, if that may still grow.

        Raises:
            DiskFullError, StorageError, CatalogDamagedError: nothing is written.
        """
        with self._database.transaction() as connection:
            connection.execute(RECALL_POINTS)
            if point.source == "gauge" and _grow(connection, point):
                return
            marks = ", ".join("?" * len(astuple(point)))
            connection.execute(f"INSERT INTO recall_points ({COLUMNS}) VALUES ({marks})", astuple(point))
            connection.execute(
                "DELETE FROM recall_points WHERE number <= (SELECT max(number) FROM recall_points) - ?",
                (KEPT,),
            )

    def newest(self, limit: int = KEPT, since: float = 0.0) -> list[RecallPoint]:
        """Return the newest points, the oldest of them first.

        Args:
            since: only those that have measured something from then on, in seconds since 1970.

        Raises:
            StorageError, CatalogDamagedError: they can't be read.
        """
        with self._database.reading() as connection:
            is_there = connection.execute(
                "SELECT 1 FROM sqlite_schema WHERE name = 'recall_points'"
            ).fetchone()
            if not is_there:
                return []
            found = connection.execute(
                f"SELECT {COLUMNS} FROM recall_points WHERE ended_at >= ? ORDER BY number DESC LIMIT ?",
                (since, limit),
            ).fetchall()
        return [RecallPoint(*each) for each in reversed(found)]


def _grow(connection: sqlite3.Connection, point: RecallPoint) -> bool:
    """Add what was measured to the gauge's newest point; False if that is full, or of another first pass."""
    n_grown = connection.execute(
        "UPDATE recall_points SET ended_at = :ended_at, searches = searches + :searches, in_pool = in_pool + :in_pool, "
        "found = found + :found, passages = :passages "
        "WHERE number = (SELECT max(number) FROM recall_points WHERE source = 'gauge') AND first_pass = :first_pass "
        "AND began_at > :ended_at - iif(searches < :fewest, :longest_s, :day_s)",
        {**vars(point), "fewest": FEWEST, "longest_s": LONGEST_S, "day_s": DAY_S},
    ).rowcount
    return n_grown == 1
