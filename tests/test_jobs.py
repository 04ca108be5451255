"""Jobs: how they are told, steered and kept, over HTTP and from the command line."""

import asyncio
import json
import queue
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from conftest import ROOT, clustered, serving, until
from typer.testing import CliRunner

from server import pace
from server.api.events import told_changes
from server.catalog import Catalog
from server.cli import app
from server.errors import JobStateError, NotFoundError
from server.jobs import Job, Jobs
from server.pace import Pace
from server.records import InboxDocument


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(pace, "time", self)

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def table(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        yield catalog.jobs


# The pace


def test_the_rate_is_that_of_the_last_minute(clock):
    pace = Pace()
    assert pace.rate() is None
    pace.start(0)
    assert pace.rate() is None
    for done in range(10, 1210, 10):  # two minutes of 10 a second
        clock.now += 1
        pace.mark(done)
    assert pace.rate() == pytest.approx(10)
    for done in range(1201, 1261):  # a minute of 1 a second
        clock.now += 1
        pace.mark(done)
    assert pace.rate() == pytest.approx(1)


def test_what_was_done_before_a_pause_or_a_restart_says_nothing_about_the_pace(clock):
    pace = Pace()
    pace.start(0)
    clock.now += 1
    pace.mark(1000)
    clock.now += 3600
    pace.start(1000)
    clock.now += 2
    pace.mark(1004)
    assert pace.rate() == pytest.approx(2)


def test_another_stage_that_counts_from_the_start_has_a_pace_of_its_own(clock):
    pace = Pace()
    pace.start(0)
    clock.now += 1
    pace.mark(1000)
    pace.mark(0)
    assert pace.rate() is None
    clock.now += 10
    pace.mark(20)
    assert pace.rate() == pytest.approx(2)


def test_many_marks_are_thinned_and_none_of_the_work_is_lost(clock):
    pace = Pace()
    pace.start(0)
    for done in range(1, 10_001):
        clock.now += 0.001
        pace.mark(done)
    assert pace.rate() == pytest.approx(1000)
    assert len(pace._marks) < 30


# One job


def test_a_job_is_told_with_pace_and_time_left(clock):
    job = Job("ingest", total=100, wishes={"from": "a test"}, created_at=0.25)
    assert job.told()["progress"] == {
        "done": 0,
        "total": 100,
        "unit": "documents",
        "rate": None,
        "eta_s": None,
    }
    job.begin("encoding")
    clock.now += 4
    job.progress("encoding", 20, 100)
    told = job.told()
    assert told["progress"] == {"done": 20, "total": 100, "unit": "documents", "rate": 5.0, "eta_s": 16.0}
    assert (told["status"], told["stage"], told["wishes"]) == ("running", "encoding", {"from": "a test"})
    assert datetime.fromisoformat(told["created_at"]) == datetime(1970, 1, 1, 0, 0, 0, 250_000, UTC)
    job.wait("the disk is full")
    assert (job.told()["status"], job.told()["stage"]) == ("waiting", "the disk is full")
    assert job.told()["progress"]["eta_s"] is None
    job.end("done")
    assert (job.told()["status"], job.told()["stage"], job.told()["progress"]["done"]) == ("done", "", 100)


def test_what_is_asked_of_a_job_is_seen_by_its_worker():
    job = Job("reembed", is_durable=True)
    assert job.wanted == "run"
    job.ask("pause")
    assert (job.wanted, job.status) == ("pause", "paused")
    job.ask("resume")
    assert (job.wanted, job.status) == ("run", "waiting")
    job.begin()
    job.ask("pause")
    assert (job.wanted, job.status) == ("pause", "running")  # until its thread stands still
    assert job.told()["stage"] == "being paused"
    job.ask("cancel")
    assert job.wanted == "cancel" and job.told()["stage"] == "being cancelled"
    for what in ("pause", "resume", "cancel"):
        with pytest.raises(JobStateError, match="being cancelled"):
            job.ask(what)
    job.end("cancelled")
    assert job.told()["stage"] == ""
    with pytest.raises(JobStateError, match="the job is cancelled already"):
        job.ask("resume")


def test_a_job_of_this_process_alone_can_be_cancelled_but_not_paused():
    job = Job("rebuild")
    with pytest.raises(JobStateError, match="a rebuild can't be paused"):
        job.ask("pause")
    job.ask("cancel")
    assert job.wanted == "cancel"


@pytest.mark.parametrize(
    ("then", "wanted", "status"), [("resume", "run", "running"), ("cancel", "cancel", "paused")]
)
def test_a_paused_job_stands_still_until_something_else_is_wanted(then, wanted, status):
    job, ended = Job("reembed", is_durable=True), threading.Event()
    job.begin()
    job.wait_until_resumed(threading.Event())  # nobody wants a pause: at once
    job.ask("pause")

    def work():
        job.wait_until_resumed(threading.Event())
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: job.status == "paused")
    assert not ended.is_set()
    job.ask(then)
    thread.join(30)
    assert (job.wanted, job.status) == (wanted, status)


