"""What a first pass was measured to do on its own corpus: how large a pool must be, and when reading may end."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.vectors import Float32, Rows

K = 10
"""Hits that calibration looks for: the k of a search that names none."""

OVERSAMPLES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Pool sizes that are tried, as multiples of k."""

SURPLUS = 1.5
"""Standard errors by which a measured recall must lie above the one that is promised. The pool that just reaches it on
the held-out rows is chosen from dozens, so it has had luck: without this, pools chosen for 0.99 of 1 M x 768 synthetic
vectors held 0.9874 of the neighbours of 500 other queries."""

WAVE = 8
"""Rows between two looks at the stopping rule, in calibration. Larger waves only read more."""

SAME_ANSWERS = 0.995
"""Share of the calibration's searches that must give the same k hits when reading ends early as when the whole pool
is read. With 256 of them: at most one may differ."""

MARGINS = (2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0, 5.25, 5.5, 5.75, 6.0)
"""Margins that are tried, in standard deviations of what the first pass gets wrong."""


@dataclass(frozen=True)
class Reach:
    """How far a search looks."""

    oversample: float  # candidates for each hit
    n_probes: (
        int | None
    )  # lists of an inverted file that are compared; None: as planned, or there are no lists
    recall: (
        float | None
    )  # share of the true K nearest that was measured among the candidates; None: not measured


@dataclass(frozen=True)
class Calibration:
    """Measured on held-out rows of the corpus, each searched for with itself left out."""

    n_queries: int
    oversample: float  # least pool for the second pass, as a multiple of k, that reaches the target recall
    pool_recall: dict[str, float]  # oversample → share of the true K nearest that are in the pool
    slope: float  # exact score ≈ slope · prefix score + intercept
    intercept: float
    margin: float  # by how much an exact score may lie above that, as far as answers depend on it
    same_answers: float  # share of searches that reading by this margin left unchanged
    median_reads: float  # rows read by this margin, of a pool of 8·K
    mean_reads: float = 8.0 * K  # the same on average: what a disk pays; an earlier version didn't measure it
    # Of an inverted file: number of lists compared → what pool_recall is then. Earlier versions didn't keep it.
    by_lists: dict[str, dict[str, float]] = field(default_factory=dict)

    def expected(self, prefix_scores: Float32) -> Float32:
        """Return what candidates with these prefix scores score exactly, on average."""
        return np.float32(self.slope) * prefix_scores + np.float32(self.intercept)

    def highest_likely(self, prefix_score: float) -> float:
        """Return the upper end of what a candidate with this prefix score may score exactly."""
        return self.slope * prefix_score + self.intercept + self.margin

    def reads(self, in_waves: bool) -> float:
        """Return how many rows a search of k = K reads: its whole pool, or where a slow disk ends it early, fewer."""
        n_candidates = self.oversample * K
        return self.mean_reads * max(1.0, n_candidates / (8 * K)) if in_waves else n_candidates

    def reaches(self, target: float) -> bool:
        """Return whether some pool that was tried holds the target share of the true neighbours."""
        return max(self.pool_recall.values()) >= target

    def recall_at(self, oversample: float, n_probes: int | None = None) -> float | None:
        """Return the share of the true neighbours measured among so many candidates; None below the fewest tried."""
        measured = self.pool_recall if n_probes is None else self.by_lists[str(n_probes)]
        return max((share for each, share in measured.items() if float(each) <= oversample), default=None)

    def reach(self, target: float, cost: Callable[[float, int | None], float]) -> Reach:
        """Return the cheapest reach that was measured to hold a share of the true neighbours.

        Where none did, the cheapest of those that held most.

        Args:
            cost: of an oversample and a number of lists, in any unit.
        """
        tables: dict[int | None, dict[str, float]] = {int(n): each for n, each in self.by_lists.items()}
        tried = [
            Reach(float(oversample), n_probes, recall)
            for n_probes, measured in (tables or {None: self.pool_recall}).items()
            for oversample, recall in measured.items()
        ]
        most = max(each.recall or 0.0 for each in tried)
        wanted = min(surely(target, self.n_queries), most)
        enough = [each for each in tried if (each.recall or 0.0) >= wanted]
        return min(enough, key=lambda each: (cost(each.oversample, each.n_probes), each.oversample))

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @staticmethod
    def from_evidence(evidence: dict[str, Any]) -> "Calibration | None":
        """Read what `told` wrote; None where there is nothing, or what another version of twopass wrote."""
        try:
            return Calibration(**evidence["calibration"])
        except (KeyError, TypeError):
            return None


