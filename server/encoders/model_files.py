"""A model's folder: which files make the model, their digest, its prompts. Imports no runtime."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.encoders.errors import ModelDamaged, ModelNotFound

# Everything that decides a vector. Read-me, training data and files for other runtimes are left out, so that
# they may come and go.
CONFIG_FILES = (
    "modules.json",
    "config.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "router_config.json",
    "*.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
# One of them is the vocabulary. Without any, transformers 5 makes up an empty one and every word is unknown.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
# The first kind that a folder holds is the one that is loaded.
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
LFS_POINTER = b"version https://git-lfs"
FETCH_AGAIN = "Copy or fetch the model again, with all its files."


@dataclass(frozen=True)
class ModelFolder:
    """`name` is the model as people know it, `path` the folder with its files."""

    name: str
    path: Path


def check_folder(path: Path) -> None:
    """Look for the files that every model has.

    Raises:
        ModelNotFound: the folder holds no model.
        ModelDamaged: its weights are missing, or only stand-ins for them are there.
    """
    if not any((path / name).is_file() for name in ("modules.json", "config.json")):
        raise ModelNotFound(
            f"{path} holds no model: there is neither modules.json nor config.json",
            hint="Name the folder that save_pretrained of sentence-transformers made, or that the hub gave.",
        )
    folders = _module_folders(path)
    if not any(file for folder in folders for name in TOKENIZER_FILES for file in folder.glob(name)):
        raise ModelDamaged(
            f"the model in {path} has no tokenizer: no {' and no '.join(TOKENIZER_FILES)}", hint=FETCH_AGAIN
        )
    weights = [file for folder in folders for file in _weights(folder)]
    if not weights:
        raise ModelDamaged(
            f"the model in {path} has no weights: no {' and no '.join(WEIGHT_FILES)}", hint=FETCH_AGAIN
        )
    for file in weights:
        with file.open("rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelDamaged(
                    f"{file} is a stand-in of git-lfs, not the weights", hint=f"Run `git lfs pull` in {path}."
                )


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256 of every file that makes the model, by name inside the folder. About 1 s a gigabyte.

    Raises:
        ModelDamaged: a file can't be read.
    """
    found = {
        file
        for folder in _module_folders(path)
        for file in [*_weights(folder), *(match for name in CONFIG_FILES for match in folder.glob(name))]
        if file.is_file()
    }
    digests = {}
    for file in sorted(found):
        try:
            with file.open("rb") as opened:
                digests[file.relative_to(path).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise ModelDamaged(f"{file} can't be read: {error.strerror}", hint="Check its rights.") from error
    return digests


def combined_digest(digests: dict[str, str]) -> str:
    """One SHA-256 over names and digests, whatever order they come in."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_prompts(path: Path) -> tuple[str, str]:
    """The model's prompts for queries and for documents, each empty if it defines none.

    Read here because sentence-transformers 6.2 fills in an empty `document` prompt and then prefers it to the
    `passage` prompt that a model does define.

    Raises:
        ModelDamaged: the file is no JSON object, or a prompt no text.
    """
    prompts = _read_json(path / "config_sentence_transformers.json", {}).get("prompts") or {}
    query = prompts.get("query") or ""
    names = (name for name in ("document", "passage", "corpus") if prompts.get(name) is not None)
    document = prompts.get(next(names, "document")) or ""
    if not isinstance(query, str) or not isinstance(document, str):
        raise ModelDamaged(
            f"{path / 'config_sentence_transformers.json'} has a prompt that is not a text", hint=FETCH_AGAIN
        )
    return query, document


def _module_folders(path: Path) -> list[Path]:
    """The folder itself and those of its modules, with all below them."""
    modules = _read_json(path / "modules.json", [])
    names = [str(module.get("path", "")) for module in modules if isinstance(module, dict)]
    names += _read_json(path / "router_config.json", {}).get("types", {})  # a router keeps its own list
    folders = {path}
    for name in names:
        folder = path / name
        if not folder.resolve().is_relative_to(path.resolve()):
            raise ModelDamaged(
                f"{path} names a folder outside of itself as a part of the model: {name}", hint=FETCH_AGAIN
            )
        if folder != path and folder.is_dir():
            folders |= {folder, *(inner for inner in folder.rglob("*") if inner.is_dir())}
    return sorted(folders)


def _weights(folder: Path) -> list[Path]:
    kinds = ([file for file in folder.glob(kind) if file.is_file()] for kind in WEIGHT_FILES)
    return next((files for files in kinds if files), [])


def _read_json(path: Path, default: Any) -> Any:
    """The file's content, of the type of `default`; `default` if there is no such file."""
    if not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"{path} can't be read: {error}", hint=FETCH_AGAIN) from error
    if not isinstance(content, type(default)):
        raise ModelDamaged(
            f"{path} holds a {type(content).__name__}, not a {type(default).__name__}",
            hint=FETCH_AGAIN,
        )
    return content
