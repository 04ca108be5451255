"""index/two_pass.py and the plain first pass against plain numpy, across reopening, removal and damage."""

import numpy as np
import pytest

from index import reference
from index.errors import PrefixError, StorageError
from index.evaluation import recall_at_k
from index.first_pass import files, writer
from index.two_pass import (
    Mode,
    Shape,
    TwoPassIndex,
    damaged_rows,
    pool_size,
    stale_prefix_files,
    vector_path,
)
from index.vectors import normalise

DIM, PREFIX = 48, 16


@pytest.fixture(params=["float16", "float32"])
def shape(request):
    return Shape(generation=1, dim=DIM, prefix_dim=PREFIX, vector_dtype=request.param)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """A tail that is sealed at 64 rows, so that a few hundred rows fill several parts."""
    monkeypatch.setattr(writer, "TAIL_ROWS", 64)


def open_index(folder, shape, n_rows=0, dead=()):
    live = np.ones(n_rows, np.bool_)
    live[list(dead)] = False
    return TwoPassIndex(folder, shape, n_rows, live)


def add(index, vectors, removed=()):
    appended = index.append(vectors, index.n_rows)
    index.publish(appended, np.array(removed, np.int64))
    return appended


def stored(vectors, shape):
    return vectors.astype(shape.vector_dtype).astype(np.float32)


def part_file(folder, first_row, build=0):
    return folder / f"first-pass-0001-{build:04d}-{first_row:09d}.faiss"


def check_against_reference(index, vectors, queries, shape, rows):
    """All three modes, ids and scores, over the rows that should be alive."""
    kept = stored(vectors, shape)[rows]
    tolerance = 1e-3 if shape.vector_dtype == "float16" else 1e-6
    for mode, (true_rows, true_scores) in {
        Mode.PREFIX: reference.prefix(kept, queries, PREFIX, 20),
        Mode.EXACT: reference.exact(kept, queries, 20),
        Mode.TWO_PASS: reference.two_pass(kept, queries, PREFIX, 20),
    }.items():
        hits = index.search(queries, 20, mode)
        assert hits.rows.tolist() == rows[true_rows].tolist(), mode
        np.testing.assert_allclose(hits.scores, true_scores, atol=tolerance)
    unrounded, _ = reference.exact(vectors[rows], queries, 1)
    best = np.einsum("qd,qd->q", vectors[rows][unrounded[:, 0]], queries)
    np.testing.assert_allclose(index.search(queries, 20, Mode.EXACT).scores[:, 0], best, atol=tolerance)


def test_all_modes_agree_with_numpy_before_and_after_reopening(tmp_path, make_vectors, shape):
    vectors, queries = make_vectors(300, DIM, seed=1), make_vectors(25, DIM, seed=2)
    index = open_index(tmp_path, shape)
    for part in np.split(vectors, [1, 63, 64, 65, 200]):
        add(index, part)
    check_against_reference(index, vectors, queries, shape, np.arange(300))
    assert len(list(tmp_path.glob("first-pass-*.faiss"))) == 4
    index = open_index(tmp_path, shape, 300)
    check_against_reference(index, vectors, queries, shape, np.arange(300))


def test_removed_rows_are_never_found_and_others_take_their_place(tmp_path, make_vectors, shape):
    vectors, queries = make_vectors(300, DIM, seed=3), make_vectors(5, DIM, seed=4)
    index = open_index(tmp_path, shape)
    add(index, vectors[:200])
    before = index.search(queries, 20)
    dead = np.arange(0, 200, 3)
    add(index, vectors[200:], removed=dead)
    rows = np.setdiff1d(np.arange(300), dead)
    assert (index.n_rows, index.n_live) == (300, len(rows))
    check_against_reference(index, vectors, queries, shape, rows)
    assert np.isin(dead, before.rows).any()  # they would have been found
    index = open_index(tmp_path, shape, 300, dead)
    check_against_reference(index, vectors, queries, shape, rows)


