"""Clients that speak no HTTP, send heads without an end, fall silent, or open too many connections: real sockets."""

import contextlib
import json
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from conftest import serving

from server.api.connections import MAX_HEAD_BYTES, OTHER_HANDLES

FIRST_PIECE_BYTES = 1 << 18  # that asyncio reads at once
POST = b"POST /documents HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
OK = b'{"status":"ok"}'
PROBLEM = {"type", "title", "status", "detail", "code", "hint", "request_id"}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A server that waits a second for the next word."""
    settings = {"encoder__model": "none", "encoder__dim": 4, "limits__silence_s": 1}
    with serving(tmp_path_factory.mktemp("hasty"), **settings) as server:
        yield server


@contextlib.contextmanager
def connected(server):
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=60) as client:
        yield client


def rest_of(client):
    """All that comes until the server closes; None: it was closed with a reset."""
    found = b""
    try:
        while piece := client.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        return found or None
    return found


def until(client, end):
    """What comes up to `end`; the connection stays open."""
    found = b""
    while not found.endswith(end):
        piece = client.recv(1 << 16)
        assert piece, found
        found += piece
    return found


def problem_in(answer):
    """Status, code and detail of the one answer that this is."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    told = json.loads(body)  # nothing stands behind it
    assert set(told) == PROBLEM and int(headers["content-length"]) == len(body)
    assert headers["x-request-id"] == told["request_id"]
    assert lines[0].split(" ", 2)[1] == str(told["status"])
    return told["status"], told["code"], told["detail"]


def errors_of(server, code):
    """How often an error was answered, as /metrics counts it."""
    lines = server.http.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[1]) for line in lines if line.startswith(f'twopass_errors_total{{code="{code}"}}')
    )


# What is no HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a browser that was told https://
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[/ HTTP/1.1\r\n\r\n",
        "GET /é HTTP/1.1\r\n\r\n".encode(),
        b"GET /search\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nname: a\x01b\r\n\r\n",
        POST + b"content-length: many\r\n\r\n",
        POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        POST + b"transfer-encoding: chunked\r\n\r\nno length\r\n",
    ],
)
def test_what_is_no_http_is_told_so_in_our_shape(brought, sent):
    before = errors_of(brought, "not_http")
    with connected(brought) as client:
        client.sendall(sent)
        found = problem_in(rest_of(client))
    assert found == (400, "not_http", "the request can't be read as HTTP/1.1")
    assert errors_of(brought, "not_http") == before + 1
    assert brought.other == []  # the log is JSON, line by line


def test_nonsense_behind_a_request_does_not_pass_for_its_answer(brought):
    """Sent together with a request, it is parsed before that is answered."""
    with connected(brought) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nnonsense\r\n\r\n")
        assert b"not_http" not in (rest_of(client) or b"")
    with connected(brought) as client:  # one after the other
        client.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        until(client, OK)
        client.sendall(b"nonsense\r\n\r\n")
        assert problem_in(rest_of(client))[1] == "not_http"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/documents", "GET, POST"),
        ("/documents/an-id", "DELETE, GET"),
        ("/snapshots/a-name", "DELETE, GET"),
        ("/search", "POST"),
        ("/livez", "GET"),
    ],
)
def test_of_a_path_all_methods_are_told(brought, path, allowed):
    answer = brought.http.request("PATCH", path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    methods = set(answer.headers["allow"].split(", "))
    assert methods - {"HEAD"} == set(allowed.split(", "))


# What has no end


def pouring(client, piece, most_bytes):
    """Send until the server has enough; return how much that was."""
    n_bytes = 0
    with contextlib.suppress(ConnectionError):
        while n_bytes < most_bytes:
            client.sendall(piece)
            n_bytes += len(piece)
    return n_bytes


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /", b"a" * 4096),
        (b"GET / HTTP/1.1\r\nname: ", b"a" * 4096),
        (b"GET / HTTP/1.1\r\n", b"name: value\r\n" * 300),
        (POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"name: value\r\n" * 300),
        (POST + b"transfer-encoding: chunked\r\n\r\n2;", b"a" * 4096),
    ],
    ids=["path", "header", "headers", "trailers", "chunk extension"],
)
def test_a_head_without_an_end_is_refused_and_not_kept(brought, begin, piece):
    with connected(brought) as client:
        client.sendall(begin)
        answer = []
        listening = threading.Thread(target=lambda: answer.append(rest_of(client)))
        listening.start()
        n_bytes = pouring(client, piece, 256 << 20)
        listening.join()
    assert n_bytes < 32 << 20  # buffers of both ends
    if answer[0]:  # else the reset overtook it
        assert problem_in(answer[0])[:2] == (431, "head_too_long")
    assert brought.http.get("/livez").status_code == 200


def test_a_head_is_refused_with_a_reason(brought):
    with connected(brought) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        client.sendall(b"name: " + b"a" * (FIRST_PIECE_BYTES + 2 * MAX_HEAD_BYTES))
        answer = rest_of(client)
    if answer is not None:
        assert problem_in(answer) == (431, "head_too_long", "the request's head has more than 65536 bytes")


