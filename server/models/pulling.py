"""Fetching a model into the data directory, and knowing later that its files are those that were fetched.

Beside a model's files stands a manifest: the SHA-256 of each, as it was when the fetch was complete. A later pull
compares them, and fetches again what is missing or has changed.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from index.durable import write_atomically
from server.encoders.errors import ModelDamaged, ModelNotFound
from server.encoders.hub import cache_folder, find_on_hub, repository_of
from server.encoders.hub_files import OnBytes
from server.encoders.known import known
from server.encoders.model_files import ModelFolder, check_folder

MANIFEST_NAME = "manifest.json"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was fetched: the model, the commit it had on the hub, and its files by name inside the folder."""

    model: str
    commit: str
    files: dict[str, FileRecord]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    def differing(self, folder: Path) -> list[str]:
        """The files that are missing or not what they were. Reads all of them, about 1 s a gigabyte."""
        return [name for name, file in self.files.items() if _record(folder / name) != file]


@dataclass(frozen=True)
class Pulled:
    """A model that is here, whole. `mended` names files that were fetched again."""

    folder: ModelFolder
    manifest: Manifest
    was_here: bool
    mended: tuple[str, ...] = ()


def pull(name: str, models_dir: Path, on_bytes: OnBytes, endpoint: str | None = None) -> Pulled:
    """Fetch a hub model, or check the one that is here and mend it. No network is used if it is here and sound.

    `name` may be any that the table of known models has for it. A model that is here stays at its version.

    Raises:
        ModelNotFound: it can't be fetched, or there is nothing to fetch.
        ModelDamaged: what the hub gives is not what it says, or not what it gave before.
        DiskFullError, StorageError: the manifest can't be written.
    """
    repository = repository_of(_hub_name(name))
    home = cache_folder(repository, models_dir)
    manifest = read_manifest(home)
    if manifest is None:
        was_here = snapshot_of(home) is not None
        folder = find_on_hub(repository, models_dir, endpoint, on_bytes)
        mended = _altered_on_the_way(folder.path)
        if mended:
            folder = _fetch_again(folder, mended, models_dir, endpoint, on_bytes)
            if still := _altered_on_the_way(folder.path):
                raise ModelDamaged(
                    f"{still[0]} of {repository} doesn't have the SHA-256 that the hub gives for it",
                    hint="Something on the way alters files. Try another network, or copy the model by hand.",
                )
        check_folder(folder.path)
        manifest = Manifest(repository, folder.path.name, _records(folder.path))
        text = json.dumps(asdict(manifest), indent=1)
        write_atomically(home / MANIFEST_NAME, lambda path: _write(path, text))
        return Pulled(folder, manifest, was_here, tuple(mended))
    folder = ModelFolder(repository, home / "snapshots" / manifest.commit)
    mended = manifest.differing(folder.path)
    if mended:
        folder = _fetch_again(folder, mended, models_dir, endpoint, on_bytes)
        if still := manifest.differing(folder.path):
            raise ModelDamaged(
                f"{still[0]} of {repository} is not the file that was fetched before, and fetching it again gives "
                f"another one than {home / MANIFEST_NAME} says",
                hint=f"If you trust what the hub gives now, delete {home} and pull again.",
            )
    return Pulled(folder, manifest, True, tuple(mended))


def read_manifest(home: Path) -> Manifest | None:
    """The manifest of a model's folder in the cache; None if there is none, or none that can be read."""
    try:
        values = json.loads((home / MANIFEST_NAME).read_text(encoding="utf-8"))
        files = {
            str(name): FileRecord(int(file["bytes"]), str(file["sha256"]))
            for name, file in values["files"].items()
        }
        return Manifest(str(values["model"]), str(values["commit"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def snapshot_of(home: Path) -> Path | None:
    """The folder with the files of the version that is here, complete or not."""
    try:
        snapshot = home / "snapshots" / (home / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return snapshot if snapshot.is_dir() else None


def _hub_name(name: str) -> str:
    """The hub's name of a model that people may call otherwise.

    Raises:
        ModelNotFound: the model is not one to fetch.
    """
    if name == "bundled":
        raise ModelNotFound(
            "the bundled model comes with twopass; there is nothing to fetch",
            hint="`twopass models show bundled` says where it is.",
        )
    model = known(name)
    if model is not None and model.memory_mib == 0:
        raise ModelNotFound(
            f"{model.name} runs at its maker's; there is nothing to fetch",
            hint="Set encoder.url to the address of its API, and encoder.api_key.",
        )
    return model.name if model else name


def _fetch_again(
    folder: ModelFolder, names: list[str], models_dir: Path, endpoint: str | None, on_bytes: OnBytes
) -> ModelFolder:
    """Remove these files, blobs and all, and fetch them in the same version."""
    for name in names:
        file = folder.path / name
        blob = file.resolve()
        if blob.is_relative_to(models_dir.resolve()):
            blob.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    return find_on_hub(folder.name, models_dir, endpoint, on_bytes, revision=folder.path.name)


def _altered_on_the_way(folder: Path) -> list[str]:
    """Files whose SHA-256 isn't the one that the hub gives; it does for large files, as the names of their blobs."""
    altered = []
    for path in _files(folder):
        told = path.resolve().name
        if path.is_symlink() and SHA256.fullmatch(told) and _digest(path) != told:
            altered.append(path.relative_to(folder).as_posix())
    return altered


def _records(folder: Path) -> dict[str, FileRecord]:
    return {
        path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, _digest(path))
        for path in _files(folder)
    }


def _record(path: Path) -> FileRecord | None:
    return FileRecord(path.stat().st_size, _digest(path)) if path.is_file() else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    """Raises ModelDamaged: it can't be read."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelDamaged(f"{path} can't be read: {error.strerror}", hint="Check its rights.") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