def test_a_view_taken_before_a_change_still_answers_as_before(tmp_path, make_vectors, shape):
    vectors, queries = make_vectors(200, DIM, seed=5), make_vectors(3, DIM, seed=6)
    index = open_index(tmp_path, shape)
    add(index, vectors[:100])
    view = index._view
    answer = view.prefixes.search(normalise(queries[:, :PREFIX]), 10)
    add(index, vectors[100:], removed=answer.rows[0])
    again = view.prefixes.search(normalise(queries[:, :PREFIX]), 10)
    np.testing.assert_array_equal(again.rows, answer.rows)
    assert not np.isin(index.search(queries[:1], 10).rows, answer.rows[0]).any()


def test_fewer_rows_than_asked_for_leave_empty_slots(tmp_path, make_vectors, shape):
    index = open_index(tmp_path, shape)
    queries = make_vectors(2, DIM, seed=7)
    for mode in Mode:
        hits = index.search(queries, 5, mode)
        assert hits.rows.tolist() == [[-1] * 5] * 2
        assert np.isneginf(hits.scores).all()
    add(index, make_vectors(3, DIM, seed=8))
    for mode in Mode:
        hits = index.search(queries, 5, mode)
        assert sorted(hits.rows[0].tolist()) == [-1, -1, 0, 1, 2]
        assert np.isneginf(hits.scores[:, 3:]).all() and np.isfinite(hits.scores[:, :3]).all()


def test_equal_scores_are_ordered_by_row(tmp_path, make_vectors, shape):
    vectors = np.repeat(make_vectors(1, DIM, seed=9), 150, axis=0)
    index = open_index(tmp_path, shape)
    add(index, vectors)
    for mode in (Mode.TWO_PASS, Mode.EXACT):
        assert index.search(vectors[:1], 150, mode).rows[0].tolist() == list(range(150))
        assert index.search(vectors[:3], 40, Mode.EXACT).rows.tolist() == [list(range(40))] * 3


def test_a_batch_answers_like_its_single_queries(tmp_path, make_vectors, shape):
    index = open_index(tmp_path, shape)
    add(index, make_vectors(300, DIM, seed=10))
    queries = make_vectors(40, DIM, seed=11)
    for mode in Mode:
        batch = index.search(queries, 10, mode)
        for i, query in enumerate(queries):
            single = index.search(query[None], 10, mode)
            assert single.rows[0].tolist() == batch.rows[i].tolist()
            np.testing.assert_allclose(single.scores[0], batch.scores[i], atol=1e-6)


def test_prefix_scores_and_ranks_say_where_a_hit_came_from(tmp_path, make_vectors, shape):
    vectors, queries = make_vectors(200, DIM, seed=12), make_vectors(4, DIM, seed=13)
    index = open_index(tmp_path, shape)
    add(index, vectors)
    hits, first = index.search(queries, 30), index.search(queries, 30, Mode.PREFIX)
    for query in range(4):
        for row, rank, score in zip(
            hits.rows[query], hits.prefix_ranks[query], hits.prefix_scores[query], strict=True
        ):
            assert first.rows[query, rank] == row
            assert first.scores[query, rank] == score
    assert hits.rows_read.tolist() == hits.candidates.tolist() == [30] * 4
    assert index.row_bytes == DIM * (2 if shape.vector_dtype == "float16" else 4)
    assert first.candidates.tolist() == [30] * 4
    assert first.rows_read.tolist() == first.cold_reads.tolist() == [0] * 4


def test_rows_past_the_commit_are_dropped_on_opening(tmp_path, make_vectors, shape):
    vectors = make_vectors(100, DIM, seed=14)
    index = open_index(tmp_path, shape)
    add(index, vectors[:50])
    index.append(vectors[50:], 50)  # the process dies here, before the commit
    index = open_index(tmp_path, shape, 50)
    assert vector_path(tmp_path, shape).stat().st_size == 50 * DIM * np.dtype(shape.vector_dtype).itemsize
    check_against_reference(index, vectors, vectors[:3], shape, np.arange(50))


