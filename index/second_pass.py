"""The second pass: read full vectors in waves, score them exactly, stop when the rest can't matter.

`rescore` reads a pool in the order of the first pass and stops by expectation: when the calibrated upper end of what
the next candidate may score lies below the k-th best. `prove` reads in the order of upper bounds and stops by
theorem.
"""

from dataclasses import dataclass

import numpy as np

from index.calibration import Calibration
from index.first_pass.snapshot import Bounded, PrefixSnapshot
from index.vector_file import VectorView
from index.vectors import Float32, Rows, order_by_score, score

FIRST_BOUNDS = 256
"""Rows that a proof asks for by upper bound at first. Most proofs end within a hundred; asking for 256 costs the scan
no measurable time over asking for 10."""

BOUNDS_GROWTH = 8  # each further scan asks for this many times as many

PROOF_WAVE = 16
"""Rows read between two looks at the bounds. On 320 000 real texts half of the proofs need 15 reads."""


@dataclass(frozen=True)
class Scored:
    """One query's rows with their exact scores, best first, ties by row."""

    rows: Rows  # (n,) int64
    scores: Float32  # (n,)
    prefix_scores: Float32  # (n,)
    prefix_ranks: Rows  # (n,) int64, from 0
    proved: int  # leading rows that are certainly the best of all, in order
    candidates: int
    rows_read: int
    cold_reads: int  # -1 where the file system can't say


@dataclass(frozen=True)
class StopRule:
    """When reading a pool may end early."""

    n_hits: int
    wave_rows: int
    calibration: Calibration

    @staticmethod
    def of(calibration: Calibration | None, n_hits: int | None, wave_rows: int) -> "StopRule | None":
        """Return the rule, or None where the whole pool is read at once: a fast disk, or nothing measured.

        A fast disk reads a row in microseconds: too little to risk an unlike query's answer for.
        """
        if calibration is None or n_hits is None or wave_rows == 0:
            return None
        return StopRule(n_hits, wave_rows, calibration)

    def may_stop(self, scores: Float32, prefix_scores: Float32, next_prefix_score: float) -> bool:
        """Return whether no further candidate is expected among the best n_hits.

        A query that is unlike those of the calibration can score higher throughout than its prefix says; what the
        rows read so far were above expectation, on average, is expected of the others too.

        Args:
            scores: (n,) exact scores read so far. prefix_scores: (n,) of the same rows.
            next_prefix_score: of the best unread candidate.
        """
        if len(scores) < self.n_hits:
            return False
        surplus = max(0.0, float(np.mean(scores - self.calibration.expected(prefix_scores))))
        worst_kept = float(np.partition(scores, -self.n_hits)[-self.n_hits])
        return self.calibration.highest_likely(next_prefix_score) + surplus < worst_kept


class _Reader:
    """Exact scores of one query, growing."""

    def __init__(self, vectors: VectorView, query: Float32) -> None:
        self._vectors = vectors
        self._query = query
        self.scores: Float32 = np.zeros(0, np.float32)
        self.cold_reads = 0

    def read(self, rows: Rows) -> None:
        """Read rows, (n,) int64 in any order, and append their scores in that order."""
        order = np.argsort(rows)  # the disk likes its reads in order
        gathered = self._vectors.gather_counted(rows[order])
        scores = np.empty(len(rows), np.float32)
        scores[order] = score(gathered.vectors, self._query)
        self.scores = np.concatenate([self.scores, scores])
        if gathered.n_cold is None or self.cold_reads < 0:
            self.cold_reads = -1
        else:
            self.cold_reads += gathered.n_cold


