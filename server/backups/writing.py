"""Writing a backup, beside a server that goes on: the catalog as it is at one moment, and the rows that it counts."""

import contextlib
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

import numpy as np

from index import durable
from index.two_pass import vector_path
from index.vector_file import BLOCK_BYTES, DTYPES, row_checksums
from server import __version__
from server.backups.manifest import CHECKSUMS, MANIFEST, Manifest, Member
from server.catalog import Catalog
from server.catalog.schema import FORMAT_VERSION
from server.errors import NotFoundError
from server.records import Generation, LiveRows
from server.store import CATALOG_NAME, shape_of

OnProgress = Callable[[str, int, int], None]
"""Told a stage, bytes done and bytes in all."""


def write_backup(
    catalog: Catalog, path: Path, stop: Callable[[], bool], on_progress: OnProgress
) -> Manifest | None:
    """Write a backup of the collection that a catalog belongs to; searches and writes go on meanwhile.

    The archive appears under its name when it is whole and durable. A copy of the catalog lies beside it meanwhile.

    Returns:
        None if stopped.

    Raises:
        NotFoundError: there is no collection yet.
        DiskFullError, StorageError, CatalogDamagedError: nothing is left behind.
    """
    copied = path.with_name(f"{path.name}.catalog{durable.WRITING}")
    remove_leftovers(path.parent, copied.name)
    try:
        while True:
            generation = _current(catalog)
            # Opened first: it then stays readable, even if another generation takes over and this one is deleted.
            with _open_vectors(catalog, generation) as vectors:
                durable.check_room(path.parent, _bytes_needed(catalog, generation), "a backup")
                on_progress("copying the catalog", 0, 0)
                if not catalog.copy(copied, stop):
                    return None
                with Catalog(copied, read_only=True) as copy:
                    if _current(copy).number == generation.number:
                        return _write(path, copy, vectors, stop, on_progress)
            durable.discard(copied)
    except _Stopped:
        return None
    finally:
        remove_leftovers(path.parent, copied.name)


def remove_leftovers(folder: Path, beginning: str = "") -> None:
    """Remove what a backup that broke off has left in a folder."""
    for each in folder.glob("*"):  # a pattern with the name in it would miss names with brackets
        if each.name.startswith(beginning) and durable.WRITING in each.name:  # SQLite adds endings of its own
            durable.discard(each)


class _Stopped(Exception):
    """The backup isn't wanted any more."""


class _Readable(Protocol):
    def read(self, n_bytes: int, /) -> bytes: ...


def _current(catalog: Catalog) -> Generation:
    generation = catalog.generations.current()
    if generation is None:
        raise NotFoundError("there is nothing to back up yet", "Start the server once, and store documents.")
    return generation


def _open_vectors(catalog: Catalog, generation: Generation) -> IO[bytes]:
    """Open a generation's vectors; nothing where they are lost: the texts are worth a backup all the same."""
    path = _vector_path(catalog, generation)
    with durable.named_disk_errors(path), contextlib.suppress(FileNotFoundError):
        return path.open("rb")
    return io.BytesIO()


def _vector_path(catalog: Catalog, generation: Generation) -> Path:
    return vector_path(catalog.path.parent, shape_of(generation, generation.dim))


def _bytes_needed(catalog: Catalog, generation: Generation) -> int:
    """The archive, and for a while the catalog once more."""
    return 2 * catalog.path.stat().st_size + generation.n_rows * _row_bytes(generation)


def _row_bytes(generation: Generation) -> int:
    return generation.dim * DTYPES[generation.vector_dtype].itemsize