class Meddled(str):
    """`waiting`; while somebody compares it with that, another thread does something, or waits for whoever compares."""

    def meddle(self, what):
        self.thread = threading.Thread(target=what)
        return self

    def __eq__(self, other):
        if other == "waiting" and not self.thread.ident:
            self.thread.start()
            self.thread.join(0.2)  # only a thread that waits for us takes longer
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_job_that_ends_while_a_pause_is_asked_for_has_ended():
    job = Job("reembed", is_durable=True)
    job.status = status = Meddled("waiting").meddle(lambda: job.end("done"))
    job.ask("pause")
    status.thread.join(30)
    assert job.status == "done"


def test_a_job_is_told_as_it_is_at_one_moment():
    job = Job("ingest", total=3)

    class Pace:
        """Asked for while the job is told."""

        def rate(self):
            going_on.start()
            going_on.join(0.2)  # only a thread that waits for us takes longer

        def start(self, done):
            pass

    job.begin("encoding")
    job.pace = Pace()
    going_on = threading.Thread(target=lambda: job.wait("no room"))
    told = job.told()
    going_on.join(30)
    assert (told["status"], told["stage"], told["progress"]["rate"]) == ("running", "encoding", None)
    assert (job.status, job.stage) == ("waiting", "no room")


def test_a_paused_job_stops_with_the_server_and_stays_paused():
    job, stopping = Job("reembed", is_durable=True), threading.Event()
    job.ask("pause")
    stopping.set()
    job.wait_until_resumed(stopping)
    assert (job.wanted, job.status) == ("pause", "paused")


# All jobs


def test_jobs_without_a_table_are_forgotten_with_the_process():
    jobs = Jobs()
    job = jobs.add(Job("rebuild", total=7))
    jobs.save(job)
    assert jobs.get(job.id) is job
    assert jobs.unfinished("rebuild") == [job] and jobs.unfinished("ingest") == []
    with pytest.raises(NotFoundError, match="no job with the id 'x'"):
        jobs.get("x")


def test_the_oldest_ended_jobs_are_forgotten_and_no_other(table):
    jobs = Jobs(table)
    waiting = jobs.add(Job("ingest"), durable=True)
    for number in range(150):
        ended = jobs.add(Job("rebuild", id=f"r{number}"))
        ended.end("done")
    jobs.add(Job("rebuild", id="last"))
    names = [job.id for job in jobs.all()]
    assert len(names) == 100
    assert (names[0], names[1], names[-1]) == ("last", "r149", waiting.id)


def test_durable_jobs_come_back_as_they_were_and_running_ones_wait(table):
    jobs = Jobs(table)
    made = {}
    for status in ("waiting", "running", "paused", "done", "failed"):
        job = jobs.add(Job("reembed", id=status, total=9, wishes={"model": status}), durable=True)
        made[status] = job
        if status == "running":
            job.begin("encoding")
            job.progress("encoding", 4, 9)
        elif status == "paused":
            jobs.ask(job.id, "pause")
        elif status != "waiting":
            job.result = {"seconds": 3}
            job.end(status, "why" if status == "failed" else None)
        if status != "paused":
            jobs.save(job)
    jobs.add(Job("rebuild", id="gone"))
    again = Jobs(table)
    assert [job.id for job in again.all()] == list(reversed(made))
    found = {job.id: job for job in again.all()}
    assert {name: job.status for name, job in found.items()} == {
        "waiting": "waiting", "running": "waiting", "paused": "paused", "done": "done", "failed": "failed",
    }  # fmt: skip
    assert [job.id for job in again.unfinished("reembed")] == ["waiting", "running", "paused"]
    assert [job.wanted for job in again.unfinished("reembed")] == ["run", "run", "pause"]
    for name, job in found.items():
        assert (job.wishes, job.created_at) == ({"model": name}, made[name].created_at)
        assert (job.done, job.error, job.result) == (made[name].done, made[name].error, made[name].result)
    again.ask("paused", "resume")
    assert [job.status for job in Jobs(table).unfinished("reembed")] == ["waiting"] * 3


