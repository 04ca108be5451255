"""The backups that a server keeps: made as jobs, listed, handed out, deleted."""

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from index import durable
from index.errors import IndexFault
from server.backups.reading import read_manifest
from server.backups.writing import remove_leftovers, write_backup
from server.catalog import Catalog
from server.errors import NotFoundError, ServiceError
from server.job_threads import JobThreads
from server.jobs import Job, Jobs

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.tar")


class Snapshots:
    """One folder of backups of one collection. Any thread asks; one backup is made at a time."""

    def __init__(self, folder: Path, catalog: Catalog, jobs: Jobs) -> None:
        """Remove what a backup that was killed has left; the folder is made with the first backup."""
        self._folder = folder
        self._catalog = catalog
        self._threads = JobThreads(jobs, "a backup")
        remove_leftovers(folder)

    def begin(self) -> Job:
        """Begin a backup, in a thread of its own that stands back behind searches; returns at once.

        Raises:
            ConflictError: one is under way.
            StoppingError: the server is shutting down.
            DiskFullError, StorageError: the folder can't be made.
        """
        self._threads.check_open()
        durable.make_folder(self._folder)
        job = Job("backup", unit="bytes")
        return self._threads.begin(job, lambda stop: self._back_up(job, stop))

    def all(self) -> list[dict[str, Any]]:
        """Tell of every backup, the oldest first."""
        found = [path for path in self._folder.glob("*.tar") if NAME.fullmatch(path.name)]
        return [told for path in sorted(found) if (told := _told(path))]

    def path(self, name: str) -> Path:
        """Return where a backup lies. Raises NotFoundError."""
        path = self._folder / name
        if not NAME.fullmatch(name) or not path.is_file():
            raise NotFoundError(f"there is no backup {name!r}", "GET /snapshots lists them.")
        return path

    def delete(self, name: str) -> None:
        """Delete a backup. Raises NotFoundError, StorageError."""
        durable.remove(self.path(name))

    def stop(self) -> None:
        """Ask what is under way to end; nothing of it is kept."""
        self._threads.stop()

    def close(self) -> None:
        """Stop and wait."""
        self._threads.close()

    def _back_up(self, job: Job, stop: Callable[[], bool]) -> dict[str, Any] | None:
        remove_leftovers(self._folder)  # of one that failed, with a disk that let nothing go
        path = self._new_path()
        manifest = write_backup(self._catalog, path, stop, job.progress)
        if manifest is None:
            return None
        return {"name": path.name, "bytes": path.stat().st_size, **manifest.told()}

    def _new_path(self) -> Path:
        """Return a name by the time, in UTC, that isn't taken: clocks are set back."""
        name = time.strftime("twopass-%Y%m%dT%H%M%SZ", time.gmtime())
        path, n = self._folder / f"{name}.tar", 1
        while path.exists():
            n += 1
            path = self._folder / f"{name}-{n}.tar"
        return path


def _told(path: Path) -> dict[str, Any] | None:
    """Tell of a backup; None if it was deleted meanwhile."""
    try:
        told: dict[str, Any] = {"error": None, **read_manifest(path).told()}
    except NotFoundError:
        return None
    except (IndexFault, ServiceError) as error:
        told = {"error": str(error)}
    with contextlib.suppress(FileNotFoundError):
        return {"name": path.name, "bytes": path.stat().st_size, **told}
    return None
