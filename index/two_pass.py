"""The two-pass index: prefixes in memory find candidates, full vectors on disk decide among them.

Write order, of which steps 1, 2 and 4 happen here and step 3 in the catalog:
1 append rows (`append`), 2 make them durable (`append`), 3 commit, 4 show them to searches (`publish`).
Nothing that isn't committed is ever visible; nothing committed is ever overwritten.
"""

import math
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.errors import IndexFault, StorageError
from index.evaluation import exact_search
from index.first_pass import FirstPass, PrefixSnapshot, stale_segments
from index.vector_file import SUFFIXES, VectorFile, VectorView, row_checksums
from index.vectors import Float32, Rows, check_prefix_dim, normalise, order_by_score, prefixes, score


class Mode(StrEnum):
    """How a search ranks."""

    TWO_PASS = "two_pass"  # candidates by prefix, order by full vectors
    PREFIX = "prefix"  # order by prefix alone; reads nothing from disk
    EXACT = "exact"  # scans every full vector


@dataclass(frozen=True)
class Shape:
    """What can't be changed without writing the vectors anew, and the prefix length, which can."""

    generation: int
    dim: int
    prefix_dim: int
    vector_dtype: str  # "float16" or "float32"


@dataclass(frozen=True)
class Appended:
    """Rows on disk that wait for their commit."""

    first_row: int
    stored: NDArray[np.floating]  # (n, dim) as in the file
    checksums: list[int]  # CRC-32 of each row's bytes

    @property
    def rows(self) -> Rows:
        return np.arange(self.first_row, self.first_row + len(self.stored))


@dataclass(frozen=True)
class Hits:
    """Ranked rows of a batch of queries, best first, ties by row. Empty slot: row -1, scores -inf, rank -1."""

    rows: Rows  # (n_queries, n) int64
    scores: Float32  # (n_queries, n) float32; full inner product, in mode prefix the prefix's cosine
    prefix_scores: Float32  # (n_queries, n) float32; -inf in mode exact
    prefix_ranks: Rows  # (n_queries, n) int64, from 0; -1 in mode exact
    rows_read: int  # full vectors read from the file, over the whole batch
    bytes_read: int
    first_pass_s: float
    second_pass_s: float


@dataclass(frozen=True)
class _View:
    """What one search sees of prefixes and vectors; replaced as a whole when rows come or go."""

    prefixes: PrefixSnapshot
    vectors: VectorView


def pool_size(k: int, oversample: float, min_candidates: int, n_rows: int) -> int:
    """Return the first pass's candidates for k hits: clamp(ceil(oversample * k), min_candidates, n_rows)."""
    return max(1, min(max(math.ceil(oversample * k), min_candidates), n_rows))


