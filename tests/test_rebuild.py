"""Rebuilding the first pass while it serves: nothing lost, nothing doubled, nothing half done; and what it chooses."""

import math
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import ROOT, beside

from index import durable, rebuilding
from index.axes import Order
from index.errors import DiskFullError, StorageError
from index.evaluation import exact_search
from index.first_pass import FirstPass, FirstPassFolder, writer
from index.first_pass.files import Manifest
from index.plan import Codec, Kind, Wish, plain
from index.two_pass import GROWTH, MIN_ROWS, Mode, Shape, TwoPassIndex, stale_prefix_files
from index.vectors import normalise

DIM, PREFIX = 64, 32
SHAPE = Shape(generation=1, dim=DIM, prefix_dim=PREFIX, vector_dtype="float16")
WISH = Wish(PREFIX)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(writer, "TAIL_ROWS", 256)
    monkeypatch.setattr(writer, "PART_ROWS", 1024)


def open_index(folder, n_rows=0, dead=(), shape=SHAPE):
    live = np.ones(n_rows, np.bool_)
    live[list(dead)] = False
    return TwoPassIndex(folder, shape, n_rows, live)


def add(index, vectors, removed=()):
    index.publish(index.append(vectors, index.n_rows), np.array(removed, np.int64))


def filled(folder, vectors, shape=SHAPE):
    index = open_index(folder, shape=shape)
    add(index, vectors)
    return index


def files(folder):
    return sorted(path.name for path in folder.glob("first-pass-*"))


def answers(index, queries):
    return index.search(queries, 40).rows.tolist()


@pytest.mark.parametrize("codec", [Codec.FLOAT16, Codec.INT8, Codec.PQ4, Codec.RABITQ])
def test_a_rebuilt_first_pass_serves_and_is_what_the_next_start_opens(tmp_path, make_vectors, codec):
    vectors, queries = make_vectors(3003, DIM, seed=1), make_vectors(30, DIM, seed=2)
    index = filled(tmp_path, vectors)
    dead = np.arange(0, 3003, 7)
    index.publish(None, dead)
    wish = replace(WISH, codec=codec)
    report = index.rebuild(wish)
    assert report.plan == index.plan and index.plan.codec is codec
    assert (index.n_rows, index.n_live) == (3003, 3003 - len(dead))
    assert not index.rebuild_due(wish) and index.rebuild_due(WISH)
    true = index.search(queries, 10, Mode.EXACT).rows
    for mode in (Mode.CERTIFIED, Mode.TWO_PASS):
        hits = index.search(queries, 400, mode, n_hits=10)
        assert not np.isin(hits.rows, dead).any()
        if mode is Mode.CERTIFIED:
            assert hits.rows[:, :10].tolist() == true.tolist() and (hits.proved >= 10).all()
    found = answers(index, queries)
    again = open_index(tmp_path, 3003, dead)
    assert again.plan == index.plan and again.evidence == index.evidence
    assert answers(again, queries) == found
    assert stale_prefix_files(tmp_path, SHAPE, np.setdiff1d(np.arange(3003), dead)) == []
    assert {name[:20] for name in files(tmp_path)} == {files(tmp_path)[0][:20]}  # of one build only


