"""What the pictures are drawn from: stored vectors, others that are searched for, and the truth."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from index.axes import Axes, Order, corpus_axes, model_axes
from index.vectors import Float32, Rows, normalise, order_by_score

K = 10
N_QUERIES = 500
SEED = 7


@dataclass(frozen=True)
class Material:
    """Unit vectors: `stored`, (n, dim) float32, and `queries`, (n_queries, dim), none of which is stored."""

    stored: Float32
    queries: Float32
    what: str

    @property
    def dim(self) -> int:
        return int(self.stored.shape[1])

    @property
    def source(self) -> str:
        """What a picture says that it was drawn from."""
        return (
            f"{len(self.stored):,} {self.what}, {self.dim} dimensions; "
            f"{len(self.queries):,} others searched for"
        )

    @cached_property
    def scores(self) -> Float32:
        """Every exact score: (n_queries, n)."""
        return self.queries @ self.stored.T

    @cached_property
    def ranking(self) -> Rows:
        """All rows by exact score, ties by row: (n_queries, n)."""
        rows = np.arange(len(self.stored))
        return np.array([rows[order_by_score(scores, rows)] for scores in self.scores])

    def axes(self, order: Order) -> Axes:
        """All axes of an order, the corpus's fitted on all stored vectors."""
        return self._model_axes if order is Order.MODEL else self._corpus_axes

    @cached_property
    def _model_axes(self) -> Axes:
        return model_axes(self.dim, self.dim)

    @cached_property
    def _corpus_axes(self) -> Axes:
        return corpus_axes(self.stored, self.dim)

    def prefix_scores(self, axes: Axes, prefix_dim: int) -> Float32:
        """Cosines of prefixes: (n_queries, n)."""
        return axes.prefixes(self.queries, prefix_dim) @ axes.prefixes(self.stored, prefix_dim).T

    def pools(self, axes: Axes, prefix_dim: int, n: int) -> Rows:
        """The n best rows by prefix, best first: (n_queries, n)."""
        return np.argsort(-self.prefix_scores(axes, prefix_dim), axis=1, kind="stable")[:, :n]


def held_out(vectors: Float32, what: str) -> Material:
    """Take some vectors out, to be searched for: N_QUERIES, or a tenth of fewer; equal ones are stored once."""
    distinct = np.unique(vectors, axis=0)
    shuffled = normalise(np.random.default_rng(SEED).permutation(distinct))
    n_queries = min(N_QUERIES, len(shuffled) // 10)
    return Material(shuffled[n_queries:], shuffled[:n_queries], what)


def lengths(dim: int) -> list[int]:
    """Prefix lengths to draw at: 8, 16, … and all dimensions."""
    return [*(2**power for power in range(3, 14) if 2**power < dim), dim]
