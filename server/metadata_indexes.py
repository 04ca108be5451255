"""Indexes of metadata: those that the settings declare and those that were asked for, built as jobs beside the rest."""

import threading
from collections.abc import Sequence
from typing import Any

import structlog

from index.errors import IndexFault
from server.background import stand_back
from server.catalog import Catalog
from server.conditions import parse_path
from server.errors import NotFoundError, ServiceError, StoppingError
from server.jobs import Job, Jobs

TYPE = "index_metadata"


class _Ended(Exception):
    """Whoever builds was told to stop."""


class MetadataIndexes:
    """Builds one index after another. Filters use an index from the moment it is whole."""

    def __init__(self, catalog: Catalog, jobs: Jobs, declared: Sequence[str]) -> None:
        self._catalog = catalog
        self._jobs = jobs
        self._declared = declared
        self._stopping = threading.Event()
        self._turn = threading.Lock()  # who builds
        self._beginning = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to build what the settings declare, and what a restart interrupted."""
        known = {each.path: each.is_built for each in self._catalog.filtering.indexes()}
        declared = [parse_path(path, "index.metadata_indexes").text for path in self._declared]
        for path in dict.fromkeys([*declared, *known]):
            if not known.get(path, False):
                self.add(path)

    def add(self, path: str) -> Job:
        """Keep a path's values in order from now on; returns the job that puts in those there are.

        Raises:
            FilterError: the path can't be one.
            StoppingError: the server is shutting down.
        """
        text = parse_path(path, "path").text
        with self._beginning:
            if self._stopping.is_set():
                raise StoppingError("the server is shutting down")
            self._catalog.filtering.declare_index(text)
            (n_documents, _) = self._catalog.counts()
            job = self._jobs.add(Job(TYPE, total=n_documents, unit="documents", wishes={"path": text}))
            thread = threading.Thread(target=self._run, args=[job, text], name=TYPE, daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()
        return job

    def drop(self, path: str) -> None:
        """Forget an index; filters go on without it. One that the settings declare is built again at the next start.

        Raises:
            FilterError: the path can't be one.
            NotFoundError: there is no such index.
        """
        if not self._catalog.filtering.drop_index(path):
            raise NotFoundError(f"there is no index of {path!r}", "GET /metadata/indexes lists them.")

    def told(self) -> list[dict[str, Any]]:
        """Return the indexes as JSON, by path."""
        declared = {parse_path(path, "index.metadata_indexes").text for path in self._declared}
        return [
            {"path": each.path, "built": each.is_built, "declared": each.path in declared}
            for each in self._catalog.filtering.indexes()
        ]

    def stop(self) -> None:
        """Ask what is being built to end; the next start begins it anew."""
        self._stopping.set()

    def close(self) -> None:
        """Stop and wait."""
        self.stop()
        with self._beginning:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _run(self, job: Job, path: str) -> None:
        stand_back()

        def told(n_done: int) -> None:
            job.progress("indexing", n_done, max(job.total, n_done))
            if self._stopping.is_set() or job.wanted == "cancel":
                raise _Ended

        with self._turn:
            job.begin()
            try:
                told(0)
                self._catalog.filtering.add_index(path, told)
            except _Ended:
                if job.wanted == "cancel":
                    self._catalog.filtering.drop_index(path)
                job.end("cancelled")
            except (IndexFault, ServiceError) as error:
                job.end("failed", str(error))
            except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for the job's end
                structlog.get_logger().warning("an index of metadata failed", kind=type(error).__name__)
                job.end("failed", f"unforeseen: {type(error).__name__}")
            else:
                job.end("done")
