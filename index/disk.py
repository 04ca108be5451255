"""How fast the disk under a file is, and how many rows to read from it at a time.

On a fast disk all candidates are read at once. On an SD card or a hard disk each read is worth saving: rows are read
in waves, most promising first, until what is left can't win any more.
"""

import contextlib
import mmap
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from index import durable
from index.vector_file import NO_NOWAIT, NOWAIT

PAGE_BYTES = 4096
"""One read. Also what O_DIRECT wants offsets and memory to be multiples of, on every disk sold."""

MIN_FILE_BYTES = 4 << 20
"""Below this, 1024 pages, reads meet again and again where they have been and would flatter a hard disk. Such a file
stays in the page cache anyway."""

PARALLEL = 16
"""Reads kept waiting at once: what a cheap SSD needs to show its speed, and within a hard disk's queue of 32."""

SERIAL_SHARE = 0.3
"""Part of the time spent on one read after another: some eight reads of a hard disk in 75 ms."""

DEPTH_SHARE = 0.75
"""Part of the time left that reads waiting together may take; in the rest they are started."""

MAX_SERIAL_READS = 256
MAX_PARALLEL_READS = 2048
"""Enough for the figures to settle, so that a fast disk is measured in less than the time allowed. Also enough to see
through limits that pay out their reads at the start of each tenth of a second, as Linux control groups do on what
counts as a hard disk (80 reads take 1 ms or 98 ms then): at 10 000 reads a second 10 400 are found."""

AT_ONCE_MS = 5.0
"""Reading a whole pool in this time is less than encoding the query takes (about 10 ms on a small machine); waves
would save nothing that anyone can notice."""

WAVE_MS = 0.05
"""What a wave costs besides the disk: its part of Python, scoring 16 rows and looking at the bound."""

MIN_WAVE = 8
"""Rows. Smaller waves save half their size at most and leave a disk's own queue, which sorts reads, empty."""

UNKNOWN_WAVE = 16
"""Rows per wave while the disk isn't measured: costs an SSD 0.5 ms for 80 rows, and a slow disk some 8 reads."""


@dataclass(frozen=True)
class DiskSpeed:
    """Random reads of 4 KiB that the page cache didn't answer."""

    read_ms: float
    """Median time of one read while nothing else is asked, in milliseconds."""

    serial_reads_per_s: float
    """One after another."""

    parallel_reads_per_s: float
    """With 16 waiting at once, or fewer where the disk was too slow for them. Threads bring this to some 30 000 at
    most; a fast disk does more."""