def test_no_row_is_lost_or_doubled_while_threads_search_add_and_delete(tmp_path, make_vectors):
    vectors = make_vectors(4000, DIM, seed=3)
    index = filled(tmp_path, vectors[:1500])
    leaving, dead = np.zeros(4000, np.bool_), np.zeros(4000, np.bool_)  # called for; acknowledged
    acknowledged = [1500]
    problems, n_searches = [], [0]

    def write(is_over):
        rng = np.random.default_rng(5)
        while not is_over.is_set() and acknowledged[0] < 4000:
            n = acknowledged[0]
            gone = np.flatnonzero(~dead[:n])[rng.integers(0, np.count_nonzero(~dead[:n]), 3)]
            leaving[gone] = True
            index.publish(index.append(vectors[n : n + 10], n), np.unique(gone))
            dead[gone] = True
            acknowledged[0] = n + 10

    def search(seed, is_over):
        rng = np.random.default_rng(seed)
        while not is_over.is_set():
            n, was_dead = acknowledged[0], dead.copy()
            rows = rng.integers(0, n, 8)
            rows[:2] = n - 1 - rng.integers(0, 20, 2)  # those that came last
            hits = index.search(normalise(vectors[rows]), 60)
            for row, found in zip(rows.tolist(), hits.rows, strict=True):
                kept = found[found >= 0]
                if len(np.unique(kept)) != len(kept):
                    problems.append(f"row {row}: doubled rows")
                if was_dead[kept].any():
                    problems.append(f"row {row}: deleted rows {kept[was_dead[kept]]}")
                if row not in kept and not leaving[row]:
                    problems.append(f"row {row} is lost")
            n_searches[0] += 1

    codecs = [Codec.INT8, Codec.FLOAT16, Codec.FLOAT32, Codec.PQ4]
    with beside(write, partial(search, 1), partial(search, 2)):
        plans = [index.rebuild(replace(WISH, codec=codec, target_recall=0.5)).plan.codec for codec in codecs]
    assert plans == codecs
    assert problems == []
    assert n_searches[0] > 0 and acknowledged[0] > 1500
    n = acknowledged[0]
    index.rebuild(replace(WISH, codec=Codec.INT8, target_recall=0.5))
    assert (index.n_rows, index.n_live) == (n, n - np.count_nonzero(dead))
    everything = index.search(vectors[:1], n).rows[0]
    assert sorted(everything[everything >= 0].tolist()) == np.flatnonzero(~dead[:n]).tolist()


def test_what_is_written_and_deleted_during_a_rebuild_is_in_it(tmp_path, make_vectors):
    vectors = make_vectors(2600, DIM, seed=6)
    index = filled(tmp_path, vectors[:1400])
    seen = []

    def meddle(stage, done, total):
        if stage not in seen:
            seen.append(stage)
            n = index.n_rows
            add(index, vectors[n : n + 300], removed=[len(seen), n - 1])

    index.rebuild(WISH, on_progress=meddle)
    assert seen == ["sampling", "training", "filling", "measuring"]
    dead = {1, 2, 3, 4, 1399, 1699, 1999, 2299}
    assert (index.n_rows, index.n_live) == (2600, 2600 - len(dead))
    for each in (index, open_index(tmp_path, 2600, dead)):
        found = each.search(vectors[:1], 2600).rows[0]
        assert sorted(found[found >= 0].tolist()) == sorted(set(range(2600)) - dead)
        rows = each.search(vectors[1400::7], 40).rows[:, 0]
        assert rows.tolist() == list(range(1400, 2600, 7))


def test_no_manifest_names_a_build_before_it_can_be_opened(tmp_path, make_vectors, monkeypatch):
    """A crash in between would cost the first pass that is in place."""
    vectors = make_vectors(2600, DIM, seed=6)
    index = filled(tmp_path, vectors[:1400])
    index.rebuild(WISH)
    manifests = []
    save_recipe = FirstPassFolder.save_recipe

    def save(folder, number, recipe):
        manifests.append([name for name in files(tmp_path) if name.endswith(".json")])
        save_recipe(folder, number, recipe)

    def write_on(stage, done, total):
        if stage == "measuring":
            add(index, vectors[1400:])  # more than a tail holds

    monkeypatch.setattr(FirstPassFolder, "save_recipe", save)
    index.rebuild(WISH, on_progress=write_on)
    assert manifests == [["first-pass-0001-0001.json"]]
    found = answers(index, vectors[::100])
    assert answers(open_index(tmp_path, 2600), vectors[::100]) == found


