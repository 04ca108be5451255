"""An error, or the end, at any call that changes something on the disk: each write, sync, cut, rename, removal.

SQLite's are among them, and so the commit: the sync of its log. A call fails alone, or with all that come behind it,
as on a disk that is full or dying. What the server says then is one clear error, or nothing where it could do without;
what was acknowledged stays, what was refused isn't there, and once the disk works again everything goes on.
"""

import errno
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from conftest import serving
from failing_disk import COUNTED, FailingDisk, compiled
from test_crash import check_clean, check_found

DIM = 32
BROUGHT = {"encoder__model": "none", "encoder__dim": DIM, "index__prefix_dim": 16}
N_FIRST = 1200  # enough for a first pass that is worth making
LOG = "/collections/default/catalog.sqlite3-wal"
HOW = {"an error": (errno.EIO, False), "no room from there on": (errno.ENOSPC, True)}
DISK_ERRORS = {(507, "disk_full"), (503, "storage_failed")}


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("failing-disk"))


@pytest.fixture
def disk(library, tmp_path, monkeypatch):
    disk = FailingDisk(library, tmp_path / "data", tmp_path / "control")
    for name, value in disk.environment.items():
        monkeypatch.setenv(name, value)
    return disk


def vector(identifier, version):
    return np.random.default_rng([*identifier.encode(), version]).standard_normal(DIM).astype(np.float32)


def document(identifier, version, **metadata):
    return {
        "id": identifier,
        "vector": vector(identifier, version).tolist(),
        "text": f"{identifier} v{version}",
        "metadata": {"v": version, **metadata},
    }


def there(server):
    """Every document by id, as (text, metadata)."""
    documents, after = {}, ""
    while after is not None:
        page = server.http.get("/documents", params={"limit": 1000, "after": after}).json()
        documents |= {each["id"]: (each["text"], each["metadata"]) for each in page["documents"]}
        after = page["next"]
    return documents


def told(documents):
    return {each["id"]: (each["text"], each["metadata"]) for each in documents}