def measure_disk(path: Path, seconds: float = 0.25) -> DiskSpeed | None:
    """Read random pages of an existing file, past the page cache, first singly and then many at once.

    Takes at most `seconds` and the reads that are on their way by then: 0.31 s measured at 100 to 10 000 reads a
    second, 0.08 s on an SSD; a disk that has to spin up first makes it wait. Reads 9 MiB at most. What the page cache
    holds stays there where the file system knows O_DIRECT; elsewhere the pages read are dropped first.

    Returns:
        None where nothing can be said: the file is smaller than 4 MiB, or its pages can't be kept out of the cache.

    Raises:
        StorageError: the file can't be opened or read.
    """
    with durable.named_disk_errors(path):
        n_pages = path.stat().st_size // PAGE_BYTES
        if n_pages * PAGE_BYTES < MIN_FILE_BYTES:
            return None
        with _opened(path) as (fd, is_direct):
            pages = _Pages(fd, n_pages, is_direct)
            started = time.perf_counter()
            single_ms = pages.read_until(started + seconds * SERIAL_SHARE, MAX_SERIAL_READS)
            if not single_ms:
                return None
            between = time.perf_counter()
            each_s = (between - started) / len(single_ms)
            # Reads that wait together wait for each other: where 16 would take too long, there are fewer, and the
            # last ones start early enough to be back in time.
            left_s = started + seconds - between
            depth = min(PARALLEL, int(left_s * DEPTH_SHARE / each_s))
            n_parallel = 0
            if depth > 1:
                last_start = between + left_s - depth * each_s
                with ThreadPoolExecutor(depth, "measure-disk") as threads:
                    done = threads.map(
                        lambda _: pages.read_until(last_start, MAX_PARALLEL_READS // depth), range(depth)
                    )
                    n_parallel = sum(len(took_ms) for took_ms in done)
            ended = time.perf_counter()
    # A disk too slow for two at once within the time does no more at once than singly.
    parallel_per_s = n_parallel / (ended - between) if n_parallel else 1 / each_s
    return DiskSpeed(statistics.median(single_ms), 1 / each_s, parallel_per_s)


def measure_folder(folder: Path, seconds: float = 0.25) -> DiskSpeed | None:
    """Measure the disk under a folder as `measure_disk` does, by a file of 8 MiB that is removed again.

    Raises:
        DiskFullError, StorageError: the file can't be written or read.
    """
    with durable.named_disk_errors(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".disk-") as file:
        for _ in range(2 * MIN_FILE_BYTES // PAGE_BYTES // 256):
            file.write(os.urandom(256 * PAGE_BYTES))  # a disk may leave zeros out
        file.flush()
        durable.sync(file.fileno())
        return measure_disk(Path(file.name), seconds)


def wave_rows(speed: DiskSpeed | None, n_candidates: int = 80) -> int:
    """Return how many candidates to read at a time, 1 to n_candidates.

    All of them where that takes 5 ms or less. Otherwise: to need R rows, in waves of w, costs R / w waits of
    L = one read's time + what a wave costs besides, and R + w / 2 reads at X reads a second, as half of the last wave
    is read in vain. R L / w + w / (2 X) is least at w = sqrt(2 R L X). R isn't known before; half of the candidates
    is assumed, and the square root forgives much: w = sqrt(n_candidates L X), 8 at least.

    For 80 candidates: a hard disk (8 ms, 200 reads/s) 11, an SD card (0.7 ms, 1 800 reads/s) 10, the same without
    a wait of its own (a control group's limit of 1 000 reads/s) 8, an SSD all 80. Not measured (None): 16.
    """
    if speed is None:
        wave = float(UNKNOWN_WAVE)
    elif n_candidates / speed.parallel_reads_per_s * 1e3 <= AT_ONCE_MS:
        return n_candidates
    else:
        wave = (n_candidates * (speed.read_ms + WAVE_MS) / 1e3 * speed.parallel_reads_per_s) ** 0.5
    return min(n_candidates, max(MIN_WAVE, round(wave)))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, bool]]:
    """Open the file past the page cache where it can be, and say whether it is."""
    fd, is_direct = _open_direct(path), True
    if fd is None:
        fd, is_direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    try:
        yield fd, is_direct
    finally:
        os.close(fd)


def _open_direct(path: Path) -> int | None:
    """Return the file opened with O_DIRECT, or None where that, or a read through it, isn't allowed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return None
    try:
        # Some file systems open so and then refuse to read. Wakes a disk that sleeps, too, before the clock runs.
        with mmap.mmap(-1, PAGE_BYTES) as page:
            os.preadv(fd, (page,), 0)
    except OSError:
        os.close(fd)
        return None
    return fd


class _Pages:
    """Random pages of one open file. Several threads may read at once."""

    def __init__(self, fd: int, n_pages: int, is_direct: bool) -> None:
        self._fd = fd
        self._n_pages = n_pages
        self._is_direct = is_direct

    def read_until(self, last_start: float, max_reads: int) -> list[float]:
        """Read pages one after another; return how long each took, in ms. None starts after `last_start`.

        Reads that the page cache answered are left out, though they count towards max_reads.
        """
        took_ms: list[float] = []
        with mmap.mmap(-1, PAGE_BYTES) as page:  # aligned, as O_DIRECT wants it
            for _ in range(max_reads):
                started = time.perf_counter()
                if started >= last_start:
                    break
                if self._read(random.randrange(self._n_pages) * PAGE_BYTES, page):
                    took_ms.append((time.perf_counter() - started) * 1e3)
        return took_ms

    def _read(self, offset: int, page: mmap.mmap) -> bool:
        """Read one page; return whether it came from the disk, as far as the system can tell."""
        if not self._is_direct:
            # A page may stay: it is being written, or it is cached as one piece with its neighbours.
            os.posix_fadvise(self._fd, offset, PAGE_BYTES, os.POSIX_FADV_DONTNEED)
            if _is_cached(self._fd, offset, page):
                return False
        os.preadv(self._fd, (page,), offset)
        return True


def _is_cached(fd: int, offset: int, page: mmap.mmap) -> bool:
    """Return whether a page is in the page cache; False where the system can't tell. Starts reading it if not."""
    try:
        return bool(NOWAIT) and os.preadv(fd, (page,), offset, NOWAIT) == PAGE_BYTES
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_NOWAIT:
            return False
        raise
