"""Two lists of documents, by meaning and by words, made one. Pure.

`weighted` adds two numbers, each from 0 to about 1. That of the meaning is where a cosine lies between the last and the
best of its list, so it doesn't matter where a model's cosines lie. That of the words is BM25 as a share of what a
document of ordinary length gets that has every word of the question once. The best by words isn't stretched to 1: where
it has but a few of the words, and common ones, the meaning decides; where it has all of them, as of a name, the words
do.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

RRF_K = 60
"""Of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): the larger, the less the first ranks count."""

DEPTH = 100
"""Leading documents of each list whose ranks count, and that a caller should fetch."""


class Fusion(StrEnum):
    """How two lists become one."""

    RRF = "rrf"
    WEIGHTED = "weighted"


DEFAULT_WEIGHTS = {Fusion.RRF: 0.5, Fusion.WEIGHTED: 0.6}
"""What the words count, from 0 to 1; the rest is the meaning's."""


@dataclass(frozen=True)
class Scored:
    """Documents with their scores, in any order; higher is better."""

    ids: NDArray[np.int64]  # (n,), distinct
    scores: NDArray[np.float64]  # (n,)


@dataclass(frozen=True)
class Fused:
    """The documents of both lists, best first."""

    ids: NDArray[np.int64]  # (n,), distinct
    scores: NDArray[np.float64]  # (n,); they compare documents of one search, and nothing else
    dense_ranks: NDArray[np.int64]  # (n,), from 1; 0: not among the DEPTH best of that list
    keyword_ranks: NDArray[np.int64]  # (n,), likewise


def fuse(dense: Scored, keyword: Scored, whole: float, method: Fusion, weight: float | None = None) -> Fused:
    """Fuse two lists.

    Either list may be empty. Neither is changed. What stands behind the DEPTH best by cosine comes last, in its order:
    so the pages of a search join, however deep each of them looked.

    Args:
        dense: by cosine. A document that isn't among its DEPTH best counts as the last of those.
        keyword: by BM25, at most DEPTH. A document that it lacks counts as having none of the words.
        whole: BM25 of a document of ordinary length that has every word of the question once; above 0 where `keyword`
            has documents.
        weight: what the words count, from 0 (nothing) to 1 (all); None: DEFAULT_WEIGHTS.

    Returns:
        Every document of either list; ties by cosine, then by id.
    """
    share = DEFAULT_WEIGHTS[method] if weight is None else weight
    ids = np.union1d(dense.ids, keyword.ids)
    dense_ranks, keyword_ranks = _ranks(dense, ids), _ranks(keyword, ids)
    leading = (dense_ranks > 0) | (keyword_ranks > 0)
    least = dense.scores[np.isin(dense.ids, ids[dense_ranks > 0])].min(initial=np.inf)
    cosines, bm25 = _filled(dense, ids, least), _filled(keyword, ids, 0.0)
    cosines[leading] = cosines[leading].clip(least)
    if method is Fusion.RRF:
        # Doubled, so that with equal weights it is the formula of the paper.
        scores = 2 * (1 - share) * _reciprocal(dense_ranks) + 2 * share * _reciprocal(keyword_ranks)
    else:
        scores = (1 - share) * _between(cosines, least, dense.scores.max(initial=-np.inf)) + share * bm25 / (
            whole or 1
        )
    order = np.lexsort((ids, -cosines, -scores, ~leading))
    return Fused(ids[order], scores[order], dense_ranks[order], keyword_ranks[order])


def _ranks(scored: Scored, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each id's rank in a list; 0 where it isn't among the DEPTH best. `ids` are sorted."""
    best = np.lexsort((scored.ids, -scored.scores))[:DEPTH]
    ranks = np.zeros(len(ids), np.int64)
    ranks[np.searchsorted(ids, scored.ids[best])] = np.arange(1, len(best) + 1)
    return ranks


def _reciprocal(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(ranks > 0, 1 / (RRF_K + ranks), 0.0)


def _filled(scored: Scored, ids: NDArray[np.int64], missing: float) -> NDArray[np.float64]:
    """Return each id's score in a list, or `missing`. `ids` are sorted."""
    scores = np.full(len(ids), missing)
    scores[np.searchsorted(ids, scored.ids)] = scored.scores
    return scores


def _between(scores: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return scores such that `low` is 0 and `high` is 1; all 0 where those don't differ."""
    return (scores - low) / (high - low) if low < high else np.zeros_like(scores)
