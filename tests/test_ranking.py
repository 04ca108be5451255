"""One of each group, and unlike documents first."""

import numpy as np
import pytest

from index.vectors import normalise
from server.ranking import diverse, first_of_each


def test_the_first_of_each_group_is_kept_in_order():
    assert first_of_each(["a", "b", "a", "c", "b", "d"], 3) == [0, 1, 3]
    assert first_of_each([1, 1, 1], 5) == [0]
    assert first_of_each([], 5) == []


def by_hand(scores, vectors, n, diversity):
    chosen = [0] if len(scores) else []
    while len(chosen) < min(n, len(scores)):
        rest = [place for place in range(len(scores)) if place not in chosen]
        value = {
            place: (1 - diversity) * scores[place]
            - diversity * max(float(vectors[place] @ vectors[other]) for other in chosen)
            for place in rest
        }
        chosen.append(max(rest, key=lambda place: value[place]))
    return chosen


@pytest.mark.parametrize("diversity", [0, 0.3, 0.7, 1])
def test_diverse_documents_are_those_of_the_definition(diversity):
    rng = np.random.default_rng(1)
    vectors = normalise(rng.standard_normal((30, 8)).astype(np.float32))
    scores = np.sort(rng.random(30))[::-1].tolist()
    assert diverse(scores, vectors, 12, diversity) == by_hand(scores, vectors, 12, diversity)
    if diversity == 0:
        assert diverse(scores, vectors, 12, 0) == list(range(12))


def test_a_copy_of_the_best_document_comes_after_an_unlike_one():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert diverse([0.9, 0.9, 0.5], vectors, 3, 0.5) == [0, 2, 1]
    assert diverse([0.9, 0.9, 0.5], vectors, 3, 0.0) == [0, 1, 2]
    assert diverse([], np.empty((0, 2), np.float32), 3, 0.5) == []
