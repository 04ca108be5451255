"""The writer's side of the first pass: takes committed rows in order, seals them in parts, hands out snapshots.

The newest rows lie in a tail in memory, as float32 prefixes, and are searchable at once. A full tail is encoded
and sealed: written once, mapped where the codec allows it. Searches hold an unchanging PrefixSnapshot and never
wait.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.errors import IndexFault, StorageError
from index.first_pass import codecs
from index.first_pass.bounds import BoundPart, empty_bounds
from index.first_pass.codecs import Part
from index.first_pass.files import FirstPassFolder, Manifest, PartFile
from index.first_pass.recipe import Recipe
from index.first_pass.snapshot import PrefixSnapshot
from index.plan import Plan
from index.vector_file import VectorView
from index.vectors import Float32, Rows

TAIL_ROWS = 16_384
"""Rows of the tail when it is sealed: 16 MiB of prefixes at 256 dimensions and as much for their bounds, which
bounds the tail's memory and what a restart has to read anew. A multiple of 8, so that each part's piece of the
live bitmap starts at a byte."""

PART_ROWS = 131_072
"""Rows of a sealed part at most, where a rebuild makes them in one go: its codes are in memory while they are
made, 32 MiB of 8-bit ones. Quantisers that live in memory anyway get one part for everything."""


class FirstPass:
    """One build of a generation's first pass."""

    def __init__(self, folder: FirstPassFolder, recipe: Recipe, manifest: Manifest) -> None:
        """Start empty; rows come by `load` or `fill`."""
        self.recipe = recipe
        self.manifest = manifest
        self._folder = folder
        self._parts: list[Part] = []
        self._bound_parts: list[BoundPart] = []
        self._n_sealed = 0
        self._is_saved = False  # until then a manifest would name a build that can't be opened
        self._tail: Float32 = np.zeros((0, 0), np.float32)
        self._tail_augmented: Float32 = np.zeros((0, 0), np.float32)
        self._n_tail = 0
        self._live: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._start_tail()

    @staticmethod
    def open(
        folder: Path,
        generation: int,
        vectors: VectorView,
        live: NDArray[np.bool_],
        plain: Plan,
        resident_bytes: int | None = None,
    ) -> "FirstPass":
        """Take every committed row: sealed parts from their files, or anew from the vectors.

        Args:
            vectors: the committed rows that the vector file holds.
            live: (n_rows,) which rows may be found; n_rows may exceed vectors.n_rows where rows are missing,
                and those must not be live.
            plain: what to make where there is no usable build. A plain build of another length is replaced.
            resident_bytes: what codes that aren't mapped may take; a build that takes more is not usable.

        Files of other generations and builds are removed: they are derived.
        """
        files = FirstPassFolder(folder, generation)
        manifest = files.newest()
        fits = manifest is None or _fits(manifest.plan, len(live), resident_bytes)
        recipe = files.recipe(manifest, vectors.dim) if manifest and fits else None
        if manifest is None or recipe is None or (manifest.plan.is_plain and manifest.plan != plain):
            number = 0 if manifest is None else manifest.number + 1
            manifest, recipe = Manifest(number, plain), Recipe.plain(plain, vectors.dim)
        opened = FirstPass(files, recipe, manifest)
        opened._is_saved = True
        opened._load(vectors, live)
        return opened

    def _load(self, vectors: VectorView, live: NDArray[np.bool_]) -> None:
        n_rows = len(live)
        self._live = np.packbits(live, bitorder="little")
        known, self.manifest.parts = self.manifest.parts, []

        def is_live(rows: Rows) -> NDArray[np.bool_]:
            return live[rows]

        for file in sorted(
            (each for each in known if each.residual is None), key=lambda each: each.first_row
        ):
            if file.first_row != self._n_sealed or file.first_row + file.n_rows > n_rows:
                break
            index = self._folder.open_part(file, vectors, is_live)
            if index is None:
                break
            self._parts.append(Part(file.first_row, file.n_rows, index, self.recipe.plan))
            self.manifest.parts.append(file)
            self._n_sealed += file.n_rows
        if self.recipe.coder is not None:
            self._load_bounds([each for each in known if each.residual is not None], vectors, is_live)
        self.fill_from(vectors, n_rows)
        self._folder.remove_all_but(self.manifest)

    def _load_bounds(
        self, known: list[PartFile], vectors: VectorView, is_live: Callable[[Rows], NDArray[np.bool_]]
    ) -> None:
        """Open the bounds of the sealed rows, making anew what is missing."""
        files = {file.first_row: file for file in known}
        row = 0
        while row < self._n_sealed:
            file = files.get(row)
            index = self._folder.open_part(file, vectors, is_live) if file is not None else None
            if file and index is not None and file.residual is not None and file.longest is not None:
                self._bound_parts.append(BoundPart(row, file.n_rows, index, file.residual, file.longest))
                self.manifest.parts.append(file)
                row += file.n_rows
            else:
                end_row = min([self._n_sealed, row + PART_ROWS, *(first for first in files if first > row)])
                bounds = _BoundsBuilder(self.recipe)
                for block in readable_blocks(vectors, row, end_row):
                    bounds.add(block)
                self._keep_bounds(row, end_row - row, bounds, vectors)
                row = end_row

    # Rows

    def add(self, stored: Float32, vectors: VectorView) -> None:
        """Take newly committed rows, all live.

        Args:
            stored: (n, dim) float32 as stored. vectors: a view that holds them.
        """
        new_rows = np.arange(self.n_rows, self.n_rows + len(stored))
        self.fill(stored, vectors)
        live = np.zeros((self.n_rows + 7) // 8, np.uint8)
        live[: len(self._live)] = self._live
        np.bitwise_or.at(live, new_rows // 8, (1 << (new_rows % 8)).astype(np.uint8))
        self._live = live

    def mask(self, rows: Rows) -> None:
        """Take rows out of every later snapshot. rows: (n,) int64, each below n_rows."""
        self._live = self._live.copy()  # snapshots handed out keep the old one
        np.bitwise_and.at(self._live, rows // 8, ~(1 << (rows % 8)).astype(np.uint8))

    def set_probes(self, n_probes: int) -> None:
        """Say how many lists later snapshots compare."""
        plan = replace(self.recipe.plan, n_probes=n_probes)
        self.recipe = replace(self.recipe, plan=plan)
        self.manifest.plan = plan

    def set_live(self, live: NDArray[np.uint8]) -> None:
        """Say which rows are live: a bitmap, least significant bit first, that no one changes."""
        self._live = live

    @property
    def live(self) -> NDArray[np.uint8]:
        """Which rows are live, as a bitmap."""
        return self._live

    def fill(self, stored: Float32, vectors: VectorView) -> None:
        """Append rows, (n, dim) float32 as stored, to the tail, sealing it each time it is full."""
        while len(stored):
            count = min(len(stored), TAIL_ROWS - self._n_tail)
            part = stored[:count]
            self._tail[self._n_tail : self._n_tail + count] = self.recipe.prefixes(part)
            self._tail_augmented[self._n_tail : self._n_tail + count] = self.recipe.augmented(part)
            self._n_tail += count
            stored = stored[count:]
            if self._n_tail == TAIL_ROWS:
                self._seal_tail(vectors)

    def fill_from(self, vectors: VectorView, n_rows: int) -> None:
        """Append those of the first n_rows rows that this build doesn't have yet; zeros for what the file lacks."""
        for block in readable_blocks(vectors, self.n_rows, n_rows):
            self.fill(block, vectors)

    def build(
        self,
        vectors: VectorView,
        n_rows: int,
        stop: Callable[[], bool],
        watch: Callable[[int, Float32], None],
    ) -> bool:
        """Encode the first n_rows rows into as few parts as memory allows; for an empty first pass.

        Args:
            n_rows: a multiple of 8.
            stop: asked now and then; True ends the work and the call returns False.
            watch: told each block that goes by: its first row and its vectors, (m, dim) float32.

        Memory: the codes of one part (of everything for quantisers that live in memory) and a few blocks.

        Raises DiskFullError, StorageError, or RuntimeError (faiss could not write).
        """
        plan = self.recipe.plan
        in_memory = plan.is_resident
        whole = codecs.empty_like(self.recipe.empty) if in_memory else None
        for first_row in range(0, n_rows, PART_ROWS):
            end_row = min(first_row + PART_ROWS, n_rows)
            index = codecs.empty_like(self.recipe.empty) if whole is None else whole
            bounds = _BoundsBuilder(self.recipe)
            row = first_row
            for block in readable_blocks(vectors, first_row, end_row):
                if stop():
                    return False
                watch(row, block)
                codecs.add(index, plan.codec, self.recipe.prefixes(block))
                bounds.add(block)
                row += len(block)
            if whole is None:
                self._keep(first_row, end_row - first_row, index, vectors)
            if bounds.index is not None:
                self._keep_bounds(first_row, end_row - first_row, bounds, vectors)
        if whole is not None and n_rows:
            self._keep(0, n_rows, whole, vectors)
        self._n_sealed = n_rows
        return True

    def set_aside(self) -> None:
        """Let go of codes that live in memory and are on the disk, until `take_up`."""
        if self.recipe.plan.is_resident:
            self._parts = []

    def take_up(self, vectors: VectorView) -> None:
        """Read what was set aside.

        Raises StorageError: it can't be read.
        """
        missing = [each for each in self.manifest.parts if each.residual is None][len(self._parts) :]
        for file in missing:
            index = self._folder.open_part(file, vectors, _none)
            if index is None:
                raise StorageError(f"{file.name} can't be read, a moment after it was written")
            self._parts.append(Part(file.first_row, file.n_rows, index, self.recipe.plan))

    def save(self) -> None:
        """Write recipe and manifest: from now on the next start opens this build.

        Raises DiskFullError, StorageError, or RuntimeError (faiss could not write).
        """
        self._folder.save_recipe(self.manifest.number, self.recipe)
        self._folder.save_manifest(self.manifest)
        self._is_saved = True

    def discard(self) -> None:
        """Remove this build's files; parts that are open stay readable."""
        self._folder.remove_build(self.manifest.number)

    @property
    def n_rows(self) -> int:
        return self._n_sealed + self._n_tail

    def snapshot(self) -> PrefixSnapshot:
        """Return what searches from now on see."""
        ends = [(part.first_row, part.first_row + part.n_rows) for part in self._parts]
        counts = np.bitwise_count(self._live)
        whole = frozenset(
            position
            for position, (begin, end) in enumerate(ends)
            if int(counts[begin // 8 : end // 8].sum()) == end - begin
        )
        return PrefixSnapshot(
            self.recipe.plan, self.recipe.axes, self.recipe.coder, tuple(self._parts), tuple(self._bound_parts),
            whole, self._tail[: self._n_tail], self._tail_augmented[: self._n_tail], self._live, self.n_rows,
            int(counts.sum()),
        )  # fmt: skip

    def _start_tail(self) -> None:
        # Fresh zeroed memory of this size is mapped page by page as it is filled: an empty tail costs nothing.
        self._tail = np.zeros((TAIL_ROWS, self.recipe.plan.prefix_dim), np.float32)
        width = self.recipe.coder.n_augmented if self.recipe.coder else 0
        self._tail_augmented = np.zeros((TAIL_ROWS, width), np.float32)
        self._n_tail = 0

    def _seal_tail(self, vectors: VectorView) -> None:
        """Encode the full tail and write it as a part.

        Its rows are committed already, so a disk that takes no more files must not lose them to searches: the
        part then stays in memory, and its file is made at the next start.
        """
        first_row = self._n_sealed
        index = codecs.empty_like(self.recipe.empty)
        codecs.add(index, self.recipe.plan.codec, self._tail)
        bounds = _BoundsBuilder(self.recipe)
        for block in (
            readable_blocks(vectors, first_row, first_row + TAIL_ROWS) if bounds.index is not None else ()
        ):
            bounds.add(block)
        n_parts, n_bound_parts, n_files = len(self._parts), len(self._bound_parts), len(self.manifest.parts)
        try:
            self._keep(first_row, TAIL_ROWS, index, vectors)
            if bounds.index is not None:
                self._keep_bounds(first_row, TAIL_ROWS, bounds, vectors)
            if self._is_saved:
                self._folder.save_manifest(self.manifest)
        except (IndexFault, RuntimeError):  # RuntimeError: faiss could not write
            del self._parts[n_parts:], self._bound_parts[n_bound_parts:], self.manifest.parts[n_files:]
            self._parts.append(Part(first_row, TAIL_ROWS, index, self.recipe.plan))
            if bounds.index is not None:
                self._bound_parts.append(bounds.part(first_row, TAIL_ROWS, bounds.index))
        self._n_sealed += TAIL_ROWS
        self._start_tail()

    def _keep(self, first_row: int, n_rows: int, index: Any, vectors: VectorView) -> None:
        part = self._folder.write_part(self.manifest.number, first_row, n_rows, index, vectors)
        if not self.recipe.plan.is_resident:  # those can't be mapped, only read again
            index = self._folder.open_part(part, vectors, _none) or index
        self._parts.append(Part(first_row, n_rows, index, self.recipe.plan))
        self.manifest.parts.append(part)

    def _keep_bounds(
        self, first_row: int, n_rows: int, bounds: "_BoundsBuilder", vectors: VectorView
    ) -> None:
        number, index = self.manifest.number, bounds.index
        part = self._folder.write_part(
            number, first_row, n_rows, index, vectors, bounds.residual, bounds.longest
        )
        index = self._folder.open_part(part, vectors, _none) or index
        self._bound_parts.append(bounds.part(first_row, n_rows, index))
        self.manifest.parts.append(part)


class _BoundsBuilder:
    """Collects the bounds of a part while its rows go by."""

    def __init__(self, recipe: Recipe) -> None:
        self.coder = recipe.coder
        self.index = empty_bounds(recipe.coder.width) if recipe.coder else None
        self.residual = 0.0
        self.longest = 0.0

    def add(self, stored: Float32) -> None:
        if self.coder is not None and self.index is not None:
            codes, residual, longest = self.coder.encode(stored)
            self.index.add(codes)
            self.residual, self.longest = max(self.residual, residual), max(self.longest, longest)

    def part(self, first_row: int, n_rows: int, index: Any) -> BoundPart:
        """Return the part, with the index as it was written and mapped."""
        return BoundPart(first_row, n_rows, index, self.residual, self.longest)


def _fits(plan: Plan, n_rows: int, resident_bytes: int | None) -> bool:
    return resident_bytes is None or not plan.is_resident or n_rows * plan.row_bytes <= resident_bytes


def _none(rows: Rows) -> NDArray[np.bool_]:
    return np.zeros(len(rows), np.bool_)


def readable_blocks(vectors: VectorView, first_row: int, end_row: int) -> Iterator[Float32]:
    """Yield the vectors of a range of rows, (m, dim) float32, zeros for rows that the vector file doesn't have."""
    for _, block in vectors.blocks(first_row, end_row):
        # Damaged rows can hold NaN; they aren't live, and faiss must not meet them.
        yield (
            np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            if not _is_sane(block)
            else block
        )
    missing = end_row - max(first_row, vectors.n_rows)
    if missing > 0:
        yield np.zeros((missing, vectors.dim), np.float32)


def _is_sane(block: Float32) -> bool:
    """Whether a block holds unit vectors and nothing worse: one pass instead of nan_to_num's four."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(block.sum(axis=1)).all())
