"""Two lists of documents, by meaning and by words, made one. Pure."""

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


DEFAULT_WEIGHTS = {Fusion.RRF: 0.5, Fusion.WEIGHTED: 0.4}
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


def fuse(dense: Scored, keyword: Scored, method: Fusion, weight: float | None = None) -> Fused:
    """Fuse two lists.

    Either list may be empty. Neither is changed.

    Args:
        dense: by cosine. For `weighted` it should have the documents of `keyword` as well: one that it lacks counts as
            the worst that it has.
        keyword: by BM25. For `weighted` it should have the documents of `dense` as well, as far as they have a word of
            the question: one that it lacks counts as having none.
        weight: what the words count, from 0 (nothing) to 1 (all); None: DEFAULT_WEIGHTS.

    Returns:
        Every document of either list; ties by id.
    """
    share = DEFAULT_WEIGHTS[method] if weight is None else weight
    ids = np.union1d(dense.ids, keyword.ids)
    dense_ranks, keyword_ranks = _ranks(dense, ids), _ranks(keyword, ids)
    if method is Fusion.RRF:
        # Doubled, so that with equal weights it is the formula of the paper.
        scores = 2 * (1 - share) * _reciprocal(dense_ranks) + 2 * share * _reciprocal(keyword_ranks)
    else:
        dense_scores = _standardised(_filled(dense, ids, dense.scores.min(initial=np.inf)))
        keyword_scores = _standardised(_filled(keyword, ids, 0.0))
        scores = (1 - share) * dense_scores + share * keyword_scores
    order = np.lexsort((ids, -scores))
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


def _standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores with mean 0 and standard deviation 1; all 0 where they don't differ."""
    if len(scores) == 0 or scores.min() == scores.max():
        return np.zeros_like(scores)
    standardised: NDArray[np.float64] = (scores - scores.mean()) / scores.std()
    return standardised