def pool_recall(pool: Rows, true: Rows) -> dict[str, float]:
    """Return the share of the true K nearest in the first candidates, by OVERSAMPLES.

    Args:
        pool: (n_queries, n) int64 rows, best first, -1 for empty slots. true: (n_queries, K) int64.
    """
    is_true = (pool[:, :, None] == true[:, None, :]).any(axis=2)  # (n_queries, n)
    found = np.cumsum(is_true, axis=1)
    n_true = np.maximum((true >= 0).sum(axis=1), 1)
    return {
        f"{each:g}": float(np.mean(found[:, min(math.ceil(each * K), pool.shape[1]) - 1] / n_true))
        for each in OVERSAMPLES
    }


def surely(target: float, n_queries: int) -> float:
    """Return the recall to be measured over that many searches for K neighbours each, for one that is promised."""
    return target + SURPLUS * math.sqrt(target * (1 - target) / (n_queries * K))


def least_oversample(recall: dict[str, float], target: float) -> float:
    """Return the least oversample that reaches the target; the largest tried where none does."""
    return next((each for each in OVERSAMPLES if recall[f"{each:g}"] >= target), float(OVERSAMPLES[-1]))


def calibrate(
    pool: Rows,
    prefix_scores: Float32,
    exact_scores: Float32,
    true: Rows,
    target: float,
    by_lists: dict[str, dict[str, float]],
) -> Calibration:
    """Measure a first pass.

    Args:
        pool: (n_queries, max(OVERSAMPLES) * K) int64 rows by falling prefix score, -1 for empty slots.
        prefix_scores: like pool. exact_scores: (n_queries, 8 * K) float32 full scores of the first candidates.
        true: (n_queries, K) int64, the nearest by full vectors.
        target: share of the true nearest that the pool must hold.
        by_lists: pool_recall by numbers of lists, of an inverted file.
    """
    recall = pool_recall(pool, true)
    oversample = least_oversample(recall, min(surely(target, len(pool)), max(recall.values())))
    front = prefix_scores[:, : exact_scores.shape[1]]
    slope, intercept = _line(front, exact_scores)
    is_found = np.isfinite(front) & np.isfinite(exact_scores)
    spread = (
        float(np.std(exact_scores[is_found] - (slope * front[is_found] + intercept)))
        if is_found.any()
        else 0.0
    )
    margin, same, reads = 0.0, 0.0, np.zeros(1)
    for factor in MARGINS:
        margin = factor * spread
        same, reads = _by_margin(slope * front + intercept + margin, exact_scores)
        if same >= SAME_ANSWERS:
            break
    return Calibration(
        len(pool),
        oversample,
        recall,
        slope,
        intercept,
        margin,
        same,
        float(np.median(reads)),
        float(np.mean(reads)),
        by_lists,
    )


def _line(x: Float32, y: Float32) -> tuple[float, float]:
    """Fit y ≈ slope · x + intercept by least squares over finite pairs."""
    is_pair = np.isfinite(x) & np.isfinite(y)
    if not is_pair.any() or np.ptp(x[is_pair]) == 0:
        return 1.0, 0.0
    slope, intercept = np.polyfit(x[is_pair].astype(np.float64), y[is_pair].astype(np.float64), 1)
    return float(slope), float(intercept)


def _by_margin(highest: Float32, exact_scores: Float32) -> tuple[float, NDArray[np.float64]]:
    """Return the share of queries whose best K stay the same when reading ends early, and each one's rows read."""
    n_same, reads = 0, []
    n_pool = exact_scores.shape[1]
    for likely, exact in zip(highest, exact_scores, strict=True):
        done = min(n_pool, K + WAVE)
        while done < n_pool and likely[done] >= np.partition(exact[:done], -K)[-K]:
            done = min(done + WAVE, n_pool)
        n_same += bool(np.partition(exact, -K)[-K] <= np.partition(exact[:done], -K)[-K])
        reads.append(done)
    return n_same / len(reads), np.array(reads, np.float64)
