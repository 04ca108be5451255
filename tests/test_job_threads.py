"""Jobs in threads of their own: when they begin, that they end, and that nothing but their end comes last."""

import threading
from types import SimpleNamespace

import pytest
from conftest import until

from index.errors import DiskFullError
from server import job_threads, reembedding
from server.catalog import Catalog
from server.encoders.errors import EncodingFailed
from server.errors import ConflictError, InputError, StoppingError
from server.job_threads import JobThreads, carry_out
from server.jobs import Job, Jobs
from server.reembedding import Reembedding, Workshop
from server.settings import EncoderSettings, IndexSettings


@pytest.fixture
def made():
    """Makes JobThreads, and stops them however the test ends."""
    mine = []

    def make(**wishes):
        mine.append(JobThreads(Jobs(), "a count", **wishes))
        return mine[-1]

    yield make
    for each in mine:
        each.stop()


def waits_for(event):
    return lambda stop: event.wait() and {"stopped": stop()}


def test_a_job_ends_as_its_work_ends():
    def raising(error):
        def work():
            raise error

        return work

    outcomes = [
        (lambda: {"n": 3}, ("done", None, {"n": 3})),
        (dict, ("done", None, None)),
        (lambda: None, ("cancelled", None, None)),
        (raising(DiskFullError("the disk is full")), ("failed", "the disk is full", None)),
        (raising(EncodingFailed("no model")), ("failed", "no model", None)),
        (raising(InputError("too few", "k")), ("failed", "too few", None)),
        (raising(ZeroDivisionError("secret")), ("failed", "unforeseen: ZeroDivisionError", None)),
    ]
    for work, expected in outcomes:
        job = Job("count", done=1, total=7)
        carry_out(job, work)
        assert (job.status, job.error, job.result) == expected
        assert job.done == (7 if expected[0] == "done" else 1)


def test_its_end_is_the_last_that_happens(monkeypatch):
    """After it memory isn't given back any more, which takes a while and would be in the way of the next."""
    seen = []
    job = Job("count")
    monkeypatch.setattr(job_threads, "give_back", lambda: seen.append(job.status))
    carry_out(job, dict)
    assert (seen, job.status) == (["running"], "done")


def test_who_sees_a_job_ended_may_begin_the_next_though_its_thread_is_still_there(made, monkeypatch):
    go_on, end = threading.Event(), Job.end

    def end_and_linger(job, *how):
        end(job, *how)
        if how[0] == "done":
            go_on.wait()

    monkeypatch.setattr(Job, "end", end_and_linger)
    threads = made()
    first = threads.begin(Job("count"), lambda stop: {})
    until(lambda: first.has_ended)
    second = threads.begin(Job("count"), lambda stop: {})
    assert second.status == "waiting"
    go_on.set()
    threads.wait()
    assert second.status == "done"


def test_one_is_refused_beside_another_that_has_not_ended_and_names_it(made):
    go_on, threads = threading.Event(), made()
    first = threads.begin(Job("count"), waits_for(go_on))
    with pytest.raises(ConflictError, match=f"a count is under way, job {first.id}"):
        threads.begin(Job("count"), lambda stop: {})
    go_on.set()
    threads.wait()
    assert first.result == {"stopped": False}


def test_where_they_queue_each_waits_for_those_before(made):
    go_on, threads, order = threading.Event(), made(queues=True), []

    def work(n):
        return lambda stop: order.append(n) or {}

    begun = threading.Event()
    first = threads.begin(Job("count"), lambda stop: begun.set() or (go_on.wait() and order.append(0)) or {})
    begun.wait()
    second = threads.begin(Job("count"), work(1))
    assert (first.status, second.status, order) == ("running", "waiting", [])
    go_on.set()
    threads.wait()
    assert (first.status, second.status, order) == ("done", "done", [0, 1])


def test_stopping_and_cancelling_reach_the_work_and_nothing_begins_after(made):
    threads, begun = made(), threading.Event()

    def work(stop):
        begun.set()
        while not stop():
            pass

    cancelled = threads.begin(Job("count"), work)
    begun.wait()
    cancelled.ask("cancel")
    threads.wait()
    assert cancelled.status == "cancelled"
    stopped = threads.begin(Job("count"), work)
    threads.close()
    assert stopped.status == "cancelled"
    with pytest.raises(StoppingError):
        threads.begin(Job("count"), work)


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        yield catalog


def test_a_disk_that_is_full_does_not_end_the_thread_that_changes_models(catalog, monkeypatch):
    """Neither where its job's end can't be written, nor where an old generation can't be deleted."""
    monkeypatch.setattr(reembedding, "RETRY_S", 0.01)
    jobs, refused, asked = Jobs(catalog.jobs), [], threading.Event()
    save, retired = jobs.save, catalog.generations.retired

    def full_at_first(job):
        if job.status == "failed" and len(refused) < 2:
            refused.append(job.id)
            raise DiskFullError("the disk is full")
        save(job)

    def retired_on_a_full_disk():
        if not asked.is_set():
            asked.set()
            raise DiskFullError("the disk is full")
        return retired()

    def load(encoder, *, stored):
        raise EncodingFailed(f"{encoder.model} can't be had")

    monkeypatch.setattr(jobs, "save", full_at_first)
    monkeypatch.setattr(catalog.generations, "retired", retired_on_a_full_disk)
    store = SimpleNamespace(generation=1, set_successor=lambda successor: None)
    live = SimpleNamespace(store=store, encoder=None)
    workshop = Workshop(
        catalog,
        jobs,
        EncoderSettings(),
        IndexSettings(),
        load,
        lambda: live,
        lambda *_: live,
        lambda live: None,
    )
    changing = Reembedding(workshop)
    changing.start()
    asked.wait()
    for model in ("first", "second"):
        job = changing.begin(EncoderSettings(model=model))
        until(lambda job=job: job.has_ended and catalog.jobs.all()[-1].status == "failed")
        assert job.error == f"{model} can't be had"
    changing.close()
    assert len(refused) == 2
    assert [each.status for each in catalog.jobs.all()] == ["failed", "failed"]