class TwoPassIndex:
    """One generation of vectors in a folder. Any number of threads search; one at a time changes."""

    def __init__(self, folder: Path, shape: Shape, n_rows: int, live: NDArray[np.bool_]) -> None:
        """Open the generation, making its files if there are none.

        Args:
            folder: the collection's folder; must exist.
            shape: as committed.
            n_rows: committed rows. What the file has beyond them is dropped.
            live: (n_rows,) rows that searches may find. Rows that the file lacks are masked in any case.

        Raises:
            PrefixError: the prefix is longer than the vectors.
            DiskFullError, StorageError: a file can't be opened.
        """
        check_prefix_dim(shape.prefix_dim, shape.dim)
        self.shape = shape
        self._file = VectorFile(vector_path(folder, shape), shape.dim, shape.vector_dtype)
        self._file.cut(n_rows)
        n_present = min(n_rows, self._file.n_whole_rows)
        live = live.copy()
        live[n_present:] = False
        vectors = self._file.view(n_present)
        self._first_pass = FirstPass(folder, shape.generation, shape.prefix_dim)
        self._view = _View(self._first_pass.load(vectors, live), vectors)

    def append(self, vectors: Float32, n_committed: int) -> Appended:
        """Put rows on the disk, durably, behind the committed ones (steps 1 and 2). Not yet visible.

        Args:
            vectors: (n, dim) float32, unit length.
            n_committed: rows that the catalog says are committed.

        Raises:
            DiskFullError, StorageError: nothing has changed.
        """
        first_row = self._first_pass.n_rows
        if first_row != n_committed:
            # A publish that failed half-way; going on would overwrite committed rows.
            raise StorageError(f"the index knows {first_row} rows but {n_committed} are committed")
        stored = self._file.to_stored(vectors)
        try:
            self._file.append(stored, first_row)
            self._file.sync()
        except IndexFault:
            self._file.cut(first_row)
            raise
        return Appended(first_row, stored, row_checksums(stored))

    def discard(self, appended: Appended) -> None:
        """Drop appended rows whose commit failed."""
        self._file.cut(appended.first_row)

    def publish(self, appended: Appended | None, removed: Rows) -> None:
        """Show committed rows to searches and hide removed ones, in one step (step 4)."""
        vectors = self._view.vectors
        if appended is not None and len(appended.stored):
            self._first_pass.add(appended.stored.astype(np.float32))
            vectors = self._file.view(self._first_pass.n_rows)
        if len(removed):
            self._first_pass.mask(removed)
        self._view = _View(self._first_pass.snapshot(), vectors)

    def search(self, queries: Float32, n_candidates: int, mode: Mode = Mode.TWO_PASS) -> Hits:
        """Rank rows for each query; every candidate comes back, so that the caller can group them.

        Args:
            queries: (n_queries, dim) float32, unit length.
            n_candidates: rows ranked for each query (see `pool_size`); at least 1.
            mode: see Mode.
        """
        view = self._view
        if mode is Mode.EXACT:
            return self._search_exact(view, queries, n_candidates)
        started = time.perf_counter()
        pool = view.prefixes.search(prefixes(queries, self.shape.prefix_dim), n_candidates)
        found = time.perf_counter()
        ranks = np.where(pool.rows >= 0, np.arange(pool.rows.shape[1]), -1)
        if mode is Mode.PREFIX:
            first_s = found - started
            return Hits(pool.rows, pool.scores, pool.scores, ranks, 0, 0, first_s, 0.0)
        scores = self._rescore(view.vectors, queries, pool.rows)
        order = np.stack([order_by_score(s, r) for s, r in zip(scores, pool.rows, strict=True)])
        rows, scores, prefix_scores, ranks = (
            np.take_along_axis(each, order, axis=1) for each in (pool.rows, scores, pool.scores, ranks)
        )
        rows_read = int(np.count_nonzero(rows >= 0))
        return Hits(
            rows, scores, prefix_scores, ranks, rows_read, rows_read * view.vectors.row_bytes,
            found - started, time.perf_counter() - found,
        )  # fmt: skip

    def read(self, rows: Rows) -> Float32:
        """Return stored vectors, scaled back to unit length. rows: (n,) int64, committed; result (n, dim)."""
        order = np.argsort(rows)
        vectors = np.empty((len(rows), self.shape.dim), np.float32)
        vectors[order] = self._view.vectors.gather(rows[order])
        return normalise(vectors)

    @property
    def n_rows(self) -> int:
        """Committed rows, removed ones included."""
        return self._view.prefixes.n_rows

    @property
    def n_live(self) -> int:
        """Rows that searches can find."""
        return self._view.prefixes.n_live

    @property
    def prefix_bytes(self) -> int:
        """Bytes that the first pass wants in memory."""
        return self._view.prefixes.ram_bytes

    @staticmethod
    def _rescore(vectors: VectorView, queries: Float32, pool: Rows) -> Float32:
        """Score each query's pool by full vectors: (n_queries, n_candidates), -inf for empty slots."""
        scores = np.full(pool.shape, -np.inf, np.float32)
        for query, candidates in enumerate(pool):
            order = np.argsort(candidates)  # the disk likes its reads in order
            order = order[candidates[order] >= 0]
            scores[query, order] = score(vectors.gather(candidates[order]), queries[query])
        return scores

    @staticmethod
    def _search_exact(view: _View, queries: Float32, n_hits: int) -> Hits:
        started = time.perf_counter()
        rows, scores = exact_search(view.vectors.blocks(), queries, n_hits, view.prefixes.live)
        n_read = view.vectors.n_rows
        return Hits(
            rows, scores, np.full(scores.shape, -np.inf, np.float32), np.full(rows.shape, -1, np.int64),
            n_read, n_read * view.vectors.row_bytes, 0.0, time.perf_counter() - started,
        )  # fmt: skip


def vector_path(folder: Path, shape: Shape) -> Path:
    """Return where a generation's vectors lie."""
    return folder / f"vectors-{shape.generation:04d}{SUFFIXES[shape.vector_dtype]}"


def n_rows_on_disk(folder: Path, shape: Shape) -> int:
    """Return how many whole rows the generation's vector file has, committed or not; 0 without a file."""
    path = vector_path(folder, shape)
    if not path.exists():
        return 0
    return VectorFile(path, shape.dim, shape.vector_dtype, read_only=True).n_whole_rows


def damaged_rows(folder: Path, shape: Shape, rows: Rows, checksums: NDArray[np.uint32]) -> Rows:
    """Return those of `rows` that the vector file lacks or whose bytes fail their CRC-32.

    Args:
        rows: (n,) int64, sorted. checksums: (n,) uint32, in the same order.

    Reads from the first row to the last, in sequence. A missing file means that every row is missing.
    """
    path = vector_path(folder, shape)
    if not len(rows) or not path.exists():
        return rows
    file = VectorFile(path, shape.dim, shape.vector_dtype, read_only=True)
    is_good = np.zeros(len(rows), np.bool_)
    for first_row, block in file.view(file.n_whole_rows).stored_blocks(int(rows[0]), int(rows[-1]) + 1):
        here = slice(*np.searchsorted(rows, [first_row, first_row + len(block)]))
        stored = block[rows[here] - first_row]
        is_good[here] = np.array(row_checksums(stored), np.uint32) == checksums[here]
    return rows[~is_good]


def stale_prefix_files(folder: Path, shape: Shape, rows: Rows) -> list[Path]:
    """Return the first pass's files that don't agree with the vectors; a missing file is not an error.

    Args:
        rows: (n,) int64, sorted: undamaged live rows; others aren't compared.
    """
    if not vector_path(folder, shape).exists():
        return []
    file = VectorFile(vector_path(folder, shape), shape.dim, shape.vector_dtype, read_only=True)
    return stale_segments(folder, shape.generation, file.view(file.n_whole_rows), rows)
