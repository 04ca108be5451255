"""Making a new first pass from stored vectors: sample, plan, train, fill, measure."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.axes import Axes, Order
from index.calibration import OVERSAMPLES, Calibration, K, calibrate, pool_recall
from index.errors import StorageError
from index.evaluation import ExactScan
from index.first_pass.files import FirstPassFolder, Manifest
from index.first_pass.merging import Candidates
from index.first_pass.recipe import fit_axes, train
from index.first_pass.snapshot import PrefixSnapshot
from index.first_pass.writer import FirstPass
from index.plan import Plan, Wish
from index.planner import Machine, machine_factor, propose, search_ms, training_within
from index.vector_file import VectorView
from index.vectors import Float32, Rows, normalise, score

N_QUERIES = 256
"""Rows that are held out and searched for. A recall of 0.99 over 256 x 10 neighbours has a standard error of 0.002."""

RUN_ROWS = 32
"""Neighbouring rows that the sample takes at a time: a slow disk reads a run about as fast as a row."""

ORDER_ROWS = 8192
"""Rows of the sample on which the two orders are compared."""

PROBED_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Parts of an inverted file's lists that are tried, until HIGHEST_TARGET is reached too."""

HIGHEST_TARGET = 0.9995
"""What is measured for searches that ask for more than the setting: the most that 256 searches can tell from 1."""

MAX_TRIES = 3  # plans that are filled and measured before the best of them is kept


@dataclass(frozen=True)
class Report:
    """What a rebuild chose and found."""

    plan: Plan
    evidence: dict[str, Any]


@dataclass(frozen=True)
class _Sample:
    """Rows to fit to, and rows to search for."""

    training: Float32  # (n, dim) as stored
    queries: Float32  # (n_queries, dim) unit length
    query_rows: Rows  # (n_queries,)


def make_first_pass(
    files: FirstPassFolder,
    number: int,
    vectors: VectorView,
    current: PrefixSnapshot,
    wish: Wish,
    read_ms: float,
    reads_in_waves: bool,
    stop: Callable[[], bool],
    on_progress: Callable[[str, int, int], None],
) -> tuple[FirstPass, Report] | None:
    """Plan, train, fill and measure a first pass over the rows of a snapshot; None if stopped.

    Args:
        number: of the build, for its files.
        current: the first pass in place; says which rows are live, and how long prefixes may be.
        read_ms: to read one full vector. reads_in_waves: whether searches stop reading early.

    Memory: `index.planner.rebuild_bytes` of the longest plan that is tried, beside the first pass in place; at most the
    wish's working_bytes.

    Raises:
        MemoryFullError: it can't be made within that; nothing was begun.
        DiskFullError, StorageError: the build's files are removed again.
    """
    started = time.perf_counter()
    on_progress("sampling", 0, current.n_rows)
    n_rows = min(current.n_rows, vectors.n_rows)
    machine = Machine(machine_factor(), read_ms, reads_in_waves)
    proposals = propose(n_rows, vectors.dim, wish, machine)
    sample = _take_sample(vectors, current, training_within(proposals, n_rows, vectors.dim, wish))
    # The costliest part of training for long vectors; every plan uses the same.
    corpus = fit_axes(sample.training, max(each.plan.prefix_dim for each in proposals))
    order, order_evidence = _choose_order(sample, corpus, proposals[0].plan, wish)
    exact = _Exact(sample, current)
    work = _Work(vectors, n_rows, current, sample, exact, wish.target_recall, machine, stop, on_progress)
    best: _Tried | None = None
    for attempt, proposal in enumerate(proposals[:MAX_TRIES]):
        if best is not None and best.is_enough and proposal.search_ms >= best.search_ms:
            break
        if best is not None:
            best.first_pass.set_aside()  # the old codes and these and the next would be three in memory
        on_progress("training", 0, n_rows)
        plan = replace(proposal.plan, order=order)
        recipe = train(plan, sample.training, wish.with_bounds, corpus)
        first_pass = FirstPass(files, recipe, Manifest(number + attempt, plan))
        with discarded_on_error(best.first_pass) if best else contextlib.nullcontext():
            tried = _try(first_pass, work)
        if tried is None:
            if best is not None:
                best.first_pass.discard()
            return None
        if best is None or tried.is_better(best):
            best, tried = tried, best
        if tried is not None:
            tried.first_pass.discard()
    if best is None:
        return None  # there is always a proposal
    with discarded_on_error(best.first_pass):
        best.first_pass.take_up(vectors)
    evidence = {
        "rows": n_rows,
        "wish": wish.told(),
        "order": order_evidence,
        "calibration": best.calibration.told(),
        "search_ms": round(_scan_ms(best.first_pass.snapshot(), sample.queries), 3),
        "predicted_search_ms": round(best.search_ms, 3),
        "speed_factor": round(machine.speed_factor, 2),
        "read_ms": round(machine.read_ms, 4),
        "seconds": round(time.perf_counter() - started, 1),
    }
    best.first_pass.manifest.evidence.update(evidence)
    return best.first_pass, Report(best.first_pass.manifest.plan, evidence)