def test_a_kill_between_a_cancel_and_its_end_leaves_neither_the_job_nor_its_documents(table):
    jobs = Jobs(table)
    heard = []
    jobs.on_ask(lambda: heard.append(True))
    job = jobs.add(Job("ingest", total=1), durable=True, documents=[InboxDocument(0, "a", "a", "{}", None)])
    jobs.ask(job.id, "cancel")
    assert (job.status, job.wanted, heard) == ("waiting", "cancel", [True])
    assert table.n_waiting(job.id) == 1
    assert Jobs(table).get(job.id).status == "cancelled"
    assert table.n_waiting(job.id) == 0


# Server-sent events


def followed(job, changes, is_stopping=lambda: False, heartbeat_s=3600.0):
    """The events of a job to which `changes` are made, one after each event or heartbeat."""

    async def follow():
        told, waiting = [], list(changes)
        async for event in told_changes(job, is_stopping, look_s=0.001, heartbeat_s=heartbeat_s):
            told.append(event)
            if waiting:
                waiting.pop(0)()
        return told

    return asyncio.run(follow())


def data(event):
    assert event.startswith(b"event: job\ndata: ") and event.endswith(b"\n\n")
    return json.loads(event.split(b"data: ")[1])


def test_every_change_is_an_event_and_the_end_is_the_last():
    job = Job("ingest", total=2)
    changes = [job.begin, lambda: job.progress("", 1, 2), lambda: job.end("done")]
    told = [data(event) for event in followed(job, changes)]
    assert [(each["status"], each["progress"]["done"]) for each in told] == [
        ("waiting", 0), ("running", 0), ("running", 1), ("done", 2),
    ]  # fmt: skip


def test_a_job_that_has_ended_is_told_once():
    job = Job("ingest", total=2)
    job.end("failed", "why")
    [event] = followed(job, [])
    assert data(event)["error"] == "why"


def test_silence_is_broken_by_comments():
    job = Job("ingest", total=2)
    told = followed(job, [lambda: None, lambda: None, lambda: job.end("done")], heartbeat_s=0.002)
    assert told[1:3] == [b": still here\n\n"] * 2
    assert data(told[3])["status"] == "done"


def test_events_end_when_the_server_stops():
    stopping = threading.Event()
    told = followed(Job("ingest", total=2), [stopping.set], stopping.is_set)
    assert [data(event)["status"] for event in told] == ["waiting"]


# Over HTTP: a job that waits, since its documents' vectors can't be stored


FAILING = (str(ROOT / "tests" / "failing_server.py"),)
BROUGHT = {"encoder__model": "none", "encoder__dim": 8}


@pytest.fixture(scope="module")
def stuck(tmp_path_factory):
    """A server with a job that waits for room on the disk."""
    folder = tmp_path_factory.mktemp("stuck")
    (folder / "armed").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIL_AT", "2 instead of making rows durable")
        patch.setenv("FAIL_HOW", "full")
        patch.setenv("FAIL_WHEN", str(folder / "armed"))
        with serving(folder / "data", FAILING, **BROUGHT) as server:
            documents = [{"id": f"s{n}", "vector": v.tolist()} for n, v in enumerate(clustered(5, 8, seed=1))]
            answer = server.http.post("/documents?wait=false", json={"documents": documents})
            server.job, server.folder = answer.json()["job"]["id"], folder / "data"
            yield server


