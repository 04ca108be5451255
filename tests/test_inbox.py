"""Documents that are encoded later: safe before the 202, encoded once, in order, whatever happens in between."""

import asyncio
import base64
import itertools
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, ended, environment, serving, until
from embedding_host import WORDS, Host, embed, embedding_host
from typer.testing import CliRunner

from server import uploading
from server.api import streams
from server.app import open_collection
from server.catalog import Catalog
from server.catalog.job_table import JobTable
from server.checking import NewDocument, content_hash
from server.cli import app
from server.client import Client
from server.collection import DRIFT_ROWS
from server.settings import EncoderSettings, Settings
from server.store import LocalStore
from server.uploading import IngestReport, follow, ingest
from server.verification import verify

BATCH = 8
MUCH_TEXT = 50_000
SMALL = (
    "-c",
    f"from server import inbox; from server.api import documents, streams; inbox.BATCH_DOCUMENTS = {BATCH}; "
    f"streams.PIECE_BYTES = 2000; documents.MUCH_TEXT = {MUCH_TEXT}; from server.cli import main; main()",
)
LINES = {"content-type": "application/x-ndjson"}
MODEL, DIM = "words-24", 24


def settings(host, **more):
    return {"encoder__model": MODEL, "encoder__url": host.url, "encoder__retries": 0, **more}


def text_of(n, version=1):
    words = random.Random(f"{n} {version}").choices(WORDS, k=6)
    return f"Number {n} version {version}: {' '.join(words)}."


def texts(numbers, version=1):
    return [{"id": f"d{n}", "text": text_of(n, version)} for n in numbers]


def accept(server, documents, as_lines=False):
    """Have documents accepted; return the job's id."""
    if as_lines:
        content = "\n".join(json.dumps(each) for each in documents)
        answer = server.http.post("/documents?wait=false", content=content, headers=LINES)
    else:
        answer = server.http.post("/documents?wait=false", json={"documents": documents})
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]["id"]


def job_of(server, job):
    return server.http.get(f"/jobs/{job}").json()


