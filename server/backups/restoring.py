"""Putting a backup in the place of a collection, in steps of which each leaves one whole collection after a kill.

The archive is unpacked and checked beside, under UNPACKING; then it is called READY, and from there only names change:
the old collection steps aside, the new one takes its name. A server that starts finishes, or undoes, what it finds.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from index import durable
from index.two_pass import vector_path
from server.backups.manifest import Manifest
from server.backups.reading import read_manifest, unpack
from server.catalog import Catalog
from server.errors import BackupDamagedError, CatalogDamagedError, ConflictError
from server.store import CATALOG_NAME, shape_of

COLLECTION = "default"
UNPACKING, READY = f"{COLLECTION}.unpacking", f"{COLLECTION}.restored"


@dataclass(frozen=True)
class Restored:
    """What a restore did."""

    manifest: Manifest
    folder: Path
    aside: Path | None  # where the collection before is now


def restore(
    path: Path, data_dir: Path, replace: bool, on_progress: Callable[[str, int, int], None]
) -> Restored:
    """Make a backup the collection of a data directory.

    Args:
        replace: where there is a collection already: move it aside, once all of the backup is checked.

    Raises:
        ConflictError: there is a collection already, and it isn't to be replaced.
        LockedError: a server is running on the directory.
        NotFoundError, BackupDamagedError, FormatError, DiskFullError, StorageError: nothing has changed.
    """
    read_manifest(path)  # says what is wrong with most that are no backups before any folder is made
    collections = data_dir / "collections"
    durable.make_folder(collections)
    with durable.DirectoryLock(data_dir / "lock"):
        settle(collections)
        there = collections / COLLECTION
        if _holds_something(there) and not replace:
            raise ConflictError(
                f"there is a collection in {data_dir} already",
                "Name another folder with --data-dir, or add --replace: the collection is moved aside, not deleted.",
            )
        unpacked = collections / UNPACKING
        try:
            durable.make_folder(unpacked)
            manifest = unpack(path, unpacked, on_progress)
            _check_opens(unpacked, manifest, path)
            durable.move(unpacked, collections / READY)
        except BaseException:
            durable.remove_tree(unpacked)
            raise
        aside = _move_aside(there)
        durable.move(collections / READY, there)
    return Restored(manifest, there, aside)


def settle(collections: Path) -> None:
    """Finish or undo a restore that was killed: afterwards the collection is the new one or the old one, whole."""
    durable.remove_tree(collections / UNPACKING)
    ready, there = collections / READY, collections / COLLECTION
    if ready.exists() and not there.exists():
        durable.move(ready, there)
    durable.remove_tree(ready)


def _holds_something(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _check_opens(folder: Path, manifest: Manifest, path: Path) -> None:
    """Raise if the catalog isn't one, or isn't the one that the vectors belong to. Reads a few pages."""
    try:
        with Catalog(folder / CATALOG_NAME, read_only=True) as catalog:
            generation = catalog.generations.current()
    except CatalogDamagedError as error:
        raise BackupDamagedError(f"{path}: {CATALOG_NAME} is no catalog") from error
    if generation is not None:
        vectors = vector_path(folder, shape_of(generation, generation.dim)).name
        if (vectors, generation.n_rows) == (manifest.members[1].name, manifest.rows):
            return
    raise BackupDamagedError(f"{path}: catalog and vectors don't belong together")


def _move_aside(folder: Path) -> Path | None:
    """Give a collection another name, and return that; None if there is none, or nothing in it."""
    if not _holds_something(folder):
        durable.remove_tree(folder)
        return None
    name = f"{folder.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    aside = folder.with_name(name)
    n = 1
    while aside.exists():
        n += 1
        aside = folder.with_name(f"{name}-{n}")
    durable.move(folder, aside)
    return aside