@dataclass(frozen=True)
class _Work:
    """What filling and measuring needs besides the first pass."""

    vectors: VectorView
    n_rows: int
    current: PrefixSnapshot
    sample: _Sample
    exact: "_Exact"
    target: float
    machine: Machine
    stop: Callable[[], bool]
    on_progress: Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Tried:
    """A first pass that was filled and measured."""

    first_pass: FirstPass
    calibration: Calibration
    is_enough: bool  # reaches the target recall with some pool
    search_ms: float  # with that pool

    def is_better(self, other: "_Tried") -> bool:
        return (self.is_enough, -self.search_ms) > (other.is_enough, -other.search_ms)


def _try(first_pass: FirstPass, work: _Work) -> _Tried | None:
    """Fill a first pass and measure it; None if stopped, its files removed."""
    with discarded_on_error(first_pass):
        if not _fill(first_pass, work.vectors, work.n_rows, work.stop, work.on_progress, work.exact):
            first_pass.discard()
            return None
        work.exact.is_done = True
        first_pass.set_live(work.current.live)
        work.on_progress("measuring", work.n_rows, work.n_rows)
        calibration = _measure(first_pass, work.vectors, work.sample, work.exact.rows, work.target)
    reads = calibration.reads(work.machine.reads_in_waves)
    took = search_ms(first_pass.recipe.plan, work.n_rows, reads, work.machine)
    return _Tried(first_pass, calibration, calibration.reaches(work.target), took)


@contextlib.contextmanager
def discarded_on_error(first_pass: FirstPass) -> Iterator[None]:
    """Remove a half-made build's files when making it fails."""
    try:
        yield
    except RuntimeError as error:  # faiss could not write
        first_pass.discard()
        raise StorageError(f"the first pass can't be written: {error}") from error
    except BaseException:
        first_pass.discard()
        raise


class _Exact:
    """The true neighbours of the held-out rows, themselves left out, found while the file goes by."""

    def __init__(self, sample: _Sample, current: PrefixSnapshot) -> None:
        self._scan = ExactScan(sample.queries, K + 1)
        self._query_rows = sample.query_rows
        self._current = current
        self.is_done = False  # every row has gone by: a second try needs no second look

    def add(self, first_row: int, block: Float32) -> None:
        if not self.is_done:
            self._scan.add(
                first_row, block, self._current.is_live(np.arange(first_row, first_row + len(block)))
            )

    @property
    def rows(self) -> Rows:
        """(n_queries, K) int64, -1 for empty slots."""
        return _without(self._scan.rows, self._query_rows, K)


def _fill(
    first_pass: FirstPass,
    vectors: VectorView,
    n_rows: int,
    stop: Callable[[], bool],
    on_progress: Callable[[str, int, int], None],
    exact: _Exact,
) -> bool:
    def watch(first_row: int, block: Float32) -> None:
        on_progress("filling", first_row, n_rows)
        exact.add(first_row, block)

    n_built = n_rows // 8 * 8  # parts end at whole bytes of the live bitmap; the last few rows go to the tail
    if not first_pass.build(vectors, n_built, stop, watch):
        return False
    for start, block in vectors.blocks(n_built, n_rows):
        exact.add(start, block)
        first_pass.fill(block, vectors)
    return True


