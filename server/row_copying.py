"""Moving the rows that are alive into another generation of the same model: vectors as they are, in their order."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from index.errors import StorageError
from index.two_pass import Shape, vector_path
from index.vector_file import VectorFile, VectorView, row_checksums
from index.vectors import Rows
from server.catalog import Catalog
from server.store import LocalStore, delete_files, shape_of

BATCH_ROWS = 4096
"""Rows copied and committed in one go, between which others write."""


class RowCopying:
    """Copies from a store that serves, and goes on being written to, into a generation that nobody reads yet."""

    def __init__(self, catalog: Catalog, source: LocalStore) -> None:
        """Begin an empty generation; it is the catalog's leftover until it succeeds."""
        self.into = catalog.generations.prepare_successor()
        self.n_rows = 0
        self._catalog = catalog
        self._source = source
        self._after = -1  # the last row of the source that was copied
        delete_files(source.folder, self.into.number)  # left by one of that number that was dropped
        shape = shape_of(self.into, self.into.dim)
        self._new = _opened(source, shape)
        # By its path: what the store has committed may not be shown to its searches yet.
        self._old = _opened(source, replace(shape, generation=source.generation), read_only=True)

    def catch_up(self, stop: Callable[[], bool], on_progress: Callable[[str, int, int], None]) -> bool:
        """Copy until less than a batch is left; False if stopped. Raises as `rest` does."""
        n_copied = BATCH_ROWS
        while n_copied == BATCH_ROWS:
            if stop():
                return False
            n_copied = self._step()
            on_progress("copying", self.n_rows, max(self.n_rows, self._source.index.n_live))
        return True

    def rest(self) -> None:
        """Copy all that is left. Called while no write runs.

        Raises:
            StorageError: a row isn't as it was written.
            DiskFullError: there is no room for some of it.
        """
        while self._step():
            pass

    def _step(self) -> int:
        """Copy and commit some rows; return how many."""
        live = self._catalog.live_rows(self._source.generation, self._after, BATCH_ROWS)
        if not len(live.rows):
            return 0
        stored = _gathered(self._old.view(int(live.rows[-1]) + 1), live.rows)  # (n_rows, dim)
        n_bad = int(np.count_nonzero(np.array(row_checksums(stored), np.uint32) != live.checksums))
        if n_bad:
            raise StorageError(
                f"{n_bad} of the {len(stored)} vectors from row {live.rows[0]} on are damaged; "
                "`twopass serve --check all` mends them"
            )
        self._new.append(stored, self.n_rows)
        self._new.sync()
        self._catalog.copy_passages(self._source.generation, self.into.number, live.rows, self.n_rows)
        self.n_rows += len(stored)
        self._after = int(live.rows[-1])
        return len(stored)


def _opened(store: LocalStore, shape: Shape, read_only: bool = False) -> VectorFile:
    return VectorFile(vector_path(store.folder, shape), shape.dim, shape.vector_dtype, read_only=read_only)


def _gathered(vectors: VectorView, rows: Rows) -> NDArray[np.floating]:
    """Read rows, (n,) sorted and mostly neighbours, as stored: (n, dim). Reads from the first to the last."""
    stored = np.empty((len(rows), vectors.dim), vectors.dtype)
    for first_row, block in vectors.stored_blocks(int(rows[0]), int(rows[-1]) + 1):
        here = slice(*np.searchsorted(rows, [first_row, first_row + len(block)]))
        stored[here] = block[rows[here] - first_row]
    return stored
