"""index/vectors.py: checks, unit length, prefixes, order."""

import numpy as np
import pytest

from index.errors import PrefixError, VectorError
from index.vectors import check_vectors, normalise, order_by_score, prefixes


@pytest.mark.parametrize(
    ("vectors", "position", "words"),
    [
        ([[1.0, 2.0]], 0, "expected 3 dimensions, got 2"),
        ([[1, 2, 3], [1, np.nan, 3]], 1, "NaN"),
        ([[1, 2, 3], [1, 2, 3], [1, np.inf, 3]], 2, "infinity"),
        ([[1, 1e39, 3]], 0, "beyond float32"),
        ([[0, 1, 0], [0, 0, 0]], 1, "all zeros"),
        ([1.0, 2.0, 3.0], None, "2 dimensions"),
        ([["a", "b", "c"]], None, "3 numbers"),
        ([[1, 2, 3], [1, 2]], None, "3 numbers"),
    ],
)
def test_a_bad_vector_is_refused_with_its_position(vectors, position, words):
    with pytest.raises(VectorError, match=words) as error:
        check_vectors(vectors, 3)
    assert error.value.position == position


def test_normalise_survives_numbers_whose_squares_overflow_or_vanish():
    vectors = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32)
    np.testing.assert_allclose(normalise(vectors), [[0.6, 0.8], [0.6, 0.8], [0, 0]], atol=1e-6)
    assert vectors[0, 0] == np.float32(3e30)  # the input is left alone


def test_a_prefix_is_truncated_first_and_normalised_after():
    vectors = np.array([[3, 4, 12], [0, 0, 5]], np.float32)
    np.testing.assert_allclose(prefixes(vectors, 2), [[0.6, 0.8], [0, 0]], atol=1e-6)
    with pytest.raises(PrefixError, match="4 dimensions doesn't fit vectors of 3"):
        prefixes(vectors, 4)


def test_order_is_by_score_then_row_and_empty_slots_come_last():
    scores = np.array([0.5, 0.9, 0.5, np.inf], np.float32)
    rows = np.array([7, 3, 2, -1])
    assert rows[order_by_score(scores, rows)].tolist() == [3, 2, 7, -1]
