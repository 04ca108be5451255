"""An error, or the end, at any call that changes something on the disk: each write, sync, cut, rename, removal.

SQLite's are among them, and so the commit: the sync of its log. A call fails alone, or with all that come behind it,
as on a disk that is full or dying. What the server says then is one clear error, or nothing where it could do without;
what was acknowledged stays, what was refused isn't there, and once the disk works again everything goes on.
"""

import errno
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import httpx
import numpy as np
import pytest
from conftest import ROOT, environment, serving
from failing_disk import COUNTED, KILL, TORN, FailingDisk, compiled
from test_crash import check_clean, check_found

from server.backups.reading import check_backup

DIM = 32
BROUGHT = {"encoder__model": "none", "encoder__dim": DIM, "index__prefix_dim": 16}
N_KILLS = 10  # at different calls of one act
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


def post(server, path, /, **body):
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
    check: Callable = lambda server, disk: None  # whether it left what it should, and nothing else
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


def begun(path, server, disk, n, /, **body):
    return ended(server, post(server, path, **body), disk)


def index_metadata(server, disk, n):
    return ended(server, post(server, "/metadata/indexes", path=f"field{n}"), disk)


def check_snapshots(server, disk):
    folder = disk.folder / "snapshots"
    listed = server.http.get("/snapshots").json()["snapshots"]
    assert [each["error"] for each in listed] == [None] * len(listed)
    for each in listed[-3:]:
        check_backup(folder / each["name"], lambda *_: None)
    assert sorted(each["name"] for each in listed) == sorted(path.name for path in folder.iterdir())


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
    "rebuild": Act(partial(begun, "/index/rebuild", codec="pq4"), n_first=N_FIRST, most=30),
    "compaction": Act(
        partial(begun, "/index/compact"),
        lambda before, n: before,
        lambda server, n: kill_some(server, n),
        n_first=N_FIRST,
        most=120,
    ),
    "snapshot": Act(partial(begun, "/snapshots"), check=check_snapshots, n_first=300, most=120),
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
        assert check_told(act.do(server, disk, n + 1))
        expected = act.after(expected, n + 1)
        check_serving(server, expected)
        act.check(server, disk)
        server.stop(9)
    check_clean(disk.folder)
    with serving(disk.folder, **BROUGHT) as server:
        check_serving(server, expected)
        assert server.stop() == 0
    check_clean(disk.folder)
    return failed


def test_a_put_that_fails_at_any_call_is_refused_whole_and_the_next_one_is_stored(disk):
    failed = fail_at_each_call(disk, WRITES["put"], *HOW["no room from there on"])
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


def settled(server):
    """Everything, once nothing is waiting to be stored any more."""
    while server.http.get("/stats").json()["pending"]:
        pass
    return there(server)


@pytest.mark.faults
@pytest.mark.parametrize("name", [*WRITES, *JOBS])
def test_a_kill_at_any_call_leaves_all_of_it_or_nothing_and_what_was_acknowledged(disk, name):
    act = (WRITES | JOBS)[name]
    seed = random.randrange(1 << 30)
    print("seed", seed)
    random.seed(seed)
    with serving(disk.folder, **BROUGHT) as server:
        expected = [fill(server, act.n_first)]
        act.prepare(server, 0)
        with disk.failing(COUNTED, KILL):
            assert check_told(act.do(server, disk, 0))
        expected = [there(server)]
        assert server.stop() == 0
    for n, call in enumerate(calls(disk.n_calls, N_KILLS), 1):
        with serving(disk.folder, **BROUGHT) as server:
            now = settled(server)
            assert now in expected
            check_serving(server, now)
            act.prepare(server, n)
            before = there(server)
            after = act.after(before, n)
            answers = []
            server.http.event_hooks["response"].append(answers.append)
            with disk.failing(call, random.choice([KILL, TORN])):
                try:
                    act.do(server, disk, n)
                    server.stop(9)
                except httpx.TransportError:
                    server.end()
            print(call, disk.failed, answers)
            is_acknowledged = any(each.request.method == "POST" and each.is_success for each in answers)
            expected = [after] if is_acknowledged else [before, after]
        check_clean(disk.folder)
    with serving(disk.folder, **BROUGHT) as server:
        now = settled(server)
        assert now in expected
        check_serving(server, now)
        assert check_told(act.do(server, disk, N_KILLS + 1))
        act.check(server, disk)
        assert server.stop() == 0
    check_clean(disk.folder)


