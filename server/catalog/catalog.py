"""Documents and their passages, and what belongs to the collection as a whole.

Which rows count is said by `generations.n_rows`, which rows are alive by `passages`: a committed row without a passage
is a tombstone.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from server.catalog.copying import copy_catalog
from server.catalog.database import Database
from server.catalog.filtering import Filtering
from server.catalog.fulltext import FullText
from server.catalog.generations import Generations
from server.catalog.job_table import JobTable, leave
from server.catalog.recall_table import RecallTable
from server.catalog.stored_json import read_json
from server.errors import CatalogDamagedError, StaleWriteError
from server.records import Document, DocumentWrite, Known, LiveRows, PassageRow, Removed, Stored

CURRENT = "(SELECT value FROM meta WHERE key = 'generation')"


class Catalog:
    """One collection's catalog. Any thread reads and writes; writes come one after another."""

    def __init__(self, path: Path, *, read_only: bool = False, migrate: bool = True) -> None:
        """Open the catalog, making it if there is none, and lead an older format to the present one.

        Args:
            migrate: do so at once; else, with nothing but generations to be read before, when `migrate` is called.

        Raises:
            CatalogDamagedError: the file is not a catalog, or damaged.
            FormatError: it was written by a newer twopass.
            DiskFullError, StorageError: it can't be opened or made.
        """
        self.path = path
        self._database = Database(path, read_only=read_only, migrate=migrate)
        self.generations = Generations(self._database)
        self.jobs = JobTable(self._database)
        self.filtering = Filtering(self._database, read_only=read_only)
        self.fulltext = FullText(self._database)
        self.recall = RecallTable(self._database)

    def migrate(self) -> None:
        """Lead an older format to the present one: all of it, or nothing. Raises DiskFullError or StorageError."""
        self._database.migrate()

    # Writing

    def settle(self) -> None:
        """Make certain that a write that failed is undone. See Database.settle."""
        self._database.settle()

    def store(
        self,
        generation: int,
        documents: Sequence[DocumentWrite],
        new_metadata: Iterable[tuple[str, bytes, str]],
        first_row: int,
        checksums: Sequence[int],
        from_inbox: Sequence[int] = (),
        overtaken: Sequence[str] = (),
    ) -> Stored:
        """Commit documents with the rows appended for their passages, in order, from first_row on.

        Args:
            documents: new ones and ones that replace what has their id.
            new_metadata: (id, content hash, metadata) of documents whose text stays as it is.
            from_inbox: numbers of the inbox's documents that these are, all of one job; they leave it and are
                counted there.
            overtaken: ids whose documents in the inbox came earlier than these and leave it too.

        Raises:
            StaleWriteError: a document of new_metadata was changed meanwhile, or one of from_inbox isn't there any
                more; nothing is written.
            DiskFullError, StorageError: nothing is written.
        """
        now, created, row = time.time(), 0, first_row
        removed: list[tuple[int, int]] = []
        rest = iter(checksums)
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM inbox WHERE id = ?", [(each,) for each in overtaken])
            n_changed = 0
            for identifier, content_hash, metadata in new_metadata:
                n_changed += 1
                changed = connection.execute(
                    "UPDATE documents SET metadata = ?, updated_at = ? WHERE id = ? AND content_hash = ?",
                    (metadata, now, identifier, content_hash),
                ).rowcount
                if not changed:
                    raise StaleWriteError(f"document {identifier!r} was changed while it was being written")
            for document in documents:
                removed += _drop_passages(connection, document.id)
                number, is_new = connection.execute(
                    "INSERT INTO documents (id, text, metadata, content_hash, own_vector, created_at, updated_at)"
                    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (id) DO UPDATE SET text = ?2,"
                    " metadata = ?3, content_hash = ?4, own_vector = ?5, updated_at = ?6"
                    " RETURNING number, created_at = updated_at",
                    (document.id, document.text, document.metadata, document.content_hash,
                     document.own_vector, now),
                ).fetchone()  # fmt: skip
                created += is_new
                for start, end in document.passages:
                    connection.execute(
                        "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, 0)",
                        (generation, row, number, start, end, next(rest)),
                    )
                    row += 1
            connection.execute("UPDATE generations SET n_rows = ? WHERE number = ?", (row, generation))
            updated = len(documents) - created
            if from_inbox:
                leave(connection, from_inbox, {
                    "created": created, "updated": updated + n_changed,
                    "unchanged": len(from_inbox) - len(documents) - n_changed, "passages": row - first_row,
                })  # fmt: skip
        return Stored(created, updated, _by_generation(removed))

    def delete(self, ids: Sequence[str]) -> tuple[list[str], Removed]:
        """Commit the removal of documents; return the ids that existed and the rows that are dead now."""
        found: list[str] = []
        removed: list[tuple[int, int]] = []
        with self._database.transaction() as connection:
            for identifier in dict.fromkeys(ids):
                removed += _drop_passages(connection, identifier)
                waited = connection.execute("DELETE FROM inbox WHERE id = ?", (identifier,)).rowcount
                if connection.execute("DELETE FROM documents WHERE id = ?", (identifier,)).rowcount or waited:
                    found.append(identifier)
        return found, _by_generation(removed)

    def fill(
        self,
        generation: int,
        documents: Sequence[tuple[int, bytes, Sequence[tuple[int, int]]]],
        first_row: int,
        checksums: Sequence[int],
    ) -> NDArray[np.int64]:
        """Commit passages of stored documents in a generation that isn't current yet.

        Args:
            documents: (number, content hash, passages), whose rows were appended in order from first_row on.

        Returns:
            The rows that have no passage, because their document was changed, removed or filled meanwhile.
        """
        row, rest = first_row, iter(checksums)
        unused: list[int] = []
        with self._database.transaction() as connection:
            for number, content_hash, passages in documents:
                (is_wanted,) = connection.execute(
                    "SELECT EXISTS (SELECT 1 FROM documents WHERE number = ?1 AND content_hash = ?2) AND NOT EXISTS "
                    "(SELECT 1 FROM passages WHERE document = ?1 AND generation = ?3)",
                    (number, content_hash, generation),
                ).fetchone()
                for start, end in passages:
                    checksum = next(rest)
                    if is_wanted:
                        connection.execute(
                            "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, 0)",
                            (generation, row, number, start, end, checksum),
                        )
                    else:
                        unused.append(row)
                    row += 1
            connection.execute("UPDATE generations SET n_rows = ? WHERE number = ?", (row, generation))
        return np.array(unused, np.int64)

    def copy_passages(self, generation: int, into: int, rows: NDArray[np.int64], first_row: int) -> None:
        """Commit those passages of `rows` that are still there in another generation too, its rows from first_row on.

        A row whose passage is gone leaves a row without one.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                'INSERT INTO passages SELECT ?, ?, document, start, "end", checksum, 0 FROM passages '
                "WHERE generation = ? AND row = ?",
                [(into, new, generation, row) for new, row in enumerate(rows.tolist(), first_row)],
            )
            connection.execute(
                "UPDATE generations SET n_rows = ? WHERE number = ?", (first_row + len(rows), into)
            )

    def mark_damaged(self, generation: int, rows: Sequence[int]) -> None:
        """Commit that these rows are lost, so that a later start knows it without checking all of them."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE passages SET damaged = 1 WHERE generation = ? AND row = ?",
                [(generation, row) for row in rows],
            )

    def move_rows(
        self, generation: int, old: NDArray[np.int64], first_row: int, checksums: list[int]
    ) -> None:
        """Commit that passages' vectors now stand in rows appended from first_row on, in the order of `old`."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE passages SET row = ?, checksum = ?, damaged = 0 WHERE generation = ? AND row = ?",
                [
                    (first_row + i, checksum, generation, row)
                    for i, (row, checksum) in enumerate(zip(old.tolist(), checksums, strict=True))
                ],
            )
            connection.execute(
                "UPDATE generations SET n_rows = ? WHERE number = ?", (first_row + len(old), generation)
            )

    # Reading

    def live_rows(self, generation: int, after: int = -1, limit: int = -1) -> LiveRows:
        """Return the committed rows behind `after` that have a passage, sorted; at most `limit` if that isn't -1.

        Raises:
            CatalogDamagedError: it has something else than numbers there.
        """
        with self._database.reading() as connection:
            cursor = connection.execute(
                "SELECT row, checksum, damaged FROM passages WHERE generation = ?1 AND row > ?2 "
                "AND row < (SELECT n_rows FROM generations WHERE number = ?1) ORDER BY row LIMIT ?3",
                (generation, after, limit),
            )
            try:
                found = np.fromiter(cursor, np.dtype((np.int64, 3)))  # (n, 3)
            except (TypeError, ValueError, OverflowError) as error:
                raise CatalogDamagedError("a row of a passage can't be read from the catalog") from error
        return LiveRows(
            np.ascontiguousarray(found[:, 0]), found[:, 1].astype(np.uint32), found[:, 2].astype(np.bool_)
        )

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """Return what is stored under those of `ids` that exist."""
        return {
            identifier: Known(content_hash, metadata)
            for identifier, content_hash, metadata in self._database.select_in(
                "SELECT id, content_hash, metadata FROM documents WHERE id IN ({})", (), ids
            )
        }

    def passages_of_rows(self, generation: int, rows: Sequence[int]) -> dict[int, PassageRow]:
        """Return the passages of those rows that are alive."""
        return {
            found[0]: PassageRow(*found)
            for found in self._database.select_in(
                'SELECT row, document, start, "end" FROM passages WHERE generation = ? AND row IN ({})',
                (generation,),
                rows,
            )
        }

    def documents(self, numbers: Sequence[int]) -> dict[int, Document]:
        """Return documents by number."""
        return {
            found[0]: _document(found)
            for found in self._database.select_in(f"{_SELECT_DOCUMENT} WHERE number IN ({{}})", (), numbers)
        }

    def document(self, identifier: str) -> Document | None:
        """Return one document, or None."""
        with self._database.reading() as connection:
            found = connection.execute(f"{_SELECT_DOCUMENT} WHERE id = ?", (identifier,)).fetchone()
        return _document(found) if found else None

    def page(self, after: str, limit: int) -> list[Document]:
        """Return up to `limit` documents whose id sorts behind `after` (bytewise), in id order."""
        with self._database.reading() as connection:
            found = connection.execute(
                f"{_SELECT_DOCUMENT} WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
            ).fetchall()
        return [_document(each) for each in found]

    def row_texts(self, generation: int, rows: Sequence[int]) -> dict[int, str]:
        """Return the passages' texts of those rows that are alive and can be encoded again."""
        found = self._database.select_in(
            'SELECT row, text, start, "end" FROM passages JOIN documents ON document = number '
            "WHERE NOT own_vector AND generation = ? AND row IN ({})",
            (generation,),
            rows,
        )
        return {row: text[start:end] for row, text, start, end in found}

    def own_vector_ids(self, generation: int, rows: Sequence[int]) -> set[str]:
        """Return the documents among those rows whose vector the client brought."""
        found = self._database.select_in(
            "SELECT id FROM passages JOIN documents ON document = number "
            "WHERE own_vector AND generation = ? AND row IN ({})",
            (generation,),
            rows,
        )
        return {identifier for (identifier,) in found}

    def texts(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (id, text, content hash) of every document that was encoded from its text."""
        with self._database.reading() as connection:
            yield from connection.execute("SELECT id, text, content_hash FROM documents WHERE own_vector = 0")

    def contents(self) -> Iterator[tuple[str, bytes | None, bytes, bytes | None]]:
        """Yield (id, text, metadata, content hash) of every document as bytes; no hash where a vector came with it."""
        with self._database.reading() as connection:
            yield from connection.execute(
                "SELECT id, CAST(text AS BLOB), CAST(metadata AS BLOB), iif(own_vector, NULL, content_hash) "
                "FROM documents"
            )

    def missing(self, generation: int, after: int, limit: int) -> list[tuple[int, str, bytes]]:
        """Return (number, text, content hash) of documents without a passage there, by number, those above `after`."""
        with self._database.reading() as connection:
            return connection.execute(
                "SELECT number, text, content_hash FROM documents WHERE number > ?2 AND text IS NOT NULL "
                "AND NOT EXISTS (SELECT 1 FROM passages WHERE document = number AND generation = ?1) "
                "ORDER BY number LIMIT ?3",
                (generation, after, limit),
            ).fetchall()

    def n_missing(self, generation: int) -> int:
        """Return how many documents with a text have no passage there."""
        with self._database.reading() as connection:
            (found,) = connection.execute(
                "SELECT count(*) FROM documents WHERE text IS NOT NULL "
                "AND NOT EXISTS (SELECT 1 FROM passages WHERE document = number AND generation = ?)",
                (generation,),
            ).fetchone()
        return int(found)

    def rows_of(self, generation: int, identifier: str) -> list[int]:
        """Return the rows of a document's passages, in order; none if there is no such document."""
        with self._database.reading() as connection:
            found = connection.execute(
                "SELECT row FROM passages JOIN documents ON document = number "
                "WHERE id = ? AND generation = ? ORDER BY row",
                (identifier, generation),
            ).fetchall()
        return [row for (row,) in found]

    def vector_rows(self, generation: int, numbers: Sequence[int], only_brought: bool) -> dict[int, int]:
        """Return the row of each of those documents that has one passage; of those alone whose clients brought it."""
        found = self._database.select_in(
            "SELECT document, min(row) FROM passages JOIN documents ON document = number "
            "WHERE generation = ? AND own_vector >= ? AND document IN ({}) GROUP BY document HAVING count(*) = 1",
            (generation, int(only_brought)),
            numbers,
        )
        return dict(found)

    def id_of(self, number: int) -> str:
        """Return the id of a document by its number; empty if it is gone."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT id FROM documents WHERE number = ?", (number,)).fetchone()
        return found[0] if found else ""

    def own_vectors(self) -> int:
        """Return how many documents came with a vector of the client's."""
        with self._database.reading() as connection:
            (found,) = connection.execute("SELECT count(*) FROM documents WHERE own_vector").fetchone()
        return int(found)

    def counts(self) -> tuple[int, int]:
        """Return how many documents and passages there are."""
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM passages WHERE generation = {CURRENT})"
            ).fetchone()
        return found[0], found[1]

    def copy(self, into: Path, stop: Callable[[], bool]) -> bool:
        """Write a copy for a backup, as copy_catalog says; False if stopped."""
        return copy_catalog(self._database, into, stop)

    def give_back(self, stop: Callable[[], bool]) -> int:
        """Give the room of what was removed back to the disk; return the bytes. Others read and write meanwhile.

        Raises:
            DiskFullError, StorageError: some of it stays, to be used again.
        """
        self.fulltext.tidy(stop)
        return self._database.give_back(stop)

    def problems(self) -> list[str]:
        """Return what SQLite's own checks and ours find wrong inside the catalog; empty if nothing."""
        with self._database.reading() as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
            for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
                found.append(f"a row of {table} belongs to nothing in {parent}")
            (beyond,) = connection.execute(
                "SELECT count(*) FROM passages JOIN generations ON generation = number WHERE row >= n_rows"
            ).fetchone()
            (without,) = connection.execute(
                "SELECT count(*) FROM documents WHERE number NOT IN "
                f"(SELECT document FROM passages WHERE generation = {CURRENT})"
            ).fetchone()
            found += self.fulltext.problems(connection)
        if beyond:
            found.append(f"{beyond} passages point behind the last committed row")
        if without:
            found.append(f"{without} documents have no passage")
        return found

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        self.fulltext.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_SELECT_DOCUMENT = (
    "SELECT number, id, text, metadata, (SELECT count(*) FROM passages WHERE document = number "
    f"AND generation = {CURRENT}) FROM documents"
)


def _drop_passages(connection: sqlite3.Connection, identifier: str) -> list[tuple[int, int]]:
    """Remove a document's passages, in every generation; return their (generation, row)."""
    return connection.execute(
        "DELETE FROM passages WHERE document = (SELECT number FROM documents WHERE id = ?) RETURNING generation, row",
        (identifier,),
    ).fetchall()


def _by_generation(removed: Sequence[tuple[int, int]]) -> Removed:
    rows: dict[int, list[int]] = {}
    for generation, row in removed:
        rows.setdefault(generation, []).append(row)
    return {generation: np.array(each, np.int64) for generation, each in rows.items()}


def _document(found: tuple[Any, ...]) -> Document:
    number, identifier, text, metadata, passages = found
    metadata = read_json(metadata, f"the metadata of document {identifier!r}")
    return Document(number, identifier, text, metadata, passages)
