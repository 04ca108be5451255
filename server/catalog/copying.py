"""A copy of a catalog for a backup: one plain file, of the present format, that knows the current generation alone."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from server.catalog.database import Database, named_errors
from server.catalog.job_table import ENDED
from server.catalog.words import register

# Other generations' vectors aren't in a backup. A change of the model that is under way begins anew after a restore.
STRIP = f"""
DELETE FROM passages WHERE generation != (SELECT value FROM meta WHERE key = 'generation');
DELETE FROM generations WHERE number != (SELECT value FROM meta WHERE key = 'generation');
DELETE FROM meta WHERE key = 'leftover';
UPDATE jobs SET wishes = json_remove(wishes, '$.generation') WHERE type = 'reembed' AND status NOT IN {ENDED};
"""


def copy_catalog(database: Database, into: Path, stop: Callable[[], bool]) -> bool:
    """Write the copy, while others read and write; False if stopped. Not durable; `into` must not exist.

    Raises:
        DiskFullError, StorageError, CatalogDamagedError: what is there of `into` is the caller's to remove.
    """
    if not database.copy(into, stop):
        return False
    Database(into).close()  # leads an older format to the present one
    with named_errors(into):
        connection = sqlite3.connect(into)
        try:
            register(connection)
            # No -wal and -shm beside it from here on: it is read in places where they can't be made.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(f"BEGIN; {STRIP} COMMIT")
        finally:
            connection.close()
    return True
