"""Fusion against five lines of plain Python, and what must not change its order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fusion import DEFAULT_WEIGHTS, DEPTH, Fused, Fusion, Scored, fuse

METHODS = list(Fusion)


def scored(scores):
    """From {id: score}."""
    return Scored(np.array(list(scores), np.int64), np.array(list(scores.values()), np.float64))


# Eighths, so that sums are exact and ties do happen.
WHOLE = 6.5  # BM25 of a document that has every word
lists = st.dictionaries(st.integers(0, 40), st.integers(1, 80).map(lambda n: n / 8), max_size=20)
weights = st.sampled_from([0.0, 0.25, 0.4, 0.5, 1.0])


def as_dict(fused: Fused):
    return dict(zip(fused.ids.tolist(), fused.scores.tolist(), strict=True))


def ranks(scores):
    return {key: at for at, key in enumerate(sorted(scores, key=lambda key: (-scores[key], key)), 1)}


@given(lists, lists, weights)
def test_rrf_is_the_weighted_sum_of_reciprocal_ranks(dense, keyword, weight):
    fused = fuse(scored(dense), scored(keyword), WHOLE, Fusion.RRF, weight)
    expected = dict.fromkeys(dense | keyword, 0.0)
    for share, each in ((2 * (1 - weight), ranks(dense)), (2 * weight, ranks(keyword))):
        for key, rank in each.items():
            expected[key] += share / (60 + rank)
    assert as_dict(fused) == pytest.approx(expected)
    assert dict(zip(fused.ids.tolist(), fused.dense_ranks.tolist(), strict=True)) == {
        key: ranks(dense).get(key, 0) for key in expected
    }
    assert dict(zip(fused.ids.tolist(), fused.keyword_ranks.tolist(), strict=True)) == {
        key: ranks(keyword).get(key, 0) for key in expected
    }


@given(lists, lists, weights)
def test_weighted_adds_the_place_between_last_and_best_cosine_and_the_share_of_the_words(
    dense, keyword, weight
):
    fused = fuse(scored(dense), scored(keyword), WHOLE, Fusion.WEIGHTED, weight)
    low, high = min(dense.values(), default=0), max(dense.values(), default=0)
    for key, score in as_dict(fused).items():
        place = (dense.get(key, low) - low) / (high - low) if low < high else 0
        assert score == pytest.approx((1 - weight) * place + weight * keyword.get(key, 0) / WHOLE, abs=1e-9)
    assert set(as_dict(fused)) == set(dense | keyword)


@pytest.mark.parametrize("method", METHODS)
@given(lists, lists)
def test_the_best_stand_first_and_ties_stand_by_cosine_then_by_id(method, dense, keyword):
    fused = fuse(scored(dense), scored(keyword), WHOLE, method)
    least = min(dense.values(), default=0)
    cosines = [dense.get(key, least) for key in fused.ids.tolist()]
    keys = list(zip(-fused.scores, (-each for each in cosines), fused.ids, strict=True))
    assert keys == sorted(keys)
    assert sorted(fused.ids.tolist()) == sorted(dense | keyword)


@pytest.mark.parametrize("method", METHODS)
@given(lists, lists, st.randoms())
def test_the_order_of_the_lists_does_not_matter(method, dense, keyword, random):
    once = fuse(scored(dense), scored(keyword), WHOLE, method)
    for each in (dense, keyword):
        shuffled = random.sample(sorted(each.items()), len(each))
        each.clear()
        each.update(shuffled)
    again = fuse(scored(dense), scored(keyword), WHOLE, method)
    assert once.ids.tolist() == again.ids.tolist()
    np.testing.assert_allclose(once.scores, again.scores, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@given(lists, lists)
def test_scores_may_be_scaled_and_cosines_shifted(method, dense, keyword):
    """Models differ in where their cosines lie: those of one between 0 and 0.8, of another between 0.7 and 0.9."""
    once = fuse(scored(dense), scored(keyword), WHOLE, method)
    moved = {key: 0.25 * score + 8 for key, score in dense.items()}
    scaled = {key: 4 * score for key, score in keyword.items()}
    again = fuse(scored(moved), scored(scaled), 4 * WHOLE, method)
    np.testing.assert_allclose(
        as_dict(once)[7] if 7 in dense else 0, as_dict(again)[7] if 7 in dense else 0, atol=1e-9
    )
    assert as_dict(again) == pytest.approx(as_dict(once), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@given(lists.filter(bool))
def test_one_list_alone_keeps_its_order(method, only):
    best_first = sorted(only, key=lambda key: (-only[key], key))
    nothing = scored({})
    assert fuse(scored(only), nothing, WHOLE, method).ids.tolist() == best_first
    assert fuse(nothing, scored(only), WHOLE, method).ids.tolist() == best_first
    assert fuse(nothing, nothing, WHOLE, method).ids.tolist() == []


def test_weight_0_is_the_dense_list_and_weight_1_the_words():
    dense, keyword = {1: 0.9, 2: 0.8, 3: 0.7}, {3: 9.0, 2: 5.0, 1: 1.0}
    for method in METHODS:
        assert fuse(scored(dense), scored(keyword), WHOLE, method, 0.0).ids.tolist() == [1, 2, 3]
        assert fuse(scored(dense), scored(keyword), WHOLE, method, 1.0).ids.tolist() == [3, 2, 1]


def test_the_only_document_with_the_word_comes_first():
    """A name that one document has, and that means nothing to the model."""
    dense = {key: 0.5 - 0.01 * key for key in range(50)}
    for method, first in ((Fusion.WEIGHTED, 30), (Fusion.RRF, 30)):
        assert fuse(scored(dense), scored({30: 11.0}), WHOLE, method).ids[0] == first


def test_only_the_best_of_a_list_have_a_rank():
    dense = {key: 1 - key / 1000 for key in range(DEPTH + 20)}
    fused = fuse(scored(dense), scored({DEPTH + 5: 1.0}), WHOLE, Fusion.RRF)
    found = dict(zip(fused.ids.tolist(), fused.dense_ranks.tolist(), strict=True))
    assert (found[DEPTH - 1], found[DEPTH], found[DEPTH + 5]) == (DEPTH, 0, 0)
    assert as_dict(fused)[DEPTH] == 0
    assert as_dict(fused)[DEPTH + 5] == pytest.approx(1 / 61)


@pytest.mark.parametrize("method", METHODS)
def test_a_longer_dense_list_changes_nothing_but_what_comes_last(method):
    rng = np.random.default_rng(5)
    dense = dict(enumerate(np.sort(rng.random(DEPTH + 50))[::-1].tolist()))
    keyword = {key: rng.random() for key in (3, 60, DEPTH + 20, 500)}
    short = fuse(scored({key: dense[key] for key in range(DEPTH)}), scored(keyword), WHOLE, method)
    long = fuse(scored(dense), scored(keyword), WHOLE, method)
    assert long.ids[: len(short.ids)].tolist() == short.ids.tolist()
    np.testing.assert_allclose(long.scores[: len(short.ids)], short.scores, atol=1e-12)
    last = [key for key in range(DEPTH, DEPTH + 50) if key != DEPTH + 20]
    assert long.ids[len(short.ids) :].tolist() == last


def test_what_the_words_count_by_default_is_said_for_each_method():
    dense, keyword = {1: 0.9, 2: 0.8}, {2: 3.0, 3: 1.0}
    for method in METHODS:
        told = fuse(scored(dense), scored(keyword), WHOLE, method, DEFAULT_WEIGHTS[method])
        assert as_dict(fuse(scored(dense), scored(keyword), WHOLE, method)) == as_dict(told)
