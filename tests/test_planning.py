"""server/planning.py: predictions for a collection that isn't there yet, and the trial that measures them."""

import json

import numpy as np
import pytest

from index.errors import DiskFullError
from index.plan import Wish
from index.planner import Machine, propose, rebuild_bytes
from index.two_pass import TwoPassIndex
from server import planning
from server.planning import Question, forecast, made_up, told, trial

MACHINE = Machine()
MILLION = 1_000_000


def test_the_best_is_the_planners_own_choice():
    question = Question(5 * MILLION, 768, 512_000_000)
    planned = forecast(question, MACHINE)
    (chosen, *longer) = propose(
        5 * MILLION, 768, Wish(256, target_recall=0.99, memory_bytes=512_000_000), MACHINE
    )
    assert planned.best.plan == chosen.plan.told() and planned.best.fits
    assert planned.best.memory_bytes == chosen.memory_bytes
    assert planned.best.rebuild_bytes == rebuild_bytes(chosen.plan, 5 * MILLION, 768) > chosen.memory_bytes
    others = [each.plan for each in planned.others]
    assert planned.best.plan not in others
    assert all(each.plan.told() in others for each in longer)
    assert {each["codec"] for each in [planned.best.plan, *others]} == {
        "float32", "float16", "int8", "pq4", "rabitq",
    }  # fmt: skip


def test_other_forms_come_by_falling_memory_and_say_whether_they_fit():
    planned = forecast(Question(MILLION, 768, 100_000_000), MACHINE)
    sizes = [each.memory_bytes for each in planned.others]
    assert sizes == sorted(sizes, reverse=True)
    assert [each.fits for each in planned.others] == [n_bytes <= 100_000_000 for n_bytes in sizes]
    assert {each.fits for each in planned.others} == {True, False}


def test_the_disk_holds_vectors_bounds_and_codes():
    best = forecast(Question(MILLION, 768, 10**9), MACHINE).best
    assert best.disk_bytes == {
        "vectors": MILLION * 768 * 2,
        "bounds": MILLION * 256,
        "first_pass": MILLION * best.plan["row_bytes"],
    }
    single = forecast(Question(MILLION, 100, 10**9, "float32"), MACHINE).best
    assert single.disk_bytes["vectors"] == MILLION * 100 * 4
    assert single.disk_bytes["bounds"] == MILLION * 112  # 100 coordinates and 4 columns, in steps of 16


def test_a_server_reads_no_fewer_candidates_than_its_settings_say():
    best = forecast(Question(10_000, 768, 10**9), MACHINE).best
    (chosen, *_) = propose(10_000, 768, Wish(256), MACHINE)
    assert (best.candidates, best.candidates_read) == (20, 80)
    assert best.search_ms == pytest.approx(chosen.search_ms + 60 * MACHINE.read_ms)
    tight = forecast(Question(5 * MILLION, 768, 125_000_000), MACHINE).best
    assert (tight.candidates, tight.candidates_read) == (640, 640)


def test_where_nothing_fits_the_smallest_is_told_as_not_fitting():
    planned = forecast(Question(5 * MILLION, 768, 64_000_000), MACHINE)
    assert not planned.best.fits
    assert not any(each.fits for each in planned.others)
    assert planned.best.memory_bytes == min(each.memory_bytes for each in [planned.best, *planned.others])


@pytest.mark.parametrize("dim", [1, 2, 3, 100, 256, 1536])
def test_every_dimension_gets_a_prediction(dim):
    best = forecast(Question(50_000, dim, 10**9), MACHINE).best
    assert best.fits and best.plan["prefix_dim"] <= min(dim, 256)


def test_a_trial_measures_what_was_predicted_for_as_many_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stages = []
    planned = forecast(Question(50_000, 48, 10**9), MACHINE)
    found = trial(planned, 4000, lambda stage, done, total: stages.append(stage))
    assert found.n_rows == 4000
    assert found.plan["codec"] == planned.best.plan["codec"] == found.predicted.plan["codec"]
    assert found.plan["row_bytes"] == planned.best.plan["row_bytes"]
    assert found.predicted.memory_bytes == 4000 * found.plan["row_bytes"]
    assert found.memory_bytes == pytest.approx(found.predicted.memory_bytes, rel=0.1)
    assert found.disk_bytes["vectors"] == 4000 * 48 * 2
    assert found.disk_bytes["bounds"] == pytest.approx(4000 * 64, rel=0.05)
    assert found.recall > 0.95 and found.pool_recall > 0.95
    assert found.search_ms > 0 and found.candidates_read >= 80
    assert list(dict.fromkeys(stages)) == [
        "making vectors", "sampling", "training", "filling", "measuring", "searching",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    as_json = json.loads(json.dumps(told(planned, found)))
    assert as_json["verified"]["recall"] == found.recall
    assert as_json["best"]["plan"] == planned.best.plan


def test_a_trial_takes_no_more_rows_than_planned_and_keeps_lists(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = trial(forecast(Question(5 * MILLION, 32, 512_000_000), MACHINE), 3000)
    assert found.plan["kind"] == "ivf" and found.n_rows == 3000
    assert trial(forecast(Question(1000, 16, 10**9), MACHINE), 3000).n_rows == 1000


def test_a_full_disk_ends_a_trial_and_leaves_nothing(tmp_path, monkeypatch):
    def full(index, vectors, n_committed):
        raise DiskFullError("no room left")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(TwoPassIndex, "append", full)
    with pytest.raises(DiskFullError):
        trial(forecast(Question(2000, 16, 10**9), MACHINE), 2000)
    assert list(tmp_path.iterdir()) == []


def test_made_up_vectors_are_unit_length_clustered_and_the_same_each_time(monkeypatch):
    monkeypatch.setattr(planning, "BLOCK_ROWS", 1000)
    blocks = list(made_up(2500, 64))
    assert [len(block) for block in blocks] == [1000, 1000, 500]
    vectors = np.concatenate(blocks)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, np.concatenate(list(made_up(2500, 64))))
    scores = vectors @ vectors.T - 2 * np.eye(2500)
    nearest, random = scores.max(axis=1).mean(), np.median(scores)
    assert nearest > random + 0.2
    values = np.linalg.eigvalsh(vectors.T @ vectors)[::-1]
    assert values[:16].sum() / values.sum() > 0.6
