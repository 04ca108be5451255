"""What was read from where and sent to which server: one SQLite file on this machine.

It spares a later run reading what has not changed, and says which documents came from a file that is gone. It is a
memory, not the truth: each run asks the server which documents it has, and without the ledger everything is read again.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from server.incoming import Skipped

VERSION = 1
SCHEMA = """
CREATE TABLE files (
    number  INTEGER PRIMARY KEY,
    server  TEXT NOT NULL,  -- its address
    id      TEXT NOT NULL,  -- what its documents' ids begin with
    path    TEXT NOT NULL,  -- full, links resolved
    stamp   TEXT NOT NULL,  -- what it looked like when it was read; '': it is to be read again
    UNIQUE (server, id)
) STRICT;
CREATE TABLE documents (
    file  INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
    id    TEXT NOT NULL,
    hash  TEXT,             -- of its text, as POST /documents/compare has it; NULL: it brought a vector
    PRIMARY KEY (file, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX documents_by_id ON documents (id);
CREATE TABLE skips (
    file    INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
    source  TEXT NOT NULL,
    reason  TEXT NOT NULL
) STRICT;
CREATE INDEX skips_by_file ON skips (file);
CREATE TABLE leaving (      -- documents that no file has any more, and that the server may still have
    server  TEXT NOT NULL,
    id      TEXT NOT NULL,
    hash    TEXT,
    PRIMARY KEY (server, id)
) STRICT, WITHOUT ROWID;
"""

MAX_VARIABLES = 900  # in one statement, below the least that a build of SQLite allows


class LedgerError(Exception):
    """The ledger can't be opened, read or written; the text says why."""


@dataclass(frozen=True)
class Entry:
    """A file that was read before."""

    number: int
    id: str
    path: str
    stamp: str


@dataclass(frozen=True)
class Copy:
    """A document as the ledger knows it: which file it came from, and the hash of its text."""

    file: int
    id: str
    hash: str | None


def default_path() -> Path:
    """Return where the ledger is kept: $XDG_STATE_HOME/twopass, or ~/.local/state/twopass."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "twopass" / "ingest.sqlite3"


class Ledger:
    """The files that were sent to one server. One thread at a time; several processes may share the file."""

    def __init__(self, path: Path | None, server: str) -> None:
        """Open the file, making it where there is none. None: keep all in memory, and forget it at the end.

        Raises:
            LedgerError.
        """
        self._server = server
        self._path = path
        with self._named_errors():
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path or ":memory:", timeout=30, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute(
            "PRAGMA synchronous = NORMAL"
        )  # a power loss may cost the last files' entries: they are read again
        execute("PRAGMA foreign_keys = ON")
        with self._transaction():
            (version,) = execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in SCHEMA.split(";\n")[:-1]:
                    execute(statement)
                execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise LedgerError(f"{self._path} was written by another twopass, in form {version}")

    def entries(self) -> dict[str, Entry]:
        """Return the files that were read before, by id."""
        with self._named_errors():
            found = self._connection.execute(
                "SELECT number, id, path, stamp FROM files WHERE server = ?", (self._server,)
            )
            return {entry[1]: Entry(*entry) for entry in found}

    def copies(self, entries: Sequence[Entry]) -> Iterator[Copy]:
        """Yield the documents of those files."""
        for found in self._of("SELECT file, id, hash FROM documents WHERE file IN ({})", entries):
            yield Copy(*found)

    def skips(self, entries: Sequence[Entry]) -> Iterator[Skipped]:
        """Yield what was skipped when those files were read."""
        for _, source, reason in self._of(
            "SELECT file, source, reason FROM skips WHERE file IN ({})", entries
        ):
            yield Skipped(source, reason)

    def put(
        self,
        entry: Entry,
        hashes: Mapping[str, str | None],
        skips: Iterable[Skipped],
        keep_foreign: bool,
    ) -> None:
        """Note what a file has become. Documents that it had before, and no file has now, are leaving.

        Args:
            entry: the file; its number doesn't count.
            hashes: its documents' ids, each with the hash of its text.
            keep_foreign: those whose ids the file brought itself, which don't begin with its own, stay.
        """
        with self._named_errors(), self._transaction():
            execute = self._connection.execute
            self._forget(entry.id, keep_foreign)
            number = execute(
                "INSERT INTO files (server, id, path, stamp) VALUES (?, ?, ?, ?)",
                (self._server, entry.id, entry.path, entry.stamp),
            ).lastrowid
            # A document that two files have is the later one's: it is what the server has now.
            self._connection.executemany(
                "DELETE FROM documents WHERE id = ? AND file IN (SELECT number FROM files WHERE server = ?)",
                [(identifier, self._server) for identifier in hashes],
            )
            self._connection.executemany(
                "INSERT INTO documents VALUES (?, ?, ?)",
                [(number, identifier, each) for identifier, each in hashes.items()],
            )
            self._connection.executemany(
                "INSERT INTO skips VALUES (?, ?, ?)", [(number, each.source, each.reason) for each in skips]
            )

    def remove(self, entries: Iterable[Entry]) -> None:
        """Note that files are gone: their documents are leaving."""
        with self._named_errors(), self._transaction():
            for entry in entries:
                self._forget(entry.id, keep_foreign=False)

    def leaving(self) -> list[Copy]:
        """Return the documents that no file has any more, and that the server may still have."""
        with self._named_errors():
            found = self._connection.execute(
                "SELECT 0, id, hash FROM leaving WHERE server = ?1 AND id NOT IN (SELECT documents.id FROM documents "
                "JOIN files ON file = number WHERE server = ?1) ORDER BY id",
                (self._server,),
            )
            return [Copy(*each) for each in found]

    def left(self, ids: Iterable[str]) -> None:
        """Note that documents which were leaving have left."""
        with self._named_errors(), self._transaction():
            self._connection.executemany(
                "DELETE FROM leaving WHERE server = ? AND id = ?",
                [(self._server, identifier) for identifier in ids],
            )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self, identifier: str, keep_foreign: bool) -> None:
        """Drop a file, and note which of its documents are leaving."""
        self._connection.execute(
            "INSERT OR REPLACE INTO leaving SELECT server, documents.id, hash FROM documents "
            "JOIN files ON file = number WHERE server = ?1 AND files.id = ?2 "
            "AND (?3 = 0 OR documents.id = ?2 OR substr(documents.id, 1, length(?2) + 1) = ?2 || '#')",
            (self._server, identifier, keep_foreign),
        )
        self._connection.execute("DELETE FROM files WHERE server = ? AND id = ?", (self._server, identifier))

    def _of(self, statement: str, entries: Sequence[Entry]) -> Iterator[tuple[int, str, str]]:
        """Run a SELECT whose {} stands for the numbers of files."""
        with self._named_errors():
            for start in range(0, len(entries), MAX_VARIABLES):
                numbers = [entry.number for entry in entries[start : start + MAX_VARIABLES]]
                marks = ",".join("?" * len(numbers))
                yield from self._connection.execute(statement.format(marks), numbers)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(f"{self._path}: {error}") from error
        except OSError as error:
            raise LedgerError(f"{self._path}: {error.strerror or error}") from error
