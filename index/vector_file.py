"""An append-only file of full vectors: rows of `dim` little-endian float16 or float32 and nothing else.

`numpy.memmap(path, dtype="<f2").reshape(-1, dim)` reads it. Which rows count is not said here but by whoever
commits (the catalog): a row past the committed count is garbage and is overwritten by the next append.
"""

import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index import durable
from index.errors import StorageError
from index.vectors import Float32, Rows

DTYPES: dict[str, np.dtype[np.floating]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
SUFFIXES = {"float16": ".f16", "float32": ".f32"}

BLOCK_BYTES = 4 << 20
"""Bytes read at once when the whole file is scanned: large enough for sequential disk speed, small in memory."""

RESIDENT_BYTES = 32 << 20
"""The process lets go of its mapped pages after about this many bytes of candidates (they stay in the page
cache), so that its memory doesn't grow with the file."""

FAULT_BYTES = 64 << 10
"""What one touched row can map: the kernel maps the cached pages around a fault, 16 pages by default."""

# os.pwrite and os.pread take at most 0x7ffff000 bytes a call on Linux; stay well below.
IO_BYTES = 256 << 20


def row_checksums(stored: NDArray[np.floating]) -> list[int]:
    """Return the CRC-32 of each stored row's bytes. stored: (n, dim), the file's dtype."""
    row_bytes = stored.shape[1] * stored.itemsize
    data = memoryview(stored.tobytes())
    return [zlib.crc32(data[start : start + row_bytes]) for start in range(0, len(data), row_bytes)]


class VectorMap:
    """What searches read: the first `n_rows` rows as they were when this was made. Never changes."""

    def __init__(self, fd: int, n_rows: int, dim: int, dtype: np.dtype[np.floating]) -> None:
        self.n_rows = n_rows
        self.dim = dim
        self.row_bytes = dim * dtype.itemsize
        self._fd = fd
        self._dtype = dtype
        self._touched_bytes = 0
        if n_rows:
            self._map = mmap.mmap(fd, n_rows * self.row_bytes, prot=mmap.PROT_READ)
            # Candidates lie anywhere: reading ahead costs ten times the reads (shared/DESIGN: 710 ms to 99 ms
            # for 80 rows on a disk of 1 000 reads a second).
            self._map.madvise(mmap.MADV_RANDOM)
            self._rows = np.frombuffer(self._map, dtype).reshape(n_rows, dim)

    def gather(self, rows: Rows) -> Float32:
        """Read candidates, letting the disk work on all of them at once.

        Args:
            rows: (n,) int64, sorted, each in 0..n_rows-1.

        Returns:
            (n, dim) float32 as stored, in the order of `rows`. Reads n * row_bytes bytes (whole pages).
        """
        if not len(rows):
            return np.empty((0, self.dim), np.float32)
        for row in rows.tolist():
            start = row * self.row_bytes
            page = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, start + self.row_bytes - page)
        vectors: Float32 = self._rows[rows].astype(np.float32)  # (n, dim); numpy lets go of the GIL meanwhile
        self._touched_bytes += len(rows) * max(FAULT_BYTES, self.row_bytes)
        if self._touched_bytes > RESIDENT_BYTES:
            self._touched_bytes = 0
            self._map.madvise(mmap.MADV_DONTNEED)
        return vectors

    def blocks(self, first_row: int = 0, end_row: int | None = None) -> Iterator[tuple[int, Float32]]:
        """Yield (first row of the block, (m, dim) float32) over a range of rows, read in sequence."""
        for start, stored in self.stored_blocks(first_row, end_row):
            yield start, stored.astype(np.float32)

    def stored_blocks(
        self, first_row: int = 0, end_row: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Like `blocks`, in the file's own dtype. Plain reads, not the map: the kernel may read ahead."""
        end_row = self.n_rows if end_row is None else min(end_row, self.n_rows)
        step = max(1, BLOCK_BYTES // self.row_bytes)
        for start in range(first_row, end_row, step):
            count = min(step, end_row - start)
            data = os.pread(self._fd, count * self.row_bytes, start * self.row_bytes)
            if len(data) != count * self.row_bytes:
                raise StorageError(
                    f"the vector file ends in the middle of rows {start} to {start + count - 1}"
                )
            yield start, np.frombuffer(data, self._dtype).reshape(count, self.dim)


class VectorFile:
    """The writer's side. One thread at a time appends; `map` gives readers an unchanging view."""

    def __init__(self, path: Path, dim: int, dtype: str, *, read_only: bool = False) -> None:
        """Open the file, making it (durably) if there is none.

        Raises:
            StorageError: it can't be opened; read_only and there is none.
        """
        self.path = path
        self.dim = dim
        self.dtype = DTYPES[dtype]
        self.row_bytes = dim * self.dtype.itemsize
        with durable.named_disk_errors(path):
            if read_only:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            else:
                is_new = not path.exists()
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                if is_new:
                    durable.sync_folder(path.parent)

    @property
    def n_whole_rows(self) -> int:
        """Rows that the file has room for now, committed or not."""
        return os.fstat(self._fd).st_size // self.row_bytes

    def map(self, n_rows: int) -> VectorMap:
        """Return a view of the first n_rows rows; they must be there (`n_whole_rows`)."""
        return VectorMap(self._fd, n_rows, self.dim, self.dtype)

    def to_stored(self, vectors: Float32) -> NDArray[np.floating]:
        """Round unit vectors, (n, dim) float32, to what the file keeps of them."""
        return vectors.astype(self.dtype)

    def append(self, stored: NDArray[np.floating], first_row: int) -> None:
        """Write rows from `first_row` (the committed count) on; not yet durable, not yet visible.

        Raises:
            DiskFullError, StorageError: the file is cut back to the committed rows, so the room is free again.
        """
        data = memoryview(stored.tobytes())
        offset = first_row * self.row_bytes
        with durable.named_disk_errors(self.path):
            try:
                while data:
                    written = os.pwrite(self._fd, data[:IO_BYTES], offset)
                    data, offset = data[written:], offset + written
            except OSError:
                self.cut(first_row)
                raise

    def sync(self) -> None:
        """Make appended rows durable (fdatasync)."""
        with durable.named_disk_errors(self.path):
            durable.sync(self._fd)

    def cut(self, n_rows: int) -> None:
        """Drop what lies past the committed rows; a file that is shorter already is left as it is."""
        if os.fstat(self._fd).st_size > n_rows * self.row_bytes:
            os.ftruncate(self._fd, n_rows * self.row_bytes)

    def close(self) -> None:
        """Close the file; a second call does nothing. Views made by `map` stay readable as far as mapped."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
