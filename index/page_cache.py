"""What the kernel is told about pages of files that every search scans."""

import ctypes
import mmap
import os
from pathlib import Path

MADV_NORMAL = getattr(mmap, "MADV_NORMAL", 0)


def fetch(path: Path) -> None:
    """Ask for a file's pages to be in the page cache soon; returns at once, and as if nothing happened where it can't.

    Raises OSError: it can't be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


def read_ahead(address: int, n_bytes: int) -> None:
    """Let the kernel read ahead in mapped memory again, where whoever mapped it said that reads would be random.

    Args:
        address, n_bytes: of mapped memory; the page in which it begins is included.

    An advice: where it isn't taken, reading is slower and nothing else.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None or n_bytes == 0:
        return
    first = address - address % mmap.PAGESIZE
    madvise(ctypes.c_void_p(first), ctypes.c_size_t(address + n_bytes - first), MADV_NORMAL)
