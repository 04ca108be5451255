"""What searches of parts give, and how their answers become one."""

from dataclasses import dataclass

import numpy as np

from index.vectors import Float32, Rows


@dataclass(frozen=True)
class Candidates:
    """Rows by falling first-pass score, ties by row. An empty slot holds row -1 and score -inf."""

    rows: Rows  # (n_queries, n_candidates) int64
    scores: Float32  # (n_queries, n_candidates) float32


def merge(found: list[Candidates], n_queries: int, n_candidates: int) -> Candidates:
    """Return the best of several parts' answers (faiss pads with row -1 and -3.4e38, in any order)."""
    if len(found) == 1 and is_full(found[0], n_candidates):
        return by_score(found[0])
    rows = np.full((n_queries, n_candidates), -1, np.int64)
    scores = np.full((n_queries, n_candidates), -np.inf, np.float32)
    if found:
        all_rows = np.concatenate([each.rows for each in found], axis=1)  # (n_queries, n_parts * m)
        all_scores = np.concatenate([each.scores for each in found], axis=1)
        order = np.lexsort((all_rows, -all_scores, all_rows < 0), axis=1)[:, :n_candidates]
        n = order.shape[1]
        rows[:, :n] = np.take_along_axis(all_rows, order, axis=1)
        scores[:, :n] = np.take_along_axis(all_scores, order, axis=1)
        scores[rows < 0] = -np.inf
    return Candidates(rows, scores)


def is_full(candidates: Candidates, n_candidates: int) -> bool:
    """Whether there are as many rows as asked for, none of them missing."""
    return candidates.rows.shape[1] == n_candidates and bool(candidates.rows.min(initial=0) >= 0)


def by_score(candidates: Candidates) -> Candidates:
    """Order rows by falling score, ties by row: product codes give equal scores to some of almost every pool."""
    order = np.lexsort((candidates.rows, -candidates.scores), axis=1)
    if len(order) == 1:  # half the time of take_along_axis
        return Candidates(candidates.rows[:, order[0]], candidates.scores[:, order[0]])
    return Candidates(
        np.take_along_axis(candidates.rows, order, axis=1),
        np.take_along_axis(candidates.scores, order, axis=1),
    )
