"""ONNX exports in the data directory: found by the model's digest, checked, or made anew in a child process.

    models/onnx/<digest>-<precision>/model.onnx       the whole pipeline: token ids in, one vector a text out
                                     tables.bin       its embedding tables, and tables.json: what lies where in it
                                     weights.bin      its other weights
                                     tokenizer.json   cuts nothing and pads nothing
                                     manifest.json    written last, with the digests of the others

A folder without a manifest that holds is no export. Neither torch nor onnx nor onnxruntime is imported here.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from index.durable import DirectoryLock, make_folder, named_disk_errors, sync_folder, write_atomically
from index.errors import IndexFault, LockedError
from server.encoders import errors
from server.encoders.errors import ExportFailed
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.model_files import ModelFolder
from server.encoders.packages import check_full

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = "exporting.lock"
UNFINISHED = ".writing"  # ends the name of a folder that is no export yet
PACKAGE_FOLDER = Path(__file__).parents[2]
TOLD = ("ExportFailed", "ModelDamaged", "ModelNotFound", "ModelNotSupported")  # by the child, and raised here
LONGEST_LINE = 300  # characters of what a child that died said last
# Measured at its worst: 840 MiB for all-MiniLM-L6-v2's 87 MiB.
MEMORY = "It takes half a gigabyte and some four times the size of the model's weights."
SERVED_BY_TORCH = "Set encoder.backend to torch, which needs no export."


@dataclass(frozen=True)
class Export:
    """An exported model, as its manifest has it.

    `fingerprint.model` and its prompts are those at the time of export; prompts are put before the texts, and the graph
    holds for any. The cosines are those of its vectors with torch's, over the probe texts, alone and in batches.
    """

    folder: Path
    fingerprint: Fingerprint
    inputs: tuple[str, ...]
    pad_id: int
    extra_tokens: dict[Role, int]
    cosine_mean: float
    cosine_min: float


def shipped_dir() -> Path:
    """Return where exports lie that came with the installation, as in the container's image; there may be none."""
    return Path(sys.prefix) / "share" / "twopass" / "models"


def find_export(models_dir: Path, weights_sha256: str, precision: str) -> Export | None:
    """The export of a model; None if there is none, or a damaged one. Reads all of it, about 1 s a gigabyte."""
    folder = _folder(models_dir, weights_sha256, precision)
    if not folder.exists():
        return None
    try:
        export = _read(folder)
        if (export.fingerprint.weights_sha256, export.fingerprint.precision) == (weights_sha256, precision):
            return export
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    structlog.get_logger().warning("the exported model is damaged and is made anew", folder=str(folder))
    return None


