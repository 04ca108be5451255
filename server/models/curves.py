"""How much of what the full vectors find short prefixes find, and how far up a known passage comes. Pure numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.axes import Axes
from index.vectors import Float32, normalise

HITS = 10
POOL = 80  # candidates for 10 hits, as the settings have it
SHORTEST = 32
SAME_SCORE = 1e-6
"""Scores this close are the same: float32 sums over 4 096 products differ by less."""


@dataclass(frozen=True)
class Point:
    """What the first `prefix_dim` dimensions find of the true 10, as shares in [0, 1]."""

    prefix_dim: int
    alone: float
    """among the 10 that the prefix ranks first"""
    pooled: float
    """among those of the pool, which the second pass scores again"""


@dataclass(frozen=True)
class KnownItem:
    """How far up the passage comes that a question was taken from; means over the questions."""

    reciprocal_ranks: NDArray[np.float64]
    """(n_questions,): 1/rank, 0 beyond rank 10"""
    ndcg: float

    @property
    def mrr(self) -> float:
        return float(self.reciprocal_ranks.mean())


def lengths_to_try(dim: int) -> list[int]:
    """32, 64, 128 … and the whole vector."""
    lengths = []
    length = SHORTEST
    while length < dim:
        lengths.append(length)
        length *= 2
    return [*lengths, dim]


def recall_curve(
    axes: Axes, documents: Float32, queries: Float32, lengths: list[int], pool: int = POOL
) -> list[Point]:
    """Search with prefixes of each length, and with the full vectors, and compare.

    A document counts as one of the true 10 if its full score is at least the tenth best: of duplicates, which score
    alike, any will do, and no more than 10 count.

    Args:
        axes: of at least the greatest of `lengths`.
        pool: at least HITS.
        documents: (n, dim) float32, unit length; n at least HITS. queries: (n_queries, dim) likewise.

    Returns:
        A point for each length. Ties among prefixes go to the lower row. Memory: two (n_queries, n) matrices.
    """
    scores = queries @ documents.T  # (n_queries, n)
    tenth = np.partition(scores, -HITS, axis=1)[:, -HITS, None]  # (n_queries, 1)
    is_true = scores >= tenth - SAME_SCORE
    document_coordinates, query_coordinates = axes.coordinates(documents), axes.coordinates(queries)
    points = []
    for length in lengths:
        found = _prefix_scores(query_coordinates[:, :length], document_coordinates[:, :length])
        ranked = np.argsort(-found, axis=1, kind="stable")[:, :pool]
        hits = np.take_along_axis(is_true, ranked, axis=1)  # (n_queries, pool)
        alone, pooled = (np.minimum(hits[:, :n].sum(axis=1), HITS).mean() / HITS for n in (HITS, pool))
        points.append(Point(length, float(alone), float(pooled)))
    return points


def known_item(documents: Float32, queries: Float32, rows: NDArray[np.intp]) -> KnownItem:
    """Rank all documents for each query, and look where the one in `rows`, (n_queries,), comes.

    A document counts as before it only if it scores higher: duplicates of the known one are no mistake.
    """
    scores = queries @ documents.T  # (n_queries, n)
    own = np.take_along_axis(scores, rows[:, None], axis=1)  # (n_queries, 1)
    ranks = 1 + (scores > own + SAME_SCORE).sum(axis=1)  # (n_queries,)
    is_found = ranks <= HITS
    return KnownItem(
        np.where(is_found, 1 / ranks, 0.0), float(np.where(is_found, 1 / np.log2(1 + ranks), 0.0).mean())
    )


def _prefix_scores(queries: Float32, documents: Float32) -> Float32:

    scores: Float32 = normalise(queries) @ normalise(documents).T
    return scores
