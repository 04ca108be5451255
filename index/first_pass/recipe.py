"""How a first pass encodes rows: axes, a trained quantiser without rows, and the coder of the bounds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from index.axes import Axes, Order, balanced, corpus_axes, model_axes
from index.first_pass import codecs
from index.first_pass.bounds import BoundCoder, bound_axes_count, fit_coder, turn
from index.plan import Codec, Plan
from index.vectors import Float32, Rows


@dataclass(frozen=True)
class Recipe:
    """Everything that rows are encoded by; the same for every part of a build."""

    plan: Plan
    axes: Axes  # (dim, prefix_dim)
    empty: Any  # faiss index, trained, no rows
    coder: BoundCoder | None

    @property
    def dim(self) -> int:
        return int(self.axes.matrix.shape[0])

    @staticmethod
    def plain(plan: Plan, dim: int) -> "Recipe":
        """Return the recipe of the plain form, which needs no training and keeps no bounds."""
        return Recipe(
            plan, model_axes(dim, plan.prefix_dim), codecs.train(plan, np.zeros((0, 0), np.float32)), None
        )

    def search(self, stored: Float32, queries: Float32, n_candidates: int) -> Rows:
        """Return the candidates among some rows: for trying a recipe. (n_queries, n_candidates) int64.

        Args:
            stored: (n, dim) float32. queries: (n_queries, dim) float32, unit length.
        """
        index = codecs.empty_like(self.empty)
        codecs.add(index, self.plan.codec, self.prefixes(stored))
        part = codecs.Part(0, len(stored), index, self.plan)
        return part.search(
            self.prefixes(queries), n_candidates, np.zeros(0, np.uint8), True, self.plan.n_probes
        ).rows

    def prefixes(self, stored: Float32) -> Float32:
        """Return unit prefixes, (n, prefix_dim) float32."""
        return self.axes.prefixes(stored, self.plan.prefix_dim)

    def augmented(self, stored: Float32) -> Float32:
        """Return what the bounds of a tail need: (n, P + 1) float32, or (n, 0) where none are kept."""
        return self.coder.augmented(stored) if self.coder else np.zeros((len(stored), 0), np.float32)


def train(plan: Plan, sample: Float32, with_bounds: bool, corpus: Axes | None = None) -> Recipe:
    """Fit axes and quantiser to a sample of stored rows.

    Bounds are always kept in the corpus's order: in a model's own they are too loose to prove anything.

    Args:
        sample: (n, dim) float32.
        corpus: what `fit_axes` gave for it, or for a larger sample; None: fitted here.
    """
    dim = sample.shape[1]
    corpus = corpus or fit_axes(sample, plan.prefix_dim)
    axes = prefix_axes(plan, sample, corpus)
    empty = codecs.train(plan, axes.prefixes(sample, plan.prefix_dim))
    coder = None
    if with_bounds:
        coder = fit_coder(corpus.first(bound_axes_count(dim)), sample)
    return Recipe(plan, axes, empty, coder)


def fit_axes(sample: Float32, prefix_dim: int) -> Axes:
    """Fit as many of the corpus's axes as prefixes of prefix_dim and bounds need. sample: (n, dim) float32."""
    return corpus_axes(sample, max(bound_axes_count(sample.shape[1]), prefix_dim))


def prefix_axes(plan: Plan, sample: Float32, corpus: Axes) -> Axes:
    """Return a plan's axes, made even: for a product quantiser dealt to its sub-vectors so that each carries its share,
    for 8-bit and 1-bit codes turned so that one step fits all. Cosines stay what they are. RaBitQ's estimate needs a
    random turn: without it 0.55 of the true 10 are in a pool of 160, with it 0.96 (8 000 clustered vectors, 256 axes).
    """
    is_corpus = plan.order is Order.CORPUS
    axes = corpus.first(plan.prefix_dim) if is_corpus else model_axes(sample.shape[1], plan.prefix_dim)
    if plan.codec in (Codec.INT8, Codec.RABITQ):
        return turn(axes)
    if plan.codec is not Codec.PQ4:
        return axes
    return axes.chosen(balanced(axes.prefixes(sample, plan.prefix_dim), 2 * plan.code_bytes))
