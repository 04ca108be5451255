"""Recall over time: kept through restarts and kills, bounded, and never in the way of a search."""

import contextlib
import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from conftest import clustered, ended, serving, until

from server import recall_history
from server.backups.restoring import restore
from server.backups.writing import write_backup
from server.catalog import Catalog, recall_table
from server.doctor import stored as examined
from server.doctor.collection import check_recall
from server.gauge import Gauge
from server.recall_history import SAVE_S, Gathering, RecallHistory, told_point
from server.records import RecallPoint
from server.settings import IndexSettings, Settings

GOLDEN = Path(__file__).parent / "golden" / "format-1" / "collections" / "default" / "catalog.sqlite3"
N, DIM, SEARCHES = 1200, 32, 30
NO_MODEL = {"encoder__model": "none", "encoder__dim": DIM, "index__gauge_share": 1}
DAY_S = 86_400
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
FIRST_PASS = json.dumps({"build": 1})

LIVE = RecallPoint("gauge", "live", NOON, NOON, 10, None, 9.5, 9.0, 1000, FIRST_PASS)
EVALUATION = RecallPoint("evaluation", "stored", NOON, NOON + 60, 200, 10, 199.0, 198.0, 1000, FIRST_PASS)


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        yield catalog


def later(point, seconds, **changes):
    return replace(point, began_at=point.began_at + seconds, ended_at=point.ended_at + seconds, **changes)


# The table


def test_live_searches_grow_one_point_for_a_day_whatever_comes_between(catalog):
    for each in (LIVE, EVALUATION, later(LIVE, 3600, passages=1100), later(LIVE, DAY_S - 1)):
        catalog.recall.add(each)
    grown = replace(LIVE, ended_at=NOON + DAY_S - 1, searches=30, in_pool=28.5, found=27.0)
    assert catalog.recall.newest() == [grown, EVALUATION]
    catalog.recall.add(later(LIVE, DAY_S))
    assert catalog.recall.newest() == [grown, EVALUATION, later(LIVE, DAY_S)]


def test_a_point_of_few_searches_grows_on_for_a_month(catalog):
    rare = replace(LIVE, searches=1, in_pool=1.0, found=1.0)
    for day in (0, 10, 29, 30):
        catalog.recall.add(later(rare, day * DAY_S))
    assert [each.searches for each in catalog.recall.newest()] == [3, 1]
    for hour in range(1, 20):
        catalog.recall.add(later(rare, 30 * DAY_S + 3600 * hour))
    catalog.recall.add(later(rare, 32 * DAY_S))  # it has twenty, and a day is over
    assert [each.searches for each in catalog.recall.newest()] == [3, 20, 1]


def test_another_first_pass_begins_another_point_and_so_does_going_back(catalog):
    other = json.dumps({"build": 2})
    for n, first_pass in enumerate([FIRST_PASS, other, other, FIRST_PASS]):
        catalog.recall.add(later(LIVE, n, first_pass=first_pass))
    found = [(each.first_pass, each.searches) for each in catalog.recall.newest()]
    assert found == [(FIRST_PASS, 10), (other, 20), (FIRST_PASS, 10)]


def test_the_oldest_points_go_where_there_are_too_many(catalog, monkeypatch):
    monkeypatch.setattr(recall_table, "KEPT", 3)
    points = [later(EVALUATION, n) for n in range(5)]
    for each in points:
        catalog.recall.add(each)
    assert catalog.recall.newest() == points[2:]
    assert catalog.recall.newest(2) == points[3:]
    assert catalog.recall.newest(since=points[4].ended_at) == points[4:]


def test_a_catalog_of_before_opens_as_ever_and_gets_the_table_with_its_first_point(tmp_path):
    path = tmp_path / "catalog.sqlite3"
    shutil.copy(GOLDEN, path)
    with Catalog(path, read_only=True) as catalog:
        assert catalog.recall.newest() == []
    with Catalog(path) as catalog:
        assert catalog.recall.newest() == []
        catalog.recall.add(LIVE)
        assert catalog.problems() == []
    with Catalog(path, read_only=True) as catalog:
        assert catalog.recall.newest() == [LIVE]


# The history


def test_what_cannot_be_written_is_lost_logged_and_hurts_nobody(tmp_path):
    path = tmp_path / "catalog.sqlite3"
    with Catalog(path) as catalog:
        catalog.recall.add(EVALUATION)
    with Catalog(path, read_only=True) as catalog, structlog.testing.capture_logs() as logs:
        history = RecallHistory(catalog.recall)
        history.add(LIVE)
        assert history.points(10) == [told_point(EVALUATION)]
    assert logs == [
        {"event": "what was measured of recall can't be kept", "log_level": "warning", "kind": "StorageError",
         "searches": 10}
    ]  # fmt: skip


