"""index/axes.py: what a turn keeps, what the corpus's axes gain, and how columns are dealt."""

import numpy as np
import pytest

from index.axes import axes_of, balanced, corpus_axes, model_axes
from index.first_pass.bounds import turn
from index.vectors import normalise, prefixes

DIM = 48


@pytest.fixture
def sample(make_vectors):
    return make_vectors(600, DIM, seed=1)


def kept(axes, vectors):
    """The mean share of squared length that lies within the axes."""
    return float(np.mean(np.square(axes.coordinates(vectors)).sum(axis=1)))


def test_a_turn_onto_all_corpus_axes_changes_no_inner_product(sample, make_vectors):
    axes, queries = corpus_axes(sample, DIM), make_vectors(20, DIM, seed=2)
    turned = axes.coordinates(queries) @ axes.coordinates(sample).T
    np.testing.assert_allclose(turned, queries @ sample.T, atol=2e-6)
    again = turn(axes)
    np.testing.assert_allclose(
        again.coordinates(queries) @ again.coordinates(sample).T, queries @ sample.T, atol=2e-6
    )


@pytest.mark.parametrize("n_rows", [600, 30, 1])
@pytest.mark.parametrize("n_axes", [1, 16, DIM])
def test_corpus_axes_are_orthonormal_also_from_few_rows(sample, n_rows, n_axes):
    axes = corpus_axes(sample[:n_rows], n_axes)
    assert axes.matrix.shape == (DIM, n_axes) and axes.matrix.dtype == np.float32
    exact = axes.matrix.astype(np.float64)
    off = np.linalg.norm(exact.T @ exact - np.eye(n_axes))
    assert off < 1e-5
    assert axes.defect == pytest.approx(off)


def test_corpus_axes_keep_the_most_length_that_any_axes_can(sample):
    exact = sample.astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(exact.T @ exact / len(sample))[::-1]
    for n_axes in (1, 4, 16, 40):
        axes = corpus_axes(sample, n_axes)
        assert kept(axes, sample) == pytest.approx(eigenvalues[:n_axes].sum(), abs=1e-5)
        assert kept(axes, sample) > kept(model_axes(DIM, n_axes), sample)


def test_a_longer_fit_begins_with_the_shorter_one(sample):
    whole = corpus_axes(sample, DIM)
    np.testing.assert_array_equal(corpus_axes(sample, 5).matrix, whole.first(5).matrix)
    np.testing.assert_array_equal(corpus_axes(sample, DIM).matrix, whole.matrix)
    assert (np.take_along_axis(whole.matrix, np.abs(whole.matrix).argmax(axis=0)[None], axis=0) > 0).all()


def test_the_models_order_selects_columns_to_the_bit(sample):
    axes = model_axes(DIM, 20)
    np.testing.assert_array_equal(axes.coordinates(sample), sample[:, :20])
    np.testing.assert_allclose(axes.prefixes(sample, 20), prefixes(sample, 20), atol=3e-7)
    np.testing.assert_allclose(axes.prefixes(sample, 7), prefixes(sample, 7), atol=3e-7)
    np.testing.assert_array_equal(sample @ axes.matrix, sample[:, :20])
    assert axes.defect == 0


def test_chosen_axes_are_those_asked_for_in_that_order(sample):
    which = np.array([3, 0, 11])
    for axes in (model_axes(DIM, 16), corpus_axes(sample, 16)):
        few = axes.chosen(which)
        np.testing.assert_allclose(few.coordinates(sample), axes.coordinates(sample)[:, which], atol=1e-6)
        np.testing.assert_array_equal(few.matrix, axes.matrix[:, which])


def test_a_matrix_that_picks_dimensions_is_known_as_one_again(sample):
    picked = axes_of(np.eye(DIM, dtype=np.float32)[:, [5, 2, 40]])
    assert picked.columns is not None and picked.columns.tolist() == [5, 2, 40]
    np.testing.assert_array_equal(picked.coordinates(sample), sample[:, [5, 2, 40]])
    mirrored = axes_of(-np.eye(DIM, dtype=np.float32)[:, [5, 2]])
    np.testing.assert_array_equal(mirrored.coordinates(sample), -sample[:, [5, 2]])
    assert axes_of(corpus_axes(sample, 3).matrix).columns is None


def test_prefixes_are_truncated_first_and_then_of_unit_length(sample):
    axes = corpus_axes(sample, 16)
    found = axes.prefixes(sample, 8)
    np.testing.assert_allclose(found, normalise(sample @ axes.matrix[:, :8]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("n_columns", "n_groups"), [(16, 8), (16, 16), (48, 8), (48, 1), (12, 4), (2, 1)])
def test_every_column_is_dealt_once_and_groups_carry_alike(n_columns, n_groups):
    falling = (8.0 + np.arange(n_columns)) ** -0.5
    coordinates = (np.random.default_rng(3).standard_normal((4000, n_columns)) * falling).astype(np.float32)
    dealt = balanced(coordinates, n_groups)
    assert sorted(dealt.tolist()) == list(range(n_columns))
    variances = np.square(coordinates).mean(axis=0)
    carried = variances[dealt].reshape(n_groups, -1).sum(axis=1)
    in_order = variances.reshape(n_groups, -1).sum(axis=1)
    assert np.ptp(carried) <= np.ptp(in_order)
    if n_columns == 48 and n_groups == 8:
        assert carried.max() < 1.3 * carried.min() and in_order.max() > 4 * in_order.min()
