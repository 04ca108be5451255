"""A first pass on disk: its parts, and the manifest that says which of them count. All of it is derived.

    first-pass-0001-0003.json                  generation 1, build 3: plan, parts with checksums, evidence
    first-pass-0001-0003.npz                   axes and steps (not for the plain form)
    first-pass-0001-0003-empty.faiss           the trained quantiser without rows (not for the plain form)
    first-pass-0001-0003-000000000.faiss       rows from 0 on
    first-pass-0001-0003-000000000.bounds      upper bounds of the same rows

The manifest is written last, whole or not at all. Committed rows never change, so a part stays right for as long
as it lies beside the vectors it was made from; checksums of sixteen of its rows' vectors tell one that doesn't.
"""

import contextlib
import json
import re
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index import durable, page_cache
from index.axes import Order, axes_of
from index.first_pass.bounds import BoundCoder
from index.first_pass.recipe import Recipe
from index.plan import Codec, Plan
from index.vector_file import VectorView, row_checksums
from index.vectors import Rows

VERSION = 1
SAMPLED_ROWS = 16


@dataclass(frozen=True)
class PartFile:
    """One sealed part as the manifest knows it."""

    name: str
    first_row: int
    n_rows: int
    n_bytes: int
    crc32: int
    residual: float | None  # ρ and |â| of a file of bounds (bounds.py); None for prefixes
    longest: float | None
    samples: list[tuple[int, int]]  # (row, CRC-32 of its stored vector)


@dataclass
class Manifest:
    """What one build wrote."""

    number: int
    plan: Plan
    parts: list[PartFile] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)


class FirstPassFolder:
    """The files of one generation's first pass."""

    def __init__(self, folder: Path, generation: int) -> None:
        self.folder = folder
        self.stem = f"first-pass-{generation:04d}"

    def newest(self) -> Manifest | None:
        """Return the newest manifest that can be read."""
        for path in sorted(self.folder.glob(f"{self.stem}-*.json"), key=_build_number, reverse=True):
            manifest = _read_manifest(path)
            if manifest is not None:
                return manifest
        return None

    def recipe(self, manifest: Manifest, dim: int) -> Recipe | None:
        """Open what a build trained; None where it is missing, damaged or for vectors of another length."""
        plan, number = manifest.plan, manifest.number
        if plan.prefix_dim > dim:
            return None
        if plan.is_plain and not self._path(number, ".npz").exists():
            return Recipe.plain(plan, dim)
        try:
            # Opened here: np.load leaves a file open that it can't parse.
            with self._path(number, ".npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                axes = axes_of(arrays["axes"])
                bound_axes, (step, tail_weight) = axes_of(arrays["bound_axes"]), arrays["steps"].tolist()
            empty = faiss.read_index(str(self._path(number, "-empty.faiss")))
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile):
            # numpy and faiss have no error of their own for a file they can't parse.
            return None
        coder = BoundCoder(bound_axes, step, tail_weight) if bound_axes.n_axes else None
        if axes.matrix.shape[0] != dim or empty.d != plan.prefix_dim:
            return None
        return Recipe(plan, axes, empty, coder)

    def save_recipe(self, number: int, recipe: Recipe) -> None:
        """Write what was trained. Raises DiskFullError, StorageError, or RuntimeError (faiss could not write)."""
        coder = recipe.coder
        bound_axes = coder.axes.matrix if coder else np.zeros((recipe.dim, 0), np.float32)
        steps = np.array([coder.step, coder.tail_weight] if coder else [0.0, 0.0])

        def write(beside: Path) -> None:
            with beside.open("wb") as file:
                np.savez(file, axes=recipe.axes.matrix, bound_axes=bound_axes, steps=steps)

        durable.write_atomically(self._path(number, ".npz"), write)
        empty = self._path(number, "-empty.faiss")
        durable.write_atomically(empty, lambda beside: _write_index(recipe.empty, beside))

    def save_manifest(self, manifest: Manifest) -> None:
        """Make what was written count. Raises DiskFullError, StorageError."""
        told = {"version": VERSION, **asdict(manifest)}
        text = json.dumps({**told, "crc32": _told_crc(told)}, indent=1)
        durable.write_atomically(
            self._path(manifest.number, ".json"), lambda beside: _write_text(beside, text)
        )

    def write_part(
        self,
        number: int,
        first_row: int,
        n_rows: int,
        index: Any,
        vectors: VectorView,
        residual: float | None = None,
        longest: float | None = None,
    ) -> PartFile:
        """Write a faiss index that holds a range of rows: bounds where residual and longest are given.

        Raises DiskFullError, StorageError, or RuntimeError (faiss could not write).
        """
        path = self._path(number, f"-{first_row:09d}{'.faiss' if residual is None else '.bounds'}")
        durable.write_atomically(path, lambda beside: _write_index(index, beside))
        samples = _samples(vectors, first_row, n_rows)
        with durable.named_disk_errors(path):
            n_bytes, crc32 = path.stat().st_size, _crc(path)
        return PartFile(path.name, first_row, n_rows, n_bytes, crc32, residual, longest, samples)

    def open_part(self, part: PartFile, vectors: VectorView, is_live: Any) -> Any | None:
        """Map a part's index; None where the file is missing, of another size, or of other vectors.

        Args:
            is_live: rows (n,) → which of them may be compared; damaged ones may not.
        """
        path = self.folder / part.name
        try:
            if path.stat().st_size != part.n_bytes:
                return None
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            _read_ahead(index)
            if part.residual is None:  # codes, which every search scans
                page_cache.fetch(path)
        except (OSError, RuntimeError):  # faiss raises RuntimeError for whatever it can't parse
            return None
        known = {row: crc for row, crc in part.samples if row < vectors.n_rows}
        rows = np.array(sorted(known), np.int64)
        rows = rows[is_live(rows)]
        crcs = _crcs(vectors, rows)
        is_ours = index.ntotal == part.n_rows and crcs == [known[row] for row in rows.tolist()]
        return index if is_ours else None

    def stale(self, vectors: VectorView, rows: Rows) -> list[Path]:
        """Return files that a manifest names but that aren't as they were written, or belong to other vectors.

        Args:
            rows: (n,) int64, sorted: undamaged live rows. A missing file is not an error.
        """
        manifest = self.newest()
        alive = set(rows.tolist())
        found = []
        for part in manifest.parts if manifest else []:
            path = self.folder / part.name
            if not path.exists():
                continue
            known = {row: crc for row, crc in part.samples if row in alive}
            mine = np.array(sorted(known), np.int64)
            is_ours = _crcs(vectors, mine) == [known[row] for row in mine.tolist()]
            if path.stat().st_size != part.n_bytes or _crc(path) != part.crc32 or not is_ours:
                found.append(path)
        return found

    def remove_all_but(self, manifest: Manifest) -> None:
        """Remove the files of other builds and generations, and those of this build that it doesn't name."""
        named = {part.name for part in manifest.parts}
        own = f"{self.stem}-{manifest.number:04d}"
        named |= {own + ending for ending in (".json", ".npz", "-empty.faiss")}
        for path in self.folder.glob("first-pass-*"):
            if path.name not in named:
                durable.discard(path)

    def remove_build(self, number: int) -> None:
        """Remove every file of one build."""
        for ending in (".*", "-*"):  # not the files of build 10000 with those of build 1000
            for path in self.folder.glob(f"{self.stem}-{number:04d}{ending}"):
                durable.discard(path)

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"{self.stem}-{number:04d}{ending}"


