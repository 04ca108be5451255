"""`twopass` with a fault built in, for test_crash.py: run as `python tests/failing_server.py serve`.

FAIL_AT names a point of the write order, FAIL_HOW what happens there. It happens while the file FAIL_WHEN exists.
"""

import errno
import os
import signal
import sqlite3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from index import durable
from index.two_pass import TwoPassIndex
from index.vector_file import VectorFile
from server.catalog import Catalog, catalog
from server.cli import main
from server.ingest import Ingest

POINT, HOW, WHEN = (os.environ.get(name, "") for name in ("FAIL_AT", "FAIL_HOW", "FAIL_WHEN"))


def fail_if_armed():
    if Path(WHEN).exists():
        if HOW == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if POINT.startswith("3"):  # as SQLite says it
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = {"full": sqlite3.SQLITE_FULL, "io": sqlite3.SQLITE_IOERR}[HOW]
            raise error
        raise OSError({"full": errno.ENOSPC, "io": errno.EIO}[HOW], "injected")


def patched(owner, name, before=False, after=False):
    original = getattr(owner, name)

    def method(*args, **kwargs):
        if before:
            fail_if_armed()
        result = original(*args, **kwargs)
        if after:
            fail_if_armed()
        return result

    setattr(owner, name, method)


def half_an_append():
    original = VectorFile.append

    def append(self, stored, first_row):
        if Path(WHEN).exists():
            original(self, stored[: len(stored) // 2], first_row)
            with durable.named_disk_errors(self.path):
                fail_if_armed()
        original(self, stored, first_row)

    VectorFile.append = append


def half_a_transaction():
    """Fail at the second document of a transaction, when the first is written but not committed."""
    original = catalog._drop_passages
    calls = []

    def drop(connection, identifier):
        calls.append(identifier)
        if len(calls) % 3 == 0:
            fail_if_armed()
        return original(connection, identifier)

    catalog._drop_passages = drop


{
    "": lambda: None,
    "1 half the rows appended": half_an_append,
    "1 rows appended": lambda: patched(VectorFile, "append", after=True),
    "2 instead of making rows durable": lambda: patched(durable, "sync", before=True),
    "2 rows durable": lambda: patched(durable, "sync", after=True),
    "3 half the transaction": half_a_transaction,
    "3 before the commit": lambda: patched(Catalog, "store", before=True),
    "3 committed": lambda: patched(Catalog, "store", after=True),
    "4 shown": lambda: patched(TwoPassIndex, "publish", after=True),
    "5 before the answer": lambda: patched(Ingest, "add", after=True),
}[POINT]()

main()