@pytest.mark.faults
@pytest.mark.parametrize("how", HOW)
def test_a_start_that_fails_at_any_call_says_why_and_the_next_one_finds_everything(disk, how):
    with serving(disk.folder, **BROUGHT) as server:
        expected = fill(server, N_FIRST)
        server.stop(9)  # so that there is something to make good
    backup = disk.folder.with_name("backup")
    shutil.copytree(disk.folder, backup)
    with disk.failing(COUNTED, 0), serving(disk.folder, **BROUGHT) as server:
        n_calls = disk.n_calls
        server.stop()
    n_refused = 0
    for call in calls(n_calls, 40):
        shutil.rmtree(disk.folder)
        shutil.copytree(backup, disk.folder)
        with disk.failing(call, *HOW[how]):
            try:
                with serving(disk.folder, **BROUGHT) as server:
                    check_serving(server, expected)
                    server.stop(9)
            except AssertionError as error:
                words = str(error)
                print(call, disk.failed, words)
                assert words.startswith("the server ended with 1: twopass: ") and "Traceback" not in words
                assert "start again" in words
                n_refused += 1
        check_clean(disk.folder)
    assert n_refused
    with serving(disk.folder, **BROUGHT) as server:
        check_serving(server, expected)
        assert server.stop() == 0


@pytest.mark.faults
@pytest.mark.parametrize("how", HOW)
def test_a_stop_that_fails_at_any_call_loses_nothing(disk, how):
    with serving(disk.folder, **BROUGHT) as server:
        expected = fill(server, 60)
        with disk.failing(COUNTED, 0):
            server.stop()
    for n, call in enumerate(calls(disk.n_calls, 20), 1):
        with serving(disk.folder, **BROUGHT) as server:
            assert check_told(put(server, disk, n))
            expected |= told(some(n))
            with disk.failing(call, *HOW[how]):
                server.stop()
            print(call, disk.failed)
            check_quiet(server)
        check_clean(disk.folder)
    with serving(disk.folder, **BROUGHT) as server:
        check_serving(server, expected)
        assert server.stop() == 0


COMMANDS = {
    "backup": lambda folder: ["backup", folder / "new.tar", "--data-dir", folder, "--replace"],
    "restore": lambda folder: ["restore", folder / "old.tar", "--data-dir", folder, "--replace"],
}


def twopass(words, **settings):
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *words],
        env=environment("/nowhere", **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.faults
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_fails_at_any_call_says_why_and_leaves_a_whole_collection(disk, command, how):
    words = COMMANDS[command](disk.folder)
    with serving(disk.folder, **BROUGHT) as server:
        old = fill(server, 60)
        server.stop()
    assert twopass(["backup", disk.folder / "old.tar", "--data-dir", disk.folder]).returncode == 0
    with serving(disk.folder, **BROUGHT) as server:
        assert check_told(put(server, disk, 1))
        new = there(server)
        server.stop()
    if command == "restore":
        kept = disk.folder.with_name("kept")
        shutil.copytree(disk.folder, kept)
    with disk.failing(COUNTED, 0):
        assert twopass(words).returncode == 0
    n_failed = 0
    for call in calls(disk.n_calls, 30 if command == "backup" else 12):
        if command == "restore":
            shutil.rmtree(disk.folder)
            shutil.copytree(kept, disk.folder)
        with disk.failing(call, *HOW[how]):
            done = twopass(words)
        print(call, disk.failed, done)
        assert "Traceback" not in done.stderr and done.returncode in (0, 1)
        if done.returncode:
            n_failed += 1
            assert "\ntwopass: " in f"\n{done.stderr}"
        for path in disk.folder.glob("*.tar"):
            check_backup(path, lambda *_: None)
        if command == "restore":
            with serving(disk.folder, **BROUGHT) as server:
                now = there(server)
                assert now in ([old] if done.returncode == 0 else [old, new])
                check_serving(server, now)
                server.stop()
        check_clean(disk.folder)
    assert n_failed