def first_documents(n_documents):
    return [document(f"d{i:04}", 1, group=i // 3) for i in range(n_documents)]


def post(server, path, **body):
    return server.http.post(path, json=body)


def ended(server, answer, disk):
    """Wait for the job that an answer tells of; one that only waits for the disk gets it back."""
    if answer.status_code != 202:
        return answer
    job = answer.json()["job"]
    while job["status"] in ("waiting", "running"):
        if disk.failed and job["type"] == "ingest":
            disk.heal()
        job = server.http.get(f"/jobs/{job['id']}").json()
    return job


@dataclass(frozen=True)
class Act:
    """Something that is asked of a server for the n-th time."""

    do: Callable  # (server, disk, n) → an answer, or a job that has ended
    after: Callable = lambda before, n: before  # what is there once it is done
    prepare: Callable = lambda server, n: None
    n_first: int = 60
    most: int = 10**9  # calls that are tried; the slower ones get a sample


def some(n):
    return [document(f"d{i:04}", n + 1) for i in range(3)] + [document(f"n{n:04}-{i}", 1) for i in range(3)]


def lines(documents):
    return b"\n".join(json.dumps(each).encode() for each in documents)


def without(before, wanted):
    return {name: kept for name, kept in before.items() if not wanted(name, kept[1])}


def put(server, disk, n):
    return post(server, "/documents", documents=some(n))


def put_later(server, disk, n):
    return ended(server, post(server, "/documents?wait=false", documents=some(n)), disk)


def stream(server, disk, n):
    headers = {"content-type": "application/x-ndjson"}
    return ended(
        server, server.http.post("/documents?wait=false", content=lines(some(n)), headers=headers), disk
    )


def tag(server, disk, n):
    return post(server, "/documents", documents=[document(f"d{i:04}", 1, tag=n) for i in range(3)])


def delete(server, disk, n):
    return post(server, "/documents/delete", ids=[f"d{n:04}"])


def delete_group(server, disk, n):
    return post(server, "/documents/delete", filter={"group": n})


def kill_some(server, n):
    assert put(server, None, n).status_code == 201


def begun(path, server, disk, n, **body):
    return ended(server, post(server, path, **body), disk)


def index_metadata(server, disk, n):
    return ended(server, post(server, "/metadata/indexes", path=f"field{n}"), disk)


WRITES = {
    "put": Act(put, lambda before, n: before | told(some(n))),
    "put later": Act(put_later, lambda before, n: before | told(some(n))),
    "stream": Act(stream, lambda before, n: before | told(some(n))),
    "new metadata": Act(
        tag, lambda before, n: before | told([document(f"d{i:04}", 1, tag=n) for i in range(3)])
    ),
    "delete": Act(delete, lambda before, n: without(before, lambda name, _: name == f"d{n:04}"), n_first=400),
    "delete by filter": Act(
        delete_group, lambda before, n: without(before, lambda _, data: data.get("group") == n), n_first=1200
    ),
}
JOBS = {
    "index of metadata": Act(index_metadata),
    "rebuild": Act(partial(begun, "/index/rebuild", codec="pq4"), n_first=N_FIRST, most=70),
    "compaction": Act(
        partial(begun, "/index/compact"),
        lambda before, n: before,
        lambda server, n: kill_some(server, n),
        n_first=N_FIRST,
        most=120,
    ),
    "snapshot": Act(partial(begun, "/snapshots"), n_first=300, most=120),
}


def fill(server, n_documents):
    documents = first_documents(n_documents)
    for start in range(0, n_documents, 1000):
        assert post(server, "/documents", documents=documents[start : start + 1000]).status_code == 201
    return told(documents)


def check_told(outcome):
    """It is done, or refused with one clear error, or a job that says why it failed. Return whether it is done."""
    if isinstance(outcome, dict):
        assert outcome["status"] in ("done", "failed"), outcome
        assert outcome["status"] == "done" or "disk" in outcome["error"] or "/data/" in outcome["error"], (
            outcome
        )
        return outcome["status"] == "done"
    if outcome.status_code < 300:
        return True
    body = outcome.json()
    assert (outcome.status_code, body["code"]) in DISK_ERRORS, outcome.text
    assert body["hint"] and body["detail"] and body["request_id"]
    return False


def check_serving(server, expected):
    """What is expected is there, and found; nothing that nobody foresaw has happened."""
    assert there(server) == expected
    sampled = random.sample(sorted(expected), 20)
    check_found(server, {name: vector(name, expected[name][1]["v"]) for name in sampled})
    check_quiet(server)


def check_quiet(server):
    assert [line for line in server.log if line["event"] == "unforeseen error"] == []
    assert server.other == []


def calls(n_calls, most):
    """The calls at which something is to happen: all of them, or a sample."""
    return sorted(random.sample(range(1, n_calls + 1), min(most, n_calls)))


def fail_at_each_call(disk, act, how, lasting):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    random.seed(seed)
    failed = []
    with serving(disk.folder, **BROUGHT) as server:
        expected = fill(server, act.n_first)
        act.prepare(server, 0)
        with disk.failing(COUNTED, how):
            assert check_told(act.do(server, disk, 0))
        expected = there(server)
        for n, call in enumerate(calls(disk.n_calls, act.most), 1):
            act.prepare(server, n)
            before = there(server)
            with disk.failing(call, how, lasting):
                outcome = act.do(server, disk, n)
            failed.append(disk.failed)
            print(call, disk.failed, getattr(outcome, "status_code", outcome))
            is_done = check_told(outcome)
            expected = act.after(before, n) if is_done else before
            check_serving(server, expected)
            if not is_done:
                assert check_told(act.do(server, disk, n))
                expected = act.after(before, n)
        check_serving(server, expected)
        server.stop(9)
    check_clean(disk.folder)
    with serving(disk.folder, **BROUGHT) as server:
        check_serving(server, expected)
        assert server.stop() == 0
    check_clean(disk.folder)
    return failed


@pytest.mark.parametrize("how", HOW)
def test_a_put_that_fails_at_any_call_is_refused_whole_and_the_next_one_is_stored(disk, how):
    failed = fail_at_each_call(disk, WRITES["put"], *HOW[how])
    assert {each.partition(" ")[0] for each in failed} >= {"write", "sync"}
    assert f"sync {LOG}" in failed  # the commit


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
def test_a_commit_that_never_reached_the_disk_is_not_half_there_after_a_kill(disk, lasting):
    """Its transaction stands in the log, whole, and a start takes it for committed unless it is undone for certain."""
    with serving(disk.folder, **BROUGHT) as server:
        before = fill(server, 60)
        with disk.failing(1, errno.EIO, lasting, only=f"sync {LOG}"):
            assert not check_told(put(server, disk, 1))
            assert disk.failed
            if lasting:  # nothing may be written until it is undone
                assert not check_told(put(server, disk, 2))
            check_serving(server, before)
            server.stop(9)
    check_clean(disk.folder)
    with serving(disk.folder, **BROUGHT) as server:
        expected = there(server)
        assert expected in ([before, before | told(some(1)), before | told(some(2))] if lasting else [before])
        check_serving(server, expected)
        assert check_told(put(server, disk, 3))
        check_serving(server, expected | told(some(3)))
        assert server.stop() == 0
    check_clean(disk.folder)


@pytest.mark.faults
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", [*WRITES, *JOBS])
def test_whatever_fails_at_any_call_loses_nothing(disk, name, how):
    fail_at_each_call(disk, (WRITES | JOBS)[name], *HOW[how])
