"""An append-only file of full vectors: rows of `dim` little-endian float16 or float32 and nothing else.

`numpy.memmap(path, dtype="<f2").reshape(-1, dim)` reads it. Which rows count is not said here but by whoever
commits (the catalog): a row past the committed count is garbage and is overwritten by the next append.
"""

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index import durable
from index.errors import StorageError
from index.vectors import Float32, Rows

DTYPES: dict[str, np.dtype[np.floating]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
SUFFIXES = {"float16": ".f16", "float32": ".f32"}

BLOCK_BYTES = 1 << 20
"""Bytes read at once when the whole file is scanned: large enough for sequential disk speed, small in memory."""

# os.pwrite and os.pread take at most 0x7ffff000 bytes a call on Linux; stay well below.
IO_BYTES = 256 << 20

# A read that answers from the page cache or not at all. 0 where Python was built without preadv2.
NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)

# What such a read fails with where it isn't known: file systems without it (FUSE, NFS: EOPNOTSUPP), kernels before
# 4.14 (EINVAL) and 4.6 (ENOSYS), containers that forbid what they don't know (EPERM).
NO_NOWAIT = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM})

HALF_SCALE = 2.0**112
"""float32's exponent bias less float16's is 127 - 15 = 112."""

HALF_OVERFLOW = 65536.0
"""2**16, where `to_float32` puts what float16 means as infinite or NaN; its largest number is 65504."""


def row_checksums(stored: NDArray[np.floating]) -> list[int]:
    """Return the CRC-32 of each stored row's bytes. stored: (n, dim), the file's dtype."""
    row_bytes = stored.shape[1] * stored.itemsize
    data = memoryview(stored.tobytes())
    return [zlib.crc32(data[start : start + row_bytes]) for start in range(0, len(data), row_bytes)]


def to_float32(stored: NDArray[np.floating]) -> Float32:
    """Return stored numbers, (n, dim) little-endian float16 or float32, as float32. Exact; always a new array.

    numpy (2.4, x86) turns float16 into float32 one number after another: 0.101 ms for 80 x 768. Moving all bits to
    their place in a float32 and correcting the exponent by one exact multiplication takes 0.025 ms, the look for
    infinities and NaN (a damaged file) included, which this can't do and numpy then does.
    """
    if stored.dtype.itemsize != 2:
        return stored.astype(np.float32)
    bits = stored.view("<i2").astype(np.int32)  # the sign fills the upper half
    np.left_shift(bits, 13, out=bits)  # 10 bits of mantissa become 23
    np.bitwise_and(bits, ~0x70000000, out=bits)  # the sign's copies; the true one stays in the top bit
    numbers = bits.view(np.float32)
    np.multiply(numbers, HALF_SCALE, out=numbers)
    if numbers.max(initial=0.0) >= HALF_OVERFLOW or numbers.min(initial=0.0) <= -HALF_OVERFLOW:
        return stored.astype(np.float32)
    return numbers


_Slot = tuple[memoryview, int]
"""Where a row's bytes go, and their offset in the file."""


@dataclass(frozen=True)
class Gathered:
    """Rows read from the file, and how many of them had to come from the disk."""

    vectors: Float32
    """(n, dim) float32, as stored, in the order asked for."""

    n_cold: int | None
    """Rows that were not wholly in the page cache, one disk read each; None where the system can't tell."""


