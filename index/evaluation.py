"""What the answers are measured by: the exact scan over all full vectors, and recall."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from index.vectors import Float32, Rows, order_by_score, score

ROUNDING = 1e-5
"""How far a matrix product of unit vectors can lie from `score`, generously: float32 sums of 4 096 products
differ by less than 1e-6. Rows this close to the last place are scored again, so that ties go by row."""


def exact_search(
    blocks: Iterable[tuple[int, Float32]], queries: Float32, n_hits: int, live: NDArray[np.uint8]
) -> tuple[Rows, Float32]:
    """Score every live row's full vector and keep the best, ties by row.

    Args:
        blocks: (first row, (m, dim) float32) pieces of the vector file, in row order.
        queries: (n_queries, dim) float32, unit length.
        n_hits: kept for each query.
        live: bitmap of the rows that count, least significant bit first.

    Returns:
        (n_queries, n_hits) int64 rows, -1 for an empty slot, and their float32 inner products, -inf there.
        Memory: one block of scores; reads every block once for the whole batch.
    """
    scan = ExactScan(queries, n_hits)
    for first_row, block in blocks:
        is_live = np.unpackbits(live[first_row // 8 :], count=first_row % 8 + len(block), bitorder="little")[
            first_row % 8 :
        ].view(np.bool_)
        scan.add(first_row, block, is_live)
    return scan.rows, scan.scores


class ExactScan:
    """The best rows of each query so far, while blocks of full vectors go by in row order."""

    def __init__(self, queries: Float32, n_hits: int, one_thread: bool = False) -> None:
        """queries: (n_queries, dim) float32, unit length. n_hits: rows kept for each.

        one_thread: without BLAS, whose threads wait for each next block by spinning: for who rests between blocks,
        that took 0.18 of a core instead of 0.02.
        """
        self.queries = queries
        self._one_thread = one_thread
        self.rows: Rows = np.full((len(queries), n_hits), -1, np.int64)
        self.scores: Float32 = np.full((len(queries), n_hits), -np.inf, np.float32)

    def add(self, first_row: int, block: Float32, is_live: NDArray[np.bool_]) -> None:
        """Score a block, (m, dim) float32; is_live (m,): the rows of it that count."""
        n_hits = self.rows.shape[1]
        # (n_queries, m)
        quick_scores: Float32 = (
            np.einsum("qd,nd->qn", self.queries, block) if self._one_thread else self.queries @ block.T
        )
        if not is_live.all():
            quick_scores[:, ~is_live] = -np.inf
        # Late in a scan few blocks hold anything for a query: one comparison of all scores finds those.
        highest = quick_scores.max(axis=1, initial=-np.inf)
        worst = self.scores[:, -1]
        for query in np.flatnonzero((highest >= worst - ROUNDING) & (highest > -np.inf)).tolist():
            quick, worst_kept = quick_scores[query], worst[query]
            if len(quick) > n_hits:
                worst_kept = max(worst_kept, np.partition(quick, -n_hits)[-n_hits])
            promising = np.flatnonzero((quick >= worst_kept - ROUNDING) & is_live)
            all_rows = np.concatenate([self.rows[query], first_row + promising])
            all_scores = np.concatenate([self.scores[query], score(block[promising], self.queries[query])])
            order = order_by_score(all_scores, all_rows)[:n_hits]
            self.rows[query], self.scores[query] = all_rows[order], all_scores[order]


def recall_at_k(found: Rows, true: Rows) -> float:
    """Return the mean share of each query's true rows that were found.

    Args:
        found: (n_queries, k) int64, -1 for empty slots.
        true: (n_queries, k) int64, -1 where fewer than k rows exist; at least one true row in all.

    Returns:
        A share in [0, 1]. Order doesn't count; empty slots count on neither side.
    """
    shares = [
        len(set(f[f >= 0]) & set(t[t >= 0])) / np.count_nonzero(t >= 0)
        for f, t in zip(found, true, strict=True)
        if (t >= 0).any()
    ]
    return float(np.mean(shares))
