"""Rebuilding, jobs and proved searches over HTTP: the real server, over vectors enough to have something to plan."""

import numpy as np
import pytest
from conftest import clustered, ended, serving, until

DIM, N, K = 32, 1500, 10


@pytest.fixture(scope="module")
def corpus():
    return clustered(N, DIM, seed=21), clustered(12, DIM, seed=22)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, corpus):
    settings = {"encoder__model": "none", "encoder__dim": DIM, "index__prefix_dim": 16}
    with serving(tmp_path_factory.mktemp("rebuilt"), **settings) as server:
        documents = [{"id": f"{i:04}", "vector": vector.tolist()} for i, vector in enumerate(corpus[0])]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        settled(server)  # a thousand rows are enough for the server to make a first pass by itself
        yield server
        assert server.stop() == 0


def settled(server):
    """Wait for the rebuild that the server began by itself."""
    jobs = until(lambda: server.http.get("/jobs").json()["jobs"])
    return ended(server, jobs[-1]["id"])


def rebuilt(server, **wishes):
    answer = server.http.post("/index/rebuild", json=wishes)
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    assert job["type"] == "rebuild" and job["status"] in ("waiting", "running", "done")
    return ended(server, job["id"])


def search(server, vector, **options):
    answer = server.http.post("/search", json={"vector": vector.tolist(), "k": K, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer):
    return [hit["id"] for hit in answer["hits"]]


def ids_and_scores(answer):
    return [(hit["id"], hit["score"]) for hit in answer["hits"]]


def test_the_first_thousand_rows_get_a_first_pass_without_being_asked(filled):
    job = filled.http.get("/jobs").json()["jobs"][-1]
    assert (job["type"], job["status"], job["error"]) == ("rebuild", "done", None)
    assert job["result"]["plan"]["codec"] == "int8"


@pytest.mark.parametrize(
    "wishes",
    [
        {"codec": "float16", "order": "model", "prefix_dim": 8},
        {"codec": "int8", "order": "corpus"},
        {"codec": "pq4", "kind": "ivf", "order": "corpus", "prefix_dim": 32},
        {"codec": "pq4", "kind": "flat", "prefix_dim": 24},
    ],
)
def test_a_rebuild_makes_what_was_wished_for_and_the_same_is_found(filled, corpus, wishes):
    queries = corpus[1]
    before = [ids_and_scores(search(filled, query, mode="exact")) for query in queries]
    job = rebuilt(filled, **wishes)
    assert (job["status"], job["error"]) == ("done", None), job
    assert job["progress"] == {"done": N, "total": N, "unit": "rows", "rate": None, "eta_s": None}
    first_pass = filled.http.get("/stats").json()["first_pass"]
    told = {"prefix_dim": 16, **wishes}
    if wishes["codec"] == "pq4":  # a product code takes an even number of dimensions, the planner's choice
        assert first_pass["prefix_dim"] <= told.pop("prefix_dim")
    assert {name: first_pass[name] for name in told} == told
    assert job["result"]["plan"] == {name: first_pass[name] for name in job["result"]["plan"]}
    evidence = first_pass["evidence"]
    assert evidence == job["result"]["evidence"]
    assert evidence["rows"] == N and evidence["wish"]["codec"] == wishes["codec"]
    assert evidence["calibration"]["oversample"] <= first_pass["oversample"]
    if wishes.get("kind") == "ivf":  # neighbours in lists that aren't visited are missed
        for row in range(0, N, 100):
            assert ids(search(filled, corpus[0][row]))[0] == f"{row:04}"
        return
    for query, true in zip(queries, before, strict=True):
        assert ids_and_scores(search(filled, query, oversample=N / K)) == true


def test_wishes_that_are_absent_are_as_the_settings_say(filled):
    job = rebuilt(filled)
    assert job["status"] == "done"
    assert (job["result"]["plan"]["codec"], job["result"]["plan"]["prefix_dim"]) == ("int8", 16)
    assert job["result"]["evidence"]["order"]["why"] == "measured"


def test_a_certified_search_is_proved_to_be_what_exact_finds(filled, corpus):
    rebuilt(filled, codec="int8")
    for query in corpus[1]:
        exact = search(filled, query, mode="exact")
        proved = search(filled, query, mode="certified", include=["explain"])
        assert exact["certified"] is True and proved["certified"] is True
        assert ids_and_scores(proved) == ids_and_scores(exact)
        told = proved["explain"]
        assert told["proved"] == K and K <= told["rows_read"] < N
        assert told["bytes_read"] == told["rows_read"] * DIM * 2
        assert told["cold_reads"] is None or 0 <= told["cold_reads"] <= told["rows_read"]
        assert proved["warnings"] == []
        for hit in proved["hits"]:
            assert hit["explain"]["prefix_score"] >= hit["score"] - 1e-6  # the bound


def test_what_a_certified_search_may_not_read_it_does_not_claim(filled, corpus):
    query = corpus[1][0]
    found = search(filled, query, mode="certified", max_read=10, include=["explain"])
    assert found["certified"] is False
    assert found["explain"]["rows_read"] == 10 and found["explain"]["proved"] < K
    assert len(found["hits"]) == K
    (warning,) = found["warnings"]
    assert "max_read" in warning and "10 full vectors were read" in warning
    exact = search(filled, query, mode="exact")
    n_proved = found["explain"]["proved"]
    assert ids(found)[:n_proved] == ids(exact)[:n_proved]


def test_in_a_batch_each_search_tells_what_it_read_itself(filled, corpus):
    first, second = corpus[1][:2].tolist()
    searches = [
        {"vector": first, "mode": "certified", "max_read": 12, "include": ["explain"]},
        {"vector": second, "mode": "exact", "include": ["explain"]},
        {"vector": first, "mode": "prefix", "include": ["explain"]},
    ]
    results = filled.http.post("/search/batch", json={"searches": searches}).json()["results"]
    assert [each["explain"]["rows_read"] for each in results] == [12, N, 0]
    assert [each["certified"] for each in results] == [False, True, False]


def check_problem(answer, status, code):
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["title"] and body["detail"] and body["hint"] and body["request_id"]
    return body


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        ({"codec": "pq8"}, "invalid", "codec"),
        ({"codec": "auto"}, "invalid", "codec"),
        ({"order": 1}, "invalid", "order"),
        ({"kind": "hnsw"}, "invalid", "kind"),
        ({"kind": "ivf", "codec": "int8"}, "invalid", "kind"),
        ({"prefix_dim": 0}, "invalid", "prefix_dim"),
        ({"prefix_dim": "16"}, "invalid", "prefix_dim"),
        ({"prefix_dim": 1.5}, "invalid", "prefix_dim"),
        ({"prefix_dim": True}, "invalid", "prefix_dim"),
        ({"prefix_dim": DIM + 1}, "invalid", "prefix_dim"),
        ({"prefix_dim": 20_000}, "invalid", "prefix_dim"),
        ({"codex": "pq4"}, "unknown_field", "codex"),
        ([], "invalid", "the body"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(filled, body, code, where):
    n_jobs = len(filled.http.get("/jobs").json()["jobs"])
    answer = filled.http.post("/index/rebuild", json=body)
    assert check_problem(answer, 422, code)["where"] == where
    assert len(filled.http.get("/jobs").json()["jobs"]) == n_jobs


def test_a_prefix_longer_than_the_vectors_is_told_with_both_numbers(filled):
    problem = filled.http.post("/index/rebuild", json={"prefix_dim": 33}).json()
    assert problem["detail"] == "prefix_dim is 33, but the vectors have 32 dimensions"


@pytest.mark.parametrize("max_read", [0, -1, 10_000_001, "many", 1.5, True])
def test_a_max_read_that_is_none_is_refused(filled, corpus, max_read):
    body = {"vector": corpus[1][0].tolist(), "mode": "certified", "max_read": max_read}
    assert check_problem(filled.http.post("/search", json=body), 422, "invalid")["where"] == "max_read"


def test_a_job_that_is_none_is_not_found(filled):
    problem = check_problem(filled.http.get("/jobs/nope"), 404, "not_found")
    assert problem["detail"] == "there is no job with the id 'nope'"
    assert problem["hint"] == "GET /jobs lists the ids."
    check_problem(filled.http.get("/jobs?status=done"), 422, "unknown_field")
    check_problem(filled.http.get("/index/rebuild"), 405, "method_not_allowed")
    check_problem(filled.http.post("/index/rebuild", content=b""), 415, "media_type")


def test_the_newest_job_comes_first(filled):
    job = rebuilt(filled, codec="float16")
    jobs = filled.http.get("/jobs").json()["jobs"]
    assert jobs[0] == job and len({each["id"] for each in jobs}) == len(jobs)


def test_without_a_thousand_rows_a_rebuild_has_nothing_to_do(tmp_path, serve):
    with serve(tmp_path, encoder__model="none", encoder__dim=8) as server:
        vector = np.ones(8).tolist()
        server.http.post("/documents", json={"documents": [{"id": "a", "vector": vector}]})
        job = rebuilt(server, codec="pq4")
        assert (job["status"], job["result"], job["error"]) == ("done", None, None)
        assert server.http.get("/stats").json()["first_pass"]["codec"] == "float32"
        assert server.stop() == 0


def test_the_key_guards_rebuild_and_jobs(tmp_path, serve):
    with serve(tmp_path, encoder__model="none", encoder__dim=8, server__api_key="right") as server:
        for method, path in (("POST", "/index/rebuild"), ("GET", "/jobs"), ("GET", "/jobs/nope")):
            check_problem(server.http.request(method, path), 401, "unauthorized")
        assert server.stop() == 0


def test_the_settings_say_what_is_made_and_how_much_is_read(tmp_path, serve, corpus):
    vectors, queries = corpus
    settings = {"index__codec": "pq4", "index__order": "corpus", "index__max_read": 10}
    with serve(tmp_path, encoder__model="none", encoder__dim=DIM, **settings) as server:
        documents = [{"id": f"{i:04}", "vector": vector.tolist()} for i, vector in enumerate(vectors)]
        server.http.post("/documents", json={"documents": documents})
        plan = settled(server)["result"]["plan"]
        assert (plan["codec"], plan["order"]) == ("pq4", "corpus")
        found = search(server, queries[0], mode="certified", include=["explain"])
        assert found["explain"]["rows_read"] == 10
        assert search(server, queries[0], mode="certified", max_read=N)["certified"] is True
        assert server.stop() == 0