def test_a_full_disk_makes_the_job_wait_and_say_so(stuck):
    job = until(
        lambda: stuck.http.get(f"/jobs/{stuck.job}").json(),
        lambda job: job["status"] == "waiting" and job["stage"],
    )
    assert "no room left on the disk" in job["stage"] and "tried again in" in job["stage"]
    assert stuck.http.get("/stats").json()["pending"] == 5
    assert stuck.http.get("/documents/s1").json() == {
        "id": "s1", "text": None, "metadata": {}, "passages": 0, "pending": True,
    }  # fmt: skip


def test_a_client_that_leaves_its_events_is_forgotten_at_once(stuck):
    def n_ended():
        return sum(line.get("route") == "/jobs/{id}/events" for line in stuck.log)

    before = n_ended()
    with stuck.http.stream("GET", f"/jobs/{stuck.job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        assert (next(lines), next(lines)[:6]) == ("event: job", "data: ")
    until(lambda: n_ended() > before)


def twopass(server, *arguments):
    return CliRunner().invoke(app, arguments, env={"TWOPASS_URL": server.url}, prog_name="twopass")


def test_the_command_lists_shows_pauses_and_cancels_jobs(stuck):
    other = stuck.http.post("/documents?wait=false", json={"documents": [{"id": "o", "vector": [1.0] * 8}]})
    other = other.json()["job"]["id"]
    listed = twopass(stuck, "jobs")
    assert (listed.exit_code, listed.stderr) == (0, "")
    newest, oldest = listed.stdout.splitlines()
    assert newest.startswith(f"{other[:8]}  ingest   waiting    0 of 1 documents")
    assert oldest.startswith(f"{stuck.job[:8]}  ingest ") and "0 of 5 documents" in oldest
    paused = twopass(stuck, "jobs", "pause", other[:8], "--json")
    assert (paused.exit_code, json.loads(paused.stdout)["status"]) == (0, "paused")
    resumed = twopass(stuck, "jobs", "resume", other, "--json")
    assert json.loads(resumed.stdout)["status"] == "waiting"
    assert twopass(stuck, "jobs", "cancel", other[:8]).exit_code == 0
    until(lambda: stuck.http.get(f"/jobs/{other}").json()["status"] == "cancelled")
    again = twopass(stuck, "jobs", "cancel", other[:8])
    assert (again.exit_code, again.stderr.splitlines()[0]) == (
        2, "twopass: The server refused: the job is cancelled already",
    )  # fmt: skip
    shown = twopass(stuck, "jobs", "show", other)
    assert shown.exit_code == 1 and shown.stdout.splitlines()[0].startswith(f"Job {other}, begun 20")
    missing = twopass(stuck, "jobs", "show", "nope")
    assert (missing.exit_code, missing.stderr) == (
        2, "twopass: There is no job whose id begins with 'nope'.\n`twopass jobs` lists them.\n",
    )  # fmt: skip
    found = json.loads(twopass(stuck, "jobs", "list", "--json").stdout)
    assert [job["id"] for job in found] == [other, stuck.job]


def test_open_events_dont_hold_up_the_end_and_the_next_start_goes_on(stuck):
    """The last test of this server."""
    lines = queue.SimpleQueue()

    def read():
        with stuck.http.stream("GET", f"/jobs/{stuck.job}/events") as answer:
            for line in answer.iter_lines():
                lines.put(line)

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        try:
            assert lines.get(timeout=60) == "event: job"
            stuck.process.send_signal(signal.SIGTERM)
            reading.result(60)  # the stream ends by itself, neither cut nor waited for
            assert stuck.process.wait(60) == 0
        finally:
            stuck.process.kill()
    with serving(stuck.folder, **BROUGHT) as server:
        job = until(lambda: server.http.get(f"/jobs/{stuck.job}").json(), lambda job: job["status"] == "done")
        assert job["result"] == {"created": 5, "updated": 0, "unchanged": 0, "passages": 5, "overtaken": 0}
        assert server.http.get("/documents/s1").json()["passages"] == 1


def test_a_rebuild_can_be_cancelled_but_not_paused(brought):
    job = brought.http.post("/index/rebuild", json={}).json()["job"]["id"]
    answer = brought.http.post(f"/jobs/{job}/pause")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state")
    assert brought.http.post("/jobs/nope/cancel").status_code == 404
