"""The backups that a server keeps: made as jobs, listed, handed out, deleted."""

import contextlib
import re
import threading
import time
from pathlib import Path
from typing import Any

import structlog

from index import durable
from index.errors import IndexFault
from server.background import stand_back
from server.backups.reading import read_manifest
from server.backups.writing import remove_leftovers, write_backup
from server.catalog import Catalog
from server.errors import ConflictError, NotFoundError, ServiceError, StoppingError
from server.jobs import Job, Jobs
from server.memory import give_back

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.tar")


class Snapshots:
    """One folder of backups of one collection. Any thread asks; one backup is made at a time."""

    def __init__(self, folder: Path, catalog: Catalog, jobs: Jobs) -> None:
        """Remove what a backup that was killed has left; the folder is made with the first backup."""
        self._folder = folder
        self._catalog = catalog
        self._jobs = jobs
        self._stopping = threading.Event()
        self._beginning = threading.Lock()
        self._thread: threading.Thread | None = None
        remove_leftovers(folder)

    def begin(self) -> Job:
        """Begin a backup, in a thread of its own that stands back behind searches; returns at once.

        Raises:
            ConflictError: one is under way.
            StoppingError: the server is shutting down.
            DiskFullError, StorageError: the folder can't be made.
        """
        with self._beginning:
            if self._stopping.is_set():
                raise StoppingError("the server is shutting down")
            if self._thread is not None and self._thread.is_alive():
                raise ConflictError("a backup is under way", "Wait for it, or cancel its job.")
            durable.make_folder(self._folder)
            job = self._jobs.add(Job("backup", unit="bytes"))
            self._thread = threading.Thread(target=self._run, args=[job], name="backup", daemon=True)
            self._thread.start()
        return job

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
        """Delete a backup. Raises NotFoundError."""
        self.path(name).unlink(missing_ok=True)

    def stop(self) -> None:
        """Ask what is under way to end; nothing of it is kept."""
        self._stopping.set()

    def close(self) -> None:
        """Stop and wait."""
        self.stop()
        with self._beginning:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self, job: Job) -> None:
        stand_back()
        job.begin()
        try:
            path = self._new_path()
            manifest = write_backup(
                self._catalog, path, lambda: self._stopping.is_set() or job.wanted == "cancel", job.progress
            )
        except (IndexFault, ServiceError) as error:
            job.end("failed", str(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for the job's end
            structlog.get_logger().warning("a backup failed", kind=type(error).__name__)
            job.end("failed", f"unforeseen: {type(error).__name__}")
        else:
            if manifest is not None:
                job.result = {"name": path.name, "bytes": path.stat().st_size, **manifest.told()}
            job.end("done" if manifest is not None else "cancelled")
        finally:
            give_back()

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