class VectorView:
    """What searches read: the first `n_rows` rows as they were when this was made. Never changes.

    Plain positional reads, not a memory map: a map's pages count as the process's own memory and the kernel maps
    them in folios of up to megabytes (200 searches over 150 MB mapped 92 MB), while reads leave them in the page
    cache. Making and dropping a map for each search costs 0.42 ms.
    """

    def __init__(self, files: "_OpenFile", n_rows: int, dim: int, dtype: np.dtype[np.floating]) -> None:
        self.n_rows = n_rows
        self.dim = dim
        self.row_bytes = dim * dtype.itemsize
        self._files = files
        self.dtype = dtype

    def gather(self, rows: Rows) -> Float32:
        """Read candidates: the vectors of `gather_counted`."""
        return self.gather_counted(rows).vectors

    def gather_counted(self, rows: Rows) -> Gathered:
        """Read candidates, letting the disk work on all of them at once, and count those it had to bring.

        Every row is first asked of the page cache alone. On newer kernels (seen on 6.18) that question also
        starts the disk on a row that isn't there; for older ones the missing rows are advised. Then all are waited for.

        Measured on 80 random rows of 768 float16 in 1.5 GB, ext4, Linux 6.18: in the page cache 0.12 ms
        (advising and reading all: 0.24 ms); cold on a virtual SSD 1.24 ms (advising first 1.28, one after another 6.4).
        The disk sees one read a row whatever way it is asked: a row that lies on two pages (a quarter of them do) is
        one read of 8 KiB, so padding rows to 2 KiB would save no read and make the file a third larger.

        Args:
            rows: (n,) int64, sorted, each in 0..n_rows-1.

        Returns:
            Vectors in the order of `rows`. Reads n * row_bytes bytes (whole pages).

        Raises:
            StorageError: the file is shorter than it was, or can't be read.
        """
        stored = np.empty((len(rows), self.dim), self.dtype)
        fd = self._files.random
        with durable.named_disk_errors(self._files.path):
            missing = self._missing_from_cache(
                stored.view(np.uint8).reshape(-1).data, (rows * self.row_bytes).tolist()
            )
            n_cold = len(missing) if self._files.answers_from_cache else None
            for _, offset in missing:
                os.posix_fadvise(fd, offset, self.row_bytes, os.POSIX_FADV_WILLNEED)
            for part, offset in missing:
                if os.preadv(fd, (part,), offset) != self.row_bytes:
                    raise StorageError(f"the vector file ends within row {offset // self.row_bytes}")
        return Gathered(to_float32(stored), n_cold)

    def _missing_from_cache(self, into: memoryview, offsets: list[int]) -> list[_Slot]:
        """Fill in the rows that are in the page cache; return the others, all where it can't be asked.

        Args:
            into: len(offsets) * row_bytes bytes. offsets: of the rows in the file.
        """
        missing: list[_Slot] = []
        fd, row_bytes, preadv = self._files.random, self.row_bytes, os.preadv
        is_asked = self._files.answers_from_cache
        start = -row_bytes
        for offset in offsets:  # a microsecond each, most of it the kernel's: nothing here that needn't be
            start += row_bytes
            part = into[start : start + row_bytes]
            try:
                # Too little is no error yet: the row's second page may be missing, and Linux 5.9 and 5.10 may answer
                # 0 for a missing page. Only the read that waits says where the file ends.
                if is_asked and preadv(fd, (part,), offset, NOWAIT) == row_bytes:
                    continue
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno not in NO_NOWAIT:
                    raise
                self._files.answers_from_cache = is_asked = False
            missing.append((part, offset))
        return missing

    def blocks(self, first_row: int = 0, end_row: int | None = None) -> Iterator[tuple[int, Float32]]:
        """Yield (first row of the block, (m, dim) float32) over a range of rows, read in sequence."""
        for start, stored in self.stored_blocks(first_row, end_row):
            yield start, to_float32(stored)

    def stored_blocks(
        self, first_row: int = 0, end_row: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Like `blocks`, in the file's own dtype."""
        end_row = self.n_rows if end_row is None else min(end_row, self.n_rows)
        step = max(1, BLOCK_BYTES // self.row_bytes)
        for start in range(first_row, end_row, step):
            count = min(step, end_row - start)
            data = os.pread(self._files.sequential, count * self.row_bytes, start * self.row_bytes)
            if len(data) != count * self.row_bytes:
                raise StorageError(
                    f"the vector file ends in the middle of rows {start} to {start + count - 1}"
                )
            yield start, np.frombuffer(data, self.dtype).reshape(count, self.dim)


class _OpenFile:
    """One file, open twice: the kernel reads ahead for whoever scans and must not for whoever picks rows."""

    sequential = random = -1  # until they are open

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.sequential = os.open(path, flags | os.O_CLOEXEC, 0o644)
        self.random = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(self.random, 0, 0, os.POSIX_FADV_RANDOM)
        self.answers_from_cache = bool(NOWAIT)  # until a read says that it can't

    def __del__(self) -> None:
        # Views hold this object, so that a search still running never reads another file under a reused number.
        for each in (self.sequential, self.random):
            if each >= 0:
                os.close(each)


class VectorFile:
    """The writer's side. One thread at a time appends; `view` gives readers unchanging rows."""

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
            is_new = not path.exists()
            self._files = _OpenFile(path, os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT)
            if is_new:
                durable.sync_folder(path.parent)

    @property
    def n_whole_rows(self) -> int:
        """Rows that the file has room for now, committed or not."""
        return os.fstat(self._files.sequential).st_size // self.row_bytes

    def view(self, n_rows: int) -> VectorView:
        """Return a view of the first n_rows rows; they must be there (`n_whole_rows`)."""
        return VectorView(self._files, n_rows, self.dim, self.dtype)

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
                    written = os.pwrite(self._files.sequential, data[:IO_BYTES], offset)
                    data, offset = data[written:], offset + written
            except OSError:
                self.cut(first_row)
                raise

    def sync(self) -> None:
        """Make appended rows durable (fdatasync)."""
        with durable.named_disk_errors(self.path):
            durable.sync(self._files.sequential)

    def cut(self, n_rows: int) -> None:
        """Drop what lies past the committed rows; a file that is shorter already is left as it is.

        Where the disk refuses even that they stay: nobody reads them, and the next append overwrites them.
        """
        with contextlib.suppress(OSError):
            if os.fstat(self._files.sequential).st_size > n_rows * self.row_bytes:
                os.ftruncate(self._files.sequential, n_rows * self.row_bytes)