def _read_ahead(index: Any) -> None:
    """Let the kernel read ahead in an index that is mapped and scanned.

    faiss maps files for random reads. A scan of codes that aren't in the page cache then reads 4 KiB at a time: 192 MB
    take 47 s from a disk of 1000 reads a second.
    """
    if isinstance(index, faiss.IndexFlatCodes):  # others are read into memory
        first = faiss.rev_swig_ptr(index.codes.data(), 1).ctypes.data
        page_cache.read_ahead(first, index.codes.size())


def _build_number(path: Path) -> int:
    """Return the number of the build that a manifest's name tells, -1 where it isn't a manifest's name."""
    name = re.fullmatch(r"first-pass-\d{4,}-(\d{4,})", path.stem)
    return int(name[1]) if name else -1


def _read_manifest(path: Path) -> Manifest | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = json.loads(path.read_text())
        is_whole = told.pop("crc32") == _told_crc(told)
        if is_whole and told["version"] == VERSION and _build_number(path) == told["number"]:
            plan = told["plan"]
            parts = [
                PartFile(**{**part, "samples": [(int(row), int(crc)) for row, crc in part["samples"]]})
                for part in told["parts"]
            ]
            chosen = Plan(**{**plan, "codec": Codec(plan["codec"]), "order": Order(plan["order"])})
            return Manifest(int(told["number"]), chosen, parts, told["evidence"])
    return None


def _told_crc(told: dict[str, Any]) -> int:
    """Return a checksum of a manifest: a residual that is told too small would make proofs of wrong answers."""
    return zlib.crc32(json.dumps(told).encode())


def _samples(vectors: VectorView, first_row: int, n_rows: int) -> list[tuple[int, int]]:
    end = min(first_row + n_rows, vectors.n_rows)
    rows = np.arange(first_row, end, max(1, n_rows // SAMPLED_ROWS))
    return list(zip(rows.tolist(), _crcs(vectors, rows), strict=True))


def _crcs(vectors: VectorView, rows: Rows) -> list[int]:
    return row_checksums(vectors.gather(rows).astype(vectors.dtype))


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            crc = zlib.crc32(block, crc)
    return crc


def _write_index(index: Any, path: Path) -> None:
    """Write an index through a file of ours: what fails while faiss closes one of its own, it only prints."""
    with path.open("wb", buffering=1 << 20) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