def ask(server, job, what):
    answer = server.http.post(f"/jobs/{job}/{what}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def pending(server):
    return server.http.get("/stats").json()["pending"]


def stored(server):
    """The texts of all documents, by id."""
    page = server.http.get("/documents", params={"limit": 1000}).json()
    return {each["id"]: each["text"] for each in page["documents"]}


def best(server, query):
    answer = server.http.post("/search", json={"query": query, "k": 1, "mode": "exact"})
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def vector_of(text):
    return embed(text, MODEL, DIM).tolist()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """A program that encodes, and a server over it; tests leave nothing pending, and mind their own documents."""
    with (
        embedding_host() as host,
        serving(tmp_path_factory.mktemp("later"), SMALL, **settings(host)) as server,
    ):
        yield host, server
        assert pending(server) == 0
        server.stop()


@contextmanager
def down(host, server):
    """The program that encodes is down during the block; behind it, whatever waits goes on at once."""
    host.is_down = True
    try:
        yield
    finally:
        host.is_down = False
        for job in server.http.get("/jobs").json()["jobs"]:
            if job["status"] in ("waiting", "running"):
                # Ends the wait until the next try. The first answer may come when the others have ended already.
                answer = server.http.post(f"/jobs/{job['id']}/resume")
                assert answer.status_code == 200 or "is done already" in answer.json()["detail"]


def test_accepted_documents_are_there_at_once_and_found_when_the_job_has_ended(lasting):
    host, server = lasting
    documents = [{"id": "later", "text": "A lamp in winter", "metadata": {"n": 1}}, {"text": "A boat"}]
    with down(host, server):
        answer = server.http.post("/documents?wait=false", json={"documents": documents})
        assert answer.status_code == 202
        job, ids = answer.json()["job"], answer.json()["ids"]
        assert (job["type"], job["progress"]["total"], job["progress"]["unit"]) == ("ingest", 2, "documents")
        assert ids[0] == "later" and len(ids[1]) == 32 and answer.json()["warnings"] == []
        assert server.http.get("/documents/later").json() == {
            "id": "later", "text": "A lamp in winter", "metadata": {"n": 1}, "passages": 0, "pending": True,
        }  # fmt: skip
        assert "later" not in stored(server)
        assert pending(server) == 2
        told = until(
            lambda: job_of(server, job["id"]),
            lambda told: "is down" in told["stage"] or "503" in told["stage"],
        )
        assert told["status"] == "waiting" and "the program that encodes" in told["stage"]
    told = ended(server, job["id"])
    assert (told["status"], told["progress"]["done"]) == ("done", 2)
    assert told["result"] == {"created": 2, "updated": 0, "unchanged": 0, "passages": 2, "overtaken": 0}
    assert server.http.get("/documents/later").json()["pending"] is False
    assert best(server, "lamp winter") == ["later"]
    assert stored(server)[ids[1]] == "A boat"


def test_while_the_program_is_down_documents_are_kept_and_searches_are_told(lasting):
    host, server = lasting
    with down(host, server):
        answer = server.http.post(
            "/documents", json={"documents": [{"id": "kept", "text": "A zip of bread"}]}
        )
        assert answer.status_code == 202, answer.text
        [warning] = answer.json()["warnings"]
        assert (
            host.url in warning
            and "1 document accepted, to be encoded and found as soon as it is back" in warning
        )
        assert answer.json()["ids"] == ["kept"]
        search = server.http.post("/search", json={"query": "zip bread"})
        assert (search.status_code, search.json()["code"]) == (424, "encoder_down")
        by_vector = {"vector": vector_of("zip bread"), "k": 1}
        assert server.http.post("/search", json=by_vector).status_code == 200
    assert ended(server, answer.json()["job"]["id"])["result"]["created"] == 1
    assert best(server, "zip bread") == ["kept"]


def test_a_later_request_overtakes_what_waits(lasting):
    host, server = lasting
    ids = ("o-twice", "o-direct", "o-deleted", "o-left")
    old = [{"id": each, "text": f"Number old {each}"} for each in ids]
    with down(host, server):
        first = accept(server, old)
        second = accept(server, [{"id": "o-twice", "text": "Number new"}])
        direct = {"id": "o-direct", "text": "brought", "vector": vector_of("tide")}
        assert server.http.post("/documents", json={"documents": [direct]}).status_code == 201
        assert server.http.delete("/documents/o-deleted").json() == {"deleted": 1, "missing": []}
        assert server.http.get("/documents/o-deleted").status_code == 404
        newest = server.http.get("/documents/o-twice").json()
        assert (newest["text"], newest["pending"]) == ("Number new", True)
        assert server.http.get("/documents/o-direct").json()["pending"] is False
    assert ended(server, first)["result"] == {
        "created": 2, "updated": 0, "unchanged": 0, "passages": 2, "overtaken": 2,
    }  # fmt: skip
    assert ended(server, second)["result"]["updated"] == 1
    found = stored(server)
    assert {name: found.get(name) for name in ids} == {
        "o-twice": "Number new", "o-direct": "brought", "o-deleted": None, "o-left": "Number old o-left",
    }  # fmt: skip
    assert host.encoded[MODEL, "Number old o-direct"] == host.encoded[MODEL, "Number old o-deleted"] == 0


def test_what_waits_is_compared_as_it_will_be(lasting):
    host, server = lasting

    def compared(text):
        body = {"documents": [{"id": "cmp", "hash": content_hash(text, None).hex()}]}
        return server.http.post("/documents/compare", json=body).json()

    with down(host, server):
        accept(server, [{"id": "cmp", "text": "A first lamp"}])
        last = accept(server, [{"id": "cmp", "text": "A second lamp"}])
        assert compared("A second lamp") == {"same": 1, "missing": [], "different": []}
        assert compared("A first lamp") == {"same": 0, "missing": [], "different": ["cmp"]}
    assert ended(server, last)["status"] == "done"


def test_what_is_overtaken_while_it_is_being_encoded_stays_overtaken(lasting):
    host, server = lasting
    host.gate = threading.Semaphore(0)
    job = accept(server, texts(range(100, 103)))
    until(lambda: host.n_held)
    direct = {"id": "d101", "text": "newer", "vector": vector_of("tide")}
    assert server.http.post("/documents", json={"documents": [direct]}).status_code == 201
    assert server.http.delete("/documents/d102").status_code == 200
    host.gate.release(10**6)
    assert ended(server, job)["result"] == {
        "created": 1, "updated": 0, "unchanged": 0, "passages": 1, "overtaken": 2,
    }  # fmt: skip
    found = stored(server)
    assert (found["d100"], found["d101"], found.get("d102")) == (text_of(100), "newer", None)
    assert host.encoded[MODEL, text_of(100)] == 1


def test_unchanged_documents_are_not_encoded_again(lasting):
    host, server = lasting
    documents = texts(range(200, 220))
    assert ended(server, accept(server, documents))["result"]["created"] == 20
    changed = [{**documents[0], "metadata": {"n": 1}}, *documents[1:]]
    told = ended(server, accept(server, changed, as_lines=True))
    assert told["result"] == {"created": 0, "updated": 1, "unchanged": 19, "passages": 0, "overtaken": 0}
    assert server.http.get("/documents/d200").json()["metadata"] == {"n": 1}
    assert {host.encoded[MODEL, each["text"]] for each in documents} == {1}


def test_a_paused_job_lets_others_go_on_and_brings_nothing_old_back(lasting):
    host, server = lasting
    with down(host, server):
        first = accept(server, texts(range(300, 304), version=1))
        ask(server, first, "pause")
        until(lambda: job_of(server, first)["status"] == "paused")
        second = accept(server, texts(range(302, 306), version=2))
    assert ended(server, second)["result"]["created"] == 4
    assert job_of(server, first)["status"] == "paused"
    assert pending(server) == 2  # two were overtaken by the second job's
    ask(server, first, "resume")
    assert ended(server, first)["result"] == {
        "created": 2, "updated": 0, "unchanged": 0, "passages": 2, "overtaken": 2,
    }  # fmt: skip
    found = stored(server)
    assert [found[f"d{n}"] for n in range(300, 306)] == [text_of(n, 1 + (n > 301)) for n in range(300, 306)]


def test_a_cancelled_job_keeps_what_it_has_stored_and_drops_the_rest(lasting):
    host, server = lasting
    host.gate = threading.Semaphore(1)
    job = accept(server, texts(range(400, 400 + 3 * BATCH)))
    until(lambda: host.n_held and job_of(server, job)["progress"]["done"])
    n_stored = job_of(server, job)["progress"]["done"]
    ask(server, job, "cancel")
    host.gate.release(10**6)
    told = ended(server, job)
    n_stored = told["progress"]["done"]
    assert told["status"] == "cancelled" and BATCH <= n_stored < 3 * BATCH
    found = stored(server)
    assert [f"d{n}" in found for n in range(400, 400 + 3 * BATCH)] == [n < n_stored for n in range(3 * BATCH)]
    assert pending(server) == 0
    answer = server.http.post(f"/jobs/{job}/resume")
    assert (answer.status_code, answer.json()["detail"]) == (409, "the job is cancelled already")


def test_a_cancel_does_not_wait_for_the_end_of_a_long_document(lasting):
    host, server = lasting
    host.gate = threading.Semaphore(0)
    text = "\n\n".join(text_of(n) for n in range(4000))  # some requests to the program that encodes
    job = accept(server, [{"id": "long", "text": text}])
    while not host.n_held:
        pass
    ask(server, job, "cancel")
    host.gate.release(10**6)
    told = ended(server, job)
    assert (told["status"], told["progress"]["done"], told["result"]["created"]) == ("cancelled", 0, 0)
    assert server.http.get("/documents/long").status_code == 404 and pending(server) == 0


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("the input exceeds the context length", "the input exceeds the context length"),
        ("something else is wrong", "something else is wrong"),
    ],
    ids=["told which it is", "not told"],
)
def test_a_document_that_cannot_be_encoded_is_set_aside_and_named(lasting, monkeypatch, said, reason):
    host, server = lasting
    version = len(said)

    def answer(body):
        if any("poison" in text for text in body["input"]):
            return 400, {"error": {"message": said}}
        return Host.answer(host, body)

    monkeypatch.setattr(host, "answer", answer)
    documents = texts(range(500, 520), version)
    for n in (3, 11):
        documents[n] = {"id": f"poison{n}-{version}", "text": f"Number {n} poison"}
    told = ended(server, accept(server, documents))
    assert (told["status"], told["progress"]["done"]) == ("done", 20)
    failed = told["result"].pop("failed")
    assert failed["count"] == 2
    assert [each["id"] for each in failed["documents"]] == [f"poison3-{version}", f"poison11-{version}"]
    assert all(reason in each["reason"] for each in failed["documents"])
    assert sum(told["result"][name] for name in ("created", "updated")) == 18
    assert server.http.get(f"/documents/poison3-{version}").status_code == 404
    assert set(texts_of(server, range(500, 520), version)) == {
        n for n in range(500, 520) if n not in (503, 511)
    }


