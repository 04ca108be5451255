"""Whatever a client sends wrong gets one clear answer in one shape, and nothing of it is written."""

import base64
import gzip
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest

UNIT = [1.0] + [0.0] * 31
NOT_FINITE = [float("nan")] + [0.5] * 31


def packed(vector):
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def doc(**fields):
    return {"documents": [{"id": "bad", **fields}]}


def search(**fields):
    return {"vector": UNIT, **fields}


JSON_CASES = [
    # path, body, status, code, what the detail says
    ("/documents", {"documents": []}, 422, "invalid", "no documents"),
    ("/documents", {}, 422, "invalid", "documents: field required"),
    ("/documents", [], 422, "invalid", "the body: "),
    ("/documents", doc(), 422, "invalid", "needs a text or a vector"),
    ("/documents", doc(text="  \n "), 422, "invalid", "the text is empty"),
    ("/documents", doc(text=""), 422, "invalid", "the text is empty"),
    ("/documents", doc(text=7), 422, "invalid", "documents[0].text: input should be a valid string"),
    ("/documents", doc(text="words"), 422, "no_encoder", "no model"),
    ("/documents", doc(text="half \ud83d here", vector=UNIT), 400, "malformed_json", "hex escape"),
    ("/documents", doc(vector=UNIT, metadata={"a": "\udc00"}), 400, "malformed_json", "surrogate"),
    ("/search", {"query": "half \ud83d here"}, 422, "invalid", "surrogate"),
    ("/search", {"query": "half \ud83d here", "mode": "exact"}, 422, "invalid", "surrogate"),
    ("/documents", doc(vector=UNIT, metadata=[1]), 422, "invalid", "metadata"),
    ("/documents", doc(vector=UNIT, metadata={"x": "y" * 70_000}), 413, "too_large", "the limit is 65536"),
    ("/documents", doc(vector=UNIT[:31]), 422, "invalid_vector", "expected 32 dimensions, got 31"),
    ("/documents", doc(vector=[]), 422, "invalid_vector", "expected 32 dimensions, got 0"),
    ("/documents", doc(vector=[0.0] * 32), 422, "invalid_vector", "all zeros"),
    ("/documents", doc(vector=["1"] * 32), 422, "invalid", "documents[0].vector[0]"),
    ("/documents", doc(vector=[True] * 32), 422, "invalid", "documents[0].vector[0]"),
    ("/documents", doc(vector=[None] * 32), 422, "invalid", "documents[0].vector[0]"),
    ("/documents", doc(vector="AAAA"), 422, "invalid", "4 bytes a number; it holds 3 bytes"),
    ("/documents", doc(vector="AAA"), 422, "invalid", "documents[0].vector: input should be base64"),
    ("/documents", doc(vector="[1, 0]"), 422, "invalid", "only base64 data is allowed"),
    ("/documents", doc(vector="-_-_"), 422, "invalid", "only base64 data is allowed"),
    ("/documents", doc(vector="é" * 8), 422, "invalid", "ASCII"),
    ("/documents", doc(vector=7), 422, "invalid", "documents[0].vector: input should be an array of numbers"),
    ("/documents", doc(vector={"0": 1}), 422, "invalid", "input should be an array of numbers"),
    ("/documents", doc(vector=packed(UNIT[:31])), 422, "invalid_vector", "expected 32 dimensions, got 31"),
    ("/documents", doc(vector=""), 422, "invalid_vector", "expected 32 dimensions, got 0"),
    ("/documents", doc(vector=packed([0.0] * 32)), 422, "invalid_vector", "all zeros"),
    ("/documents", doc(vector=packed(NOT_FINITE)), 422, "invalid_vector", "NaN"),
    ("/documents", doc(vector=UNIT, id=""), 422, "invalid", "1 to 512 bytes"),
    ("/documents", doc(vector=UNIT, id="é" * 257), 422, "invalid", "this one 514"),
    ("/documents", doc(vector=UNIT, id=5), 422, "invalid", "documents[0].id"),
    ("/documents", doc(vector=UNIT, txt="words"), 422, "unknown_field", "documents[0].txt"),
    ("/documents", {**doc(vector=UNIT), "wait": False}, 422, "unknown_field", "wait"),
    (
        "/documents",
        {"documents": [{"id": "x", "vector": UNIT}, {"vector": UNIT}, {"id": "x", "vector": UNIT}]},
        422,
        "duplicate_id",
        "documents[0] and documents[2] have the same id",
    ),
    (
        "/documents",
        {"documents": [{"id": "good", "vector": UNIT}, {"id": "bad", "vector": [0.0] * 32}]},
        422,
        "invalid_vector",
        "all zeros",
    ),
    ("/documents", {"documents": [{"vector": UNIT}] * 10_001}, 413, "too_large", "the limit is 10000"),
    ("/documents/delete", {"ids": ["x"] * 10_001}, 413, "too_large", "the limit is 10000"),
    ("/documents/delete", {"ids": "x"}, 422, "invalid", "ids"),
    ("/search", search(k=0), 422, "invalid", "k: input should be greater than or equal to 1"),
    ("/search", search(k=10_000), 422, "invalid", "the largest is 1000"),
    ("/search", search(k="ten"), 422, "invalid", "k: input should be a valid integer"),
    ("/search", search(k=True), 422, "invalid", "k: "),
    ("/search", search(mode="fast"), 422, "invalid", "mode: input should be 'two_pass', 'prefix'"),
    ("/search", search(oversample=0), 422, "invalid", "oversample"),
    ("/search", search(score_threshold=2), 422, "invalid", "score_threshold"),
    ("/search", search(include=["texts"]), 422, "invalid", "include[0]"),
    ("/search", search(top_k=3), 422, "unknown_field", "top_k"),
    ("/search", search(query="both"), 422, "invalid", "one of query, vector and like"),
    ("/search", {}, 422, "invalid", "one of query, vector and like"),
    ("/search", {"vector": [1.0] * 33}, 422, "invalid_vector", "expected 32 dimensions, got 33"),
    ("/search", {"vector": "AAA="}, 422, "invalid", "vector: input should be base64"),
    ("/search", {"vector": packed([1.0] * 33)}, 422, "invalid_vector", "expected 32 dimensions, got 33"),
    ("/search", {"vector": packed(NOT_FINITE)}, 422, "invalid_vector", "NaN"),
    ("/search/batch", {"searches": [search(), {"vector": "A"}]}, 422, "invalid", "searches[1].vector"),
    ("/search", {"query": "words"}, 422, "no_encoder", "no model"),
    ("/search", {"query": " "}, 422, "invalid", "the query is empty"),
    ("/search/batch", {"searches": []}, 422, "invalid", "searches"),
    ("/search/batch", {"searches": [search()] * 101}, 413, "too_large", "the limit is 100"),
    ("/search/batch", {"searches": [search(), {}]}, 422, "invalid", "one of query, vector and like"),
]

