"""One SQLite file: its connections, transactions, errors and format.

WAL with synchronous=FULL: when a transaction here has returned, it survives a power loss.
"""

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from index.errors import DiskFullError, StorageError
from server.catalog.schema import FORMAT_VERSION, MIGRATIONS, SCHEMA
from server.catalog.words import register
from server.errors import CatalogDamagedError, FormatError

N_READERS = 8  # connections kept for reading; more threads than that wait for one, microseconds each
STEPS = 10_000  # of SQLite's virtual machine between two looks whether a copy is still wanted: a few ms
PAGES_AT_ONCE = 1000  # that are cut off the file in one transaction, in some 50 ms; others write between two
LOG_BYTES = 4 << 20  # that the log keeps of the disk once it is in the file; a large write makes it longer
BREATH_S = 0.005  # between two steps: who waits for a lock hardly gets it from one who takes it again at once
MAX_VARIABLES = 900  # below SQLITE_MAX_VARIABLE_NUMBER of every build (999 before SQLite 3.32)

# A commit that fails so has not written its last page, without which its transaction doesn't count.
NOT_COMMITTED = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})

# What we ask is right: where SQLite can't carry it out, its tables, or JSON in them, are not what we wrote.
DAMAGED = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR}
)


class Database:
    """A catalog's file. Any thread reads and writes; writes come one after another."""

    def __init__(self, path: Path, *, read_only: bool = False, migrate: bool = True) -> None:
        """Open the file, making it if there is none, and lead an older format to the present one.

        Args:
            migrate: do so at once; else when `migrate` is called. What is only read stays as it is.

        Raises:
            CatalogDamagedError: the file is not a catalog, or damaged.
            FormatError: it was written by a newer twopass.
            DiskFullError, StorageError: it can't be opened or made.
        """
        self.path = path
        self.format_version = FORMAT_VERSION  # an older one until it is led to this one
        self._read_only = read_only
        # Called inside every transaction right before it is committed; what it returns, right after.
        self.before_commit: Callable[[sqlite3.Connection], Callable[[], None]] = lambda _: lambda: None
        self._writing = threading.Lock()
        self._is_uncertain = False  # whether a transaction that failed may stand in the log, whole
        self._writer = self._connect()
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        try:
            with self.named_errors():
                self._check_format()
                if migrate and not read_only:
                    self.migrate()
                for _ in range(1 if read_only else N_READERS):
                    self._readers.put(self._connect())
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        with self.named_errors():
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
                if connection.execute("PRAGMA page_count").fetchone() == (0,):
                    # A new file; only before its first page can it be said that free ones may be cut off.
                    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA cache_size = -2048")  # KiB for each; the page cache does more
            register(connection)
            return connection

    def _check_format(self) -> None:
        (n_tables,) = self._writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if n_tables == 0 and not self._read_only:
            with self.transaction() as connection:
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute("INSERT INTO meta VALUES ('format_version', ?)", (FORMAT_VERSION,))
        try:
            (version,) = self._writer.execute(
                "SELECT value FROM meta WHERE key = 'format_version'"
            ).fetchone()
        except (sqlite3.OperationalError, TypeError) as error:
            raise CatalogDamagedError(f"{self.path} is not a twopass catalog") from error
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise FormatError(
                f"{self.path} has format {version}; this twopass reads and writes format {FORMAT_VERSION}"
            )
        self.format_version = version

    def migrate(self) -> None:
        """Lead an older format to the present one: all the steps, or none."""
        if self.format_version == FORMAT_VERSION:
            return
        with self.transaction() as connection:
            for step in range(self.format_version, FORMAT_VERSION):
                for statement in MIGRATIONS[step].split(";\n"):
                    connection.execute(statement)
            connection.execute("UPDATE meta SET value = ? WHERE key = 'format_version'", (FORMAT_VERSION,))
        self.format_version = FORMAT_VERSION

    def named_errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn SQLite's errors into ours."""
        return named_errors(self.path)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one durable transaction; whatever it raises undoes it.

        Should the disk fail in the middle of the commit, see `settle`.
        """
        with self._writing, self.named_errors():
            self._settle()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                publish = self.before_commit(self._writer)
                self._commit()
                publish()
            except BaseException:
                self._roll_back()
                raise

    def in_steps(
        self, step: Callable[[sqlite3.Connection], bool], stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Run `step` in one transaction after another, until it returns False or `stop` says so. Others write between.

        Raises:
            DiskFullError, StorageError: the steps before are committed.
        """
        is_more = True
        while is_more and not stop():
            with self.transaction() as connection:
                is_more = step(connection)
            time.sleep(BREATH_S)

    def settle(self) -> None:
        """Make certain that a transaction whose commit failed is undone, before files that it tells of are changed.

        When waiting for the disk fails, the transaction stands in the log all the same, and the next start would take
        it for committed. Another one is written in its place; nothing else is until that has worked.

        Raises:
            DiskFullError, StorageError: it isn't certain yet: what it tells of has to stay as it is.
        """
        with self._writing, self.named_errors():
            self._settle()

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._is_uncertain = getattr(error, "sqlite_errorcode", None) not in NOT_COMMITTED
            self._roll_back()
            with contextlib.suppress(sqlite3.Error):  # then it is tried again before the next one
                self._settle()
            raise

    def _settle(self) -> None:
        if self._is_uncertain:
            (mark,) = self._writer.execute("PRAGMA user_version").fetchone()
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                self._writer.execute(f"PRAGMA user_version = {1 - mark}")  # changes a page; nobody reads it
                self._writer.execute("COMMIT")
            except sqlite3.Error:
                self._roll_back()
                raise
            self._is_uncertain = False

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection, with one unchanging view of the catalog inside the block."""
        connection = self._readers.get()
        try:
            with self.named_errors():
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")
        finally:
            self._readers.put(connection)

    def select_in(
        self, statement: str, before: Sequence[Any], values: Sequence[Any]
    ) -> Iterator[tuple[Any, ...]]:
        """Run a SELECT whose {} stands for a list of any length, in one view of the catalog."""
        with self.reading() as connection:
            for start in range(0, len(values), MAX_VARIABLES):
                part = values[start : start + MAX_VARIABLES]
                marks = ",".join("?" * len(part))
                yield from connection.execute(statement.format(marks), (*before, *part))

    def copy(self, into: Path, stop: Callable[[], bool]) -> bool:
        """Write the catalog, as it is at one moment, into a new file, without its free pages; False if stopped.

        Others read and write meanwhile: it is one long read. Not durable.
        """
        connection = self._connect()
        try:
            with self.named_errors():
                if not _number(
                    connection, "auto_vacuum"
                ):  # made by an early version; the copy can give room back
                    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.set_progress_handler(stop, STEPS)
                connection.execute("VACUUM INTO ?", (str(into),))
        except DiskFullError as error:
            raise DiskFullError(f"no room left on the disk for {into}") from error
        except StorageError:
            if stop():
                return False
            raise
        finally:
            connection.close()
        return True

    def give_back(self, stop: Callable[[], bool]) -> int:
        """Cut the free pages off the file, until there are none or `stop` says so; return how many bytes those were.

        A file that an early version made keeps them, to be used again; a copy of it can give them back.
        """
        n_cut = 0

        def cut(connection: sqlite3.Connection) -> bool:
            nonlocal n_cut
            before = _number(connection, "freelist_count")
            for _ in range(min(before, PAGES_AT_ONCE)):
                connection.execute("PRAGMA incremental_vacuum(1)")  # of more, it does the first alone
            left = _number(connection, "freelist_count")
            n_cut += before - left
            return 0 < left < before

        self.in_steps(cut, stop)
        with self._writing, self.named_errors():
            self._writer.execute("PRAGMA wal_checkpoint")  # the file itself becomes shorter now
            return n_cut * _number(self._writer, "page_size")

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        readers = getattr(self, "_readers", None)
        while readers is not None and not readers.empty():
            readers.get().close()
        self._writer.close()  # the last connection to close folds the WAL into the file


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(found)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors inside the block into ours, with the file in the text."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None) or 0
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
            raise DiskFullError(f"no room left on the disk for {path}") from error
        if primary in DAMAGED:
            raise CatalogDamagedError(f"{path} is damaged: {error}") from error
        if not code and "decode to UTF-8" in str(error):  # Python says it, and quotes the text
            raise CatalogDamagedError(f"{path} is damaged: a text in it isn't UTF-8") from error
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(f"{path}: {error}") from error
        raise