def texts_of(server, numbers, version):
    found = stored(server)
    return [n for n in numbers if found.get(f"d{n}") == text_of(n, version)]


def test_a_program_that_refuses_everything_costs_no_document(lasting, monkeypatch):
    host, server = lasting
    monkeypatch.setattr(host, "answer", lambda body: (401, {"error": {"message": "wrong key"}}))
    job = accept(server, texts(range(600, 620)))
    told = until(lambda: job_of(server, job), lambda told: "wrong key" in told["stage"])
    assert told["status"] == "waiting" and "tried again in" in told["stage"]
    monkeypatch.undo()
    ask(server, job, "resume")
    assert ended(server, job)["result"]["created"] == 20


def test_a_job_of_which_a_pause_is_told_is_not_begun_any_more(tmp_path, monkeypatch):
    """Asked for at the worst moment: the thread has chosen the job, and reads what it is to store."""
    real, asked = JobTable.waiting, []

    def waiting(table, job, *limits):
        if not asked:
            asked.append(collection.jobs.ask(job, "pause").status)
        return real(table, job, *limits)

    monkeypatch.setattr(JobTable, "waiting", waiting)
    with open_collection(
        Settings(data_dir=tmp_path, encoder=EncoderSettings(model="none", dim=2))
    ) as collection:
        paused, next_one = (
            collection.accept([NewDocument(name, None, {}, np.ones(2, np.float32))]).job for name in "ab"
        )
        until(lambda: next_one.has_ended)
        assert (asked, paused.status, collection.catalog.jobs.n_waiting()) == (["paused"], "paused", 1)


