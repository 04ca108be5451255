"""Reading a backup: everything in it is compared with its SHA-256, and nothing else is let out."""

import contextlib
import hashlib
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from index import durable
from index.vector_file import BLOCK_BYTES
from server.backups.manifest import CHECKSUMS, MANIFEST, VECTORS, Manifest, Member, parse_manifest
from server.errors import BackupDamagedError, NotFoundError
from server.store import CATALOG_NAME

MAX_TOLD_BYTES = 1 << 20  # of the manifest, and of the checksums; both are a page long

MAX_MEMBERS = 100
"""Of an archive, which has four: one can be made of headers alone."""

OnProgress = Callable[[str, int, int], None]
"""Told a stage, bytes done and bytes in all."""


def read_manifest(path: Path) -> Manifest:
    """Return what a backup says of itself; its catalog and vectors aren't read.

    Raises:
        NotFoundError: there is no such file.
        BackupDamagedError, FormatError, StorageError.
    """
    with _opened(path) as backup:
        return backup.manifest


def check_backup(path: Path, on_progress: OnProgress) -> Manifest:
    """Read a backup to its end and compare it with its checksums. Raises as `unpack` does."""
    with _opened(path) as backup:
        for _, blocks in backup.files(on_progress):
            deque(blocks, maxlen=0)
        return backup.manifest


def unpack(path: Path, into: Path, on_progress: OnProgress) -> Manifest:
    """Unpack a backup's catalog and vectors into an empty folder, durably.

    Raises:
        NotFoundError: there is no such file.
        BackupDamagedError: it isn't as it was written; what is in the folder by then is not to be used.
        FormatError: it was written by a newer twopass.
        DiskFullError, StorageError: the same.
    """
    with _opened(path) as backup:
        durable.check_room(into, sum(each.bytes for each in backup.manifest.members), "the backup")
        for member, blocks in backup.files(on_progress):
            target = into / member.name
            with durable.named_disk_errors(target):
                with target.open("xb") as file:
                    file.writelines(blocks)
                durable.sync_file(target)
        with durable.named_disk_errors(into):
            durable.sync_folder(into)
        return backup.manifest


@contextlib.contextmanager
def _opened(path: Path) -> Iterator["_Backup"]:
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}", "Check the path.")
    try:
        with durable.named_disk_errors(path), _Tar.open(path, "r:") as tar:
            yield _Backup(tar, path)
    except tarfile.TarError as error:
        raise BackupDamagedError(f"{path} is no backup of twopass, or not all of it: {error}") from error


class _Tar(tarfile.TarFile):
    """An archive whose headers come to an end, and are only ever refused with a TarError, whoever has made them up."""

    n_found = 0

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member. Raises TarError."""
        self.n_found += 1
        if self.n_found > MAX_MEMBERS:
            raise tarfile.ReadError(f"there are more than {MAX_MEMBERS} files in it")
        try:
            info = super().next()
        except ValueError as error:  # numbers that are none
            raise tarfile.ReadError(str(error)) from error
        assert self.name is not None  # it was opened by it
        n_bytes = Path(os.fsdecode(self.name)).stat().st_size
        # One of less than no bytes would lead back, for ever.
        if info is not None and not 0 <= info.size <= n_bytes:
            raise tarfile.ReadError(
                f"{info.name!r} is to have {info.size:,} bytes, and all of it has {n_bytes:,}"
            )
        return info


class _Backup:
    """An open archive, whose manifest is read and whose members are the ones that it names."""

    def __init__(self, tar: tarfile.TarFile, path: Path) -> None:
        self._tar = tar
        self._path = path
        self._found = tar.getmembers()
        told = self._small(MANIFEST)
        self.manifest = parse_manifest(told, str(path))
        self._check_members()
        self._check_sums(hashlib.sha256(told).hexdigest())

    def files(self, on_progress: OnProgress) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Yield catalog and vectors, each with its blocks; at its end these raise BackupDamagedError if it is damaged.

        The blocks of one have to be read before those of the next.
        """
        total, done = sum(each.bytes for each in self.manifest.members), 0

        def blocks(member: Member) -> Iterator[bytes]:
            nonlocal done
            digest = hashlib.sha256()
            with self._open(member.name) as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                    done += len(block)
                    on_progress("checking", done, total)
                    yield block
            if digest.hexdigest() != member.sha256:
                raise self._damaged(f"{member.name} isn't as it was written: its SHA-256 is another")

        for member in self.manifest.members:
            yield member, blocks(member)

    def _check_members(self) -> None:
        """Refuse what the manifest doesn't name, and names that could lead out of a folder."""
        named = [each.name for each in self.manifest.members]
        if len(named) != 2 or named[0] != CATALOG_NAME or not VECTORS.fullmatch(named[1]):
            raise self._damaged(f"{MANIFEST} names {', '.join(map(repr, named))}")
        for info in self._found:
            if info.name not in (*named, MANIFEST, CHECKSUMS) or not info.isreg() or info.issparse():
                raise self._damaged(f"{info.name!r} has no place in it")
        for name in (*named, CHECKSUMS):
            n_found = [each.name for each in self._found].count(name)
            if n_found != 1:
                raise self._damaged(f"{name} is {'missing' if not n_found else 'in it twice'}")

    def _check_sums(self, of_manifest: str) -> None:
        lines = self._small(CHECKSUMS).decode("ascii", "replace").splitlines()
        expected = {each.name: each.sha256 for each in self.manifest.members} | {MANIFEST: of_manifest}
        if sorted(lines) != sorted(f"{digest}  {name}" for name, digest in expected.items()):
            raise self._damaged(f"{MANIFEST} or {CHECKSUMS} isn't as it was written")

    def _small(self, name: str) -> bytes:
        """Read a member that is a page long."""
        info = next((each for each in self._found if each.name == name), None)
        if info is None:
            raise self._damaged(f"{name} is missing")
        if not info.isreg() or info.size > MAX_TOLD_BYTES:
            raise self._damaged(f"{name} is no file of a page or two")
        with self._open(name) as file:
            return file.read()

    def _open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(name)
        assert file is not None  # all of them are regular files
        return file

    def _damaged(self, why: str) -> BackupDamagedError:
        return BackupDamagedError(f"{self._path}: {why}")
