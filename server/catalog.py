"""The catalog: documents, passages and committed rows in SQLite. The only importer of sqlite3.

WAL with synchronous=FULL: when a transaction here has returned, it survives a power loss. Which rows count is
said by `generations.n_rows`, which rows are alive by `passages`: a committed row without a passage is a tombstone.
"""

import contextlib
import json
import queue
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from index.errors import DiskFullError, StorageError
from server.errors import CatalogDamagedError, FormatError, StaleWriteError
from server.records import Document, DocumentWrite, Generation, Known, LiveRows, PassageRow, Stored

FORMAT_VERSION = 1
N_READERS = 8  # connections kept for reading; more threads than that wait for one, microseconds each
MAX_VARIABLES = 900  # below SQLITE_MAX_VARIABLE_NUMBER of every build (999 before SQLite 3.32)

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT;
CREATE TABLE generations (
    number       INTEGER PRIMARY KEY,
    fingerprint  TEXT NOT NULL,      -- the encoder's, as JSON
    dim          INTEGER NOT NULL,
    vector_dtype TEXT NOT NULL,      -- float16 or float32
    n_rows       INTEGER NOT NULL    -- committed rows of its vector file
) STRICT;
CREATE TABLE documents (
    number       INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    text         TEXT,               -- NULL: the client brought a vector alone
    metadata     TEXT NOT NULL,      -- a JSON object
    content_hash BLOB NOT NULL,      -- SHA-256 of what was encoded: the text, the client's vector, or both
    own_vector   INTEGER NOT NULL,   -- 1: the client brought the vector, so it can't be encoded again
    created_at   REAL NOT NULL,      -- seconds since 1970, UTC
    updated_at   REAL NOT NULL
) STRICT;
CREATE TABLE passages (
    generation   INTEGER NOT NULL REFERENCES generations,
    row          INTEGER NOT NULL,   -- its vector's row in the generation's vector file
    document     INTEGER NOT NULL REFERENCES documents,
    start        INTEGER NOT NULL,   -- characters of the document's text, [start, end)
    "end"        INTEGER NOT NULL,
    checksum     INTEGER NOT NULL,   -- CRC-32 of the row's bytes in the vector file
    damaged      INTEGER NOT NULL DEFAULT 0,  -- 1: a start found the row lost; it waits to be made again
    PRIMARY KEY (generation, row)
) STRICT, WITHOUT ROWID;
CREATE INDEX passages_by_document ON passages (document);
"""


class Catalog:
    """One collection's catalog. Any thread reads; writes are made by one thread at a time (the caller's lock)."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the catalog, making it if there is none.

        Raises:
            CatalogDamagedError: the file is not a catalog, or damaged.
            FormatError: it was written by a newer twopass.
            DiskFullError, StorageError: it can't be opened or made.
        """
        self.path = path
        self._read_only = read_only
        self._writer = self._connect()
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        try:
            with self._named_errors():
                self._check_format()
                for _ in range(1 if read_only else N_READERS):
                    self._readers.put(self._connect())
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        with self._named_errors():
            mode = "rwc"
            if self._read_only:
                # Without a WAL nobody is writing: then SQLite needn't leave lock files of its own behind.
                has_wal = self.path.with_name(self.path.name + "-wal").exists()
                mode = "ro" if has_wal else "ro&immutable=1"
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,  # transactions begin where we say so
                check_same_thread=False,  # the pool hands a connection to one thread at a time
                timeout=30,
            )
            if not self._read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(
                "PRAGMA cache_size = -2048"
            )  # KiB for each connection; the page cache does more
            return connection

    def _check_format(self) -> None:
        (n_tables,) = self._writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if n_tables == 0 and not self._read_only:
            with self._transaction() as connection:
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute("INSERT INTO meta VALUES ('format_version', ?)", (FORMAT_VERSION,))
        try:
            (version,) = self._writer.execute(
                "SELECT value FROM meta WHERE key = 'format_version'"
            ).fetchone()
        except (sqlite3.OperationalError, TypeError) as error:
            raise CatalogDamagedError(f"{self.path} is not a twopass catalog") from error
        if version != FORMAT_VERSION:
            raise FormatError(
                f"{self.path} has format {version}; this twopass reads and writes format {FORMAT_VERSION}"
            )

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None) or 0
            primary = code & 0xFF
            if primary == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
                raise DiskFullError(f"no room left on the disk for {self.path}") from error
            if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise CatalogDamagedError(f"{self.path} is damaged: {error}") from error
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(f"{self.path}: {error}") from error
            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one durable transaction; whatever it raises undoes it."""
        with self._named_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection, with one unchanging view of the catalog inside the block."""
        connection = self._readers.get()
        try:
            with self._named_errors():
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")
        finally:
            self._readers.put(connection)

    # Generations and rows

    def generation(self) -> Generation | None:
        """Return the current generation, or None while nothing was ever opened for writing."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT number, fingerprint, dim, vector_dtype, n_rows FROM generations "
                "WHERE number = (SELECT value FROM meta WHERE key = 'generation')"
            ).fetchone()
        return Generation(*found) if found else None

    def begin_generation(self, number: int, fingerprint: str, dim: int, vector_dtype: str) -> Generation:
        """Make a generation without rows the current one."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO generations VALUES (?, ?, ?, ?, 0)", (number, fingerprint, dim, vector_dtype)
            )
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('generation', ?)", (number,))
        return Generation(number, fingerprint, dim, vector_dtype, 0)

    def live_rows(self, generation: int) -> LiveRows:
        """Return the committed rows that have a passage, sorted."""
        with self._reading() as connection:
            cursor = connection.execute(
                "SELECT row, checksum, damaged FROM passages WHERE generation = ?1 "
                "AND row < (SELECT n_rows FROM generations WHERE number = ?1) ORDER BY row",
                (generation,),
            )
            found = np.fromiter(cursor, np.dtype((np.int64, 3)))  # (n, 3)
        return LiveRows(
            np.ascontiguousarray(found[:, 0]), found[:, 1].astype(np.uint32), found[:, 2].astype(np.bool_)
        )

    # Writing

    def store(
        self,
        generation: int,
        documents: Sequence[DocumentWrite],
        new_metadata: Iterable[tuple[str, bytes, str]],
        first_row: int,
        checksums: Sequence[int],
    ) -> Stored:
        """Commit documents with the rows appended for their passages, in order, from first_row on.

        Args:
            documents: new ones and ones that replace what has their id.
            new_metadata: (id, content hash, metadata) of documents whose text stays as it is.

        Raises:
            StaleWriteError: a document of new_metadata was changed meanwhile; nothing is written.
            DiskFullError, StorageError: nothing is written.
        """
        now, created, row = time.time(), 0, first_row
        removed: list[int] = []
        rest = iter(checksums)
        with self._transaction() as connection:
            for identifier, content_hash, metadata in new_metadata:
                changed = connection.execute(
                    "UPDATE documents SET metadata = ?, updated_at = ? WHERE id = ? AND content_hash = ?",
                    (metadata, now, identifier, content_hash),
                ).rowcount
                if not changed:
                    raise StaleWriteError(f"document {identifier!r} was changed while it was being written")
            for document in documents:
                removed += self._drop_passages(connection, document.id)
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
        return Stored(created, len(documents) - created, np.array(removed, np.int64))

    def delete(self, ids: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
        """Commit the removal of documents; return the ids that existed and the rows that are dead now."""
        found, removed = [], []
        with self._transaction() as connection:
            for identifier in dict.fromkeys(ids):
                removed += self._drop_passages(connection, identifier)
                if connection.execute("DELETE FROM documents WHERE id = ?", (identifier,)).rowcount:
                    found.append(identifier)
        return found, np.array(removed, np.int64)

    def mark_damaged(self, generation: int, rows: Sequence[int]) -> None:
        """Commit that these rows are lost, so that a later start knows it without checking all of them."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE passages SET damaged = 1 WHERE generation = ? AND row = ?",
                [(generation, row) for row in rows],
            )

    def move_rows(
        self, generation: int, old: NDArray[np.int64], first_row: int, checksums: list[int]
    ) -> None:
        """Commit that passages' vectors now stand in rows appended from first_row on, in the order of `old`."""
        with self._transaction() as connection:
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

    @staticmethod
    def _drop_passages(connection: sqlite3.Connection, identifier: str) -> list[int]:
        """Remove a document's passages, in every generation; return their rows."""
        found = connection.execute(
            "DELETE FROM passages WHERE document = (SELECT number FROM documents WHERE id = ?) RETURNING row",
            (identifier,),
        ).fetchall()
        return [row for (row,) in found]

    # Reading

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """Return what is stored under those of `ids` that exist."""
        return {
            identifier: Known(content_hash, metadata)
            for identifier, content_hash, metadata in self._select_in(
                "SELECT id, content_hash, metadata FROM documents WHERE id IN ({})", (), ids
            )
        }

    def passages_of_rows(self, generation: int, rows: Sequence[int]) -> dict[int, PassageRow]:
        """Return the passages of those rows that are alive."""
        return {
            found[0]: PassageRow(*found)
            for found in self._select_in(
                'SELECT row, document, start, "end" FROM passages WHERE generation = ? AND row IN ({})',
                (generation,),
                rows,
            )
        }

    def documents(self, numbers: Sequence[int]) -> dict[int, Document]:
        """Return documents by number."""
        return {
            found[0]: _document(found)
            for found in self._select_in(f"{_SELECT_DOCUMENT} WHERE number IN ({{}})", (), numbers)
        }

    def document(self, identifier: str) -> Document | None:
        """Return one document, or None."""
        with self._reading() as connection:
            found = connection.execute(f"{_SELECT_DOCUMENT} WHERE id = ?", (identifier,)).fetchone()
        return _document(found) if found else None

    def page(self, after: str, limit: int) -> list[Document]:
        """Return up to `limit` documents whose id sorts behind `after` (bytewise), in id order."""
        with self._reading() as connection:
            found = connection.execute(
                f"{_SELECT_DOCUMENT} WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
            ).fetchall()
        return [_document(each) for each in found]

    def row_texts(self, generation: int, rows: Sequence[int]) -> dict[int, str]:
        """Return the passages' texts of those rows that are alive and can be encoded again."""
        found = self._select_in(
            'SELECT row, text, start, "end" FROM passages JOIN documents ON document = number '
            "WHERE NOT own_vector AND generation = ? AND row IN ({})",
            (generation,),
            rows,
        )
        return {row: text[start:end] for row, text, start, end in found}

    def own_vector_ids(self, generation: int, rows: Sequence[int]) -> set[str]:
        """Return the documents among those rows whose vector the client brought."""
        found = self._select_in(
            "SELECT id FROM passages JOIN documents ON document = number "
            "WHERE own_vector AND generation = ? AND row IN ({})",
            (generation,),
            rows,
        )
        return {identifier for (identifier,) in found}

    def texts(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (id, text, content hash) of every document that was encoded from its text."""
        with self._reading() as connection:
            yield from connection.execute("SELECT id, text, content_hash FROM documents WHERE own_vector = 0")

    def counts(self) -> tuple[int, int]:
        """Return how many documents and passages there are."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM passages)"
            ).fetchone()
        return found[0], found[1]

    def problems(self) -> list[str]:
        """Return what SQLite's own checks and ours find wrong inside the catalog; empty if nothing."""
        with self._reading() as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
            for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
                found.append(f"a row of {table} belongs to nothing in {parent}")
            (beyond,) = connection.execute(
                "SELECT count(*) FROM passages JOIN generations ON generation = number WHERE row >= n_rows"
            ).fetchone()
            (without,) = connection.execute(
                "SELECT count(*) FROM documents WHERE number NOT IN (SELECT document FROM passages)"
            ).fetchone()
        if beyond:
            found.append(f"{beyond} passages point behind the last committed row")
        if without:
            found.append(f"{without} documents have no passage")
        return found

    def _select_in(
        self, statement: str, before: Sequence[Any], values: Sequence[Any]
    ) -> Iterator[tuple[Any, ...]]:
        """Run a SELECT whose {} stands for a list of any length, in one view of the catalog."""
        with self._reading() as connection:
            for start in range(0, len(values), MAX_VARIABLES):
                part = values[start : start + MAX_VARIABLES]
                marks = ",".join("?" * len(part))
                yield from connection.execute(statement.format(marks), (*before, *part))

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        readers = getattr(self, "_readers", None)
        while readers is not None and not readers.empty():
            readers.get().close()
        self._writer.close()  # the last connection to close folds the WAL into the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_SELECT_DOCUMENT = (
    "SELECT number, id, text, metadata, (SELECT count(*) FROM passages WHERE document = number "
    "AND generation = (SELECT value FROM meta WHERE key = 'generation')) FROM documents"
)


def _document(found: tuple[Any, ...]) -> Document:
    number, identifier, text, metadata, passages = found
    return Document(number, identifier, text, json.loads(metadata), passages)
