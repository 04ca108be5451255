"""The one place that talks to the disk about lasting: fsync, atomic replace, and the data directory's lock.

The promise: when `sync`, `sync_folder` or `write_atomically` has returned, what was written survives a power
loss. A full disk is always a DiskFullError, so that callers can undo and go on serving.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from index.errors import DiskFullError, LockedError, StorageError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

WRITING = ".writing"
"""How the name of a file ends that isn't whole yet; what a kill leaves of it may be removed."""


@contextlib.contextmanager
def named_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into DiskFullError or StorageError, with the path in the text."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(f"no room left on the disk for {path}") from error
        raise StorageError(f"{path}: {error.strerror or error}") from error


def sync(fd: int) -> None:
    """Wait until the file's data (and what is needed to read it back) is on the disk."""
    os.fdatasync(fd)


def sync_file(path: Path) -> None:
    """Wait until a file that was written and closed is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries (created, renamed, removed files) are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make a folder and the parents it lacks, each durably and for this user's eyes alone.

    Raises:
        DiskFullError, StorageError: it can't be made.
    """
    with named_disk_errors(folder):
        for each in [*reversed(folder.parents), folder]:
            if not each.exists():
                each.mkdir(mode=0o700, exist_ok=True)
                sync_folder(each.parent)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place in one step.

    After a crash `path` is either the old file or the whole new one.

    Raises:
        DiskFullError, StorageError: nothing has changed; the half-written file is removed.
    """
    beside = path.with_name(path.name + WRITING)
    try:
        with named_disk_errors(path):
            write(beside)
            sync_file(beside)
            beside.replace(path)
            sync_folder(path.parent)
    except BaseException:
        discard(beside)
        raise


def discard(path: Path) -> None:
    """Remove a file that nobody needs any more, if it is there; one that the disk won't let go of is left."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises DiskFullError, StorageError."""
    with named_disk_errors(path):
        path.unlink(missing_ok=True)


def move(old: Path, new: Path) -> None:
    """Give a file or folder another name in the same folder, durably; there must be nothing under that name.

    Raises:
        DiskFullError, StorageError: nothing has changed.
    """
    with named_disk_errors(new):
        old.rename(new)
        sync_folder(new.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there. Raises StorageError."""
    with named_disk_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
            sync_folder(folder.parent)


def check_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raise DiskFullError if the disk under a folder has less room than `what` will take."""
    with named_disk_errors(folder):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < n_bytes:
        raise DiskFullError(
            f"{what} takes {n_bytes:,} bytes, but the disk under {folder} has room for {free_bytes:,}"
        )


def lock_holder(path: Path) -> str | None:
    """Return the number of the process that holds a data directory's lock; None: nobody, as far as one can look."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
    else:
        return None
    finally:
        os.close(fd)


class DirectoryLock:
    """One writer for a data directory, held until `release` or the end of the process (flock)."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            LockedError: another process holds it.
            StorageError: the lock file can't be made (read-only directory, for example).
        """
        self.path = path
        with named_disk_errors(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise LockedError(
                f"another twopass (process {holder or 'unknown'}) is using {path.parent}"
            ) from error
        # The process number is there for people; a full disk must not keep the server from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
