"""The first pass: every row competes on its prefix. The only importer of faiss.

Prefixes are float32, truncated and re-normalised, in sealed segments of SEGMENT_ROWS rows (faiss flat
indexes, written once, memory-mapped) and a tail in memory for the newest rows. A full tail is sealed by the
thread that appends; searches hold an unchanging PrefixSnapshot and never wait. Segment files are derived: each
covers a fixed range of committed rows, which never change, and is made anew from the vector file when it is
missing or wrong.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import durable
from index.errors import IndexFault
from index.vector_file import VectorView
from index.vectors import Float32, Rows, prefixes

SEGMENT_ROWS = 32_768
"""Rows in a sealed segment: 32 MiB at 256 dimensions, which bounds the tail's memory and what a restart has
to read anew. A scan over segments costs the same as over one array (3.22 ms against 3.20 ms for
100 000 x 256). A multiple of 8, so that each segment's part of the live bitmap starts at a byte."""

HEADER_BYTES = 45
"""What faiss 1.15 writes before the codes of a flat index; a file of another size is not ours."""


@dataclass(frozen=True)
class Candidates:
    """The first pass's answer, best first, ties by row. An empty slot holds row -1 and score -inf."""

    rows: Rows  # (n_queries, n_candidates) int64
    scores: Float32  # (n_queries, n_candidates) float32, cosine of the prefixes


@dataclass(frozen=True)
class Segment:
    """One sealed range of rows."""

    first_row: int
    index: Any  # faiss.IndexFlatIP over the mapped file, or in memory where the file couldn't be written


