"""What each transaction did to documents and passages, so that what is kept in memory can follow.

Triggers on the one connection that writes note it, in temporary tables that are rolled back with the rest: no way of
writing can be forgotten.
"""

import sqlite3
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.catalog.database import Database

KEPT = 50_000
"""Changed documents and dead rows that are remembered: what is older than that is cheaper to make anew."""

NOTED = "ON CONFLICT (document) DO UPDATE SET is_rewritten = 1; END"
TRIGGERS = (
    "CREATE TEMP TABLE touched (document INTEGER PRIMARY KEY, is_rewritten INTEGER NOT NULL)",
    "CREATE TEMP TABLE dead (generation INTEGER, row INTEGER, PRIMARY KEY (generation, row)) WITHOUT ROWID",
    "CREATE TEMP TRIGGER document_added AFTER INSERT ON main.documents "
    f"BEGIN INSERT INTO touched VALUES (new.number, 1) {NOTED}",
    "CREATE TEMP TRIGGER metadata_changed AFTER UPDATE OF metadata ON main.documents "
    f"WHEN old.metadata IS NOT new.metadata BEGIN INSERT INTO touched VALUES (new.number, 1) {NOTED}",
    "CREATE TEMP TRIGGER document_removed AFTER DELETE ON main.documents "
    f"BEGIN INSERT INTO touched VALUES (old.number, 1) {NOTED}",
    "CREATE TEMP TRIGGER passage_added AFTER INSERT ON main.passages "
    "BEGIN INSERT OR IGNORE INTO touched VALUES (new.document, 0); END",
    "CREATE TEMP TRIGGER passage_moved AFTER UPDATE OF row ON main.passages "
    "BEGIN INSERT OR IGNORE INTO touched VALUES (new.document, 0); "
    "INSERT OR IGNORE INTO dead VALUES (old.generation, old.row); END",
    "CREATE TEMP TRIGGER passage_removed AFTER DELETE ON main.passages "
    "BEGIN INSERT OR IGNORE INTO dead VALUES (old.generation, old.row); END",
)

REWRITTEN = "SELECT document FROM temp.touched WHERE is_rewritten"
"""In the transaction that changes them: the documents that are new, gone, or have other metadata."""


@dataclass(frozen=True)
class Change:
    """What one or several transactions did."""

    documents: tuple[int, ...]  # new, gone, with other metadata or other passages
    dead: dict[int, NDArray[np.int64]]  # rows that have no passage any more, by generation

    @property
    def size(self) -> int:
        """How much there is to remember."""
        return len(self.documents) + sum(len(rows) for rows in self.dead.values())


class Changes:
    """The newest transactions' changes. `number` counts them; any thread asks."""

    def __init__(self, database: Database) -> None:
        """Begin to note changes."""
        self.number = 0
        self._kept: deque[Change] = deque()  # the newest ones, up to `number`
        self._size = 0
        self._lock = threading.Lock()
        with database.transaction() as connection:
            for statement in TRIGGERS:
                connection.execute(statement)

    def noted(self, connection: sqlite3.Connection) -> Change | None:
        """Return what this transaction has done so far; None if that is nothing."""
        documents = tuple(number for (number,) in connection.execute("SELECT document FROM temp.touched"))
        rows: dict[int, list[int]] = {}
        for generation, row in connection.execute("SELECT generation, row FROM temp.dead"):
            rows.setdefault(generation, []).append(row)
        dead = {generation: np.array(each, np.int64) for generation, each in rows.items()}
        return Change(documents, dead) if documents or dead else None

    def forget(self, connection: sqlite3.Connection) -> None:
        """Make room for the notes of the next transaction."""
        connection.execute("DELETE FROM temp.touched")
        connection.execute("DELETE FROM temp.dead")

    def publish(self, change: Change) -> None:
        """Remember a change that is committed now."""
        with self._lock:
            self._kept.append(change)
            self._size += change.size
            self.number += 1
            while self._size > KEPT:
                self._size -= self._kept.popleft().size

    def since(self, number: int) -> Change | None:
        """Return everything that came after the change with this number; None if it isn't remembered any more."""
        with self._lock:
            n_missed = self.number - number
            if n_missed > len(self._kept):
                return None
            missed = [self._kept[-n] for n in range(1, n_missed + 1)]
        documents = {document for each in missed for document in each.documents}
        dead: dict[int, list[NDArray[np.int64]]] = {}
        for each in missed:
            for generation, rows in each.dead.items():
                dead.setdefault(generation, []).append(rows)
        return Change(
            tuple(documents), {generation: np.concatenate(rows) for generation, rows in dead.items()}
        )