@pytest.mark.parametrize("n_asked", [1, 2, 3])
def test_a_stopped_rebuild_changes_nothing_and_leaves_no_file(tmp_path, make_vectors, monkeypatch, n_asked):
    monkeypatch.setattr("index.vector_file.BLOCK_BYTES", 64 << 10)
    vectors, queries = make_vectors(2000, DIM, seed=7), make_vectors(5, DIM, seed=8)
    index = filled(tmp_path, vectors)
    before, names, found = index.plan, files(tmp_path), answers(index, queries)
    asked = []

    def stop():
        asked.append(1)
        return len(asked) >= n_asked

    assert index.rebuild(WISH, stop=stop) is None
    assert len(asked) == n_asked
    assert (index.plan, files(tmp_path), index.evidence) == (before, names, {})
    assert answers(index, queries) == found
    assert index.rebuild(WISH) is not None


@pytest.mark.parametrize("codec", [Codec.INT8, Codec.PQ4])
@pytest.mark.parametrize("ending", [".faiss", ".bounds", ".npz", "-empty.faiss", ".json"])
def test_a_disk_that_takes_no_more_leaves_the_old_first_pass_serving(
    tmp_path, make_vectors, monkeypatch, ending, codec
):
    vectors, queries = make_vectors(1500, DIM, seed=9), make_vectors(5, DIM, seed=10)
    index = filled(tmp_path, vectors)
    before, names, found = index.plan, files(tmp_path), answers(index, queries)
    write_atomically = durable.write_atomically

    def full(path, write):
        if path.name.endswith(ending):
            raise DiskFullError(f"no room left on the disk for {path}")
        write_atomically(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_atomically", full)
        with pytest.raises(DiskFullError):
            index.rebuild(replace(WISH, codec=codec))
    assert (index.plan, files(tmp_path), index.evidence) == (before, names, {})
    assert answers(index, queries) == found
    assert answers(open_index(tmp_path, 1500), queries) == found
    add(index, vectors[:10])
    assert index.rebuild(replace(WISH, codec=codec)) is not None


def test_what_faiss_cannot_write_is_a_storage_error(tmp_path, make_vectors, monkeypatch):
    index = filled(tmp_path, make_vectors(1500, DIM, seed=9))
    names = files(tmp_path)
    for ending in ("00.faiss", "-empty.faiss"):

        def broken(faiss_index, path, ending=ending):
            if path.name.endswith(ending + ".writing"):
                raise RuntimeError("Error: 'f' failed: could not write: Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("index.first_pass.files._write_index", broken)
            with pytest.raises(StorageError):
                index.rebuild(WISH)
        assert files(tmp_path) == names


def test_rows_that_the_file_has_lost_stay_counted_after_a_rebuild(tmp_path, make_vectors):
    vectors = make_vectors(1510, DIM, seed=11)
    filled(tmp_path, vectors[:1500])
    path = tmp_path / "vectors-0001.f16"
    path.write_bytes(path.read_bytes()[: 1490 * DIM * 2])
    index = open_index(tmp_path, 1500)
    assert (index.n_rows, index.n_live) == (1500, 1490)
    index.rebuild(WISH)
    assert (index.n_rows, index.n_live) == (1500, 1490)
    add(index, vectors[1500:])
    assert index.search(normalise(vectors[1500:]), 20).rows[:, 0].tolist() == list(range(1500, 1510))


def test_a_rebuild_is_due_at_a_thousand_rows_and_at_half_as_many_again(tmp_path, make_vectors):
    vectors = make_vectors(3000, DIM, seed=12)
    index = filled(tmp_path, vectors[: MIN_ROWS - 1])
    assert not index.rebuild_due(WISH)
    assert index.rebuild(WISH) is None and index.evidence == {}
    add(index, vectors[MIN_ROWS - 1 : MIN_ROWS])
    assert index.rebuild_due(WISH)
    index.rebuild(WISH)
    assert not index.rebuild_due(WISH)
    assert not index.rebuild_due(replace(WISH, memory_bytes=10**9))
    for other in (replace(WISH, prefix_dim=16), replace(WISH, codec=Codec.PQ4), replace(WISH, kind=Kind.IVF)):
        assert index.rebuild_due(other)
    add(index, vectors[MIN_ROWS : int(GROWTH * MIN_ROWS) - 1])
    assert not index.rebuild_due(WISH)
    add(index, vectors[:1])
    assert index.rebuild_due(WISH)
    assert open_index(tmp_path, index.n_rows).rebuild_due(WISH)
    index.rebuild(WISH)
    assert not index.rebuild_due(WISH) and not open_index(tmp_path, index.n_rows).rebuild_due(WISH)
    index.publish(None, np.arange(600))  # fewer than a thousand are left: what there is will do
    assert not index.rebuild_due(replace(WISH, prefix_dim=16))


def test_the_corpus_order_is_chosen_where_the_models_was_rotated_away(tmp_path, make_vectors):
    rotation, _ = np.linalg.qr(np.random.default_rng(13).normal(size=(DIM, DIM)))
    vectors = normalise((make_vectors(3000, DIM, seed=14) @ rotation).astype(np.float32))
    index = filled(tmp_path, vectors)
    report = index.rebuild(replace(WISH, prefix_dim=12, codec=Codec.INT8))
    told = report.evidence["order"]
    assert report.plan.order is Order.CORPUS
    assert (told["chosen"], told["why"]) == ("corpus", "measured")
    assert told["recall_in_pool_of_40"]["corpus"] > told["recall_in_pool_of_40"]["model"] + 0.1


def test_the_better_order_wins_by_measurement_and_a_wish_wins_over_it(tmp_path):
    rng = np.random.default_rng(15)
    vectors = normalise((rng.standard_normal((3000, DIM)) * (1 + np.arange(DIM)) ** -0.7).astype(np.float32))
    index = filled(tmp_path, vectors)
    told = index.rebuild(replace(WISH, codec=Codec.FLOAT32, prefix_dim=16)).evidence["order"]
    recall = told["recall_in_pool_of_40"]
    assert recall[told["chosen"]] == max(recall.values())
    for order in Order:
        report = index.rebuild(replace(WISH, codec=Codec.FLOAT32, prefix_dim=16, order=order))
        assert report.plan.order is order
        assert report.evidence["order"] == {"chosen": order.value, "why": "as set"}


def test_builds_beyond_9999_are_newer_than_those_below(tmp_path, make_vectors):
    vectors, queries = make_vectors(1500, DIM, seed=30), make_vectors(5, DIM, seed=31)
    index = filled(tmp_path, vectors)
    index.rebuild(WISH)
    index._first_pass.manifest.number = 9998
    for number in (9999, 10_000, 10_001):
        index.rebuild(WISH)
        assert index._first_pass.manifest.number == number
    found = answers(index, queries)
    again = open_index(tmp_path, 1500)
    assert again._first_pass.manifest.number == 10_001 and answers(again, queries) == found
    assert {name[:21] for name in files(tmp_path)} == {"first-pass-0001-10001"}


def test_removing_build_1000_leaves_build_10000_alone_and_the_newer_one_is_opened(tmp_path):
    folder = FirstPassFolder(tmp_path, 1)
    for number in (1000, 9999, 10_000):
        folder.save_manifest(Manifest(number, plain(PREFIX)))
    assert folder.newest().number == 10_000
    folder.remove_build(1000)
    assert files(tmp_path) == ["first-pass-0001-10000.json", "first-pass-0001-9999.json"]


def test_codes_that_wait_on_the_disk_while_others_are_tried_serve_again(tmp_path, make_vectors, monkeypatch):
    """The second plan is no better: the first one is taken up again."""
    vectors, queries = make_vectors(3003, DIM, seed=32), make_vectors(20, DIM, seed=33)
    wish = replace(WISH, codec=Codec.PQ4)
    first = filled(tmp_path, vectors)
    first.rebuild(wish)
    plan, found = first.plan, answers(first, queries)
    propose, take_up, in_memory = rebuilding.propose, FirstPass.take_up, []

    def twice(*args):
        best = propose(*args)[0]
        return [best, replace(best, search_ms=0.0)]

    def watched(first_pass, vectors):
        in_memory.append(len(first_pass._parts))
        take_up(first_pass, vectors)

    monkeypatch.setattr(rebuilding, "propose", twice)
    monkeypatch.setattr(FirstPass, "take_up", watched)
    report = first.rebuild(wish)
    assert in_memory == [0] and report.plan == plan
    assert answers(first, queries) == found
    assert answers(open_index(tmp_path, 3003), queries) == found


def test_codes_that_fall_short_of_the_target_are_made_longer(tmp_path, monkeypatch):
    """Noise has no structure that a short code could keep: 16 bytes are planned, and more are needed."""
    monkeypatch.setattr(
        "index.rebuilding.machine_factor", lambda: 1e5
    )  # a machine that wants the shortest codes
    dim, n = 192, 1600
    vectors = normalise(np.random.default_rng(16).standard_normal((n, dim)).astype(np.float32))
    index = filled(tmp_path, vectors, Shape(1, dim, dim, "float16"))
    easy = Wish(dim, codec=Codec.PQ4, with_bounds=False, target_recall=0.1, memory_bytes=60 * n)
    planned = index.rebuild(easy)
    told = planned.evidence["calibration"]
    assert planned.plan.code_bytes == 16
    assert told["pool_recall"][f"{told['oversample']:g}"] >= 0.1
    asked_for = replace(easy, target_recall=max(told["pool_recall"].values()) + 0.001)
    longer = index.rebuild(asked_for)
    again = longer.evidence["calibration"]
    assert longer.plan.code_bytes > 16
    assert max(again["pool_recall"].values()) >= asked_for.target_recall
    assert index.oversample == again["oversample"] and again["n_queries"] == 256
    assert longer.evidence["rows"] == n and longer.evidence["wish"] == asked_for.told()
    assert len({name[:20] for name in files(tmp_path)}) == 1  # what was tried before is gone


def test_reading_ends_early_with_the_same_first_hits(tmp_path, make_vectors):
    vectors, queries = np.split(make_vectors(4400, DIM, seed=17), [4000])
    index = filled(tmp_path, vectors)
    evidence = index.rebuild(replace(WISH, codec=Codec.INT8)).evidence
    assert evidence["calibration"]["same_answers"] >= 0.99
    whole = index.search(queries, 80, n_hits=10)
    assert whole.rows_read.tolist() == [80] * 400
    index.wave_rows = 8
    early = index.search(queries, 80, n_hits=10)
    same = (early.rows[:, :10] == whole.rows[:, :10]).all(axis=1)
    assert same.mean() >= 0.99
    np.testing.assert_array_equal(early.scores[same, :10], whole.scores[same, :10])
    assert (early.rows_read >= 10).all() and (early.rows_read <= 80).all()
    assert early.rows_read.mean() < 60 and early.candidates.tolist() == [80] * 400
    assert early.rows_read.mean() == pytest.approx(evidence["calibration"]["mean_reads"], rel=0.3)
    slow = index.rebuild(replace(WISH, codec=Codec.INT8), read_ms=1.0).evidence
    assert slow["read_ms"] == 1.0
    expected_ms = slow["calibration"]["mean_reads"]  # of one millisecond each, and a scan of next to nothing
    assert slow["predicted_search_ms"] == pytest.approx(expected_ms, rel=0.05)
    assert early.proved.tolist() == [0] * 400
    every = index.search(queries, 80)  # who asks for no number of hits gets all that were read
    assert every.rows_read.tolist() == [80] * 400


def test_a_pool_that_leaves_lists_out_proves_nothing(tmp_path, make_vectors):
    vectors, queries = make_vectors(2000, DIM, seed=19), make_vectors(20, DIM, seed=20)
    index = filled(tmp_path, vectors)
    wish = replace(WISH, codec=Codec.PQ4, kind=Kind.IVF, target_recall=0.1)
    assert index.rebuild(wish).plan.kind is Kind.IVF
    few, all_lists = (index.search(queries, 2000, n_probes=n) for n in (1, index.plan.n_lists))
    true, _ = exact_search(index._view.vectors.blocks(), queries, 2000, index._view.prefixes.live)
    assert (few.candidates < 2000).all() and few.proved.tolist() == [0] * 20
    is_whole = all_lists.candidates == 2000  # the fast scan may leave out the very last
    assert is_whole.any()
    assert (all_lists.proved == np.where(is_whole, 2000, 0)).all()
    np.testing.assert_array_equal(all_lists.rows[is_whole], true[is_whole])


MEASURE = """
import pathlib, re, sys
import numpy as np
from index.first_pass import writer
from index.plan import Codec, Wish
from index.planner import rebuild_bytes
from index.two_pass import Shape, TwoPassIndex
from index.vectors import normalise

def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

n, dim, codec, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4])
target = float(sys.argv[5])
index = TwoPassIndex(folder, Shape(1, dim, dim, "float16"), n, np.ones(n, np.bool_))
index.rebuild(Wish(32, codec=Codec.INT8))  # what libraries and allocators take once
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak_kib()
plan = index.rebuild(Wish(dim, codec=Codec(codec), target_recall=target)).plan
print(index._first_pass.manifest.number, (peak_kib() - before) / 1024, rebuild_bytes(plan, n, dim) / 2**20)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a folder with vectors: 200 000 x 64, which is 49 MiB as float32 and 24 in the file."""
    folder = tmp_path_factory.mktemp("large")
    n, dim = 200_000, 64
    rng = np.random.default_rng(21)
    with (folder / "vectors-0001.f16").open("wb") as file:
        for _ in range(20):
            block = (
                rng.standard_normal((n // 20, dim), dtype=np.float32)
                * (1 + np.arange(dim, dtype=np.float32)) ** -0.5
            )
            file.write(normalise(block).astype(np.float16).tobytes())
    return folder, n, dim


@pytest.mark.parametrize("codec", [Codec.INT8, Codec.PQ4])
def test_a_rebuild_never_holds_all_vectors_in_memory_nor_more_than_the_planner_says(large, codec):
    """Measured: 34 MiB."""
    folder, n, dim = large
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(n), str(dim), codec.value, str(folder), "0.99"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, peak_mib, planned_mib = map(float, done.stdout.split())
    assert peak_mib < 50
    assert peak_mib < planned_mib


def test_a_recall_asked_for_chooses_lists_and_pool_by_what_was_measured_and_it_holds(tmp_path, make_vectors):
    vectors, queries = np.split(make_vectors(6200, DIM, seed=1), [6000])
    index = filled(tmp_path, vectors)
    index.rebuild(replace(WISH, codec=Codec.PQ4, kind=Kind.IVF, target_recall=0.7))
    calibration = index.evidence["calibration"]
    by_lists = {int(n): each for n, each in calibration["by_lists"].items()}
    assert index.plan.n_probes in by_lists
    assert by_lists[index.plan.n_probes] == calibration["pool_recall"]
    true = index.search(queries, 1, Mode.EXACT, 10).rows[:, :10]
    reaches = [index.reach_for(target, 8) for target in (0.6, 0.9, 0.97)]
    assert reaches[0].n_probes < reaches[1].n_probes
    for target, reach in zip((0.6, 0.9, 0.97), reaches, strict=True):
        assert reach.recall == by_lists[reach.n_probes][f"{reach.oversample:g}"] >= target
        pool = index.pool(queries, math.ceil(reach.oversample * 10), reach.n_probes)
        found = np.mean([np.isin(mine, rows).mean() for mine, rows in zip(true, pool, strict=True)])
        assert found == pytest.approx(
            reach.recall, abs=0.04
        )  # 456 searches in all: 2.5 standard errors at 0.6
    assert index.reach_for(1.0, 8).recall == max(max(each.values()) for each in by_lists.values())
