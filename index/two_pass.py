"""The two-pass index: candidates by prefix in memory, then their full vectors from disk, scored exactly.

Append-only. A write goes: `append` (rows on disk, durable, unseen) → the caller commits the row count →
`publish` (seen). A row past the committed count is garbage and is dropped on open. `rebuild` makes a better
first pass from the stored vectors while searches and writes go on.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.calibration import Calibration, K, Reach
from index.errors import IndexFault, MemoryFullError, StorageError
from index.evaluation import exact_search
from index.first_pass import FirstPass, FirstPassFolder, Manifest, PrefixSnapshot
from index.first_pass.merging import Candidates
from index.plan import Kind, Plan, Wish, plain
from index.planner import READ_MS, Machine, leanest, search_ms
from index.rebuilding import Report, discarded_on_error, make_first_pass
from index.second_pass import Scored, StopRule, prove, rescore
from index.vector_file import SUFFIXES, VectorFile, VectorView, row_checksums
from index.vectors import Float32, Rows, check_prefix_dim, normalise

MAX_READ = 4096
"""Rows that a certified search reads at most, unless told otherwise. On real texts nine searches of ten need fewer
than a hundred; the rest are those whose neighbours are all alike."""

GROWTH = 1.5
"""A first pass is made anew when the collection has grown by this factor: over its life every row is then encoded
three times, and at most a third of the rows lie in parts that a search visits one by one."""

FEW_ROWS = 512
"""Allowed rows that are read outright: 0.7 ms from the page cache, about what a scan of 200 000 codes takes."""

RECENT = 0.1  # what the newest search counts in the share of cold reads

RARELY_COLD = 0.005
"""Share of the rows read, one of every second search's. Warm, as after fifty searches without one, a search over a
million rows is all work: sixteen of them at once took 13 ms of processor time each, two at once 4 to 5."""

MIN_ROWS = 1000
"""Rows below which nothing is trained: the plain form finds everything in a fraction of a millisecond."""


class Mode(StrEnum):
    """How a search ranks."""

    TWO_PASS = "two_pass"  # candidates by prefix, order by full vectors
    PREFIX = "prefix"  # order by prefix alone; reads nothing from disk
    CERTIFIED = "certified"  # reads on in the order of upper bounds until the answer is proved
    EXACT = "exact"  # scans every full vector


@dataclass(frozen=True)
class Shape:
    """What can't be changed without writing the vectors anew, and the plain form's prefix length, which can."""

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
    prefix_scores: Float32  # (n_queries, n) float32; in mode certified the upper bound; -inf in mode exact
    prefix_ranks: Rows  # (n_queries, n) int64, from 0; -1 in mode exact
    proved: Rows  # (n_queries,) int64: how many leading slots are certainly the best of all rows, in order
    candidates: Rows  # (n_queries,) int64: rows that the first pass handed over
    rows_read: Rows  # (n_queries,) int64: full vectors read from the file
    cold_reads: Rows  # (n_queries,) int64: those of them that weren't in the page cache
    first_pass_s: float
    second_pass_s: float
    n_live: int  # rows that the search could have found


@dataclass(frozen=True)
class _View:
    """What one search sees of prefixes and vectors; replaced as a whole when rows come or go."""

    prefixes: PrefixSnapshot
    vectors: VectorView
    calibration: Calibration | None  # of the build; None for a first pass that wasn't measured


def pool_size(k: int, oversample: float, min_candidates: int, n_rows: int) -> int:
    """Return the first pass's candidates for k hits: clamp(ceil(oversample * k), min_candidates, n_rows)."""
    return max(1, min(max(math.ceil(oversample * k), min_candidates), n_rows))