RAW_CASES = [
    # method, path, body, content type, status, code
    ("POST", "/documents", b'{"documents": [', "application/json", 400, "malformed_json"),
    ("POST", "/documents", b"", "application/json", 400, "malformed_json"),
    ("POST", "/documents", b'{"documents":[{"text":"\xff\xfe"}]}', "application/json", 400, "malformed_json"),
    ("POST", "/documents", b"[" * 100_000, "application/json", 400, "malformed_json"),
    ("POST", "/documents", b'{"id":"a"}\n{oops}\n', "application/x-ndjson", 400, "malformed_json"),
    ("POST", "/documents", b"\n\n", "application/x-ndjson", 422, "invalid"),
    ("POST", "/documents", b'{"id":"a","txt":"b"}', "application/x-ndjson", 422, "unknown_field"),
    ("POST", "/documents", b'{"documents":[]}', "text/plain", 415, "media_type"),
    ("POST", "/documents", b"a=b", "application/x-www-form-urlencoded", 415, "media_type"),
    ("POST", "/search", b'{"k": 1', "application/json", 400, "malformed_json"),
    ("POST", "/search", b'{"query": "\xff"}', "application/json", 400, "malformed_json"),
    ("POST", "/search", b'{"query": "a"}', "text/plain", 415, "media_type"),
    ("POST", "/search", b"", "application/json", 422, "invalid"),
    ("POST", "/search", b"x" * 33_554_433, "application/json", 413, "too_large"),
    ("GET", "/search", b"", None, 405, "method_not_allowed"),
    ("PUT", "/documents", b"{}", "application/json", 405, "method_not_allowed"),
    ("GET", "/collections", b"", None, 404, "unknown_path"),
    ("GET", "/documents/nobody", b"", None, 404, "not_found"),
    ("DELETE", "/documents/nobody", b"", None, 404, "not_found"),
    ("GET", "/documents?limit=0", b"", None, 422, "invalid"),
    ("GET", "/documents?limit=many", b"", None, 422, "invalid"),
    ("GET", "/documents?page=2", b"", None, 422, "unknown_field"),
    ("POST", "/documents?waits=false", b'{"documents": []}', "application/json", 422, "unknown_field"),
    ("GET", "/stats?verbose", b"", None, 422, "unknown_field"),
]


def check_problem(answer, status, code):
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["type"] == f"urn:twopass:problem:{code}"
    for field in ("title", "detail", "hint", "request_id"):
        assert body[field], field
    return body


@pytest.fixture
def untouched(brought):
    """Fails if anything was written."""
    before = brought.http.get("/stats").json()
    yield brought
    after = brought.http.get("/stats").json()
    for name in ("documents", "passages", "rows"):
        assert after[name] == before[name]
    assert brought.http.get("/documents/bad").status_code == 404
    assert brought.http.get("/documents/good").status_code == 404


@pytest.mark.parametrize(("path", "body", "status", "code", "words"), JSON_CASES)
def test_a_wrong_field(untouched, path, body, status, code, words):
    content = json.dumps(body).encode()  # httpx's own encoder refuses half surrogates
    answer = untouched.http.post(path, content=content, headers={"content-type": "application/json"})
    told = check_problem(answer, status, code)
    assert words in told["detail"]
    assert status != 413 or "limits." in told["hint"]  # the setting that would let it pass