def test_rows_that_the_file_has_lost_are_hidden_and_named(tmp_path, make_vectors, shape):
    vectors = make_vectors(150, DIM, seed=15)
    index = open_index(tmp_path, shape)
    checksums = np.array(add(index, vectors).checksums, np.uint32)
    path = vector_path(tmp_path, shape)
    data = bytearray(path.read_bytes())
    row_bytes = len(data) // 150
    data[20 * row_bytes] ^= 4
    path.write_bytes(data[: 140 * row_bytes + 5])
    rows = np.arange(150)
    lost = damaged_rows(tmp_path, shape, rows, checksums)
    assert lost.tolist() == [20, *range(140, 150)]
    assert damaged_rows(tmp_path, shape, rows[30:60], checksums[30:60]).tolist() == []
    index = open_index(tmp_path, shape, 150, dead=[20])
    check_against_reference(index, vectors, vectors[:3], shape, np.setdiff1d(rows, lost))
    path.unlink()
    assert damaged_rows(tmp_path, shape, rows, checksums).tolist() == rows.tolist()


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        lambda path: path.write_bytes(path.read_bytes()[:4] + b"\xff" * 4 + path.read_bytes()[8:]),
        lambda path: path.write_bytes(path.read_bytes()[:8] + b"\xff" * 8 + path.read_bytes()[16:]),
        lambda path: path.write_bytes(path.read_bytes()[:37] + b"\xff" * 8 + path.read_bytes()[45:]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    ],
)  # fmt: skip
def test_a_damaged_first_pass_file_is_made_anew(tmp_path, make_vectors, shape, harm):
    vectors = make_vectors(150, DIM, seed=16)
    index = open_index(tmp_path, shape)
    add(index, vectors)
    path = part_file(tmp_path, 64)
    good = path.read_bytes()
    harm(path)
    if path.exists():
        assert stale_prefix_files(tmp_path, shape, np.arange(150)) == [path]
    index = open_index(tmp_path, shape, 150)
    check_against_reference(index, vectors, vectors[:5], shape, np.arange(150))
    assert path.read_bytes() == good
    assert stale_prefix_files(tmp_path, shape, np.arange(150)) == []


@pytest.mark.parametrize("place", [45, 1000, -3])
def test_one_flipped_bit_among_the_prefixes_is_told(tmp_path, make_vectors, shape, place):
    index = open_index(tmp_path, shape)
    add(index, make_vectors(150, DIM, seed=17))
    assert stale_prefix_files(tmp_path, shape, np.arange(150)) == []
    path = part_file(tmp_path, 0)
    data = bytearray(path.read_bytes())
    data[place] ^= 64
    path.write_bytes(data)
    assert stale_prefix_files(tmp_path, shape, np.arange(150)) == [path]


def test_prefixes_that_are_all_zero_are_told(tmp_path, make_vectors, shape):
    index = open_index(tmp_path, shape)
    add(index, make_vectors(150, DIM, seed=17))
    path = part_file(tmp_path, 64)
    path.write_bytes(path.read_bytes()[:45] + bytes(path.stat().st_size - 45))
    assert stale_prefix_files(tmp_path, shape, np.arange(150)) == [path]