@dataclass(frozen=True)
class PrefixSnapshot:
    """What one search sees: sealed segments, tail, and which rows are live. Never changes."""

    prefix_dim: int
    segments: tuple[Segment, ...]
    tail: Float32  # (n_tail, prefix_dim)
    live: NDArray[np.uint8]  # bitmap, least significant bit first: row r is bit r % 8 of byte r // 8
    n_rows: int
    n_live: int

    def search(self, queries: Float32, n_candidates: int) -> Candidates:
        """Return the n_candidates live rows with the highest prefix cosine, exactly (up to float32 rounding).

        Args:
            queries: (n_queries, prefix_dim) float32, unit length.
            n_candidates: at least 1; more than there are live rows leaves empty slots.
        """
        # One thread a search: on a shared two-core machine faiss's own threads took 8.1 ms where one takes
        # 3.2 (100 000 x 256), and searches run side by side anyway. The setting is per calling thread.
        faiss.omp_set_num_threads(1)
        queries = np.ascontiguousarray(queries)
        found_rows, found_scores = [], []
        for segment in self.segments:
            parameters = faiss.SearchParameters(sel=self._selector(segment.first_row, SEGMENT_ROWS))
            scores, rows = segment.index.search(queries, n_candidates, params=parameters)
            found_rows.append(np.where(rows >= 0, rows + segment.first_row, -1))
            found_scores.append(scores)
        if len(self.tail):
            first_row = self.n_rows - len(self.tail)
            selector = self._selector(first_row, len(self.tail))
            scores, rows = _search_array(queries, self.tail, n_candidates, selector)
            found_rows.append(np.where(rows >= 0, rows + first_row, -1))
            found_scores.append(scores)
        return _best(found_rows, found_scores, len(queries), n_candidates)

    def _selector(self, first_row: int, n_rows: int) -> Any:
        """Select the live rows of a part, by its own row numbers."""
        return faiss.IDSelectorBitmap(self.live[first_row // 8 : (first_row + n_rows + 7) // 8])

    @property
    def ram_bytes(self) -> int:
        """Bytes that the first pass wants in memory: all prefixes and the live bitmap."""
        return self.n_rows * self.prefix_dim * 4 + self.live.nbytes


def _search_array(
    queries: Float32, vectors: Float32, n_candidates: int, selector: Any
) -> tuple[Float32, Rows]:
    """faiss's flat inner-product scan over an array of ours: (n_queries, n_candidates) scores and rows."""
    scores = np.empty((len(queries), n_candidates), np.float32)
    rows = np.empty((len(queries), n_candidates), np.int64)
    pointer = faiss.swig_ptr
    faiss.knn_inner_product(
        pointer(queries), pointer(vectors), vectors.shape[1], len(queries), len(vectors), n_candidates,
        pointer(scores), pointer(rows), selector,
    )  # fmt: skip
    return scores, rows


def _best(
    found_rows: list[Rows], found_scores: list[Float32], n_queries: int, n_candidates: int
) -> Candidates:
    """Merge the parts' answers; empty slots get row -1 and score -inf (faiss pads with -3.4e38)."""
    rows = np.full((n_queries, n_candidates), -1, np.int64)
    scores = np.full((n_queries, n_candidates), -np.inf, np.float32)
    if found_rows:
        all_rows = np.concatenate(found_rows, axis=1)  # (n_queries, n_parts * n_candidates)
        all_scores = np.concatenate(found_scores, axis=1)
        order = np.lexsort((all_rows, -all_scores, all_rows < 0), axis=1)[:, :n_candidates]
        rows = np.take_along_axis(all_rows, order, axis=1)
        scores = np.take_along_axis(all_scores, order, axis=1)
        scores[rows < 0] = -np.inf
    return Candidates(rows, scores)


class FirstPass:
    """The writer's side: takes committed rows in order, seals full segments, hands out snapshots."""

    def __init__(self, folder: Path, generation: int, prefix_dim: int) -> None:
        self.folder = folder
        self.prefix_dim = prefix_dim
        self._stem = f"first-pass-{generation:04d}-flat{prefix_dim}-"
        self._segments: list[Segment] = []
        self._tail: Float32 = self._new_tail()
        self._n_tail = 0
        self._live: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def load(self, vectors: VectorView, live: NDArray[np.bool_]) -> PrefixSnapshot:
        """Take every committed row: sealed segments from their files, or anew from the vectors.

        Args:
            vectors: the committed rows that the vector file holds.
            live: (n_rows,) which rows may be found; n_rows may exceed vectors.n_rows where rows are missing,
                and those must not be live.

        Returns:
            The first snapshot. A segment file is read when it is searched; a segment made anew reads its
            rows' vectors. Files of other generations and prefix lengths are removed: they are derived.
        """
        n_rows = len(live)
        self._live = np.packbits(live, bitorder="little")
        kept = set()
        for first_row in range(0, n_rows - n_rows % SEGMENT_ROWS, SEGMENT_ROWS):
            segment = self._open_segment(first_row, vectors, live)
            if segment is None:
                for block in self._prefix_blocks(vectors, first_row, first_row + SEGMENT_ROWS):
                    self._fill(block)
            else:
                self._segments.append(segment)
            kept.add(self._segment_path(first_row))
        for block in self._prefix_blocks(vectors, n_rows - n_rows % SEGMENT_ROWS, n_rows):
            self._fill(block)
        for path in self.folder.glob("first-pass-*"):
            if path not in kept:
                path.unlink(missing_ok=True)
        return self.snapshot()

    def add(self, vectors: Float32) -> None:
        """Take newly committed rows, all live. vectors: (n, dim) float32 as stored."""
        new_rows = np.arange(self.n_rows, self.n_rows + len(vectors))
        self._fill(prefixes(vectors, self.prefix_dim))
        live = np.zeros((self.n_rows + 7) // 8, np.uint8)
        live[: len(self._live)] = self._live
        np.bitwise_or.at(live, new_rows // 8, (1 << (new_rows % 8)).astype(np.uint8))
        self._live = live

    def mask(self, rows: Rows) -> None:
        """Take rows out of every later snapshot. rows: (n,) int64, each below n_rows."""
        self._live = self._live.copy()  # snapshots handed out keep the old one
        np.bitwise_and.at(self._live, rows // 8, ~(1 << (rows % 8)).astype(np.uint8))

    @property
    def n_rows(self) -> int:
        return len(self._segments) * SEGMENT_ROWS + self._n_tail

    def snapshot(self) -> PrefixSnapshot:
        """Return what searches from now on see."""
        n_live = int(np.bitwise_count(self._live).sum())
        tail = self._tail[: self._n_tail]
        return PrefixSnapshot(self.prefix_dim, tuple(self._segments), tail, self._live, self.n_rows, n_live)

    def _new_tail(self) -> Float32:
        # Fresh zeroed memory of this size is mapped page by page as it is filled: an empty tail costs nothing.
        return np.zeros((SEGMENT_ROWS, self.prefix_dim), np.float32)

    def _fill(self, new: Float32) -> None:
        """Append prefixes to the tail, sealing it each time it is full."""
        while len(new):
            count = min(len(new), SEGMENT_ROWS - self._n_tail)
            self._tail[self._n_tail : self._n_tail + count] = new[:count]
            self._n_tail += count
            new = new[count:]
            if self._n_tail == SEGMENT_ROWS:
                self._segments.append(self._seal())
                self._tail, self._n_tail = self._new_tail(), 0

    def _seal(self) -> Segment:
        """Write the full tail as a segment file and map it.

        Its rows are committed already, so a disk that takes no more files must not lose them to searches: the
        segment then stays in memory, and its file is made at the next start.
        """
        first_row = len(self._segments) * SEGMENT_ROWS
        index = faiss.IndexFlatIP(self.prefix_dim)
        index.add(self._tail)
        path = self._segment_path(first_row)
        with contextlib.suppress(IndexFault, RuntimeError):  # RuntimeError: faiss could not write
            durable.write_atomically(path, lambda beside: faiss.write_index(index, str(beside)))
        return read_segment(path, first_row, self.prefix_dim) or Segment(first_row, index)

    def _segment_path(self, first_row: int) -> Path:
        return self.folder / f"{self._stem}{first_row // SEGMENT_ROWS:06d}.faiss"

    def _open_segment(self, first_row: int, vectors: VectorView, live: NDArray[np.bool_]) -> Segment | None:
        """Map a segment file, or return None where it must be made anew."""
        segment = read_segment(self._segment_path(first_row), first_row, self.prefix_dim)
        if segment is None:
            return None
        # Up to sixteen rows spread over the segment tell a file that belongs to other vectors; `verify`
        # compares all of them.
        sample = np.arange(first_row, first_row + SEGMENT_ROWS, SEGMENT_ROWS // 16)
        sample = sample[live[sample]]
        expected = prefixes(vectors.gather(sample), self.prefix_dim)
        return segment if np.array_equal(segment_prefixes(segment, sample), expected) else None

    def _prefix_blocks(self, vectors: VectorView, first_row: int, end_row: int) -> Iterator[Float32]:
        """Yield the prefixes of a range of rows, zeros for rows that the vector file doesn't have."""
        for _, block in vectors.blocks(first_row, end_row):
            # Damaged rows can hold NaN; they aren't live, and faiss must not meet them.
            yield prefixes(np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0), self.prefix_dim)
        missing = end_row - max(first_row, vectors.n_rows)
        if missing > 0:
            yield np.zeros((missing, self.prefix_dim), np.float32)


def read_segment(path: Path, first_row: int, prefix_dim: int) -> Segment | None:
    """Map a segment file; None if it is missing, of another size, or not a flat index of this shape."""
    try:
        if path.stat().st_size != HEADER_BYTES + SEGMENT_ROWS * prefix_dim * 4:
            return None
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError):  # faiss raises RuntimeError for whatever it can't parse
        return None
    is_ours = isinstance(index, faiss.IndexFlatIP) and index.d == prefix_dim and index.ntotal == SEGMENT_ROWS
    return Segment(first_row, index) if is_ours else None


def segment_prefixes(segment: Segment, rows: Rows) -> Float32:
    """Return stored prefixes of a segment. rows: (n,) int64, global row numbers inside the segment."""
    stored: Float32 = segment.index.reconstruct_batch(rows - segment.first_row)
    return stored


def stale_segments(folder: Path, generation: int, vectors: VectorView, rows: Rows) -> list[Path]:
    """Return the segment files of a generation that don't hold the prefixes of its vectors.

    Args:
        rows: (n,) int64, sorted: the rows to compare, each below vectors.n_rows.
    """
    paths = sorted(folder.glob(f"first-pass-{generation:04d}-*.faiss"))
    return [path for path in paths if not _agrees(path, vectors, rows)]


def _agrees(path: Path, vectors: VectorView, rows: Rows) -> bool:
    name = re.fullmatch(r"first-pass-\d{4}-flat(\d+)-(\d{6})", path.stem)
    if name is None or int(name[1]) > vectors.dim:
        return False
    prefix_dim, first_row = int(name[1]), int(name[2]) * SEGMENT_ROWS
    segment = read_segment(path, first_row, prefix_dim)
    if segment is None:
        return False
    mine = rows[slice(*np.searchsorted(rows, [first_row, first_row + SEGMENT_ROWS]))]
    for part in np.array_split(mine, len(mine) // 4096 + 1):
        if not np.array_equal(segment_prefixes(segment, part), prefixes(vectors.gather(part), prefix_dim)):
            return False
    return True