def _write(
    path: Path, copy: Catalog, vectors: IO[bytes], stop: Callable[[], bool], on_progress: OnProgress
) -> Manifest:
    """Write the archive of a copied catalog and the vectors of its generation."""
    generation = _current(copy)
    n_documents, n_passages = copy.counts()
    catalog_bytes, vectors_bytes = copy.path.stat().st_size, generation.n_rows * _row_bytes(generation)
    rows = _CheckedRows(vectors, generation, copy.live_rows(generation.number))
    written: list[Manifest] = []

    def write(beside: Path) -> None:
        with beside.open("wb") as file, copy.path.open("rb") as catalog:
            archive = _Archive(file, rows.block_bytes, catalog_bytes + vectors_bytes, stop, on_progress)
            archive.add(CATALOG_NAME, catalog, catalog_bytes)
            archive.add(_vector_path(copy, generation).name, rows, vectors_bytes)
            manifest = Manifest(
                created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                twopass=__version__,
                catalog_format=FORMAT_VERSION,
                documents=n_documents,
                passages=n_passages,
                pending=copy.jobs.n_waiting(),
                generation=generation.number,
                rows=generation.n_rows,
                dim=generation.dim,
                vector_dtype=generation.vector_dtype,
                damaged=rows.n_damaged,
                fingerprint=json.loads(generation.fingerprint),
                members=tuple(archive.members),
            )
            archive.end(manifest)
            written.append(manifest)

    durable.write_atomically(path, write)
    return written[0]


class _Archive:
    """A tar file that is being written, member by member."""

    def __init__(
        self,
        file: IO[bytes],
        block_bytes: int,
        total_bytes: int,
        stop: Callable[[], bool],
        on_progress: OnProgress,
    ) -> None:
        self.members: list[Member] = []
        # GNU's format has sizes beyond 8 GiB in its plain header; every tar reads it.
        self._tar = tarfile.TarFile(
            fileobj=file, mode="w", format=tarfile.GNU_FORMAT, copybufsize=block_bytes
        )
        self._total = total_bytes
        self._done = 0
        self._stop = stop
        self._on_progress = on_progress

    def add(self, name: str, source: "_Readable", n_bytes: int) -> None:
        """Write a member, read block by block. Raises _Stopped."""
        digest = hashlib.sha256()

        def read(n: int) -> bytes:
            if self._stop():
                raise _Stopped
            data = source.read(n)
            digest.update(data)
            self._done += len(data)
            self._on_progress("writing", min(self._done, self._total), self._total)
            return data

        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = n_bytes, 0o600, int(time.time())
        self._tar.addfile(info, cast(IO[bytes], _Reader(read)))
        self.members.append(Member(name, n_bytes, digest.hexdigest()))

    def end(self, manifest: Manifest) -> None:
        """Write what tells of the members, and the end of the archive."""
        for name, text in ((MANIFEST, manifest.to_json), (CHECKSUMS, self._checksums)):
            data = text().encode()
            self.add(name, io.BytesIO(data), len(data))
        self._tar.close()

    def _checksums(self) -> str:
        return "".join(f"{each.sha256}  {each.name}\n" for each in self.members)


@dataclass(frozen=True)
class _Reader:
    """What tarfile reads from: all that it does is call `read`."""

    read: Callable[[int], bytes]


class _CheckedRows:
    """The committed rows of a vector file, and how many of those that are alive fail their checksum."""

    def __init__(self, file: IO[bytes], generation: Generation, live: LiveRows) -> None:
        self.n_damaged = 0
        self._file = file
        self._live = live
        self._dim, self._dtype = generation.dim, DTYPES[generation.vector_dtype]
        row_bytes = _row_bytes(generation)
        self._block_rows = max(1, BLOCK_BYTES // row_bytes)
        self.block_bytes = self._block_rows * row_bytes
        self._first_row = 0

    def read(self, n_bytes: int) -> bytes:
        """Return the next bytes, a whole number of rows; zeros for what the file lacks."""
        data = self._file.read(n_bytes)
        data += bytes(n_bytes - len(data))
        stored = np.frombuffer(data, self._dtype).reshape(-1, self._dim)  # (n_rows, dim)
        here = slice(*np.searchsorted(self._live.rows, [self._first_row, self._first_row + len(stored)]))
        mine = stored[self._live.rows[here] - self._first_row]
        is_good = np.array(row_checksums(mine), np.uint32) == self._live.checksums[here]
        self.n_damaged += int(np.count_nonzero(~is_good))
        self._first_row += len(stored)
        return data
