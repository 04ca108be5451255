"""From filters to documents and rows; and the indexes of metadata that make it quick."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from server.catalog.changes import REWRITTEN, Changes
from server.catalog.database import Database
from server.catalog.matching import follow, matching_ids, matching_rows, n_matching, rows_statement
from server.catalog.metadata_fields import Field, fields_of, sampled
from server.catalog.metadata_values import index_entries
from server.catalog.selections import RowSelection, SelectionCache
from server.conditions import Filter, Path, parse_path

BUILT_AT_ONCE = (
    5_000  # documents put into an index in one transaction, a tenth of a second; others write between two
)
DROPPED_AT_ONCE = 20_000  # values


@dataclass(frozen=True)
class MetadataIndex:
    """A path whose values are kept in order."""

    path: str
    is_built: bool  # filters use it only then


class Filtering:
    """Documents by their metadata. Any thread asks."""

    def __init__(self, database: Database, *, read_only: bool = False) -> None:
        self._database = database
        self._cache = SelectionCache()
        self._changes: Changes | None = None  # None: another process may be writing, so nothing is kept
        if not read_only:
            self._changes = Changes(database)
            database.before_commit = self._before_commit

    # Finding

    def rows(self, generation: int, wanted: Filter) -> RowSelection:
        """Return the rows of a generation whose documents match.

        It holds every write that was committed before the call. Rows may have died since, and there may be some that
        an index doesn't show yet. A filter that was used before costs microseconds, and after writes only what they
        changed; a new one some µs for each document, or, where its paths are indexed, one for each match.
        """
        changes = self._changes
        if changes is None:
            with self._database.reading() as connection:
                return matching_rows(connection, generation, wanted)
        with self._cache.entry(generation, wanted.key) as entry:
            number = changes.number  # before the view of the catalog that is taken next
            if entry.selection is None or entry.number != number:
                change = None if entry.selection is None else changes.since(entry.number)
                with self._database.reading() as connection:
                    if entry.selection is None or change is None:
                        entry.selection = matching_rows(connection, generation, wanted)
                    else:
                        entry.selection = follow(connection, generation, wanted, entry.selection, change)
                entry.number = number
            return entry.selection

    def documents(self, wanted: Filter, limit: int, after: str = "") -> list[str]:
        """Return up to `limit` ids of matching documents whose id sorts behind `after` (bytewise), in id order."""
        with self._database.reading() as connection:
            return matching_ids(connection, wanted, limit, after)

    def count(self, wanted: Filter) -> int:
        """Return how many documents match."""
        with self._database.reading() as connection:
            return n_matching(connection, wanted)

    def fields(self) -> tuple[int, list[Field]]:
        """Return how many documents were looked at, and the fields that their metadata have."""
        with self._database.reading() as connection:
            return fields_of(sampled(connection))

    def explain(self, generation: int, wanted: Filter) -> list[str]:
        """Return SQLite's plan for the rows of a filter that wasn't used before, line by line."""
        with self._database.reading() as connection:
            statement, bound = rows_statement(connection, generation, wanted)
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", bound).fetchall()
        return [line for *_, line in plan]

    # Indexes

    def indexes(self) -> list[MetadataIndex]:
        """Return the indexes, by path."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT path, is_built FROM metadata_indexes ORDER BY path").fetchall()
        return [MetadataIndex(path, bool(is_built)) for path, is_built in found]

    def add_index(self, path: str, told: Callable[[int], None] = lambda _: None, where: str = "path") -> None:
        """Keep a path's values in order from now on; returns when every document is in. A second call does nothing.

        Interrupted, it begins anew when it is called again; until it has ended, filters do without it.

        Args:
            path: as in a filter.
            told: hears how many documents have been gone through.

        Raises:
            FilterError: the path can't be one.
        """
        parsed = parse_path(path, where)
        number = self.declare_index(path, where)
        behind, n_done = 0, 0
        while (reached := self._build(parsed, number, behind)) is not None:
            behind, n_more = reached
            n_done += n_more
            told(n_done)

    def declare_index(self, path: str, where: str = "path") -> int:
        """Remember that an index is wanted, for `add_index` to build, now or after a restart; return its number.

        Raises:
            FilterError: the path can't be one.
        """
        text = parse_path(path, where).text
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO metadata_indexes (path, is_built) VALUES (?, 0) ON CONFLICT (path) DO NOTHING",
                (text,),
            )
            (number,) = connection.execute(
                "SELECT number FROM metadata_indexes WHERE path = ?", (text,)
            ).fetchone()
        return int(number)

    def _build(self, path: Path, number: int, behind: int) -> tuple[int, int] | None:
        """Put the next documents into an index; return the last of them and how many, None if it is built or gone."""
        with self._database.transaction() as connection:
            is_wanted = connection.execute(
                "SELECT 1 FROM metadata_indexes WHERE number = ? AND NOT is_built", (number,)
            ).fetchone()
            if not is_wanted:
                return None
            last, n_more = connection.execute(
                "SELECT max(number), count(*) FROM "
                "(SELECT number FROM documents WHERE number > ? ORDER BY number LIMIT ?)",
                (behind, BUILT_AT_ONCE),
            ).fetchone()
            if not n_more:
                connection.execute("UPDATE metadata_indexes SET is_built = 1 WHERE number = ?", (number,))
                return None
            documents = f"SELECT number FROM documents WHERE number > {behind} AND number <= {last}"
            _add_values(connection, path, number, documents)
        return last, n_more

    def drop_index(self, path: str, where: str = "path") -> bool:
        """Forget an index; return whether there was one. Filters go on without it.

        Raises:
            FilterError: the path can't be one.
        """
        text = parse_path(path, where).text
        with self._database.transaction() as connection:
            n_indexes = connection.execute("DELETE FROM metadata_indexes WHERE path = ?", (text,)).rowcount

        def drop(connection: sqlite3.Connection) -> bool:
            n_dropped = connection.execute(
                "DELETE FROM metadata_values WHERE (path, kind, member, value, document) IN "
                "(SELECT path, kind, member, value, document FROM metadata_values "
                "WHERE path NOT IN (SELECT number FROM metadata_indexes) LIMIT ?)",
                (DROPPED_AT_ONCE,),
            ).rowcount
            return n_dropped == DROPPED_AT_ONCE

        self._database.in_steps(drop)  # also what a call before this one left that was broken off
        return n_indexes > 0

    # Following writes

    def _before_commit(self, connection: sqlite3.Connection) -> Callable[[], None]:
        changes = self._changes
        change = None if changes is None else changes.noted(connection)
        if changes is None or change is None:
            return lambda: None
        indexes = connection.execute("SELECT number, path FROM metadata_indexes").fetchall()
        if indexes:
            connection.execute(f"DELETE FROM metadata_values WHERE document IN ({REWRITTEN})")
        for number, path in indexes:
            _add_values(connection, parse_path(path, "path"), number, REWRITTEN)
        changes.forget(connection)
        return lambda: changes.publish(change)


def _add_values(connection: sqlite3.Connection, path: Path, number: int, documents: str) -> None:
    for statement, bound in index_entries(path, number, documents):
        connection.execute(statement, bound)