def test_what_is_stored_while_it_is_compared_is_not_missing(tmp_path, monkeypatch):
    take, known, go_on = JobTable.waiting, LocalStore.known, threading.Event()

    def held(table, *arguments):
        assert go_on.wait(60)
        return take(table, *arguments)

    def known_before_it_is_stored(store, ids):
        found = known(store, ids)
        if not go_on.is_set():
            go_on.set()
            until(lambda: job.has_ended)
        return found

    monkeypatch.setattr(JobTable, "waiting", held)
    monkeypatch.setattr(LocalStore, "known", known_before_it_is_stored)
    with open_collection(
        Settings(data_dir=tmp_path, encoder=EncoderSettings(model="none", dim=2))
    ) as collection:
        job = collection.accept([NewDocument("a", None, {}, np.ones(2, np.float32))]).job
        compared = collection.compare({"a": None})
        assert (job.status, compared.same, compared.missing) == ("done", 1, [])


# The command line, and the client beneath it


def test_the_command_waits_until_what_was_accepted_is_stored(lasting, tmp_path):
    host, server = lasting
    (tmp_path / "one.md").write_text("Number one of the command")
    (tmp_path / "two.md").write_text("Number two of the command")
    command = [sys.executable, "-m", "server.cli", "ingest", str(tmp_path), "--url", server.url]
    with down(host, server):
        running = subprocess.Popen(
            command,
            env=environment(tmp_path),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        waits = running.stderr.readline()
    with running:
        printed, more = running.communicate(timeout=60)
    assert waits.startswith("Everything is safe on the server, which waits: the program that encodes"), more
    assert running.returncode == 0
    assert re.fullmatch(
        r"2 documents stored: 2 new, 0 updated, 0 unchanged \(2 passages\) in .* s\.\n", printed
    )


def test_the_command_need_not_wait(lasting, tmp_path):
    host, server = lasting
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in texts(range(700, 720))))
    with down(host, server):
        done = CliRunner().invoke(app, ["ingest", str(path), "--no-wait", "--url", server.url])
        assert (done.exit_code, done.stdout) == (
            0,
            "20 documents accepted: safe on the server, and found once encoded; "
            "`twopass jobs` shows how far it is.\n",
        )
        job = server.http.get("/jobs").json()["jobs"][0]
        assert (job["type"], job["progress"]["total"]) == ("ingest", 20)
    shown = CliRunner().invoke(app, ["jobs", "show", job["id"], "--wait", "--url", server.url])
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[1:] == [
        f"{job['id'][:8]}  ingest   done       20 of 20 documents",
        "  20 new",
    ]


