"""index/first_pass over every codec and order: candidates against brute force, deletions, reopening, damage."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.axes import Order
from index.first_pass import FirstPass, FirstPassFolder, writer
from index.first_pass.codecs import code_bytes
from index.first_pass.files import Manifest
from index.first_pass.recipe import train
from index.plan import Codec, Plan, Wish, plain
from index.planner import Machine, propose
from index.vector_file import VectorFile
from index.vectors import normalise

DIM, PREFIX = 64, 32
N_ROWS = 1000
N_BUILT = 600  # of them in one go: parts of 256 rows; then 6 sealed tails of 64, and 16 rows in the tail

LEAST_RECALL = {
    # share of the 10 nearest prefixes that are among 30 candidates
    Codec.FLOAT32: 1.0,
    Codec.FLOAT16: 1.0,
    Codec.INT8: 0.999,
    Codec.PQ4: 0.9,
    Codec.RABITQ: 0.5,  # 32 bits a row; see below for what it's made for
}

PLANS = [
    Plan(codec, order, PREFIX, code_bytes(codec, PREFIX), n_lists, n_lists)
    for codec in Codec
    for order in Order
    for n_lists in ((1, 6) if codec in (Codec.PQ4, Codec.RABITQ) else (1,))
]


@pytest.fixture(params=PLANS, ids=lambda plan: f"{plan.codec}-{plan.order}-{plan.kind}")
def plan(request):
    return request.param


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(writer, "TAIL_ROWS", 64)
    monkeypatch.setattr(writer, "PART_ROWS", 256)


def write_vectors(folder, vectors, dtype="float32"):
    file = VectorFile(folder / "vectors", vectors.shape[1], dtype)
    file.append(file.to_stored(vectors), 0)
    return file.view(len(vectors))


def all_live(n_rows):
    return np.ones(n_rows, np.bool_)


def make(folder, plan, vectors, n_built=N_BUILT, live=None, with_bounds=True):
    """A first pass over all vectors, the first n_built of them built in one go; and what it was made from."""
    view = write_vectors(folder, vectors)
    recipe = train(plan, vectors, with_bounds)
    first_pass = FirstPass(FirstPassFolder(folder, 1), recipe, Manifest(1, plan))
    assert first_pass.build(view, n_built, lambda: False, lambda row, block: None)
    first_pass.fill_from(view, len(vectors))
    first_pass.set_live(np.packbits(all_live(len(vectors)) if live is None else live, bitorder="little"))
    first_pass.save()
    return first_pass, view


def brute_force(first_pass, vectors, queries, live=None):
    """Prefix cosines, (n_queries, n_rows), -inf for dead rows."""
    axes, n = first_pass.recipe.axes, first_pass.recipe.plan.prefix_dim
    cosines = axes.prefixes(queries, n) @ axes.prefixes(vectors, n).T
    if live is not None:
        cosines[:, ~live] = -np.inf
    return cosines


def recall(found, cosines, k):
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.mean([np.isin(true, mine).mean() for true, mine in zip(best, found, strict=True)])


def test_candidates_are_those_of_brute_force(tmp_path, make_vectors, plan):
    vectors, queries = make_vectors(N_ROWS, DIM, seed=1), make_vectors(50, DIM, seed=2)
    first_pass, _ = make(tmp_path, plan, vectors)
    cosines = brute_force(first_pass, vectors, queries)
    found = first_pass.snapshot().search(queries, 30)
    assert recall(found.rows, cosines, 10) >= LEAST_RECALL[plan.codec]
    if plan.codec is Codec.FLOAT32:
        np.testing.assert_array_equal(found.rows, np.argsort(-cosines, axis=1)[:, :30])
    assert (np.diff(found.scores, axis=1) <= 0).all()
    tolerance = {Codec.FLOAT32: 1e-6, Codec.FLOAT16: 1e-3, Codec.INT8: 0.02}.get(plan.codec)
    if tolerance:
        np.testing.assert_allclose(
            found.scores, np.take_along_axis(cosines, found.rows, axis=1), atol=tolerance
        )


@pytest.mark.parametrize("order", Order)
def test_one_bit_a_dimension_finds_the_true_rows_in_a_larger_pool(tmp_path, make_vectors, order):
    vectors, queries = make_vectors(3000, 300, seed=1), make_vectors(50, 300, seed=2)
    plan = Plan(Codec.RABITQ, order, 256, code_bytes(Codec.RABITQ, 256))
    first_pass, _ = make(tmp_path, plan, vectors, n_built=3000, with_bounds=False)
    found = first_pass.snapshot().search(queries, 160)
    assert recall(found.rows, brute_force(first_pass, vectors, queries), 10) > 0.95


def test_built_parts_sealed_tails_and_the_tail_give_each_row_once(tmp_path, make_vectors, plan):
    vectors, queries = make_vectors(N_ROWS, DIM, seed=3), make_vectors(5, DIM, seed=4)
    first_pass, _ = make(tmp_path, plan, vectors)
    found = first_pass.snapshot().search(queries, N_ROWS + 7)
    for rows, scores in zip(found.rows, found.scores, strict=True):
        assert sorted(rows[:N_ROWS].tolist()) == list(range(N_ROWS))
        assert rows[N_ROWS:].tolist() == [-1] * 7
        assert np.isneginf(scores[N_ROWS:]).all()
    n_parts = len(list(tmp_path.glob("first-pass-0001-0001-*0*.faiss")))
    assert n_parts == (1 if plan.codec in (Codec.PQ4, Codec.RABITQ) else 3) + 6


def test_deleted_rows_are_never_found_and_all_others_are(tmp_path, make_vectors, plan):
    vectors, queries = make_vectors(N_ROWS, DIM, seed=5), make_vectors(20, DIM, seed=6)
    live = np.random.default_rng(7).random(N_ROWS) > 0.3
    live[256:512] = live[640:704] = False  # two parts whole
    live[990:] = False
    first_pass, _ = make(tmp_path, plan, vectors, live=live)
    cosines = brute_force(first_pass, vectors, queries, live)
    assert recall(first_pass.snapshot().search(queries, 30).rows, cosines, 10) >= LEAST_RECALL[plan.codec]
    everything = first_pass.snapshot().search(queries, N_ROWS)
    for rows in everything.rows:
        assert sorted(rows[rows >= 0].tolist()) == np.flatnonzero(live).tolist()
    before = first_pass.snapshot()
    first_pass.mask(everything.rows[0, :40])
    assert not np.isin(first_pass.snapshot().search(queries, N_ROWS).rows, everything.rows[0, :40]).any()
    np.testing.assert_array_equal(before.search(queries, N_ROWS).rows, everything.rows)


def test_reopening_gives_the_same_answers(tmp_path, make_vectors, plan):
    vectors, queries = make_vectors(N_ROWS, DIM, seed=8), make_vectors(20, DIM, seed=9)
    live = np.random.default_rng(10).random(N_ROWS) > 0.1
    first_pass, view = make(tmp_path, plan, vectors, live=live)
    found = first_pass.snapshot().search(queries, 30)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("first-pass-*")}
    opened = FirstPass.open(tmp_path, 1, view, live, plain(PREFIX))
    assert opened.manifest.plan == plan and opened.n_rows == N_ROWS
    again = opened.snapshot().search(queries, 30)
    np.testing.assert_array_equal(again.rows, found.rows)
    np.testing.assert_array_equal(again.scores, found.scores)
    for query in queries[:3]:
        mine, theirs = (each.snapshot().upper_bounds(query, N_ROWS) for each in (first_pass, opened))
        np.testing.assert_array_equal(mine.rows, theirs.rows)
        np.testing.assert_array_equal(mine.bounds, theirs.bounds)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("first-pass-*")} == before


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of mapped memory")
def test_the_kernel_may_read_ahead_in_mapped_codes_and_bounds(tmp_path, make_vectors):
    """faiss says that reads are random, 4 KiB each: from a memory card a scan of 192 MB then takes 47 s."""
    vectors = make_vectors(N_ROWS, DIM, seed=8)
    first_pass, view = make(tmp_path, Plan(Codec.INT8, Order.CORPUS, PREFIX, PREFIX), vectors)
    opened = FirstPass.open(tmp_path, 1, view, all_live(N_ROWS), plain(PREFIX))
    mappings = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE
    )
    mine = [each for each in mappings if str(tmp_path) in each]
    assert len(mine) >= 2 * len(first_pass.manifest.parts) == 2 * len(opened.manifest.parts)
    assert [each for each in mine if re.search(r"^VmFlags:.* rr", each, re.MULTILINE)] == []


def flip(path, place):
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes(255 - byte for byte in data[place : place + 8]) + data[place + 8 :])


HARMS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "flipped": lambda path: flip(
        path, 8 if path.suffix in (".faiss", ".bounds") else path.stat().st_size // 2
    ),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("codec", [Codec.INT8, Codec.PQ4], ids=lambda codec: codec.value)
def test_each_damaged_file_is_made_anew_or_the_plain_form_takes_over(tmp_path, make_vectors, codec, harm):
    vectors, queries = make_vectors(400, DIM, seed=11), make_vectors(20, DIM, seed=12)
    plan = Plan(codec, Order.CORPUS, PREFIX, code_bytes(codec, PREFIX))
    (tmp_path / "made").mkdir()
    _, view = make(tmp_path / "made", plan, vectors, n_built=256)
    names = sorted(path.name for path in (tmp_path / "made").glob("first-pass-*"))
    assert len(names) == 3 + 2 * 3
    for name in names:
        folder = tmp_path / f"{name} damaged"
        folder.mkdir()
        for other in names:
            (folder / other).write_bytes((tmp_path / "made" / other).read_bytes())
        HARMS[harm](folder / name)
        opened = FirstPass.open(folder, 1, view, all_live(400), plain(PREFIX))
        cosines = brute_force(opened, vectors, queries)
        found = opened.snapshot().search(queries, 30).rows
        assert recall(found, cosines, 10) >= LEAST_RECALL[opened.manifest.plan.codec], name
        is_part = name.endswith(".bounds") or (name.count("-") == 4 and "empty" not in name)
        assert opened.manifest.plan == (plan if is_part else plain(PREFIX)), name
        rows = np.concatenate([np.arange(p.first_row, p.first_row + p.n_rows) for p in opened._parts])
        assert sorted(rows.tolist()) == list(range(384)), name
        if is_part:
            bounds = opened.snapshot().upper_bounds(queries[0], 400)
            assert sorted(bounds.rows.tolist()) == list(range(400))
            assert (bounds.bounds >= vectors[bounds.rows] @ queries[0]).all()
        # The second start finds everything in order and writes nothing.
        files = {path.name: path.read_bytes() for path in folder.glob("first-pass-*")}
        assert FirstPassFolder(folder, 1).stale(view, np.arange(400)) == []
        FirstPass.open(folder, 1, view, all_live(400), plain(PREFIX))
        assert {path.name: path.read_bytes() for path in folder.glob("first-pass-*")} == files, name


def test_a_byte_turned_anywhere_in_the_trained_files_or_the_manifest_never_stops_a_start(
    tmp_path, make_vectors
):
    vectors, queries = make_vectors(300, 24, seed=13), make_vectors(5, 24, seed=14)
    plan = Plan(Codec.INT8, Order.CORPUS, 16, 16)
    _, view = make(tmp_path, plan, vectors, n_built=128)
    rng = np.random.default_rng(15)
    exact = vectors.astype(np.float64) @ queries[0].astype(np.float64)
    for ending in (".json", ".npz"):
        good = {path: path.read_bytes() for path in tmp_path.glob("first-pass-*")}
        path = tmp_path / f"first-pass-0001-0001{ending}"
        for place in rng.integers(0, len(good[path]), 25).tolist():
            for file in tmp_path.glob("first-pass-*"):
                file.unlink()
            for file, data in good.items():
                file.write_bytes(data)
            data = bytearray(good[path])
            data[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
            opened = FirstPass.open(tmp_path, 1, view, all_live(300), plain(16))
            snapshot = opened.snapshot()
            assert sorted(snapshot.search(queries[:1], 300).rows[0].tolist()) == list(range(300)), place
            if snapshot.coder is not None:
                bounded = snapshot.upper_bounds(queries[0], 300)
                assert (bounded.bounds >= exact[bounded.rows]).all(), place
        for file, data in good.items():
            file.write_bytes(data)


@pytest.mark.parametrize("longest", [8, 17, 48, 100, 384])
def test_product_codes_fit_prefixes_of_any_length(tmp_path, make_vectors, longest):
    dim = longest + 11
    vectors, queries = make_vectors(600, dim, seed=16), make_vectors(20, dim, seed=17)
    proposals = propose(600, dim, Wish(longest, codec=Codec.PQ4), Machine())
    for position, proposal in enumerate({id(each): each for each in (proposals[0], proposals[-1])}.values()):
        plan = proposal.plan
        assert plan.codec is Codec.PQ4 and plan.prefix_dim <= longest
        assert plan.prefix_dim % (2 * plan.code_bytes) == 0
        folder = tmp_path / str(position)
        folder.mkdir()
        first_pass, _ = make(folder, plan, vectors, n_built=320, with_bounds=False)
        cosines = brute_force(first_pass, vectors, queries)
        found = first_pass.snapshot().search(queries, 40)
        assert recall(found.rows, cosines, 10) > 0.8, plan
        assert (found.rows >= 0).all()
        assert first_pass.snapshot().ram_bytes >= 320 * (plan.code_bytes + 8)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize(("dim", "longest"), [(2, 2), (3, 3), (8, 8), (12, 5), (15, 15)])
def test_vectors_shorter_than_any_block_still_work(tmp_path, make_vectors, codec, dim, longest):
    vectors, queries = make_vectors(300, dim, seed=18), make_vectors(10, dim, seed=19)
    (proposal, *_) = propose(300, dim, Wish(longest, codec=codec), Machine())
    first_pass, _ = make(tmp_path, proposal.plan, vectors, n_built=128)
    found = first_pass.snapshot().search(queries, 300)
    assert all(sorted(rows.tolist()) == list(range(300)) for rows in found.rows)
    for query in queries:
        bounded = first_pass.snapshot().upper_bounds(query, 300)
        exact = vectors[bounded.rows].astype(np.float64) @ query.astype(np.float64)
        assert len(bounded.rows) == 300 and (bounded.bounds >= exact).all()


@pytest.mark.parametrize("n_dims", [8, 32, 64])
@pytest.mark.parametrize("order", Order)
def test_8_bit_scores_lie_close_to_the_true_cosine(tmp_path, make_vectors, order, n_dims):
    vectors, queries = make_vectors(N_ROWS, DIM, seed=20), make_vectors(50, DIM, seed=21)
    first_pass, _ = make(tmp_path, Plan(Codec.INT8, order, n_dims, n_dims), vectors, n_built=N_ROWS // 8 * 8)
    found = first_pass.snapshot().search(queries, N_ROWS)
    cosines = np.take_along_axis(brute_force(first_pass, vectors, queries), found.rows, axis=1)
    # Half a step a component on both sides adds up to sqrt(n_dims) half steps at the very most.
    assert np.abs(found.scores - cosines).max() < 0.5 * n_dims**0.5 * 2 / 127
    assert np.abs(found.scores - cosines).mean() < 0.003


def test_a_query_or_a_row_without_any_prefix_disturbs_no_other(tmp_path, make_vectors, plan):
    vectors = make_vectors(N_ROWS, DIM, seed=22)
    vectors[::50, :PREFIX] = 0
    vectors = normalise(vectors)
    queries = np.zeros((2, DIM), np.float32)
    queries[0, -1] = queries[1, 0] = 1
    first_pass, _ = make(tmp_path, replace(plan, order=Order.MODEL), vectors)
    found = first_pass.snapshot().search(queries, N_ROWS)
    for rows, scores in zip(found.rows, found.scores, strict=True):
        rows = rows[rows >= 0]
        # faiss's fast scan leaves out rows whose sum of whole-numbered distances is the lowest there can be.
        assert len(rows) >= (0.85 if plan.codec is Codec.PQ4 else 1) * N_ROWS
        assert len(np.unique(rows)) == len(rows) and np.isfinite(scores[: len(rows)]).all()
    assert (found.scores[0][found.rows[0] >= 0] == 0).all() or plan.codec is Codec.RABITQ


def test_fewer_probes_compare_fewer_rows_and_all_probes_compare_all(tmp_path, make_vectors):
    vectors, queries = make_vectors(N_ROWS, DIM, seed=23), make_vectors(10, DIM, seed=24)
    plan = Plan(Codec.PQ4, Order.CORPUS, PREFIX, 8, n_lists=6, n_probes=1)
    first_pass, _ = make(tmp_path, plan, vectors, n_built=N_ROWS // 8 * 8)
    counts = [
        np.count_nonzero(first_pass.snapshot().search(queries, N_ROWS, n_probes).rows >= 0, axis=1)
        for n_probes in (None, 1, 3, 6, 99)
    ]
    assert counts[0].tolist() == counts[1].tolist()
    assert (counts[1] < counts[2]).all() and (counts[2] < N_ROWS).all()
    assert counts[3].tolist() == counts[4].tolist() == [N_ROWS] * 10


def test_a_stopped_build_says_so(tmp_path, make_vectors):
    vectors = make_vectors(N_ROWS, DIM, seed=25)
    view = write_vectors(tmp_path, vectors)
    plan = Plan(Codec.INT8, Order.CORPUS, PREFIX, PREFIX)
    first_pass = FirstPass(FirstPassFolder(tmp_path, 1), train(plan, vectors, True), Manifest(1, plan))
    seen = []
    assert not first_pass.build(view, N_BUILT, lambda: len(seen) > 1, lambda row, block: seen.append(row))
    assert seen == [0, 256]
    first_pass.discard()
    assert list(tmp_path.glob("first-pass-*")) == []
