"""Recall measured on the collection's own vectors: of an index as it serves, and of other forms it could have."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from index.axes import Axes, Order, corpus_axes
from index.evaluation import ExactScan
from index.first_pass.codecs import TRAINING_ROWS, Part, add, code_bytes, empty_like, use_one_thread
from index.first_pass.merging import Candidates, merge
from index.first_pass.recipe import Recipe, train
from index.first_pass.snapshot import PrefixSnapshot
from index.plan import Codec, Plan
from index.vector_file import VectorView
from index.vectors import Float32, Rows, normalise

if TYPE_CHECKING:
    from index.two_pass import TwoPassIndex

LENGTHS = (64, 128, 192, 256, 384, 512)
"""Prefix lengths that are tried, as far as they are shorter than the vectors; and the whole vector."""

OVERSAMPLES = (1, 2, 4, 8, 16, 32)

CODECS = (Codec.FLOAT32, Codec.INT8, Codec.PQ4, Codec.RABITQ)

RUN_ROWS = (
    32  # neighbouring rows that a sample takes at a time: a slow disk reads a run about as fast as a row
)

CHUNK_ROWS = 8192  # rows of the sample in memory at once

MIN_TRAINED_ROWS = 1000  # below, no codes are trained: the index itself keeps so few rows as they are

TIMED_QUERIES = 4  # searched for singly in every chunk; a sample of 100 000 rows has thirteen

Z = 1.96  # of a normal distribution: 95 % lie within

Stop = Callable[[], bool]
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Queries:
    """What is searched for."""

    vectors: Float32  # (n, dim) unit length
    rows: Rows  # (n,) the stored row that each is, which its answers leave out; -1 for one that isn't stored


@dataclass(frozen=True)
class Serving:
    """What the index finds of the truth, as it is and with the pool that searches get."""

    true: Rows  # (n_queries, k), -1 for empty slots
    pool_recall: float  # share of the true k nearest among the candidates
    recall: float  # share of them among the k hits
    took_s: NDArray[np.float64]  # (n_queries,) of both passes, one query at a time
    rows_read: float  # full vectors, mean


@dataclass(frozen=True)
class Form:
    """One form of the first pass, and the recall of pools of OVERSAMPLES · k candidates, all of them rescored."""

    order: Order
    codec: Codec
    prefix_dim: int
    row_bytes: int  # of memory
    recall: tuple[float, ...]  # for each of OVERSAMPLES
    scan_ms: float  # of one query over the rows tried, on one thread


@dataclass(frozen=True)
class Curve:
    """Forms tried on some of the rows, with those rows' own nearest neighbours as the truth."""

    n_rows: int
    forms: list[Form]
    memory_bytes: int  # that measuring took at most, as computed before


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean of n values in [0, 1] (Wilson 1927).

    Meant for n values that are 0 or 1; others of the same mean vary less, so that the interval is wide enough.
    """
    if n == 0:
        return 0.0, 1.0
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def draw_rows(prefixes: PrefixSnapshot, n: int, seed: int = 0) -> Rows:
    """Draw n live rows, or all if there are fewer, in runs of neighbours: sorted, (≤ n,) int64."""
    live = prefixes.live_rows()
    if len(live) <= n:
        return live
    starts = np.random.default_rng(seed).permutation(len(live) // RUN_ROWS)[: -(-n // RUN_ROWS)]
    places = (np.sort(starts)[:, None] * RUN_ROWS + np.arange(RUN_ROWS)).reshape(-1)
    chosen: Rows = live[places[:n]]
    return chosen


def stored_queries(vectors: VectorView, rows: Rows, n: int, seed: int = 0) -> Queries:
    """Draw n of the rows to be searched for, each of them left out of its own answers."""
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:n])
    return Queries(normalise(vectors.gather(chosen)), chosen)


def true_rows(
    blocks: Iterable[tuple[int, Float32]],
    prefixes: PrefixSnapshot,
    queries: Queries,
    k: int,
    stop: Stop,
    on_progress: OnProgress,
) -> Rows | None:
    """Return each query's k nearest live rows by full vectors, from one look at every row; None if stopped.

    Returns:
        (n_queries, k) int64, ties by row, -1 for empty slots. Memory: a block, and its scores.
    """
    scan = ExactScan(queries.vectors, k + 1)
    for first_row, block in blocks:
        if stop():
            return None
        on_progress("exact answers", first_row, prefixes.n_rows)
        scan.add(first_row, block, prefixes.is_live(np.arange(first_row, first_row + len(block))))
    return _others(scan.rows, queries.rows, k)


def serving(
    index: "TwoPassIndex", queries: Queries, k: int, n_candidates: int, true: Rows, stop: Stop
) -> Serving | None:
    """Search for every query as the server does, and compare with the truth; None if stopped."""
    pools, hits, took, read = [], [], [], []
    for query, own in zip(queries.vectors, queries.rows, strict=True):
        if stop():
            return None
        is_stored = int(own >= 0)
        started = time.perf_counter()
        found = index.search(query[None], n_candidates + is_stored, n_hits=k + is_stored)
        took.append(time.perf_counter() - started)
        read.append(int(found.rows_read[0]))
        pool = index.pool(query[None], n_candidates + is_stored)
        pools.append(_others(pool, np.array([own]), n_candidates)[0])
        hits.append(_others(found.rows, np.array([own]), k)[0])
    pool_share, hit_share = (float(np.mean(shares(each, true))) for each in (pools, hits))
    return Serving(true, pool_share, hit_share, np.array(took), float(np.mean(read)))


def shares(found: Iterable[Rows], true: Iterable[Rows]) -> list[float]:
    """Return, for each query, the share of its true rows that were found; 1 where there is none to find."""
    return [
        float(np.isin(mine[mine >= 0], rows).mean()) if (mine >= 0).any() else 1.0
        for rows, mine in zip(found, true, strict=True)
    ]


def lengths_to_try(dim: int) -> list[int]:
    """Return the prefix lengths for vectors of `dim` dimensions."""
    return [*(each for each in LENGTHS if each < dim), dim]


def measure_forms(
    vectors: VectorView, rows: Rows, queries: Queries, k: int, stop: Stop, on_progress: OnProgress
) -> Curve | None:
    """Try every codec, order and prefix length on some rows; None if stopped.

    Axes and quantisers are fitted to at most TRAINING_ROWS of the rows, none of which is searched for. The truth is
    that of these rows alone. One length after another goes over the rows, CHUNK_ROWS of them in memory at a time.

    Args:
        rows: (n,) int64, sorted; every one of queries.rows that isn't -1 lies among them.
    """
    use_one_thread()
    others = np.setdiff1d(rows, queries.rows)
    training_rows = np.sort(np.random.default_rng(1).permutation(others)[:TRAINING_ROWS])
    is_trained = len(training_rows) >= MIN_TRAINED_ROWS
    lengths = lengths_to_try(vectors.dim)
    training = corpus = None
    if len(training_rows):
        training = np.concatenate([chunk for _, chunk in _chunks(vectors, training_rows)])
        corpus = corpus_axes(training, vectors.dim)
    own = np.where(queries.rows >= 0, np.searchsorted(rows, queries.rows), -1)
    local = replace(queries, rows=own)  # rows are numbered by their place in `rows`
    scan = ExactScan(queries.vectors, k + 1)
    true: Rows | None = None
    forms = []
    for number, length in enumerate(lengths):
        on_progress("training", number * len(rows), len(lengths) * len(rows))
        if stop():
            return None
        tried = [
            _Tried(recipe, local, OVERSAMPLES[-1] * k)
            for recipe in _recipes(length, training, corpus, is_trained)
        ]
        for first, chunk in _chunks(vectors, rows):
            on_progress("comparing", number * len(rows) + first, len(lengths) * len(rows))
            if true is None:
                scan.add(first, chunk, np.ones(len(chunk), np.bool_))
            for each in tried:
                if stop():
                    return None
                each.add(first, chunk)
        if true is None:
            true = _others(scan.rows, own, k)
        forms += [each.form(true, k) for each in tried]
    return Curve(len(rows), forms, _memory_bytes(vectors.dim, len(rows), len(queries.rows), k))


def _recipes(
    length: int, training: Float32 | None, corpus: Axes | None, is_trained: bool
) -> Iterator[Recipe]:
    """Every order and codec that a length allows. Few rows are neither turned nor coded."""
    if training is None or corpus is None or not is_trained:
        dim = length if training is None else training.shape[1]
        yield Recipe.plain(Plan(Codec.FLOAT32, Order.MODEL, length, 4 * length), dim)
        return
    for order in Order:
        for codec in CODECS:
            if codec is not Codec.PQ4 or length % 4 == 0:  # two dimensions a code, two codes a byte
                plan = Plan(codec, order, length, code_bytes(codec, length))
                yield train(plan, training, False, corpus)


class _Tried:
    """One form's best rows for every query, while chunks of vectors go by."""

    def __init__(self, recipe: Recipe, queries: Queries, n_candidates: int) -> None:
        self._recipe = recipe
        self._queries = queries
        self._prefixes = np.ascontiguousarray(recipe.prefixes(queries.vectors))
        self._n = n_candidates
        n_queries = len(queries.rows)
        self._best = Candidates(
            np.full((n_queries, n_candidates + 1), -1, np.int64),
            np.full((n_queries, n_candidates + 1), -np.inf, np.float32),
        )
        self._scan_s = 0.0

    def add(self, first_row: int, chunk: Float32) -> None:
        """Look at (m, dim) float32 rows more."""
        plan = self._recipe.plan
        index = empty_like(self._recipe.empty)
        add(index, plan.codec, self._recipe.prefixes(chunk))
        part = Part(first_row, len(chunk), index, plan)
        no_bitmap = np.zeros(0, np.uint8)  # every row is live
        n_timed = min(TIMED_QUERIES, len(self._prefixes))
        took = []
        for query in self._prefixes[:n_timed]:
            started = time.perf_counter()
            part.search(query[None], self._n, no_bitmap, True, 1)
            took.append(time.perf_counter() - started)
        self._scan_s += float(np.median(took))
        found = part.search(self._prefixes, self._n + 1, no_bitmap, True, 1)
        self._best = merge([self._best, found], len(self._prefixes), self._n + 1)

    def form(self, true: Rows, k: int) -> Form:
        """Compare with the truth, (n_queries, k)."""
        pool = _others(self._best.rows, self._queries.rows, self._n)
        recall = tuple(float(np.mean(shares(pool[:, : each * k], true))) for each in OVERSAMPLES)
        plan = self._recipe.plan
        return Form(plan.order, plan.codec, plan.prefix_dim, plan.row_bytes, recall, self._scan_s * 1e3)


