"""Mode certified against brute force: no answer may be called proved that isn't the true one.

Random and clustered rows, exact and near duplicates, and rows made to sit on their bounds: tails parallel to a
query's tail, codes' residuals parallel to a query, outliers beyond what the codes were fitted to, rows without tail.
"""

from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.axes import Order
from index.evaluation import exact_search
from index.first_pass import FirstPass, FirstPassFolder, PrefixSnapshot, bounds, writer
from index.first_pass.bounds import BoundCoder
from index.first_pass.files import Manifest
from index.first_pass.recipe import train
from index.plan import Codec, Plan
from index.second_pass import FIRST_BOUNDS, prove
from index.vector_file import VectorFile, VectorView
from index.vectors import normalise, order_by_score, score

N_EXAMPLES, N_QUERIES = 64, 160  # 10 240 certified searches
N_TARGETS = 6  # queries that hostile rows are made against


@dataclass(frozen=True)
class Made:
    """A first pass over hostile rows, and queries that they are hostile to."""

    snapshot: PrefixSnapshot
    view: VectorView
    queries: np.ndarray


def unit(rng, n, dim, fall):
    """Unit vectors in clusters, with a spectrum that falls by this power: 0 is noise."""
    spectrum = (1 + np.arange(dim)) ** -fall
    centres = rng.standard_normal((5, dim)) * (2 * fall)
    points = (centres[rng.integers(0, 5, n)] + rng.standard_normal((n, dim))) * spectrum
    return normalise(points.astype(np.float32))


def on_the_tail_bound(coder, target, rng, n):
    """Rows that differ from the target within the axes and are parallel to it outside them."""
    inside = coder.axes.matrix.astype(np.float64)
    own = inside.T @ target
    tail = target - inside @ own
    noise = rng.standard_normal((n, len(own))) * rng.uniform(0, 0.2, (n, 1))
    coordinates = own * rng.uniform(0, 1, (n, 1)) + noise
    return coordinates @ inside.T + tail * rng.uniform(0.5, 3, (n, 1))


def on_the_residual_bound(coder, target, rng, n):
    """Rows as far from their codes as can be, all in the target's direction, and with the target's tail."""
    inside = coder.axes.matrix.astype(np.float64)
    own = inside.T @ target
    tail = target - inside @ own
    codes = np.rint(
        (own * rng.uniform(0.1, 0.9, (n, 1)) + 0.02 * rng.standard_normal((n, len(own)))) / coder.step
    )
    coordinates = (codes + 0.499 * np.sign(own)) * coder.step
    room = np.sqrt(np.maximum(1 - np.square(coordinates).sum(axis=1, keepdims=True), 0))
    return coordinates @ inside.T + room * tail / max(np.linalg.norm(tail), 1e-9)


def clipped(coder, target, rng, n):
    """Rows along one axis each, far beyond what a sample has there."""
    axis = rng.integers(0, coder.axes.n_axes, n)
    rows = coder.axes.matrix.T[axis] * rng.choice([-1, 1], (n, 1)) * 3
    return rows + target * rng.uniform(0, 1, (n, 1)) + 0.1 * rng.standard_normal(rows.shape)


def without_tail(coder, target, rng, n):
    inside = coder.axes.matrix.astype(np.float64)
    return (inside.T @ target + 0.2 * rng.standard_normal((n, coder.axes.n_axes))) @ inside.T


def near(coder, target, rng, n):
    """Rows that lie a few steps of float16 from the target in a few numbers."""
    rows = np.repeat(target.astype(np.float16)[None], n, axis=0)
    steps, places = rng.integers(-2, 3, rows.shape), rng.random(rows.shape) < 0.1
    return (rows.view(np.int16) + (steps * places).astype(np.int16)).view(np.float16)


def equal(coder, target, rng, n):
    return np.repeat(target[None], n, axis=0)


def opposite(coder, target, rng, n):
    return -target + 0.01 * rng.standard_normal((n, len(target)))


