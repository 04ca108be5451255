"""Selections of rows, and those of recent filters kept in memory."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CACHE_BYTES = 16 * 1024 * 1024
"""All selections that are kept: 1300 filters over 100 000 rows, 130 over a million."""

ENTRY_BYTES = 1024  # of one entry beside its bits and its key


@dataclass(frozen=True, eq=False)
class RowSelection:
    """Rows of one generation, as a bitmap: row r is bit r % 8 of byte r // 8."""

    bitmap: NDArray[np.uint8]  # (ceil(n_rows / 8),), not to be changed; bits from n_rows on are 0
    n_rows: int  # committed rows of the generation, selected or not
    n_selected: int

    @property
    def rows(self) -> NDArray[np.int64]:
        """The selected rows, sorted: (n_selected,)."""
        places = np.flatnonzero(self.bitmap)
        bits = np.unpackbits(self.bitmap[places, None], axis=1, bitorder="little")  # (n_places, 8)
        at, bit = np.nonzero(bits)
        rows: NDArray[np.int64] = places[at] * 8 + bit
        return rows


def select(rows: NDArray[np.int64], n_rows: int) -> RowSelection:
    """Return a selection of rows, in any order; those from n_rows on are left out."""
    bits = np.zeros(n_rows, np.bool_)
    bits[rows[rows < n_rows]] = True
    return _packed(bits)


def reselect(
    selection: RowSelection, out: NDArray[np.int64], into: NDArray[np.int64], n_rows: int
) -> RowSelection:
    """Return a selection without the rows `out`, and then with the rows `into`; n_rows never shrinks."""
    bits = np.zeros(n_rows, np.bool_)
    bits[: selection.n_rows] = np.unpackbits(selection.bitmap, count=selection.n_rows, bitorder="little")
    bits[out[out < n_rows]] = False
    bits[into[into < n_rows]] = True
    return _packed(bits)


def _packed(bits: NDArray[np.bool_]) -> RowSelection:
    return RowSelection(np.packbits(bits, bitorder="little"), len(bits), int(np.count_nonzero(bits)))


@dataclass
class Entry:
    """A filter's selection, and how new it is. Whoever changes it holds the lock."""

    selection: RowSelection | None = None
    number: int = -1  # of the newest change that it knows of
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_bytes: int = 0


class SelectionCache:
    """The selections that were used last, up to CACHE_BYTES."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._entries: OrderedDict[tuple[int, str], Entry] = OrderedDict()
        self._max_bytes = max_bytes
        self.n_bytes = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def entry(self, generation: int, key: str) -> Iterator[Entry]:
        """Lend the entry of a filter, new or known, to one thread at a time: what all ask for is made once."""
        name = (generation, key)
        with self._lock:
            entry = self._entries.setdefault(name, Entry())
            self._entries.move_to_end(name)
        with entry.lock:
            try:
                yield entry
            finally:
                with self._lock:
                    if self._entries.get(name) is entry:
                        self._account(entry, len(key.encode()))

    def _account(self, entry: Entry, key_bytes: int) -> None:
        bitmap_bytes = 0 if entry.selection is None else entry.selection.bitmap.nbytes
        n_bytes = ENTRY_BYTES + key_bytes + bitmap_bytes
        self.n_bytes += n_bytes - entry.n_bytes
        entry.n_bytes = n_bytes
        while self.n_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.n_bytes -= oldest.n_bytes