def uploaded(server, documents, between=lambda report: None):
    """Have documents accepted and wait for them; return the report and how many were called finished then."""
    report, finished = IngestReport(), []
    with Client(server.url) as client:
        ingest(client, documents, report, wait=False)
        between(report)
        follow(client, report, finished.append, poll=lambda seconds: None)
    return report, sum(finished)


def test_what_was_accepted_is_counted_when_its_job_has_ended(lasting, monkeypatch):
    host, server = lasting
    monkeypatch.setattr(uploading, "LATER_DOCUMENTS", 10)
    documents = texts(range(800, 825))
    report, finished = uploaded(server, documents)
    assert (report, finished) == (IngestReport(created=25, passages=25), 25)
    changed = [*documents[:5], {"id": "d805", "text": "Number poison"}, *texts(range(806, 810), version=2)]

    def answer(body):
        if any("poison" in text for text in body["input"]):
            return 400, {"error": {"message": "the input exceeds the context length"}}
        return Host.answer(host, body)

    monkeypatch.setattr(host, "answer", answer)
    report, finished = uploaded(server, changed)
    assert (report.unchanged, report.updated, report.stored, report.accepted, finished) == (5, 4, 9, 0, 10)
    [refused] = report.refused.first
    assert refused.source == "d805" and "context length" in refused.reason


def test_a_job_that_is_cancelled_or_forgotten_ends_the_waiting(lasting):
    host, server = lasting

    def cancel(report):
        report.jobs.append("forgotten")
        ask(server, report.jobs[0], "cancel")

    with down(host, server):
        report, _ = uploaded(server, texts(range(900, 903)), cancel)
    assert [(each.source[:4], each.reason) for each in report.refused.first] == [
        ("job ", "cancelled before 3 documents were stored")
    ]
    assert report.stored == report.accepted == 0


