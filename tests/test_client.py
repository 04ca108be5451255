"""The client of the HTTP API and ingest on top of it, against a small server that misbehaves to order."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from server import uploading
from server.client import BadUrlError, Client, RefusedError, UnreachableError
from server.uploading import IngestReport, ingest

HANG_UP = object()  # instead of an answer: close the connection


@dataclass
class Scripted:
    """A real HTTP server whose answers to POST /documents a test decides."""

    answer: Callable[[list[dict[str, Any]]], Any]  # documents → (status, headers, body) or HANG_UP
    url: str = ""
    requests: list[list[dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def ids(self) -> list[list[str]]:
        return [[document["id"] for document in request] for request in self.requests]


def stored(documents, **more):
    answer = {
        "ids": [each["id"] for each in documents],
        "created": len(documents),
        "updated": 0,
        "unchanged": 0,
    }
    return 201, {}, {**answer, "passages": len(documents), "warnings": [], "took_ms": 1.0, **more}


def problem(status, code, detail="it won't do", hint="do it otherwise", **headers):
    return status, headers, {"status": status, "code": code, "detail": detail, "hint": hint}


@contextlib.contextmanager
def scripted(answer=stored, info=None) -> Iterator[Scripted]:
    script = Scripted(answer)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(info or (200, {}, {"name": "twopass"}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            script.requests.append(body["documents"])
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            self._answer(script.answer(body["documents"]))

        def _answer(self, answer):
            if answer is HANG_UP:
                self.close_connection = True
                return
            status, headers, body = answer
            raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(raw))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        script.url = f"http://127.0.0.1:{server.server_port}"
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def texts(*ids):
    return [{"id": each, "text": f"about {each}"} for each in ids]


@dataclass
class Run:
    """What an ingest did: its report, the pauses it asked for, the documents it called finished."""

    report: IngestReport = field(default_factory=IngestReport)
    pauses: list[float] = field(default_factory=list)
    done: int = 0

    def count(self, n: int) -> None:
        self.done += n


def run(url, documents, run=None, api_key=""):
    run = run or Run()
    with Client(url, api_key) as client:
        ingest(client, documents, run.report, run.count, run.pauses.append)
    return run


def refused(run):
    return [(each.source, each.reason) for each in run.report.refused.first]


def test_documents_are_sent_in_batches_and_counted(monkeypatch):
    monkeypatch.setattr(uploading, "BATCH_DOCUMENTS", 2)
    with scripted(lambda documents: stored(documents, passages=5, warnings=["careful"])) as server:
        done = run(server.url, texts("a", "b", "c"))
    assert server.ids == [["a", "b"], ["c"]]
    assert server.requests[1] == [{"id": "c", "text": "about c"}]
    assert done.report == IngestReport(created=3, passages=10, warnings=["careful", "careful"])
    assert done.report.stored == done.done == 3


def test_a_batch_is_bounded_in_bytes_but_takes_a_larger_document_alone(monkeypatch):
    monkeypatch.setattr(uploading, "BATCH_BYTES", 70)
    documents = [*texts("a", "b"), {"id": "c", "text": "c" * 500}, *texts("d", "e", "f")]
    with scripted() as server:
        run(server.url, documents)
    assert server.ids == [["a", "b"], ["c"], ["d", "e"], ["f"]]


def test_an_id_that_comes_twice_goes_into_two_requests_in_order():
    documents = [{"id": "a", "text": "old"}, {"id": "b", "text": "b"}, {"id": "a", "text": "new"}]
    with scripted() as server:
        run(server.url, documents)
    assert server.requests == [documents[:2], documents[2:]]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_bad_document_is_reported_and_the_rest_of_its_batch_is_stored(status):
    def answer(documents):
        if any(document["id"] == "bad" for document in documents):
            return problem(status, "wrong", "the text is wrong")
        return stored(documents)

    with scripted(answer) as server:
        done = run(server.url, texts("a", "b", "c", "bad", "d"))
    assert done.report.created == 4
    assert refused(done) == [("bad", "the text is wrong")]
    assert done.done == 5
    assert server.ids == [
        ["a", "b", "c", "bad", "d"],
        ["a", "b"],
        ["c", "bad", "d"],
        ["c"],
        ["bad", "d"],
        ["bad"],
        ["d"],
    ]


def test_a_batch_of_bad_documents_is_reported_one_by_one():
    with scripted(lambda documents: problem(422, "wrong")) as server:
        done = run(server.url, texts("a", "b", "c"))
    assert [source for source, _ in refused(done)] == ["a", "b", "c"]
    assert done.report.stored == 0


def test_what_cannot_be_written_as_json_is_reported_and_not_sent():
    documents = [{"id": "nan", "vector": [float("nan")]}, *texts("a"), {"id": "half", "text": "\ud800"}]
    with scripted() as server:
        done = run(server.url, documents)
    assert server.ids == [["a"]]
    assert [source for source, _ in refused(done)] == ["nan", "half"]
    assert done.done == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_after_the_time_it_names(status):
    busy = [problem(status, "busy", Retry_After="7"), problem(status, "busy")]
    with scripted(lambda documents: busy.pop(0) if busy else stored(documents)) as server:
        done = run(server.url, texts("a"))
    assert done.pauses == [7.0, 4.0]  # without Retry-After: twice as long as the time before
    assert done.report.created == 1
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_given_up():
    done = Run()
    with (
        scripted(lambda documents: problem(503, "busy", "too much to do", Retry_After="3600")) as server,
        pytest.raises(RefusedError, match="too much to do"),
    ):
        run(server.url, texts("a"), done)
    assert done.pauses == [30.0] * 5
    assert len(server.requests) == 6


def test_a_server_that_is_not_ready_yet_is_waited_for():
    starting = [problem(503, "not_ready", Retry_After="1")]

    class Starting:
        def __iter__(self):  # unpacked once a request
            return iter(starting.pop() if starting else (200, {}, {}))

    with scripted(info=Starting()) as server:
        assert run(server.url, texts("a")).pauses == [1.0]


def test_a_broken_connection_is_tried_again():
    answers = [HANG_UP, HANG_UP]
    with scripted(lambda documents: answers.pop() if answers else stored(documents)) as server:
        done = run(server.url, texts("a"))
    assert server.ids == [["a"]] * 3
    assert done.pauses == [2.0, 4.0]
    assert done.report.created == 1


@pytest.mark.parametrize(("status", "code"), [(507, "disk_full"), (500, "failed"), (409, "model_changed")])
def test_an_error_that_is_no_documents_ends_the_ingest_with_what_was_stored_in_the_report(
    monkeypatch, status, code
):
    monkeypatch.setattr(uploading, "BATCH_DOCUMENTS", 1)
    done = Run()
    with (
        scripted(
            lambda documents: stored(documents) if documents[0]["id"] == "a" else problem(status, code)
        ) as server,
        pytest.raises(RefusedError) as error,
    ):
        run(server.url, texts("a", "b", "c"), done)
    assert (error.value.status, error.value.code) == (status, code)
    assert (str(error.value), error.value.hint) == ("it won't do", "do it otherwise")
    assert done.report.created == 1
    assert server.ids == [["a"], ["b"]]


def test_nobody_listening_is_told_at_once_with_the_way_to_start_a_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = Run()
        with pytest.raises(UnreachableError) as error:
            run(url, texts("a"), done)
    assert str(error.value) == f"No server answers at {url}."
    assert "twopass serve" in error.value.hint
    assert done.pauses == []


def test_the_key_is_sent_and_a_wrong_one_is_told_before_any_document_is_read():
    with scripted() as server:
        run(server.url, texts("a"), api_key="secret")
        assert server.headers[0]["authorization"] == "Bearer secret"
    with scripted(info=problem(401, "unauthorized", "the key is wrong")) as server:
        unread = iter(texts("a"))
        with pytest.raises(RefusedError, match="the key is wrong") as error:
            run(server.url, unread)
        assert error.value.hint == "Give the server's key with --api-key or TWOPASS_API_KEY."
        assert next(unread)["id"] == "a"


@pytest.mark.parametrize(
    "info", [(404, {}, "<h1>Not here</h1>"), (404, {}, {"error": "?"}), (200, {}, "<h1>Hello</h1>")]
)
def test_another_web_server_is_not_taken_for_ours(info):
    with (
        scripted(info=info) as server,
        pytest.raises(RefusedError, match="not as a twopass server does") as error,
    ):
        run(server.url, texts("a"))
    assert error.value.code == ""


def test_a_proxy_in_the_environment_is_passed_by(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with scripted() as server:
        assert run(server.url, texts("a")).report.created == 1


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:9000", "http://localhost:9000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        (" https://search.example.org/twopass/ ", "https://search.example.org/twopass"),
    ],
)
def test_an_address_may_be_written_briefly(given, url):
    with Client(given) as client:
        assert client.url == url


@pytest.mark.parametrize("given", ["", "http://", "ftp://localhost", "http://localhost:port", "http://[::1"])
def test_what_is_no_address_is_told(given):
    with pytest.raises(BadUrlError) as error:
        Client(given)
    assert error.value.hint == "Write it like http://127.0.0.1:8000"


def test_a_rebuild_is_asked_for_and_its_job_followed(brought):
    with Client(brought.url) as client:
        job = client.rebuild({"codec": "int8"})
        assert (job["type"], client.job(job["id"])["id"]) == ("rebuild", job["id"])
        with pytest.raises(RefusedError, match="there is no job with the id 'nope'") as refusal:
            client.job("nope")
        assert (refusal.value.status, refusal.value.code) == (404, "not_found")
        assert refusal.value.hint == "GET /jobs lists the ids."
        with pytest.raises(RefusedError, match="codec"):
            client.rebuild({"codec": "pq8"})