HOSTILE = {
    each.__name__: each
    for each in (
        on_the_tail_bound, on_the_residual_bound, clipped, without_tail, near, equal, opposite
    )
}  # fmt: skip


def make(folder, dim, dtype, fall, width, kinds, seed, n_plain=200, n_each=12, dead=0.15) -> Made:
    """Fit to plain rows alone; then plain and hostile rows, most of them sealed, the last ones in the tail."""
    rng = np.random.default_rng(seed)
    plain = unit(rng, n_plain, dim, fall)
    targets = unit(rng, N_TARGETS, dim, fall)
    plan = Plan(Codec.INT8, Order.CORPUS, min(8, dim), min(8, dim))
    with mock.patch.object(bounds, "MAX_WIDTH", width):
        recipe = train(plan, plain, with_bounds=True)
    hostile = [HOSTILE[kind](recipe.coder, target, rng, n_each) for kind in kinds for target in targets]
    rows = np.concatenate([plain, *(normalise(each.astype(np.float32)) for each in hostile)])
    rng.shuffle(rows)
    file = VectorFile(folder / f"{seed}-{dim}-{width}.vectors", dim, dtype)
    file.append(file.to_stored(rows), 0)
    view = file.view(len(rows))
    with mock.patch.object(writer, "TAIL_ROWS", 128):
        first_pass = FirstPass(FirstPassFolder(folder, 1), recipe, Manifest(1, plan))
        assert first_pass.build(view, len(rows) // 2 // 8 * 8, lambda: False, lambda row, block: None)
        first_pass.fill_from(view, len(rows))
    first_pass.set_live(np.packbits(rng.random(len(rows)) >= dead, bitorder="little"))
    n_rest = N_QUERIES - 2 * N_TARGETS
    mixed = np.concatenate([
        targets,
        targets + 0.001 * rng.standard_normal(targets.shape),
        rows[rng.integers(0, len(rows), n_rest // 2)],
        rng.standard_normal((n_rest - n_rest // 2, dim)),
    ])  # fmt: skip
    return Made(first_pass.snapshot(), view, normalise(mixed.astype(np.float32)))


def wrong_claims(made, n_hits, max_read, wave_rows):
    """Compare every certified search with brute force; return what is wrong."""
    snapshot, view = made.snapshot, made.view
    live = np.flatnonzero(snapshot.is_live(np.arange(view.n_rows)))
    stored = view.gather(live)
    found = []
    for query in made.queries:
        exact = score(stored, query)
        order = order_by_score(exact, live)
        best, scores = live[order], exact[order]
        answer = prove(snapshot, view, query, n_hits, max_read, wave_rows)
        n = answer.proved
        assert len(answer.rows) == answer.rows_read <= max_read
        assert len(np.unique(answer.rows)) == len(answer.rows) and snapshot.is_live(answer.rows).all()
        if not np.array_equal(answer.rows[:n], best[:n]) or not np.array_equal(answer.scores[:n], scores[:n]):
            found.append(f"{n} proved, but {answer.rows[:n]} is not {best[:n]}")
        if n < min(n_hits, snapshot.n_live) and answer.rows_read < min(max_read, snapshot.n_live):
            found.append(f"only {n} proved after {answer.rows_read} reads of {max_read}")
        if n < snapshot.n_live <= answer.rows_read:
            found.append(f"all {snapshot.n_live} rows read and only {n} proved")
    return found


def bounds_too_low(made):
    """Compare every bound, tight and loose, with the exact score in float64 and as `score` rounds it."""
    snapshot, view = made.snapshot, made.view
    stored = view.gather(np.arange(view.n_rows))
    everyone = np.full(len(snapshot.live), 255, np.uint8)
    found = []
    for query in made.queries[: 4 * N_TARGETS]:
        exact = np.maximum(stored.astype(np.float64) @ query.astype(np.float64), score(stored, query))
        bounded = snapshot.upper_bounds(query, view.n_rows)
        assert len(bounded.rows) == snapshot.n_live
        found += [("tight", row) for row in bounded.rows[bounded.bounds < exact[bounded.rows]].tolist()]
        side = snapshot.coder.query(query)
        for part in snapshot.bound_parts:
            loose = part.loose(side, part.n_rows, everyone, snapshot.coder.rounding)
            assert sorted(loose.rows[0].tolist()) == list(range(part.first_row, part.first_row + part.n_rows))
            found += [
                ("loose", row) for row in loose.rows[0][loose.scores[0] < exact[loose.rows[0]]].tolist()
            ]
    return found


shapes = {
    "dim": st.integers(16, 300),
    "dtype": st.sampled_from(["float16", "float32"]),
    "fall": st.sampled_from([0.0, 0.5, 1.0]),
    "width": st.sampled_from([20, 68, 256]),  # of codes: 16, 64 or up to 252 axes
    "kinds": st.lists(st.sampled_from(sorted(HOSTILE)), min_size=1, max_size=4, unique=True),
    "seed": st.integers(0, 2**32 - 1),
}


@given(
    **shapes,
    n_hits=st.sampled_from([1, 3, 10, 40]),
    max_read=st.sampled_from([1, 5, 12, 30, 100, 10_000, 10_000, 10_000]),
    wave_rows=st.sampled_from([0, 1, 8]),
    dead=st.sampled_from([0.0, 0.15, 0.9, 1.0]),
)
@settings(max_examples=N_EXAMPLES, deadline=None, derandomize=True)
def test_what_is_called_proved_is_what_brute_force_finds(
    tmp_path_factory, dim, dtype, fall, width, kinds, seed, n_hits, max_read, wave_rows, dead
):
    folder = tmp_path_factory.mktemp("made")
    made = make(folder, dim, dtype, fall, width, kinds, seed, dead=dead)
    assert wrong_claims(made, n_hits, max_read, wave_rows) == []


def test_brute_force_is_what_mode_exact_does(tmp_path):
    made = make(tmp_path, 64, "float16", 0.5, 68, ["near", "equal"], 4)
    rows, scores = exact_search(made.view.blocks(), made.queries, 50, made.snapshot.live)
    for query, mine, my_scores in zip(made.queries, rows, scores, strict=True):
        answer = prove(made.snapshot, made.view, query, 50, 10_000, 0)
        assert answer.proved >= 50 and answer.rows[:50].tolist() == mine.tolist()
        np.testing.assert_array_equal(answer.scores[:50], my_scores)


def test_enough_searches_are_compared():
    assert N_EXAMPLES * N_QUERIES >= 10_000


@given(**shapes)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_no_bound_lies_below_the_exact_score(tmp_path_factory, dim, dtype, fall, width, kinds, seed):
    made = make(tmp_path_factory.mktemp("made"), dim, dtype, fall, width, kinds, seed)
    assert bounds_too_low(made) == []


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_no_bound_is_too_low_for_any_kind_of_hostile_row(tmp_path, kind):
    shapes = [(300, "float16", 256, 0.5), (96, "float32", 20, 1.0), (40, "float32", 256, 0.0)]
    for seed, (dim, dtype, width, fall) in enumerate(shapes):
        made = make(tmp_path, dim, dtype, fall, width, [kind], seed, n_each=40)
        assert bounds_too_low(made) == []


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_on_their_bound_are_close_to_it(tmp_path, dtype):
    """Else the hostile rows wouldn't be hostile: bounds that lie far above would hide what arithmetic loses."""
    made = make(tmp_path, 96, dtype, 0.5, 20, ["on_the_residual_bound"], 5)
    gaps = []
    for query in made.queries[:N_TARGETS]:
        bounded = made.snapshot.upper_bounds(query, made.view.n_rows)
        gaps.append(bounded.bounds - score(made.view.gather(bounded.rows), query))
    assert np.min(gaps) < 0.02


MUTATIONS = {
    "a slack below zero": lambda: mock.patch.object(BoundCoder, "rounding", -0.03),
    "no residual": lambda: mock.patch.object(BoundCoder, "encode", without_residual),
    "no tail": lambda: mock.patch.object(BoundCoder, "augmented", without_tails),
}
true_encode, true_augmented = BoundCoder.encode, BoundCoder.augmented


def without_residual(coder, stored):
    codes, _, longest = true_encode(coder, stored)
    return codes, 0.0, longest


def without_tails(coder, stored):
    augmented = true_augmented(coder, stored)
    augmented[:, -1] = 0
    return augmented


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_bounds_made_too_low_are_noticed(tmp_path, mutation):
    kinds = ["on_the_residual_bound", "on_the_tail_bound", "clipped"]
    arguments = (tmp_path, 96, "float32", 0.5, 20, kinds, 6)
    assert wrong_claims(make(*arguments), 10, 10_000, 1) == []
    with MUTATIONS[mutation]():
        made = make(*arguments)
        assert len(bounds_too_low(made)) > 10
        assert len(wrong_claims(made, 10, 10_000, 1)) > 0


def test_too_few_reads_prove_less_and_claim_nothing_wrong(tmp_path):
    made = make(tmp_path, 64, "float16", 0.5, 68, ["near", "equal"], 7)
    proved = {}
    for max_read in (1, 4, 9, 10, 20, 100, 10_000):
        assert wrong_claims(made, 10, max_read, 0) == []
        answers = [prove(made.snapshot, made.view, query, 10, max_read, 0) for query in made.queries]
        assert all(answer.rows_read <= max_read for answer in answers)
        proved[max_read] = sum(answer.proved >= 10 for answer in answers)
    assert proved[9] == 0 < proved[100] <= proved[10_000] == N_QUERIES


@pytest.mark.parametrize("n_live", [FIRST_BOUNDS + 10, FIRST_BOUNDS + 9, FIRST_BOUNDS + 11])
def test_all_rows_alike_are_proved_once_all_are_read(tmp_path, n_live):
    """Also where the scan's first answer is exactly as long as there are rows."""
    rows = np.repeat(unit(np.random.default_rng(8), 1, 32, 0.5), n_live // 8 * 8 + 8, axis=0)
    file = VectorFile(tmp_path / "vectors", 32, "float32")
    file.append(file.to_stored(rows), 0)
    plan = Plan(Codec.INT8, Order.CORPUS, 8, 8)
    first_pass = FirstPass(FirstPassFolder(tmp_path, 1), train(plan, rows, True), Manifest(1, plan))
    first_pass.build(file.view(len(rows)), len(rows), lambda: False, lambda row, block: None)
    first_pass.set_live(np.packbits(np.arange(len(rows)) < n_live, bitorder="little"))
    answer = prove(first_pass.snapshot(), file.view(len(rows)), rows[0], 10, 10_000, 0)
    assert answer.rows.tolist() == list(range(n_live))
    assert answer.proved == answer.rows_read == n_live


def test_a_first_pass_without_bounds_proves_by_reading_everything_or_not_at_all(tmp_path):
    rows = unit(np.random.default_rng(9), 200, 32, 0.5)
    file = VectorFile(tmp_path / "vectors", 32, "float32")
    file.append(file.to_stored(rows), 0)
    plan = Plan(Codec.INT8, Order.CORPUS, 8, 8)
    first_pass = FirstPass(FirstPassFolder(tmp_path, 1), train(plan, rows, False), Manifest(1, plan))
    first_pass.fill_from(file.view(200), 200)
    first_pass.set_live(np.packbits(np.arange(200) % 3 > 0, bitorder="little"))
    made = Made(first_pass.snapshot(), file.view(200), rows[:20])
    for max_read in (1, 132, 133, 10_000):
        assert wrong_claims(made, 10, max_read, 0) == []
        proved = prove(made.snapshot, made.view, rows[0], 10, max_read, 0).proved
        assert proved == (133 if max_read >= 133 else 0)