class TwoPassIndex:
    """One generation of vectors in a folder. Any number of threads search; one at a time writes, one rebuilds."""

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        n_rows: int,
        live: NDArray[np.bool_],
        resident_bytes: int | None = None,
    ) -> None:
        """Open the generation, making its files if there are none.

        Args:
            folder: the collection's folder; must exist.
            shape: as committed.
            n_rows: committed rows. What the file has beyond them is dropped.
            live: (n_rows,) rows that searches may find. Rows that the file lacks are masked in any case.
            resident_bytes: memory there is for codes that aren't mapped; None: enough. Where those of the stored first
                pass take more it isn't opened: the plain form, which is mapped, stands in until a rebuild.

        Raises:
            PrefixError: the prefix is longer than the vectors.
            DiskFullError, StorageError: a file can't be opened.
        """
        check_prefix_dim(shape.prefix_dim, shape.dim)
        self.shape = shape
        self.wave_rows = 0  # full vectors read at once, by the disk's speed; 0: all candidates together
        self._folder = folder
        self._file = VectorFile(vector_path(folder, shape), shape.dim, shape.vector_dtype)
        self._file.cut(n_rows)
        n_present = min(n_rows, self._file.n_whole_rows)
        live = live.copy()
        live[n_present:] = False
        vectors = self._file.view(n_present)
        self._change_lock = threading.Lock()  # who changes the view: a writer, or a rebuild at its end
        self._rebuild_lock = threading.Lock()
        self._turn = threading.Lock()  # whose second pass it is, where rows come from memory
        self._cold_share = 1.0  # of the rows that recent searches read, those that the page cache didn't have
        self._first_pass = FirstPass.open(
            folder, shape.generation, vectors, live, plain(shape.prefix_dim), resident_bytes
        )
        self._view = self._new_view(vectors)

    # Writing

    def append(self, vectors: Float32, n_committed: int) -> Appended:
        """Put rows on the disk, durably, behind the committed ones (steps 1 and 2). Not yet visible.

        Args:
            vectors: (n, dim) float32, unit length.
            n_committed: rows that the catalog says are committed.

        Raises:
            DiskFullError, StorageError: nothing has changed.
        """
        first_row = self.n_rows
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
        with self._change_lock:
            vectors = self._view.vectors
            if appended is not None and len(appended.stored):
                vectors = self._file.view(self._first_pass.n_rows + len(appended.stored))
                self._first_pass.add(appended.stored.astype(np.float32), vectors)
            if len(removed):
                self._first_pass.mask(removed)
            self._view = self._new_view(vectors)

    def _new_view(self, vectors: VectorView) -> _View:
        calibration = Calibration.from_evidence(self._first_pass.manifest.evidence)
        return _View(self._first_pass.snapshot(), vectors, calibration)

    # Rebuilding

    def reach(self, oversample: float) -> Reach:
        """Return what was measured of searches that look so far, in the planned number of lists."""
        calibration = self._view.calibration
        return Reach(oversample, None, None if calibration is None else calibration.recall_at(oversample))

    def reach_for(self, target_recall: float, usual: float) -> Reach:
        """Return the cheapest reach that was measured to find a share of the true neighbours, or else the most of them.

        `usual` is the oversample where nothing was measured: then every row is compared as it is.
        """
        view = self._view
        if view.calibration is None:
            return Reach(usual, None, None)
        plan, n_rows = view.prefixes.plan, view.prefixes.n_rows

        def cost(oversample: float, n_probes: int | None) -> float:
            return search_ms(
                replace(plan, n_probes=n_probes or plan.n_probes), n_rows, oversample * K, Machine()
            )

        return view.calibration.reach(target_recall, cost)

    def rebuild_due(self, wish: Wish) -> bool:
        """Return whether the collection has outgrown its first pass, or the wish has changed."""
        view = self._view
        told = self._first_pass.manifest.evidence
        if view.prefixes.n_live < MIN_ROWS:
            return False
        n_rows = view.prefixes.n_rows
        if told.get("wish") != wish.told() or n_rows >= GROWTH * int(told.get("rows", 0)):
            return True
        # The memory has become too small: a leaner form is made, if there is one.
        return not wish.has_room(view.prefixes.plan, n_rows) and wish.has_room(
            leanest(n_rows, self.shape.dim, wish), n_rows
        )

    def check_room(self, wish: Wish, n_new: int) -> None:
        """Look whether the wish's memory holds the codes of so many rows more, in the leanest form that it allows.

        Raises:
            MemoryFullError: it doesn't.
        """
        n_rows = self.n_rows + n_new
        if n_rows < MIN_ROWS or wish.has_room(self.plan, n_rows):
            return
        lean = leanest(n_rows, self.shape.dim, wish)
        if not wish.has_room(lean, n_rows):
            limits = [wish.memory_bytes, wish.resident_bytes if lean.is_resident else None]
            raise MemoryFullError(
                f"{n_rows:,} passages take {n_rows * lean.row_bytes:,} bytes of memory in the leanest form, "
                f"and {min(each for each in limits if each is not None):,} are set apart for that"
            )

    def rebuild(
        self,
        wish: Wish,
        read_ms: float = READ_MS,
        stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> Report | None:
        """Plan, train, fill and measure a new first pass, then put it in the old one's place.

        Searches and writes go on meanwhile; no search waits, and none sees a row twice or not at all: the new
        pass catches up with what was written and deleted while it was made, and the switch is one assignment.

        Args:
            read_ms: what reading one full vector takes, for the planner.
            stop: asked now and then; True gives up, and nothing has changed.
            on_progress: told (stage, rows done, rows in all).

        Returns:
            What was chosen and measured; None if stopped, or if there are fewer than MIN_ROWS live rows.

        Raises:
            MemoryFullError, DiskFullError, StorageError: nothing has changed.
        """
        with self._rebuild_lock:
            view = self._view
            if view.prefixes.n_live < MIN_ROWS:
                return None
            number = self._first_pass.manifest.number + 1
            files = FirstPassFolder(self._folder, self.shape.generation)
            made = make_first_pass(
                files,
                number,
                view.vectors,
                view.prefixes,
                wish,
                read_ms,
                self.wave_rows > 0,
                stop,
                on_progress,
            )
            if made is None:
                return None
            first_pass, report = made
            with discarded_on_error(first_pass):
                # What came in meanwhile: most of it here, the last of it while writers wait.
                view = self._view
                first_pass.fill_from(view.vectors, view.prefixes.n_rows)
                with self._change_lock:
                    first_pass.fill_from(self._view.vectors, self.n_rows)
                    first_pass.save()
                    old, self._first_pass = self._first_pass, first_pass
                    first_pass.set_live(old.live)
                    self._view = self._new_view(self._view.vectors)
            old.discard()
            return report

    def build_for(
        self,
        generation: int,
        n_rows: int,
        stop: Callable[[], bool],
        on_progress: Callable[[str, int, int], None],
    ) -> bool:
        """Make the first pass of another generation of the same model by what this one's was trained; False if stopped.

        Nothing is trained or measured: the same vector gets the same code. For a generation that isn't open yet, whose
        file has at least n_rows rows.

        Raises:
            DiskFullError, StorageError: its files are removed.
        """
        recipe, told = self._first_pass.recipe, self._first_pass.manifest
        if recipe.plan.is_plain:  # made as quickly when it is opened
            return True
        shape = replace(self.shape, generation=generation)
        file = VectorFile(vector_path(self._folder, shape), shape.dim, shape.vector_dtype, read_only=True)
        files = FirstPassFolder(self._folder, generation)
        first_pass = FirstPass(
            files, recipe, Manifest(1, told.plan, evidence={**told.evidence, "rows": n_rows})
        )
        n_built = (
            n_rows // 8 * 8
        )  # parts end at whole bytes of the live bitmap; opening adds the last few rows
        with discarded_on_error(first_pass):
            if not first_pass.build(
                file.view(n_rows), n_built, stop, lambda row, _: on_progress("filling", row, n_rows)
            ):
                first_pass.discard()
                return False
            first_pass.save()
        return True

    # Searching

    def search(
        self,
        queries: Float32,
        n_candidates: int,
        mode: Mode = Mode.TWO_PASS,
        n_hits: int | None = None,
        max_read: int = MAX_READ,
        n_probes: int | None = None,
        allowed: NDArray[np.uint8] | None = None,
    ) -> Hits:
        """Rank rows for each query; every row that was read comes back, so that the caller can group them.

        Args:
            queries: (n_queries, dim) float32, unit length.
            n_candidates: rows that the first pass hands over (see `pool_size`); at least 1. Modes certified and
                exact don't look at it.
            mode: see Mode.
            n_hits: how many leading slots the caller needs. Reading stops once no unread candidate can be
                expected among them; None reads every candidate. In mode certified how many are to be proved.
            max_read: rows that mode certified reads at most.
            n_probes: lists of an inverted file that are compared; None: as planned. More where few rows are allowed.
            allowed: bitmap of the rows that may be found, row r being bit r % 8 of byte r // 8; None: all. Of few
                allowed rows every full vector is scored, without a first pass.
        """
        view = self._view
        if allowed is not None:
            view = replace(view, prefixes=view.prefixes.restricted(allowed))
            n_probes = _enough_probes(view.prefixes, n_probes)
        n_hits_wanted = n_candidates if n_hits is None else n_hits
        started = time.perf_counter()
        if mode is Mode.EXACT:
            return _search_exact(view, queries, n_hits_wanted)
        if mode is Mode.CERTIFIED:
            scored = [
                prove(view.prefixes, view.vectors, query, n_hits_wanted, max_read, self.wave_rows)
                for query in queries
            ]
            return _hits(scored, n_hits_wanted, 0.0, time.perf_counter() - started, view.prefixes.n_live)
        n_live = view.prefixes.n_live
        is_direct = allowed is not None and mode is Mode.TWO_PASS and n_live <= max(n_candidates, self._few)
        if is_direct:
            pool = _every_row(view.prefixes.live_rows(), len(queries))
        else:
            pool = view.prefixes.search(queries, n_candidates, n_probes)
        found = time.perf_counter()
        if mode is Mode.PREFIX:
            ranks = np.where(pool.rows >= 0, np.arange(pool.rows.shape[1]), -1)
            none = np.zeros(len(queries), np.int64)
            n_found = np.count_nonzero(pool.rows >= 0, axis=1)
            return Hits(
                pool.rows,
                pool.scores,
                pool.scores,
                ranks,
                none,
                n_found,
                none,
                none,
                found - started,
                0.0,
                n_live,
            )
        rule = None if is_direct else StopRule.of(view.calibration, n_hits, self.wave_rows)
        # Rows in the page cache come in hundreds of calls of a microsecond, each of which gives the interpreter's
        # lock up and asks for it again; searches side by side then wait for each other every time. One after another
        # they are faster. A slow disk, though, likes to be asked by several at once.
        with contextlib.nullcontext() if self.waits_for_disk else self._turn:
            scored = [
                # Counted, since lists that aren't probed hold rows that no pool is large enough for.
                rescore(view.vectors, query, rows, scores, rule, np.count_nonzero(rows >= 0) == n_live)
                for query, rows, scores in zip(queries, pool.rows, pool.scores, strict=True)
            ]
        if is_direct:
            scored = [replace(each, prefix_ranks=np.full(len(each.rows), -1)) for each in scored]
        hits = _hits(scored, n_candidates, found - started, time.perf_counter() - found, n_live)
        self._notice_reads(hits)
        return hits

    @property
    def waits_for_disk(self) -> bool:
        """Whether searches wait for a slow disk now: rows that recent ones read were not in the page cache."""
        return self.wave_rows > 0 and self._cold_share > RARELY_COLD

    def _notice_reads(self, hits: Hits) -> None:
        n_read = int(hits.rows_read.sum())
        if n_read:
            n_cold = int(hits.cold_reads.sum()) if (hits.cold_reads >= 0).all() else n_read
            self._cold_share += (n_cold / n_read - self._cold_share) * RECENT

    @property
    def _few(self) -> int:
        """Rows that are read outright rather than looked for: not on a disk where each is a wait."""
        return FEW_ROWS if self.wave_rows == 0 else 0

    def pool(self, queries: Float32, n_candidates: int, n_probes: int | None = None) -> Rows:
        """Return what the first pass hands over, best first: (n_queries, n_candidates), -1 for empty slots."""
        return self._view.prefixes.search(queries, n_candidates, n_probes).rows

    def snapshot(self) -> tuple[PrefixSnapshot, VectorView]:
        """Return what a search that begins now sees: prefixes and full vectors. Neither changes any more."""
        view = self._view
        return view.prefixes, view.vectors

    @property
    def build(self) -> int:
        """Number of the first pass in place; every rebuild has another."""
        return self._first_pass.manifest.number

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
    def row_bytes(self) -> int:
        """Bytes of one stored vector."""
        return self._view.vectors.row_bytes

    @property
    def prefix_bytes(self) -> int:
        """Bytes that the first pass wants in memory."""
        return self._view.prefixes.ram_bytes

    @property
    def plan(self) -> Plan:
        """How the first pass is made."""
        return self._view.prefixes.plan

    @property
    def evidence(self) -> dict[str, Any]:
        """What the last rebuild measured; empty for a first pass that nothing was measured for."""
        return self._first_pass.manifest.evidence

    @property
    def oversample(self) -> float:
        """Candidates for each hit that the planned recall needs, as measured; 1 where nothing was measured."""
        calibration = self._view.calibration
        return calibration.oversample if calibration else 1.0


def _enough_probes(prefixes: PrefixSnapshot, n_probes: int | None) -> int | None:
    """Lists to compare where only some rows may be found: as many more as there are fewer of them; None: no lists."""
    plan = prefixes.plan
    if plan.kind is not Kind.IVF:
        return None
    share = max(prefixes.n_live, 1) / max(prefixes.n_rows, 1)
    return min(plan.n_lists, math.ceil((n_probes or plan.n_probes) / share))


def _every_row(rows: Rows, n_queries: int) -> Candidates:
    """A pool of all rows there are, (n_rows,), in their own order, for each query; nothing was compared."""
    shape = (n_queries, len(rows))
    return Candidates(np.broadcast_to(rows, shape), np.full(shape, -np.inf, np.float32))


def _search_exact(view: _View, queries: Float32, n_hits: int) -> Hits:
    started = time.perf_counter()
    rows, scores = exact_search(view.vectors.blocks(), queries, n_hits, view.prefixes.live)
    n_read = np.full(len(queries), view.vectors.n_rows)
    return Hits(
        rows, scores, np.full(scores.shape, -np.inf, np.float32), np.full(rows.shape, -1, np.int64),
        np.count_nonzero(rows >= 0, axis=1), n_read, n_read, np.zeros(len(queries), np.int64), 0.0,
        time.perf_counter() - started, view.prefixes.n_live,
    )  # fmt: skip


def _hits(scored: list[Scored], n_slots: int, first_pass_s: float, second_pass_s: float, n_live: int) -> Hits:
    """Put each query's rows into one rectangle of at least n_slots."""
    proved, candidates, rows_read, cold_reads = (
        np.array([getattr(each, name) for each in scored], np.int64)
        for name in ("proved", "candidates", "rows_read", "cold_reads")
    )
    if len(scored) == 1 and len(scored[0].rows) >= n_slots:  # nothing to pad: 0.02 ms less
        (only,) = scored
        rows, ranks = only.rows[None], only.prefix_ranks[None]
        scores, prefix_scores = only.scores[None], only.prefix_scores[None]
    else:
        rows, scores, prefix_scores, ranks = _padded(scored, n_slots)
    return Hits(
        rows, scores, prefix_scores, ranks, proved, candidates, rows_read, cold_reads, first_pass_s, second_pass_s,
        n_live,
    )  # fmt: skip


def _padded(scored: list[Scored], n_slots: int) -> tuple[Rows, Float32, Float32, Rows]:
    """Return rows, scores, prefix scores and ranks, each (n_queries, n) with n at least n_slots."""
    width = max([n_slots, *(len(each.rows) for each in scored)])
    shape = (len(scored), width)
    rows, ranks = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    scores, prefix_scores = np.full(shape, -np.inf, np.float32), np.full(shape, -np.inf, np.float32)
    for query, each in enumerate(scored):
        n = len(each.rows)
        rows[query, :n], scores[query, :n] = each.rows, each.scores
        prefix_scores[query, :n], ranks[query, :n] = each.prefix_scores, each.prefix_ranks
    return rows, scores, prefix_scores, ranks


def vector_path(folder: Path, shape: Shape) -> Path:
    """Return where a generation's vectors lie."""
    return folder / f"vectors-{shape.generation:04d}{SUFFIXES[shape.vector_dtype]}"


def generation_files(folder: Path, generation: int) -> list[Path]:
    """Return every file of a generation's: vectors, and what was derived from them."""
    return sorted(
        [*folder.glob(f"vectors-{generation:04d}.*"), *folder.glob(f"first-pass-{generation:04d}-*")]
    )


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
    return FirstPassFolder(folder, shape.generation).stale(file.view(file.n_whole_rows), rows)