def test_live_searches_are_saved_at_once_and_then_every_few_minutes(catalog, monkeypatch):
    gathering = Gathering(RecallHistory(catalog.recall))

    def saved():
        return [(each.searches, each.in_pool, each.found) for each in catalog.recall.newest()]

    assert gathering.due_s() is None
    gathering.save_if_due()
    assert saved() == []
    gathering.add(FIRST_PASS, 1000, 1.0, 0.5)
    gathering.add(FIRST_PASS, 1000, 0.5, 0.5)
    gathering.save_if_due()
    assert saved() == [(2, 1.5, 1.0)]
    gathering.add(FIRST_PASS, 1001, 1.0, 1.0)
    gathering.save_if_due()
    assert saved() == [(2, 1.5, 1.0)] and SAVE_S - 100 < gathering.due_s() <= SAVE_S
    gathering.add(json.dumps({"build": 2}), 1001, 1.0, 1.0)  # what came before belongs to the other
    assert saved() == [(3, 2.5, 2.0)]
    gathering.save()
    assert saved() == [(3, 2.5, 2.0), (1, 1.0, 1.0)] and gathering.due_s() is None


def test_the_gauge_saves_what_it_has_when_the_time_comes_and_nobody_searches(catalog, monkeypatch):
    monkeypatch.setattr(recall_history, "SAVE_S", 0.05)
    gauge = Gauge(contextlib.nullcontext, IndexSettings(), RecallHistory(catalog.recall))
    gauge._gathering.add(FIRST_PASS, 1000, 1.0, 1.0)
    gauge._gathering.save()
    gauge._gathering.add(FIRST_PASS, 1000, 1.0, 1.0)
    gauge.start()
    until(lambda: catalog.recall.newest()[0].searches == 2)
    gauge.close()


def test_a_point_is_told_with_its_means_and_wilsons_intervals():
    told = told_point(replace(LIVE, searches=100, in_pool=90.0, found=50.0))
    assert told == {
        "source": "gauge", "queries": "live", "searches": 100, "k": None, "passages": 1000,
        "began_at": "2026-11-20T12:00:00.000+00:00", "ended_at": "2026-11-20T12:00:00.000+00:00",
        "pool_recall": {"mean": 0.9, "low": pytest.approx(0.8256, abs=1e-4), "high": pytest.approx(0.9448, abs=1e-4)},
        "recall": {"mean": 0.5, "low": pytest.approx(0.4038, abs=1e-4), "high": pytest.approx(0.5962, abs=1e-4)},
        "first_pass": {"build": 1},
    }  # fmt: skip


def test_a_backup_has_the_history_too(tmp_path):
    data_dir, archive = tmp_path / "data", tmp_path / "twopass.tar"
    shutil.copytree(GOLDEN.parents[2], data_dir)
    with Catalog(data_dir / "collections" / "default" / "catalog.sqlite3") as catalog:
        catalog.recall.add(EVALUATION)
        assert write_backup(catalog, archive, lambda: False, lambda *_: None)
    restored = restore(archive, tmp_path / "new", False, lambda *_: None)
    with Catalog(restored.folder / "catalog.sqlite3") as catalog:
        assert catalog.recall.newest() == [EVALUATION]


# For real