# Restarts


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_server_that_ends_in_the_middle_goes_on_where_it_stopped(tmp_path, how):
    n = 10 * BATCH
    with embedding_host() as host:
        host.gate = threading.Semaphore(3)
        with serving(tmp_path, SMALL, **settings(host)) as server:
            job = accept(server, texts(range(n)), as_lines=True)
            behind = accept(server, texts([n]))
            ask(server, behind, "pause")
            done = until(lambda: host.n_held and job_of(server, job)["progress"]["done"])
            # Searches don't wait for the batch that is held.
            assert best(server, text_of(0).partition(": ")[2]) != []
            assert len(stored(server)) == done and pending(server) == n + 1 - done
            status = server.stop(how)
            assert status == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        host.gate.release(10**6)
        with serving(tmp_path, SMALL, **settings(host)) as server:
            told = ended(server, job)
            assert (told["status"], told["progress"]["done"]) == ("done", n)
            assert told["result"] == {
                "created": n,
                "updated": 0,
                "unchanged": 0,
                "passages": n,
                "overtaken": 0,
            }
            assert job_of(server, behind)["status"] == "paused"
            assert stored(server) == {f"d{i}": text_of(i) for i in range(n)}
            assert server.http.get("/stats").json()["rows"] == n
            ask(server, behind, "resume")
            assert ended(server, behind)["result"]["created"] == 1
            assert [each["id"] for each in server.http.get("/jobs").json()["jobs"]] == [behind, job]
            assert server.stop() == 0
        counts = [host.encoded[MODEL, text_of(i)] for i in range(n)]
        assert set(counts) <= {1, 2}
        assert counts[done:].count(2) <= BATCH  # what was in flight
        assert counts[:done].count(2) <= DRIFT_ROWS  # a start compares these with what is stored
    assert verify(tmp_path, lambda *_: None).problems == []


# Streams, of vectors: nothing to encode


def test_a_stream_is_cut_into_the_same_lines_however_it_comes(monkeypatch):
    dice = random.Random(1)
    for _ in range(500):
        piece = dice.choice([1, 10, 60, 300])
        monkeypatch.setattr(streams, "PIECE_BYTES", piece)
        texts = ["x" * dice.randint(1, dice.choice([5, 400])) for _ in range(dice.randint(1, 20))]
        lines = [json.dumps({"text": text}) if dice.random() < 0.9 else "" for text in texts]
        content = ("\n".join(lines) + dice.choice(["", "\n"])).encode()
        cuts = sorted(dice.randrange(len(content) + 1) for _ in range(dice.randint(0, 30)))
        parts = [content[start:end] for start, end in itertools.pairwise([0, *cuts, len(content)])]

        class Request:
            state = SimpleNamespace(body=SimpleNamespace(limit_bytes=500, is_stream=False))

            async def stream(self, parts=parts):
                for part in parts:
                    yield part

        async def read():
            return [piece async for piece in streams.read_pieces(Request())]

        pieces = asyncio.run(read())
        assert [(each.where, each.text) for piece in pieces for each in piece] == [
            (f"line {n}", text) for n, (line, text) in enumerate(zip(lines, texts, strict=True), 1) if line
        ]
        assert all(len(each) == 1 or sum(len(d.text) for d in each) <= piece for each in pieces[:-1])


def packed(n, text="some text"):
    vector = np.random.default_rng(n).standard_normal(8).astype("<f4")
    return {"id": f"v{n}", "vector": base64.b64encode(vector.tobytes()).decode(), "text": f"{text} {n}"}


BROUGHT = {"encoder__model": "none", "encoder__dim": 8, "limits__body_bytes": 2048}


@pytest.fixture(scope="module")
def brought_later(tmp_path_factory):
    """A server without a model that takes bodies of 2 KiB."""
    with serving(tmp_path_factory.mktemp("streams"), SMALL, **BROUGHT) as server:
        yield server
        server.stop()


def stream(server, lines):
    def parts():
        for line in lines:
            yield line if isinstance(line, bytes) else json.dumps(line).encode()
            yield b"\n"

    return server.http.post("/documents?wait=false", content=parts(), headers=LINES)