def _take_sample(vectors: VectorView, current: PrefixSnapshot, n_training: int) -> _Sample:
    """Take runs of live rows spread over the whole file, and hold some single rows out."""
    rng = np.random.default_rng(0)
    n_rows = min(current.n_rows, vectors.n_rows)
    n_runs = max(1, n_rows // RUN_ROWS)
    runs = np.sort(rng.permutation(n_runs)[: -(-(n_training + N_QUERIES) // RUN_ROWS)])
    rows = (runs[:, None] * RUN_ROWS + np.arange(RUN_ROWS)).reshape(-1)
    rows = rows[rows < n_rows]
    rows = rows[current.is_live(rows)]
    held_out = np.sort(rng.permutation(len(rows))[: min(N_QUERIES, len(rows) // 4)])
    is_training = np.ones(len(rows), np.bool_)
    is_training[held_out] = False
    chosen = rows[is_training]
    training = np.empty((len(chosen), vectors.dim), np.float32)  # 96 MiB at 1536 dimensions: held once
    places = rng.permutation(len(chosen))
    for part in np.array_split(np.arange(len(chosen)), len(chosen) // 1024 + 1):
        training[places[part]] = vectors.gather(chosen[part])
    return _Sample(training, normalise(vectors.gather(rows[held_out])), rows[held_out])


def _choose_order(sample: _Sample, axes: Axes, plan: Plan, wish: Wish) -> tuple[Order, dict[str, Any]]:
    """Compare the orders at equal bytes: which finds more of the sample's own nearest neighbours?

    Measured with half the candidates that k = 10 would get, so that there is something to lose.
    """
    if wish.order is not None:
        return wish.order, {"chosen": wish.order.value, "why": "as set"}
    corpus = sample.training[:ORDER_ROWS]
    true = np.argsort(-(sample.queries @ corpus.T), axis=1)[:, :K]
    recall = {}
    for order in (Order.MODEL, Order.CORPUS):
        tried = train(replace(plan, order=order, n_lists=1, n_probes=1), corpus, False, axes)
        pool = tried.search(corpus, sample.queries, 4 * K)
        recall[order] = float(
            np.mean([np.isin(mine, found).mean() for mine, found in zip(true, pool, strict=True)])
        )
    chosen = max(recall, key=lambda order: recall[order])
    told = {order.value: round(value, 4) for order, value in recall.items()}
    return chosen, {
        "chosen": chosen.value,
        "why": "measured",
        "recall_in_pool_of_40": told,
        "rows": len(corpus),
    }


def _measure(
    first_pass: FirstPass, vectors: VectorView, sample: _Sample, true: Rows, target: float
) -> Calibration:
    """Choose how many lists to probe, where there are lists, and measure what pools it then takes."""
    snapshot = first_pass.snapshot()
    n_lists = snapshot.plan.n_lists
    pool = _pool(snapshot, sample, None) if n_lists == 1 else None
    by_lists: dict[str, dict[str, float]] = {}
    for share in PROBED_SHARES if n_lists > 1 else ():
        n_probes = math.ceil(n_lists * share)
        found = _pool(snapshot, sample, n_probes)
        by_lists[str(n_probes)] = pool_recall(found.rows, true)
        most = max(by_lists[str(n_probes)].values())
        # Of what the target allows to be lost, pools shall lose the larger part: candidates cost less than lists.
        if pool is None and (most >= target + (1 - target) / 3 or share == PROBED_SHARES[-1]):
            pool = found
            first_pass.set_probes(n_probes)
        if pool is not None and most >= HIGHEST_TARGET:
            break
    assert pool is not None  # the last share always leaves one
    front = pool.rows[:, : 8 * K]
    exact_scores = np.full(front.shape, -np.inf, np.float32)
    for query, candidates in enumerate(front):
        order = np.argsort(candidates)
        order = order[candidates[order] >= 0]
        exact_scores[query, order] = score(vectors.gather(candidates[order]), sample.queries[query])
    return calibrate(pool.rows, pool.scores, exact_scores, true, target, by_lists)


def _pool(snapshot: PrefixSnapshot, sample: _Sample, n_probes: int | None) -> Candidates:
    """Search for the held-out rows, each of them left out of its own pool."""
    n_pool = int(OVERSAMPLES[-1]) * K
    found = snapshot.search(sample.queries, n_pool + 1, n_probes)
    return _leave_out(found, sample.query_rows, n_pool)


def _leave_out(found: Candidates, out: Rows, n: int) -> Candidates:
    """Leave each query's own row out."""
    slots = _kept(found.rows, out, n)
    return Candidates(
        np.take_along_axis(found.rows, slots, axis=1), np.take_along_axis(found.scores, slots, axis=1)
    )


def _kept(rows: Rows, out: Rows, n: int) -> NDArray[np.intp]:
    """Return, for each query, the slots that stay when its own row is left out: (n_queries, n)."""
    return np.argsort(rows == out[:, None], axis=1, kind="stable")[:, :n]


def _without(rows: Rows, out: Rows, n: int) -> Rows:
    """Leave each query's own row out: (n_queries, n)."""
    return np.take_along_axis(rows, _kept(rows, out, n), axis=1)


def _scan_ms(snapshot: PrefixSnapshot, queries: Float32) -> float:
    """Return the median time of a first pass for one query, in milliseconds."""
    times = []
    for query in queries[:32]:
        started = time.perf_counter()
        snapshot.search(query[None], 8 * K)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3
