"""Ways to make one order of two lists, each with one parameter.

A text that the dense list lacks counts as its last one, and one that the list by words lacks as having none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.fusion.lists import Lists
from server.fusion import Fusion, fuse

Numbers = NDArray[np.float64]

WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the words; the meaning has the rest


@dataclass(frozen=True)
class Both:
    """The texts of either list, (n,) each."""

    cosines: Numbers
    bm25: Numbers
    dense_ranks: Numbers  # from 1; inf: not in the list
    keyword_ranks: Numbers


@dataclass(frozen=True)
class Way:
    """A fusion, and what its parameter may be."""

    name: str
    values: tuple[float, ...]
    order: Callable[[Lists, float], NDArray[np.int64]]  # texts, best first


def _served(method: Fusion) -> Callable[[Lists, float], NDArray[np.int64]]:
    def order(lists: Lists, weight: float) -> NDArray[np.int64]:
        return fuse(lists.dense, lists.keyword, lists.whole, method, weight).ids

    return order


def _scored(score: Callable[[Both, float, float], Numbers]) -> Callable[[Lists, float], NDArray[np.int64]]:
    """Make a way of a function that scores: it gets both lists, the parameter, and `Lists.whole`."""

    def order(lists: Lists, value: float) -> NDArray[np.int64]:
        ids = np.union1d(lists.dense.ids, lists.keyword.ids)
        cosines = np.full(len(ids), lists.dense.scores.min())
        bm25 = np.zeros(len(ids))
        ranks = []
        for scored, target in ((lists.dense, cosines), (lists.keyword, bm25)):
            at = np.searchsorted(ids, scored.ids)
            target[at] = scored.scores
            ranks.append(np.full(len(ids), np.inf))
            ranks[-1][at] = np.arange(1, len(at) + 1)  # the lists are sorted
        scores = score(Both(cosines, bm25, *ranks), value, lists.whole)
        return ids[np.lexsort((ids, -cosines, -scores))]

    return order


def _rrf_by_k(both: Both, k: float, whole: float) -> Numbers:
    return 1 / (k + both.dense_ranks) + 1 / (k + both.keyword_ranks)


def _rank_biased(both: Both, persistence: float, whole: float) -> Numbers:
    """Bailey et al. 2017."""
    biased: Numbers = persistence**both.dense_ranks + persistence**both.keyword_ranks
    return biased


def _raw(both: Both, factor: float, whole: float) -> Numbers:
    """Both as they are: a cosine and the logarithm of odds."""
    return both.cosines + factor * both.bm25


def _standard(both: Both, weight: float, whole: float) -> Numbers:
    return (1 - weight) * _z(both.cosines) + weight * _z(both.bm25)


def _min_max(both: Both, weight: float, whole: float) -> Numbers:
    return (1 - weight) * _between(both.cosines) + weight * _between(both.bm25)


def _theoretical(both: Both, weight: float, whole: float) -> Numbers:
    """From the least score there can be, -1 and 0, to the best of the list (Bruch, Gai and Ingber 2023)."""
    best = both.bm25.max() or 1
    return (1 - weight) * (both.cosines + 1) / (both.cosines.max() + 1) + weight * both.bm25 / best


def _peaked(both: Both, power: float, whole: float) -> Numbers:
    """Each list weighs as much as its best stands out."""
    dense, keyword = (float(_z(each).max(initial=0)) ** power for each in (both.cosines, both.bm25))
    total = (dense + keyword) or 1
    return (dense * _between(both.cosines) + keyword * _between(both.bm25)) / total


def _covered(both: Both, most: float, whole: float) -> Numbers:
    """Standard scores; the words weigh as much as the best by words has of them."""
    weight = min(0.9, most * both.bm25.max() / (whole or 1))
    return _standard(both, weight, whole)


def _z(scores: Numbers) -> Numbers:
    return (scores - scores.mean()) / (scores.std() or 1)


def _between(scores: Numbers) -> Numbers:
    return (scores - scores.min()) / (float(np.ptp(scores)) or 1)


WAYS = (
    Way("rrf, k 60", WEIGHTS, _served(Fusion.RRF)),
    Way("rrf, k", (2, 5, 10, 20), _scored(_rrf_by_k)),
    Way("rank-biased", (0.8, 0.9, 0.95), _scored(_rank_biased)),
    Way("raw", (0.01, 0.015, 0.02, 0.03, 0.04), _scored(_raw)),
    Way("standard scores", WEIGHTS, _scored(_standard)),
    Way("min-max", WEIGHTS, _scored(_min_max)),
    Way("theoretical min", (0.05, 0.1, 0.15, 0.2, 0.3), _scored(_theoretical)),
    Way("peaked", (0.5, 1, 2), _scored(_peaked)),
    Way("covered", (0.5, 0.7, 1, 1.4), _scored(_covered)),
    Way("weighted", WEIGHTS, _served(Fusion.WEIGHTED)),
)