@pytest.mark.parametrize(("method", "path", "body", "content_type", "status", "code"), RAW_CASES)
def test_a_wrong_request(untouched, method, path, body, content_type, status, code):
    headers = {"content-type": content_type} if content_type else {}
    told = check_problem(untouched.http.request(method, path, content=body, headers=headers), status, code)
    assert status != 413 or "limits." in told["hint"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search", search(mmr="0.5")), ("/search", search(oversample="8")), ("/search", search(hybrid=1)),
        ("/search", search(k=3.0)), ("/search", search(score_threshold=True)),
        ("/evaluate", {"quality": 0}), ("/evaluate", {"sample": "200"}), ("/index/rebuild", {"prefix_dim": "16"}),
    ],
)  # fmt: skip
def test_a_number_in_quotation_marks_is_none_and_a_number_is_no_boolean(untouched, path, body):
    answer = untouched.http.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
    assert answer.json()["detail"].partition(":")[0].partition(".")[0] == [*body][-1]


def test_a_moment_is_no_bare_number(untouched):
    for written, status in (
        ("0.5", 422),
        ("1700000000", 422),
        ("2026-01-01", 200),
        ("2026-01-01T00:00:00Z", 200),
    ):
        assert untouched.http.get("/stats/recall", params={"since": written}).status_code == status


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e39"])
def test_a_number_that_is_none_is_refused_in_vectors(untouched, number):
    vector = "[" + ",".join([number] + ["0.1"] * 31) + "]"
    for path, body in (
        ("/documents", f'{{"documents":[{{"id":"bad","vector":{vector}}}]}}'),
        ("/search", f'{{"vector":{vector}}}'),
    ):
        answer = untouched.http.post(path, content=body, headers={"content-type": "application/json"})
        body = check_problem(answer, 422, "invalid_vector")
        assert body["where"].endswith("vector")


def test_nan_in_metadata_is_refused(untouched):
    body = f'{{"documents":[{{"id":"bad","vector":{UNIT},"metadata":{{"a":NaN}}}}]}}'
    answer = untouched.http.post("/documents", content=body, headers={"content-type": "application/json"})
    assert check_problem(answer, 422, "invalid")["where"] == "documents[0].metadata"


def test_a_body_that_does_not_say_how_long_it_is_is_cut_off_at_the_limit(untouched):
    def endless():
        for _ in range(40):
            yield b" " * 1_000_000

    answer = untouched.http.post(
        "/documents", content=endless(), headers={"content-type": "application/json"}
    )
    body = check_problem(answer, 413, "too_large")
    assert "33554432" in body["detail"]


def test_of_many_wrong_fields_the_first_ten_are_listed(untouched):
    body = {"documents": [{"text": i} for i in range(50)]}
    found = check_problem(untouched.http.post("/documents", json=body), 422, "invalid")
    assert len(found["errors"]) == 10 and "(and 49 more)" in found["detail"]
    assert found["errors"][3]["where"] == "documents[3].text"


@pytest.mark.parametrize("n_before", [0, 2])
def test_an_error_in_a_batch_names_its_search(untouched, n_before):
    for wrong, field in (({"vector": UNIT, "k": 5000}, "k"), ({"vector": [1.0]}, "vector"), ({}, "query")):
        body = {"searches": [search()] * n_before + [wrong]}
        answer = untouched.http.post("/search/batch", json=body)
        assert answer.json()["where"] == f"searches[{n_before}].{field}"


@pytest.mark.parametrize("vector", [7, "AAAA", ["x"]])
def test_an_ndjson_error_names_its_line(untouched, vector):
    content = (
        json.dumps({"id": "good", "vector": UNIT}) + "\n\n" + json.dumps({"id": "bad", "vector": vector})
    )
    answer = untouched.http.post(
        "/documents", content=content, headers={"content-type": "application/x-ndjson"}
    )
    assert check_problem(answer, 422, "invalid")["where"].startswith("line 3.vector")


def resident_bytes(process):
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("path", ["/documents", "/documents?wait=false", "/documents/delete", "/search"])
def test_a_compressed_body_is_refused_and_not_unpacked(untouched, path, media_type):
    bomb = gzip.compress(b" " * (1 << 20)) * 4096  # 4 MiB that unpack to 4 GiB
    headers = {"content-type": media_type, "content-encoding": "gzip"}
    before_bytes = resident_bytes(untouched.process.pid)
    body = check_problem(untouched.http.post(path, content=bomb, headers=headers), 415, "media_type")
    assert "gzip" in body["detail"] and "Content-Encoding" in body["hint"]
    assert resident_bytes(untouched.process.pid) - before_bytes < 64 << 20


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(untouched):
    host, port = untouched.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /documents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"documents": [{"id": "bad",'
        )
    assert untouched.http.get("/livez").status_code == 200
