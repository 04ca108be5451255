"""The time of day steps back and forth under a running server, as on a board that has no battery for its clock."""

import mmap
import struct

import pytest
from conftest import ROOT, beside, clustered, serving
from failing_disk import compiled

from server.backups.reading import check_backup
from server.verification import verify

DAY_S = 86_400
DIM = 16
BROUGHT = {"encoder__model": "none", "encoder__dim": DIM}
VECTORS = clustered(200, DIM, seed=4)


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """`clock(s)`: the time of day is off by so many seconds from now on, in servers started by the test."""
    shared = tmp_path / "step"
    shared.write_bytes(bytes(8))
    with shared.open("r+b") as file:
        step = mmap.mmap(file.fileno(), 8)
    monkeypatch.setenv("LD_PRELOAD", str(compiled(tmp_path, ROOT / "tests" / "stepping_clock.c")))
    monkeypatch.setenv("CLOCK_STEP", str(shared))

    def set_by(seconds):
        step[:] = struct.pack("=q", seconds)

    return set_by


def ended(server, answer):
    """Wait for a job, and look at each step at what is told of its time."""
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]["id"]
    while True:
        told = server.http.get(f"/jobs/{job}").json()
        for name in ("rate", "eta_s"):
            assert told["progress"][name] is None or told["progress"][name] >= 0
        if told["status"] not in ("waiting", "running"):
            assert told["status"] == "done", told
            return told


def documents(ids, version):
    return {
        "documents": [
            {"id": f"d{n}", "vector": VECTORS[n].tolist(), "text": f"text {n} of {version}"} for n in ids
        ]
    }


def texts(server):
    return {each["id"]: each["text"] for each in server.http.get("/documents?limit=1000").json()["documents"]}


def restless(clock, step_s):
    """Let the clock be an hour wrong again and again, so that it steps in the middle of whatever is timed."""

    def tick(is_over):
        while not is_over.is_set():
            clock(step_s - 3600)
            is_over.wait(0.001)
            clock(step_s)
            is_over.wait(0.001)

    return beside(tick)


def test_a_clock_that_is_set_back_or_forward_disturbs_nothing(tmp_path, clock):
    data_dir = tmp_path / "data"
    expected, jobs, dates = {}, [], []
    with serving(data_dir, **BROUGHT) as server:
        for version, step_s in enumerate([0, -3 * DAY_S, 400 * DAY_S, -55 * 365 * DAY_S, 60]):
            with restless(clock, step_s):
                new, old = range(10 * version, 10 * version + 10), range(10 * version)
                told = server.http.post("/documents", json=documents([*new, *old], version)).json()
                assert (told["created"], told["updated"]) == (10, len(old)) and told["took_ms"] >= 0
                later = documents(range(100 + version, 102 + version), version)
                accepted = ended(server, server.http.post("/documents?wait=false", json=later))
                assert accepted["result"]["created"] + accepted["result"]["updated"] == 2
                snapshot = ended(server, server.http.post("/snapshots"))
                jobs = [snapshot["id"], accepted["id"], *jobs]
                dates.append(snapshot["created_at"][:4])
                expected |= {
                    f"d{n}": f"text {n} of {version}" for n in [*new, *old, 100 + version, 101 + version]
                }
                assert texts(server) == expected
                found = server.http.post("/search", json={"vector": VECTORS[3].tolist(), "k": 1}).json()
                assert found["hits"][0]["id"] == "d3"
                assert min(each for each in found["timings_ms"].values() if each is not None) >= 0
                assert server.http.get("/stats/recall").status_code == 200
        assert len(set(dates)) >= 3  # it really was another time there
        assert "197" in {date[:3] for date in dates}
        listed = server.http.get("/snapshots").json()["snapshots"]
        assert len({each["name"] for each in listed}) == 5
        assert all(line["ms"] >= 0 for line in server.log if "ms" in line)
        assert [each["id"] for each in server.http.get("/jobs").json()["jobs"] if each["id"] in jobs] == jobs
        clock(-DAY_S)
        server.stop(9)
    for each in listed:
        check_backup(data_dir / "snapshots" / each["name"], lambda *_: None)
    assert verify(data_dir, lambda *_: None).problems == []
    with serving(data_dir, **BROUGHT) as server:
        assert texts(server) == expected
        kept = jobs[1::2]  # those of ingests; backups end with the process
        assert [each["id"] for each in server.http.get("/jobs").json()["jobs"] if each["id"] in kept] == kept
        assert server.stop() == 0