def test_parts_of_other_vectors_are_told_and_made_anew(tmp_path, make_vectors, shape):
    vectors, others = make_vectors(150, DIM, seed=17), make_vectors(150, DIM, seed=117)
    for folder, mine in (("mine", vectors), ("others", others)):
        (tmp_path / folder).mkdir()
        add(open_index(tmp_path / folder, shape), mine)
    for path in (tmp_path / "others").glob("first-pass-*"):
        path.replace(tmp_path / "mine" / path.name)
    foreign = [part_file(tmp_path / "mine", row) for row in (0, 64)]
    assert stale_prefix_files(tmp_path / "mine", shape, np.arange(150)) == foreign
    is_row_dead = np.isin(np.arange(150), np.arange(0, 150, 4))  # of every part all rows that were sampled
    assert stale_prefix_files(tmp_path / "mine", shape, np.flatnonzero(~is_row_dead)) == []
    index = open_index(tmp_path / "mine", shape, 150)
    check_against_reference(index, vectors, vectors[:5], shape, np.arange(150))
    assert stale_prefix_files(tmp_path / "mine", shape, np.arange(150)) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: None,
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"version": ', '"version": 9'),
        lambda text: text.replace('"float32"', '"float8"'),
        lambda text: text.replace('"prefix_dim": 16', '"prefix_dim": "x"'),
        lambda text: text.replace('"n_rows": 64', '"n_rows": 65'),
        lambda text: text.replace('"first_row": 64', '"first_row": 6'),
    ],
)
def test_a_damaged_manifest_costs_nothing_but_the_parts_it_named(tmp_path, make_vectors, shape, harm):
    vectors = make_vectors(150, DIM, seed=16)
    add(open_index(tmp_path, shape), vectors)
    path = tmp_path / "first-pass-0001-0000.json"
    harmed = harm(path.read_text())
    assert harmed != path.read_text()
    path.unlink() if harmed is None else path.write_text(harmed)
    index = open_index(tmp_path, shape, 150)
    check_against_reference(index, vectors, vectors[:5], shape, np.arange(150))
    assert len(list(tmp_path.glob("first-pass-*.faiss"))) == 2
    assert len(list(tmp_path.glob("first-pass-*.json"))) == 1
    assert stale_prefix_files(tmp_path, shape, np.arange(150)) == []


def test_another_prefix_length_is_made_from_the_stored_vectors(tmp_path, make_vectors, shape):
    vectors = make_vectors(150, DIM, seed=18)
    index = open_index(tmp_path, shape)
    add(index, vectors)
    longer = Shape(1, DIM, 32, shape.vector_dtype)
    index = open_index(tmp_path, longer, 150)
    expected, _ = reference.prefix(stored(vectors, shape), vectors[:5], 32, 10)
    assert index.search(vectors[:5], 10, Mode.PREFIX).rows.tolist() == expected.tolist()
    assert index.plan.prefix_dim == 32
    assert {path.name for path in tmp_path.glob("first-pass-*")} == {
        "first-pass-0001-0001.json",
        "first-pass-0001-0001-000000000.faiss",
        "first-pass-0001-0001-000000064.faiss",
    }


def test_files_of_other_builds_and_generations_are_removed(tmp_path, make_vectors, shape):
    vectors = make_vectors(150, DIM, seed=18)
    add(open_index(tmp_path, shape), vectors)
    mine = {path.name for path in tmp_path.iterdir()}
    for name in ("0001-0000-000000128.faiss", "0001-0007-empty.faiss", "0001-0007.npz", "0000-0000.json"):
        (tmp_path / f"first-pass-{name}").write_bytes(b"left behind")
    (tmp_path / "first-pass-0001-0000-000000000.faiss.writing").write_bytes(b"half")
    open_index(tmp_path, shape, 150)
    assert {path.name for path in tmp_path.iterdir()} == mine


def test_a_part_that_cannot_be_written_still_answers(tmp_path, make_vectors, shape, monkeypatch):
    vectors = make_vectors(150, DIM, seed=19)

    def full(*_):
        raise RuntimeError("Error: 'f' failed: could not write: No space left on device")

    monkeypatch.setattr(files.faiss, "write_index", full)
    index = open_index(tmp_path, shape)
    add(index, vectors)
    check_against_reference(index, vectors, vectors[:5], shape, np.arange(150))
    assert list(tmp_path.glob("first-pass-*")) == []


def test_an_append_behind_unpublished_commits_is_refused(tmp_path, make_vectors, shape):
    index = open_index(tmp_path, shape)
    with pytest.raises(StorageError, match="knows 0 rows but 7 are committed"):
        index.append(make_vectors(1, DIM, seed=20), 7)


