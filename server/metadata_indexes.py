"""Indexes of metadata: those that the settings declare and those that were asked for, built as jobs beside the rest."""

from collections.abc import Callable, Sequence
from typing import Any

from server.catalog import Catalog
from server.conditions import parse_path
from server.errors import NotFoundError
from server.job_threads import JobThreads
from server.jobs import Job, Jobs

TYPE = "index_metadata"


class _Ended(Exception):
    """Whoever builds was told to stop."""


class MetadataIndexes:
    """Builds one index after another. Filters use an index from the moment it is whole."""

    def __init__(self, catalog: Catalog, jobs: Jobs, declared: Sequence[str]) -> None:
        self._catalog = catalog
        self._declared = declared
        self._threads = JobThreads(jobs, "an index of metadata", queues=True)

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
        self._threads.check_open()
        self._catalog.filtering.declare_index(text)
        (n_documents, _) = self._catalog.counts()
        job = Job(TYPE, total=n_documents, unit="documents", wishes={"path": text})
        return self._threads.begin(job, lambda stop: self._build(job, text, stop))

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
        self._threads.stop()

    def close(self) -> None:
        """Stop and wait."""
        self._threads.close()

    def _build(self, job: Job, path: str, stop: Callable[[], bool]) -> dict[str, Any] | None:
        def told(n_done: int) -> None:
            job.progress("indexing", n_done, max(job.total, n_done))
            if stop():
                raise _Ended

        try:
            told(0)
            self._catalog.filtering.add_index(path, told)
        except _Ended:
            if job.wanted == "cancel":
                self._catalog.filtering.drop_index(path)
            return None
        return {}