def test_a_stream_may_be_longer_than_a_body(brought_later):
    server = brought_later
    documents = [packed(n) for n in range(200)]
    content = "\n".join(json.dumps(each) for each in documents)
    refused = server.http.post("/documents?wait=true", content=content, headers=LINES)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    answer = stream(server, [*documents, b"", packed(200)])  # and no line break at the end
    assert answer.status_code == 202, answer.text
    assert answer.json()["ids"] is None and answer.json()["job"]["progress"]["total"] == 201
    assert ended(server, answer.json()["job"]["id"])["result"]["created"] == 201
    assert stored(server) == {f"v{n}": f"some text {n}" for n in range(201)}
    for query in ("?wait=false", ""):  # now with its length
        known = server.http.post(f"/documents{query}", content=content, headers=LINES)
        assert ended(server, known.json()["job"]["id"])["result"]["unchanged"] == 200


def test_lines_that_one_request_may_bring_are_waited_for_and_more_become_a_job(tmp_path):
    def lines(n_documents):
        return iter([json.dumps(packed(n)).encode() + b"\n" for n in range(n_documents)])  # as they come

    with serving(tmp_path, SMALL, **{**BROUGHT, "limits__documents_per_request": 9}) as server:
        assert server.http.post("/documents", content=lines(9), headers=LINES).json()["created"] == 9
        more = server.http.post("/documents", content=lines(10), headers=LINES)
        assert (more.status_code, more.json()["ids"]) == (202, None)
        told = ended(server, more.json()["job"]["id"])["result"]
        assert (told["created"], told["unchanged"]) == (1, 9)
        wrong = server.http.post("/documents", content=[*lines(10), b"{"], headers=LINES)
        assert (wrong.status_code, wrong.json()["code"]) == (400, "malformed_json")
        assert server.http.post("/documents?wait=true", content=lines(10), headers=LINES).status_code == 413
        assert len(server.http.get("/jobs").json()["jobs"]) == 1 and pending(server) == 0
        server.stop()


@pytest.mark.parametrize("as_lines", [False, True], ids=["JSON", "lines"])
def test_much_text_becomes_a_job_unless_the_client_says_that_it_waits(lasting, as_lines):
    _, server = lasting
    texts = ["Knead it. " * 500] * 10  # ten times five thousand characters
    documents = [{"id": f"much{n}", "text": text} for n, text in enumerate(texts)]

    def send(documents, query=""):
        if not as_lines:
            return server.http.post(f"/documents{query}", json={"documents": documents})
        content = "\n".join(json.dumps(each) for each in documents)
        return server.http.post(f"/documents{query}", content=content, headers=LINES)

    assert send(documents).status_code == 201
    more = [*documents, {"id": f"one more {as_lines}", "text": "x"}]
    answer = send(more)
    assert answer.status_code == 202, answer.text
    assert answer.json()["ids"] == (None if as_lines else [each["id"] for each in more])
    told = ended(server, answer.json()["job"]["id"])["result"]
    assert (told["created"], told["unchanged"]) == (1, 10)
    assert send(more, "?wait=true").json()["unchanged"] == 11
    brought = {"id": f"brought {as_lines}", "text": "Knead it. " * 100, "vector": [1.0] * DIM}
    assert send([*documents, brought]).json()["created"] == 1  # there is nothing to encode in it


@pytest.mark.parametrize(
    ("last", "status", "where", "detail"),
    [
        ({"id": "x", "txt": "?"}, 422, "line 101.txt", "extra inputs are not permitted"),
        ({"id": "x", "vector": [1.0]}, 422, "line 101.vector", "expected 8 dimensions, got 1"),
        ({"id": "x"}, 422, "line 101", "a document needs a text or a vector"),
        ({"id": "x", "text": "no model"}, 422, "line 101.text", "this server has no model to encode text"),
        (packed(1000), 422, "line 101.id", "an earlier line and line 101 have the same id 'v1000'"),
        (packed(1099), 422, "line 101.id", "line 100 and line 101 have the same id 'v1099'"),
        (packed(1, "long" * 1000), 413, None, "line 101 has"),
        (b"{", 400, None, "EOF while parsing an object at line 1 column 1 (line 101)"),
    ],
    ids=["field", "dimension", "nothing", "no model", "far twice", "near twice", "long", "no JSON"],
)
def test_one_wrong_line_and_nothing_of_the_stream_is_accepted(brought_later, last, status, where, detail):
    server = brought_later
    before = stored(server), server.http.get("/jobs").json()
    answer = stream(server, [*(packed(n) for n in range(1000, 1100)), last, packed(1100)])
    assert answer.status_code == status, answer.text
    assert answer.json().get("where") == where
    assert detail.lower() in answer.json()["detail"].lower()
    assert (stored(server), server.http.get("/jobs").json()) == before
    assert pending(server) == 0 and server.http.get("/documents/v1000").status_code == 404


