"""What is made of ranked documents before they are answered: one of each group, and unlike ones first."""

from collections.abc import Hashable, Sequence

import numpy as np

from index.vectors import Float32


def first_of_each(groups: Sequence[Hashable], n: int) -> list[int]:
    """Return the places of the first member of each group, in order, n at most."""
    seen: set[Hashable] = set()
    places: list[int] = []
    for place, group in enumerate(groups):
        if group not in seen and len(places) < n:
            seen.add(group)
            places.append(place)
    return places


def diverse(scores: Sequence[float], vectors: Float32, n: int, diversity: float) -> list[int]:
    """Return the places of n documents by maximal marginal relevance (Carbonell and Goldstein 1998).

    Each next one has the highest (1 - diversity) · score - diversity · (its highest cosine with one already chosen).

    Args:
        scores: (n_documents,), best first.
        vectors: (n_documents, dim) float32, unit length.
        diversity: 0 keeps the order by score, 1 looks at unlikeness alone. The first is always the best by score.
    """
    relevance = np.asarray(scores, np.float64)
    nearest = np.full(len(relevance), -np.inf)  # highest cosine with a chosen one
    left = np.ones(len(relevance), np.bool_)
    chosen: list[int] = []
    while len(chosen) < min(n, len(relevance)):
        penalty = nearest if chosen else np.zeros(len(relevance))
        value = np.where(left, (1 - diversity) * relevance - diversity * penalty, -np.inf)
        place = int(np.argmax(value)) if chosen else 0  # ties: the better by score
        chosen.append(place)
        left[place] = False
        nearest = np.maximum(nearest, vectors @ vectors[place])
    return chosen