def make_export(
    folder: ModelFolder, weights_sha256: str, precision: str, int8_min_cosine: float, models_dir: Path
) -> Export:
    """Export a model, check it against torch, and keep it.

    Takes ten seconds for a small model, in a process of its own that ends with this one. What an export that was killed
    has left is removed.

    Raises:
        TorchMissing: that can't be done by this installation.
        ExportFailed: it can't be exported or kept, or what comes out gives other vectors.
        ModelDamaged, ModelNotFound, ModelNotSupported: the model itself can't be loaded.
    """
    check_full(folder.name)
    log = structlog.get_logger()
    log.info("exporting the model to ONNX, once", model=folder.name, precision=precision)
    started = time.monotonic()
    target = _folder(models_dir, weights_sha256, precision)
    beside = target.with_name(target.name + UNFINISHED)
    spec = {
        "model": folder.name,
        "folder": str(folder.path.resolve()),
        "weights_sha256": weights_sha256,
        "precision": precision,
        "int8_min_cosine": int8_min_cosine,
        "target": str(beside.resolve()),
    }
    try:
        make_folder(target.parent)
        with DirectoryLock(models_dir / LOCK), named_disk_errors(target.parent):
            for left in target.parent.glob(f"*{UNFINISHED}"):
                shutil.rmtree(left)
            make_folder(beside)
            try:
                _finish(beside, _in_child(spec))
                if target.exists():
                    shutil.rmtree(target)
                beside.replace(target)
                sync_folder(target.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    except LockedError as error:
        raise ExportFailed(f"{error} to export a model", hint="Start again when it is done.") from error
    except IndexFault as error:
        raise ExportFailed(str(error), hint=SERVED_BY_TORCH) from error
    export = find_export(models_dir, weights_sha256, precision)
    if export is None:
        raise ExportFailed(f"the export in {target} can't be read back", hint="Is the disk sound?")
    log.info(
        "the model is exported",
        seconds=round(time.monotonic() - started, 1),
        cosine_mean=round(export.cosine_mean, 6),
        cosine_min=round(export.cosine_min, 6),
    )
    return export


def _read(folder: Path) -> Export:
    """Raises OSError, ValueError, KeyError, TypeError or AttributeError if the folder holds no whole export."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest["format"] != FORMAT:
        raise ValueError("another format")
    for name, digest in manifest["files"].items():
        if _digest(folder / name) != digest:
            raise ValueError(f"{name} was altered")
    return Export(
        folder,
        Fingerprint.from_json(json.dumps(manifest["fingerprint"])),
        tuple(manifest["inputs"]),
        manifest["pad_id"],
        {role: manifest["extra_tokens"][role] for role in Role},
        manifest["cosine"]["mean"],
        manifest["cosine"]["min"],
    )


def _finish(beside: Path, told: dict[str, Any]) -> None:
    """Write the manifest. After a power loss the digests in it tell whether the other files are there."""
    files = {path.name: _digest(path) for path in sorted(beside.iterdir())}
    text = json.dumps({"format": FORMAT, **told, "files": files}, indent=1)
    write_atomically(beside / MANIFEST, lambda path: _write(path, text))


def _in_child(spec: dict[str, Any]) -> dict[str, Any]:
    """Have the export made; returns what the manifest is to say. The child's input is open for as long as we live."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1"}
    path = os.pathsep.join(filter(None, [str(PACKAGE_FOLDER), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as noise:
        child = subprocess.Popen(
            # -P: no module of the folder that the server was started in can pose as one of ours.
            [sys.executable, "-P", "-m", "server.encoders.exporting"],
            env=os.environ | offline | {"PYTHONPATH": path},
            bufsize=0,  # what a child that died left unread would be written again at the closing, and fail again
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            start_new_session=True,  # Ctrl-C is for the server, with which this one ends
        )
        with child:
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(json.dumps(spec).encode() + b"\n")
                answer = child.stdout.read()
            except BrokenPipeError:
                answer = b""
            except BaseException:
                child.kill()
                raise
            status = child.wait()
        if status or not answer:
            noise.seek(0)
            raise _death(status, noise.read().decode(errors="replace"))
    told: dict[str, Any] = json.loads(answer)
    if "error" in told:
        kind = getattr(errors, told["error"]) if told["error"] in TOLD else ExportFailed
        raise kind(told["message"], told["hint"])
    return told


def _death(status: int, noise: str) -> ExportFailed:
    """What to say of a child that ended without an answer."""
    if status == -signal.SIGKILL:
        reason = "was killed, as happens when memory runs out"
    elif status < 0:
        reason = f"was ended by signal {-status} ({signal.strsignal(-status)})"
    else:
        lines = [line.strip() for line in noise.splitlines() if line.strip()]
        reason = f"ended with status {status}: {lines[-1][:LONGEST_LINE] if lines else 'it said nothing'}"
    return ExportFailed(f"the process that exports the model {reason}", hint=f"{SERVED_BY_TORCH} {MEMORY}")


def _folder(models_dir: Path, weights_sha256: str, precision: str) -> Path:
    return models_dir / "onnx" / f"{weights_sha256[:24]}-{precision}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