def _chunks(vectors: VectorView, rows: Rows) -> Iterator[tuple[int, Float32]]:
    """Read rows, (n,) sorted, CHUNK_ROWS at a time: (place of the first, (m, dim) float32 of unit length)."""
    for first in range(0, len(rows), CHUNK_ROWS):
        yield first, normalise(vectors.gather(rows[first : first + CHUNK_ROWS]))


def _others(rows: Rows, own: Rows, n: int) -> Rows:
    """Leave each query's own row out: (n_queries, ≤ n). rows: (n_queries, m), best first."""
    slots = np.argsort((rows == own[:, None]) & (own[:, None] >= 0), axis=1, kind="stable")[:, :n]
    return np.take_along_axis(rows, slots, axis=1)


def _memory_bytes(dim: int, n_rows: int, n_queries: int, k: int) -> int:
    """What `measure_forms` needs at its longest prefix: rows to fit to, axes, a chunk three times over, pools twice."""
    n_forms = len(Order) * len(CODECS)
    training = min(n_rows, TRAINING_ROWS) * dim * 4
    pools = 2 * n_forms * n_queries * (OVERSAMPLES[-1] * k + 1) * 12
    return 2 * training + (n_forms + 1) * dim * dim * 4 + 3 * min(n_rows, CHUNK_ROWS) * dim * 4 + pools