def test_long_bodies_are_no_heads(brought):
    """Of half a megabyte, in chunks and at once."""
    document = {"id": "long", "vector": [1.0] * 32, "metadata": {"n": 1}, "text": "word " * 100_000}
    body = json.dumps({"documents": [document]}).encode()
    in_chunks = (body[i : i + 1000] for i in range(0, len(body), 1000))
    for content in (in_chunks, body):
        answer = brought.http.post(
            "/documents", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 201, answer.text
    assert brought.http.delete("/documents/long").status_code == 200


# Who falls silent


def test_a_head_that_comes_letter_by_letter_is_a_head(brought):
    with connected(brought) as client:
        for letter in b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n":
            client.send(bytes([letter]))
        assert rest_of(client).endswith(OK)


@pytest.mark.parametrize("before", [b"", b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"])
def test_who_falls_silent_in_a_head_is_told_so(hasty, before):
    with connected(hasty) as client:
        if before:
            client.sendall(before)
            until(client, OK)
        client.sendall(b"GET /livez HT")
        found = problem_in(rest_of(client))
    assert found == (408, "too_slow", "the request's head wasn't there after 1 seconds")


def test_a_letter_now_and_then_is_not_enough_of_a_head(hasty):
    is_over = threading.Event()
    with connected(hasty) as client:

        def trickle():
            with contextlib.suppress(ConnectionError):
                client.sendall(b"GET /livez HTTP/1.1\r\nname: ")
                while not is_over.wait(0.1):
                    client.sendall(b"a")

        trickling = threading.Thread(target=trickle)
        trickling.start()
        try:
            answer = rest_of(client)
        finally:
            is_over.set()
            trickling.join()
    if answer is not None:
        assert problem_in(answer)[:2] == (408, "too_slow")


def test_who_says_nothing_at_all_is_hung_up_on_without_a_word(hasty):
    with connected(hasty) as client:
        assert rest_of(client) == b""


@pytest.mark.parametrize(
    "begin", [b"content-length: 100\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n9\r\n"]
)
def test_who_falls_silent_in_a_body_is_told_so(hasty, begin):
    with connected(hasty) as client:
        client.sendall(POST + begin + b'{"docu')
        head, _, body = rest_of(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    told = json.loads(body)
    assert (told["code"], told["detail"]) == ("too_slow", "nothing more of the body came for 1 seconds")
    assert hasty.http.get("/stats").json()["documents"] == 0


def test_of_a_stream_that_falls_silent_nothing_is_kept(hasty):
    line = json.dumps({"id": "a", "vector": [1, 2, 3, 4], "metadata": {"long": "a" * 60_000}}).encode()
    lines = b"\n".join(line.replace(b'"a"', b'"a%d"' % n) for n in range(40))  # two pieces and more
    with connected(hasty) as client:
        client.sendall(b"POST /documents?wait=false HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        client.sendall(b"content-type: application/x-ndjson\r\ncontent-length: 90000000\r\n\r\n" + lines)
        assert b'"code":"too_slow"' in rest_of(client)
    assert hasty.http.get("/stats").json()["documents"] == 0
    assert [job for job in hasty.http.get("/jobs").json()["jobs"] if job["kind"] == "ingest"] == []


def test_who_was_refused_may_not_hold_the_connection_with_the_rest(hasty):
    """A body that nobody waits for any more, letter by letter."""
    is_over = threading.Event()
    with connected(hasty) as client:
        client.sendall(POST + b"content-length: 90000000\r\n\r\n")  # more than limits.body_bytes
        assert b'"code":"too_large"' in until(client, b"}")

        def trickle():
            with contextlib.suppress(ConnectionError):
                while not is_over.wait(0.1):
                    client.sendall(b"a")

        trickling = threading.Thread(target=trickle)
        trickling.start()
        try:
            assert rest_of(client) in (b"", None)
        finally:
            is_over.set()
            trickling.join()


# Too many


def test_more_connections_than_may_be_are_told_so_and_logged_and_the_others_served(tmp_path):
    settings = {"encoder__model": "none", "encoder__dim": 4, "limits__connections": 3}
    with serving(tmp_path, **settings) as server, contextlib.ExitStack() as open_ones:
        clients = [open_ones.enter_context(connected(server)) for _ in range(3)]
        for client in clients:  # the server has taken them once it answers
            client.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            until(client, OK)
            client.sendall(b"GET /livez")  # and keeps them, as it is being asked
        with connected(server) as fourth:
            answer = rest_of(fourth)
        assert b"retry-after: 1" in answer.lower()
        assert problem_in(answer) == (429, "busy", "as many connections are open as may be: 3")
        for client in clients:
            client.sendall(b" HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            assert rest_of(client).endswith(OK)
        assert server.http.get("/livez").status_code == 200
        assert server.stop() == 0
        (line,) = [each for each in server.log if each["event"] == "refused"]
    assert set(line) == {"event", "status", "code", "request_id", "level", "timestamp"}
    assert (line["code"], line["status"], line["level"]) == ("busy", 429, "info")
    assert f"x-request-id: {line['request_id']}".encode() in answer
    assert server.other == []


def test_handles_are_asked_for_and_some_are_kept_for_files():
    program = """
import resource
from server.api.connections import handles_for
for limits in (1024, 8192), (4096, 4096), (1024, 1024), (100, 100):
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print(handles_for(2000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert found == [[2000, 2000 + OTHER_HANDLES], [2000, 4096], [1024 - OTHER_HANDLES, 1024], [1, 100]]