def test_read_gives_unit_vectors_in_the_order_asked(tmp_path, make_vectors, shape):
    vectors = make_vectors(50, DIM, seed=21)
    index = open_index(tmp_path, shape)
    add(index, vectors)
    read = index.read(np.array([40, 3, 3, 17]))
    np.testing.assert_allclose(read, vectors[[40, 3, 3, 17]], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, atol=1e-6)


def test_a_prefix_longer_than_the_vectors_is_refused(tmp_path):
    with pytest.raises(PrefixError):
        open_index(tmp_path, Shape(1, 8, 9, "float16"))


@pytest.mark.parametrize(
    ("k", "oversample", "least", "n_rows", "pool"),
    [(10, 8, 80, 10_000, 80), (1, 8, 80, 10_000, 80), (25, 8, 80, 10_000, 200), (10, 8, 80, 30, 30),
     (10, 1.25, 1, 100, 13), (10, 8, 80, 0, 1)],
)  # fmt: skip
def test_pool_size(k, oversample, least, n_rows, pool):
    assert pool_size(k, oversample, least, n_rows) == pool


def test_recall_counts_the_share_of_true_rows_found():
    true = np.array([[1, 2, 3], [4, 5, -1]])
    found = np.array([[3, 9, 1], [5, -1, -1]])
    assert recall_at_k(found, true) == pytest.approx((2 / 3 + 1 / 2) / 2)


def bitmap(rows, n_rows):
    allowed = np.zeros(n_rows, np.bool_)
    allowed[rows] = True
    return np.packbits(allowed, bitorder="little")


@pytest.mark.parametrize("share", [0.5, 0.05, 0.002, 0])
@pytest.mark.parametrize("mode", [Mode.TWO_PASS, Mode.CERTIFIED, Mode.EXACT])
def test_only_allowed_rows_are_found_and_the_best_of_them(tmp_path, make_vectors, share, mode):
    n, dim, k = 4000, 32, 10
    vectors, queries = make_vectors(n, dim, seed=1), make_vectors(20, dim, seed=2)
    shape = Shape(1, dim, 32, "float32")
    index = TwoPassIndex(tmp_path, shape, 0, np.zeros(0, np.bool_))
    index.publish(index.append(vectors, 0), np.array([3, 50, 51]))
    rng = np.random.default_rng(3)
    rows = np.sort(rng.choice(n, round(share * n), replace=False))
    hits = index.search(queries, 80, mode, k, 5000, allowed=bitmap(rows, n))
    live = np.setdiff1d(rows, [3, 50, 51])
    assert hits.n_live == len(live)
    scores = queries @ vectors[live].T
    for query in range(len(queries)):
        order = np.lexsort((live, -scores[query]))[:k]
        found = hits.rows[query][hits.rows[query] >= 0][:k]
        assert found.tolist() == live[order].tolist()
        np.testing.assert_allclose(hits.scores[query][: len(order)], scores[query][order], atol=1e-6)
        assert hits.proved[query] >= len(order) or mode is Mode.TWO_PASS
    if len(live) <= 512:  # scored outright: nothing was compared first, and the answer is proved
        assert (hits.proved >= min(k, len(live))).all()
        assert (hits.prefix_ranks[hits.rows >= 0] < 0).all() or mode is Mode.CERTIFIED


def test_rows_added_after_the_bitmap_was_made_are_not_allowed(tmp_path, make_vectors):
    vectors = make_vectors(40, 16, seed=1)
    index = TwoPassIndex(tmp_path, Shape(1, 16, 16, "float32"), 0, np.zeros(0, np.bool_))
    index.publish(index.append(vectors[:20], 0), np.array([], np.int64))
    allowed = bitmap(range(20), 20)
    index.publish(index.append(vectors[20:], 20), np.array([], np.int64))
    hits = index.search(vectors[30:31], 80, allowed=allowed)
    assert set(hits.rows[0][hits.rows[0] >= 0]) == set(range(20))