def test_an_empty_request_and_a_wrong_wait_are_refused(brought_later):
    http = brought_later.http
    for answer in (
        http.post("/documents?wait=false", content="\n\n", headers=LINES),
        http.post("/documents?wait=false", json={"documents": []}),
    ):
        assert (answer.status_code, answer.json()["where"]) == (422, "documents")
    answer = http.post("/documents?wait=maybe", json={"documents": [packed(1)]})
    assert (answer.status_code, answer.json()["where"]) == (422, "wait")
    body = {"documents": [packed(n) for n in range(40)]}
    assert http.post("/documents?wait=false", json=body).status_code == 413  # JSON is no stream


@contextmanager
def half_a_stream(server, data_dir):
    """A connection over which documents come without end; some of them are committed."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /documents?wait=false HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\ncontent-type: "
        connection.sendall(f"{head}{LINES['content-type']}\r\n\r\n".encode())
        for start in itertools.count(5000, 50):
            lines = b"".join(json.dumps(packed(n)).encode() + b"\n" for n in range(start, start + 50))
            connection.sendall(f"{len(lines):x}\r\n".encode() + lines + b"\r\n")
            if n_in_inbox(data_dir):
                break
        yield


def n_in_inbox(data_dir):
    with Catalog(data_dir / "collections" / "default" / "catalog.sqlite3", read_only=True) as catalog:
        return sum(len(catalog.jobs.waiting(job.id, 1000)) for job in catalog.jobs.all())


def test_a_client_or_a_server_that_goes_away_in_mid_stream_leaves_nothing_behind(tmp_path):
    with serving(tmp_path, SMALL, **BROUGHT) as server:
        with half_a_stream(server, tmp_path):
            assert pending(server) == 0  # nothing is accepted yet
            assert server.http.get("/documents/v5000").status_code == 404
        until(lambda: any(line.get("status") == 499 for line in server.log))
        assert n_in_inbox(tmp_path) == 0
        with half_a_stream(server, tmp_path):
            server.stop(signal.SIGKILL)
    assert n_in_inbox(tmp_path) > 0
    with serving(tmp_path, SMALL, **BROUGHT) as server:
        assert n_in_inbox(tmp_path) == 0
        assert (stored(server), server.http.get("/jobs").json()["jobs"]) == ({}, [])
        server.stop()


# The real model


def test_texts_are_encoded_by_the_bundled_model_as_they_are_at_once(texts):
    direct = [{"id": "i-direct", "text": "The key to the shed hangs behind the clock."}]
    texts.http.post("/documents", json={"documents": direct}).raise_for_status()
    later = [{**direct[0], "id": "i-later"}, {"id": "i-other", "text": "Knead flour, water and salt."}]
    assert ended(texts, accept(texts, later, as_lines=True))["result"]["created"] == 2
    body = {"query": "how do I get into the garden house", "k": 1000, "include": ["vector"]}
    hits = {hit["id"]: hit for hit in texts.http.post("/search", json=body).json()["hits"]}
    np.testing.assert_allclose(hits["i-later"]["vector"], hits["i-direct"]["vector"], atol=2e-3)
    assert hits["i-later"]["score"] > hits["i-other"]["score"]