def rescore(
    vectors: VectorView,
    query: Float32,
    rows: Rows,
    prefix_scores: Float32,
    rule: StopRule | None,
    is_whole: bool,
) -> Scored:
    """Score a pool by full vectors, reading all of it or, by a rule, its front in waves.

    Args:
        query: (dim,) float32, unit length.
        rows: (n_candidates,) int64 by falling prefix score, -1 for empty slots, which come last.
        is_whole: whether the pool holds every live row, so that reading all of it proves the answer.
    """
    n = int(np.count_nonzero(rows >= 0))
    reader, done = _Reader(vectors, query), 0
    while done < n:
        step = n if rule is None else max(rule.wave_rows, rule.n_hits - done)
        end = min(done + step, n)
        reader.read(rows[done:end])
        done = end
        if (
            rule is not None
            and done < n
            and rule.may_stop(reader.scores, prefix_scores[:done], float(prefix_scores[done]))
        ):
            break
    order = order_by_score(reader.scores, rows[:done])
    proved = n if is_whole and done == n else 0
    return Scored(
        rows[:done][order], reader.scores[order], prefix_scores[:done][order], order.astype(np.int64), proved, n,
        done, reader.cold_reads,
    )  # fmt: skip


def prove(
    prefixes: PrefixSnapshot, vectors: VectorView, query: Float32, n_hits: int, max_read: int, wave_rows: int
) -> Scored:
    """Read rows in the order of their upper bounds until the best n_hits are proved, or max_read are read.

    A row's exact score is at most its bound (first_pass/bounds.py). Once the n_hits-th best score read is higher than
    the bound of every unread row, none of those can be among the best n_hits: what brute force would return, ties by
    row included, has been found. Should reading end before, the leading rows that lie above every unread bound are
    proved all the same.

    Args:
        query: (dim,) float32, unit length.
        wave_rows: rows read at once, by the disk's speed; 0: PROOF_WAVE.

    Without bounds every live row is read, if max_read allows.
    """
    n_live = prefixes.n_live
    limit = min(max_read, n_live)
    wave = wave_rows or PROOF_WAVE
    reader = _Reader(vectors, query)
    n_asked = FIRST_BOUNDS + n_hits
    found = _bounded(prefixes, query, n_asked, limit)
    rows, bounds, behind = found.rows, found.bounds, found.behind
    done, kth = 0, -np.inf  # the n_hits-th best exact score
    while True:
        next_bound = float(bounds[done]) if done < len(bounds) else -np.inf
        if kth > max(next_bound, behind) or done == limit:
            break
        if done < len(rows) and next_bound >= min(kth, behind):
            end = min(done + max(wave, n_hits - done), limit, len(rows))
            reader.read(rows[done:end])
            done = end
            if done >= n_hits:
                kth = float(np.partition(reader.scores, -n_hits)[-n_hits])
        elif behind > -np.inf:  # rows that weren't asked for could be better than those that were
            n_asked *= BOUNDS_GROWTH
            found = _bounded(prefixes, query, n_asked, limit)
            is_new = ~np.isin(found.rows, rows[:done])
            rows = np.append(rows[:done], found.rows[is_new])
            bounds, behind = np.append(bounds[:done], found.bounds[is_new]), found.behind
        else:
            break
    highest_unread = max(float(bounds[done]) if done < len(bounds) else -np.inf, behind)
    if done == n_live:
        highest_unread = -np.inf
    order = order_by_score(reader.scores, rows[:done])
    scores = reader.scores[order]
    return Scored(
        rows[:done][order], scores, bounds[:done][order], order.astype(np.int64),
        int(np.count_nonzero(scores > highest_unread)), done, done, reader.cold_reads,
    )  # fmt: skip


def _bounded(prefixes: PrefixSnapshot, query: Float32, n_asked: int, limit: int) -> Bounded:
    """Return live rows by falling upper bound; without bounds, as many as may be read, each of them unbounded."""
    if prefixes.coder is not None:
        return prefixes.upper_bounds(query, n_asked)
    rows = prefixes.live_rows()
    return Bounded(rows[:limit], np.full(limit, np.inf, np.float32), np.inf if limit < len(rows) else -np.inf)
