"""The two passes in a few lines of plain numpy over arrays in memory: what the tests hold the index to."""

import numpy as np

from index.vectors import Float32, Rows, normalise, order_by_score


def top(scores: Float32, n_hits: int) -> Rows:
    """Return each query's best rows, ties by row: (n_queries, min(n_hits, n)). scores: (n_queries, n)."""
    rows = np.arange(scores.shape[1])
    return np.stack([rows[order_by_score(query, rows)[:n_hits]] for query in scores])


def exact(vectors: Float32, queries: Float32, n_hits: int) -> tuple[Rows, Float32]:
    """Rank by full inner product. vectors (n, dim), queries (n_queries, dim), both unit length."""
    scores = queries @ vectors.T  # (n_queries, n)
    rows = top(scores, n_hits)
    return rows, np.take_along_axis(scores, rows, axis=1)


def prefix(vectors: Float32, queries: Float32, prefix_dim: int, n_hits: int) -> tuple[Rows, Float32]:
    """Rank by the cosine of truncated and re-normalised prefixes."""
    return exact(normalise(vectors[:, :prefix_dim]), normalise(queries[:, :prefix_dim]), n_hits)


def two_pass(vectors: Float32, queries: Float32, prefix_dim: int, n_candidates: int) -> tuple[Rows, Float32]:
    """Take n_candidates by prefix and order them by full score."""
    pool, _ = prefix(vectors, queries, prefix_dim, n_candidates)
    rows, scores = np.empty_like(pool), np.empty(pool.shape, np.float32)
    for query, candidates in enumerate(pool):
        full = vectors[candidates] @ queries[query]
        order = order_by_score(full, candidates)
        rows[query], scores[query] = candidates[order], full[order]
    return rows, scores
