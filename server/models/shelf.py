"""Which models are here: the bundled one, folders, and those in the data directory."""

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from server.encoders.bundled import find_bundled
from server.encoders.errors import EncoderError
from server.encoders.exports import MANIFEST as EXPORT_MANIFEST
from server.encoders.hub import cache_folder, repository_of
from server.encoders.known import KnownModel, known
from server.encoders.model_files import check_folder, read_prompts
from server.models.pulling import read_manifest, snapshot_of


class Where(StrEnum):
    """How a model is here."""

    BUNDLED = "bundled"  # with the package
    FOLDER = "folder"  # the user's own
    PULLED = "pulled"  # in the data directory, with a manifest
    FETCHED = "fetched"  # in the data directory, by a server that started with it
    BEGUN = "begun"  # in the data directory, not complete


@dataclass(frozen=True)
class Exported:
    """An ONNX export, as its manifest has it; the cosines are those of its vectors with torch's."""

    folder: Path
    bytes: int
    cosine_mean: float
    cosine_min: float


@dataclass(frozen=True)
class Present:
    """A model that is here."""

    where: Where
    path: Path
    files: dict[str, int]  # by name inside the folder, in bytes
    sha256: dict[str, str] = field(default_factory=dict)  # by name, from the manifest
    prompts: tuple[str, str] = ("", "")  # for queries and for documents, as its files have them
    exports: dict[str, Exported] = field(default_factory=dict)  # by precision

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True)
class Entry:
    """A model by name: what is known of it, and whether it is here."""

    name: str
    known: KnownModel | None
    present: Present | None


def look_up(name: str, models_dir: Path) -> Entry:
    """What is known of a model and what of it is here; the network isn't used."""
    path = Path(name).expanduser()
    model = None if name != "bundled" and path.is_dir() else known(name)
    full_name = model.name if model else name
    present = None
    if model is None and path.is_dir():
        present = Present(Where.FOLDER, path.resolve(), _sizes(path), prompts=_prompts(path))
    elif model is not None and "bundled" in model.aliases:
        present = _bundled()
    present = present or _in_cache(full_name, models_dir)
    if present is not None:
        called = {name, full_name, *(("bundled",) if present.where is Where.BUNDLED else ())}
        present = replace(present, exports=_exports(called, models_dir))
    return Entry(full_name, model, present)


def all_entries(models: tuple[KnownModel, ...], models_dir: Path) -> list[Entry]:
    """The known models in their order, then the others that are in the data directory."""
    entries = [look_up(model.name, models_dir) for model in models]
    listed = {entry.name for entry in entries}
    for home in sorted(models_dir.glob("models--*--*")):
        name = home.name.removeprefix("models--").replace("--", "/", 1)
        if name not in listed:
            entries.append(look_up(name, models_dir))
    return entries


def _exports(names: set[str], models_dir: Path) -> dict[str, Exported]:
    """The exports that were made of a model by one of these names."""
    found = {}
    for path in sorted((models_dir / "onnx").glob(f"*/{EXPORT_MANIFEST}")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["fingerprint"]["model"] not in names:
                continue
            found[str(manifest["fingerprint"]["precision"])] = Exported(
                path.parent,
                sum(_sizes(path.parent).values()),
                float(manifest["cosine"]["mean"]),
                float(manifest["cosine"]["min"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged; the server makes it anew
    return found


def _bundled() -> Present | None:
    try:
        path = find_bundled().path
    except EncoderError:
        return None
    return Present(Where.BUNDLED, path, _sizes(path))


def _in_cache(name: str, models_dir: Path) -> Present | None:
    try:
        home = cache_folder(repository_of(name), models_dir)
    except EncoderError:
        return None
    snapshot = snapshot_of(home)
    if snapshot is None:
        return None
    manifest = read_manifest(home)
    if manifest is not None and snapshot.name == manifest.commit:
        files = {name: file.bytes for name, file in manifest.files.items()}
        sha256 = {name: file.sha256 for name, file in manifest.files.items()}
        return Present(Where.PULLED, snapshot, files, sha256, _prompts(snapshot))
    try:
        check_folder(snapshot)
    except EncoderError:
        return Present(Where.BEGUN, snapshot, _sizes(snapshot))
    return Present(Where.FETCHED, snapshot, _sizes(snapshot), prompts=_prompts(snapshot))


def _prompts(folder: Path) -> tuple[str, str]:
    try:
        return read_prompts(folder)
    except EncoderError:
        return "", ""


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