def history(server, **asked):
    answer = server.http.get("/stats/recall", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()["points"]


def result_of(server, job):
    job = ended(server, job["id"])
    assert (job["status"], job["error"]) == ("done", None)
    return job["result"]


def stored(server, vectors):
    documents = [{"id": f"d{n}", "vector": each.tolist()} for n, each in enumerate(vectors)]
    assert server.http.post("/documents", json={"documents": documents}).status_code == 201


def searched(server, vectors):
    """Search for each, and wait until the gauge has looked at all of them."""
    before = server.http.get("/stats").json()["gauge"]["checked"]
    searches = [{"vector": each.tolist(), "k": 5, "include": []} for each in vectors]
    server.http.post("/search/batch", json={"searches": searches}).raise_for_status()
    until(lambda: server.http.get("/stats").json()["gauge"]["checked"] >= before + len(vectors))


def rebuilt(server, codec):
    result_of(server, server.http.post("/index/rebuild", json={"codec": codec}).json()["job"])


def evaluated(server, **wanted):
    return result_of(server, server.http.post("/evaluate", json=wanted).json()["job"])


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """A data directory, and what the server that filled it told: of live searches before a rebuild and after it, and of
    two evaluations between."""
    data_dir = tmp_path_factory.mktemp("history")
    with serving(data_dir, **NO_MODEL) as server:
        assert history(server) == []
        stored(server, clustered(N, DIM, seed=1))
        rebuilt(server, "rabitq")
        searched(server, clustered(SEARCHES, DIM, seed=2))
        live = server.http.get("/stats").json()["gauge"]
        of_stored = evaluated(server, sample=20, k=3)
        of_given = evaluated(server, vectors=clustered(5, DIM, seed=3).tolist())
        rebuilt(server, "int8")
        server.http.post("/search", json={"vector": [1.0] * DIM}).raise_for_status()
        while server.http.get("/stats").json()["gauge"]["checked"] != 1:  # of the new first pass
            pass
        first_pass = server.http.get("/stats").json()["first_pass"]
        assert server.stop() == 0
    return data_dir, live, of_stored, of_given, first_pass


@pytest.fixture(scope="module")
def server(past):
    """The next server on that directory, set to the first pass that is there: or it would make another at once."""
    with serving(past[0], **NO_MODEL, index__codec="int8") as server:
        yield server
        server.stop()


def test_what_was_measured_outlives_a_restart(server, past):
    _, live, of_stored, of_given, first_pass = past
    points = history(server)
    assert [(each["source"], each["queries"], each["first_pass"]["codec"]) for each in points] == [
        ("gauge", "live", "rabitq"), ("evaluation", "stored", "rabitq"), ("evaluation", "given", "rabitq"),
        ("gauge", "live", "int8"),
    ]  # fmt: skip
    assert [(each["searches"], each["k"]) for each in points] == [
        (SEARCHES, None),
        (20, 3),
        (5, 10),
        (1, None),
    ]
    assert {each["passages"] for each in points} == {N}
    for point, told in zip(points, (live, of_stored["serving"], of_given["serving"]), strict=False):
        assert (point["recall"], point["pool_recall"]) == (told["recall"], told["pool_recall"])
    assert points[1]["first_pass"].items() >= of_stored["serving"]["first_pass"].items()
    names = ("kind", "codec", "order", "prefix_dim", "row_bytes", "oversample")
    assert points[3]["first_pass"] == {
        "generation": 1, "build": points[0]["first_pass"]["build"] + 1, "rows": N,
        **{name: first_pass[name] for name in names},
    }  # fmt: skip


def test_the_doctor_tells_what_was_measured_before_the_restart(server, past):
    said = "Live searches: 1.000 (0.207 to 1.000), 1 looked at, on 20"
    (check,) = [each for each in server.http.get("/doctor").json()["checks"] if each["name"] == "recall"]
    assert said in check["found"]
    settings = Settings.model_validate({"data_dir": past[0], "encoder": {"model": "none", "dim": DIM}})
    assert said in check_recall(examined(settings)).found  # and so does the command, where no server runs


def test_points_are_asked_for_by_time_and_number(server):
    points = history(server)
    assert history(server, limit=2) == points[2:]
    ends = [each["ended_at"] for each in points]
    assert history(server, since=ends[2], limit=1) == points[3:]
    assert history(server, since=ends[0].replace("+00:00", "Z")) == points
    assert history(server, since=ends[2].replace("+00:00", "")) == points[2:]
    assert history(server, since="2026-01-01") == points
    assert history(server, since="9999-12-31") == []
    for asked, where in (
        ({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"since": "yesterday"}, "since"),
        ({"since": "nan"}, "since"), ({"since": ""}, "since"), ({"before": "2026-11-21"}, "before"),
    ):  # fmt: skip
        problem = server.http.get("/stats/recall", params=asked).json()
        assert (problem["status"], problem["where"]) == (422, where), asked


def test_the_gauge_goes_on_with_the_point_from_before_the_restart(server):
    server.http.post("/search", json={"vector": [1.0] * DIM}).raise_for_status()
    until(lambda: history(server)[-1]["searches"] == 2)
    assert len(history(server)) == 4


def test_an_evaluation_during_which_documents_came_is_no_point(server):
    before = history(server)
    job = server.http.post("/evaluate", json={"sample": 500}).json()["job"]
    n = N
    while server.http.get(f"/jobs/{job['id']}").json()["status"] in ("waiting", "running"):
        new = {"id": f"d{n}", "vector": [1.0] * DIM}
        server.http.post("/documents", json={"documents": [new]}).raise_for_status()
        n += 1
    (warning,) = result_of(server, job)["warnings"]
    assert "isn't kept in the history of recall" in warning
    assert history(server) == before


def test_on_a_full_disk_searches_and_evaluations_go_on_and_points_are_lost(small_disk):
    """And a kill takes nothing of what was saved."""
    vectors = clustered(100, DIM, seed=1)
    ballast = small_disk / "ballast"

    def lost():
        return [each for each in server.log if each["event"] == "what was measured of recall can't be kept"]

    with serving(small_disk / "data", **NO_MODEL) as server:
        stored(server, vectors)
        with ballast.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                os.write(file.fileno(), bytes(4096))
        searched(server, vectors[:5])
        until(lost)
        assert evaluated(server, sample=20)["serving"]["recall"]["mean"] == 1.0
        searched(server, vectors[:5])
        assert history(server) == []
        ballast.unlink()
        evaluated(server, sample=20)
        points = history(server)
        server.stop(how=9)
    assert {each["kind"] for each in lost()} == {"DiskFullError"}
    assert [each["searches"] == 20 for each in lost()] == [False, True]  # the gauge's, then the evaluation's
    with Catalog(small_disk / "data" / "collections" / "default" / "catalog.sqlite3") as catalog:
        assert [told_point(each) for each in catalog.recall.newest()] == points
    assert [(each["source"], each["searches"]) for each in points] == [("evaluation", 20)]
