"""The log: a line for every request, with its id, and never what people wrote, asked, named or were let in with."""

import contextlib
import io
import json
import logging
import re
import sys

import pytest
import structlog
from conftest import serving

from server.logs import start_logging
from server.settings import LogSettings

SECRET = "s3cret"
KEY = "k3y-of-the-house"
HEADERS = {"authorization": f"Bearer {KEY}"}
JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
LINE = {"event", "method", "route", "status", "ms", "request_id", "level", "timestamp"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    settings = {"server__api_key": KEY, "log__level": "debug", "limits__body_bytes": 4096}
    with serving(tmp_path_factory.mktemp("logs"), **settings) as server:
        yield server


def bodies():
    """Requests that carry secrets where each route takes texts: (method, path, what httpx sends)."""
    text = f"The {SECRET} text. " * 3
    document = {"id": f"{SECRET}-id", "text": text, "metadata": {SECRET: SECRET, "n": 1}}
    documents = {"documents": [document]}
    words = {"query": f"{SECRET} question", "hybrid": True}
    yield "POST", "/documents", {"json": documents}
    yield "POST", "/documents?wait=false", {"json": {"documents": [{**document, "id": f"{SECRET} later"}]}}
    yield "POST", "/documents?wait=false", {"content": json.dumps(document), "headers": NDJSON}
    yield "POST", "/documents?wait=false", {"content": f'{{"id": "{SECRET}"', "headers": NDJSON}
    yield "POST", f"/documents?wait={SECRET}", {"json": documents}
    yield "POST", f"/documents?{SECRET}=1", {"json": documents}
    yield "POST", "/documents", {"content": f'{{"documents": [{{"text": "{SECRET}', "headers": JSON}
    yield "POST", "/documents", {"content": f'["{SECRET}"]', "headers": {"content-type": f"text/{SECRET}"}}
    yield "POST", "/documents", {"json": {"documents": [{SECRET: SECRET, "text": 7, "vector": SECRET}]}}
    yield "POST", "/documents", {"json": {"documents": [document, document]}}
    yield "POST", "/documents", {"json": {"documents": [{"text": SECRET * 1000}]}}  # too large
    half = json.dumps({"documents": [{"text": f"{SECRET} \ud83d"}]})  # of a surrogate pair
    yield "POST", "/documents", {"content": half, "headers": JSON}
    yield "GET", f"/documents?after={SECRET}", {}
    yield "GET", f"/documents?limit={SECRET}", {}
    yield "GET", f"/documents/{SECRET}-id", {}
    yield "POST", "/search", {"json": words}
    yield "POST", "/search", {"json": {"query": SECRET * 300, "include": ["explain", "text", "vector"]}}
    yield "POST", "/search", {"json": {"like": f"{SECRET}-id", "group_by": SECRET, "mmr": 0.5}}
    yield "POST", "/search", {"json": {"like": f"{SECRET}-gone"}}
    yield "POST", "/search", {"json": {"query": "q", "filter": {SECRET: {"$contains": SECRET}}}}
    yield "POST", "/search", {"json": {"query": "q", "filter": {SECRET: {f"${SECRET}": SECRET}}}}
    yield "POST", "/search", {"json": {"query": "q", "mode": SECRET, "vector": [SECRET]}}
    yield "POST", "/search/batch", {"json": {"searches": [words, {"query": f"{SECRET}", "k": 3}]}}
    yield "POST", "/v1/embeddings", {"json": {"input": [text], "model": "bundled", "user": SECRET}}
    yield "POST", "/v1/embeddings", {"json": {"input": text, "model": SECRET}}
    yield "POST", "/index/rebuild", {"json": {"codec": SECRET}}
    yield "POST", "/index/reembed", {"json": {"model": SECRET}}
    yield "POST", "/evaluate", {"json": {"sample": SECRET}}
    yield "POST", "/documents/delete", {"json": {"filter": {SECRET: SECRET}}}
    yield "POST", "/documents/delete", {"json": {"ids": [f"{SECRET}-id", SECRET]}}
    yield "DELETE", f"/documents/{SECRET}-id", {}
    yield "GET", f"/{SECRET}?{SECRET}={SECRET}", {}
    yield "POST", f"/jobs/{SECRET}", {"json": SECRET}


def on_every_route(server):
    """A request to each route there is, with a secret in its path, its query and its body."""
    for path, methods in server.http.get("/openapi.json", headers=HEADERS).json()["paths"].items():
        filled = re.sub(r"{\w+}", SECRET, path)
        for method in methods:
            yield method.upper(), filled, {} if method in ("get", "delete") else {"json": {SECRET: SECRET}}
            yield method.upper(), f"{filled}?{SECRET}={SECRET}", {}


@pytest.fixture(scope="module")
def driven(server):
    """Every request was sent; the answers, the routes that there are, and what was logged, when all has ended."""
    paths = server.http.get("/openapi.json", headers=HEADERS).json()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    requests = [*bodies(), *on_every_route(server)]
    answers = []
    for method, path, more in requests:
        headers = HEADERS | more.pop("headers", {})
        answers.append(server.http.request(method, path, headers=headers, **more))
    for key in (f"Bearer {SECRET}", f"Basic {SECRET}", SECRET):
        answer = server.http.get("/stats", headers={"authorization": key})
        answers.append(answer)
    jobs = server.http.get("/jobs", headers=HEADERS).json()["jobs"]
    for job in jobs:
        with server.http.stream("GET", f"/jobs/{job['id']}/events", headers=HEADERS) as events:
            for _ in events.iter_lines():
                pass
    assert server.stop() == 0
    return answers, routes, [line for line in server.log if line["event"] == "request"]


def test_no_text_id_query_filter_path_or_key_is_in_the_log_at_level_debug(server, driven):
    answers, _, _ = driven
    codes = {answer.json()["code"] for answer in answers if answer.status_code >= 400}
    assert codes >= {
        "duplicate_id", "invalid", "invalid_filter", "malformed_json", "media_type", "not_found", "too_large",
        "unauthorized", "unknown_field", "unknown_model", "unknown_path",
    }  # fmt: skip
    assert {answer.status_code for answer in answers} >= {200, 201, 202, 401, 404, 413, 415, 422}
    assert max(answer.status_code for answer in answers) < 500
    logged = json.dumps(server.log) + "".join(server.other)
    assert SECRET not in logged and KEY not in logged


def test_every_request_is_one_line_with_its_route_as_a_template(driven):
    answers, routes, lines = driven
    seen = {(line["method"], line["route"].replace(":path", "")) for line in lines if line["route"]}
    assert routes - seen == set()
    assert len(lines) >= len(answers)
    for line in lines:
        assert set(line) - {"code"} == LINE, line
        assert 100 <= line["status"] < 600 and line["ms"] >= 0


def test_an_answer_an_error_and_the_log_tell_the_same_id(driven):
    answers, _, lines = driven
    by_id = {line["request_id"]: line for line in lines}
    for answer in answers:
        line = by_id[answer.headers["x-request-id"]]
        assert (line["method"], line["status"]) == (answer.request.method, answer.status_code)
        if answer.status_code >= 400:
            error = answer.json()
            assert (error["request_id"], error["code"]) == (line["request_id"], line["code"])
        else:
            assert "code" not in line


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("mine-1", True),
        ("!~" * 64, True),
        ("x" * 129, False),
        ("no spaces", False),
        ("", False),
        ("tab\tbed", False),
    ],
)
def test_an_id_is_taken_over_if_it_is_short_and_printable(brought, given, is_kept):
    answer = brought.http.get("/livez", headers={"x-request-id": given})
    found = answer.headers["x-request-id"]
    assert (found == given) is is_kept
    assert is_kept or re.fullmatch(r"[0-9a-f]{32}", found)


def test_probes_and_scrapes_are_not_in_the_log_at_level_info(tmp_path):
    settings = {"encoder__model": "none", "encoder__dim": 8, "log__level": "info"}
    with serving(tmp_path, **settings) as server:
        for path in ("/livez", "/readyz", "/health", "/metrics", "/info"):
            assert server.http.get(path).status_code == 200
        server.stop()
    assert [line["route"] for line in server.log if line["event"] == "request"] == ["/info"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_that_finds_the_disk_full_is_lost_and_hurts_nobody(monkeypatch, form):
    configured, handlers = structlog.get_config(), logging.root.handlers[:]
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"))
    try:
        logging.root.handlers.clear()
        monkeypatch.setattr(sys, "stderr", full)
        start_logging(LogSettings(format=form))
        with pytest.raises(OSError, match="No space left"):
            print("a line", file=full, flush=True)
        for log in (structlog.get_logger(), logging.getLogger("a.library")):
            log.warning("lost")
            log.error("as well")
    finally:
        structlog.configure(**configured)
        logging.root.handlers[:] = handlers
        with contextlib.suppress(OSError):
            full.close()
