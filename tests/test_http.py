"""The routes, as a client meets them: the real server, real sockets."""

import json

import numpy as np
import pytest

from index import reference


def stored(vectors):
    return vectors.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def corpus():
    """300 vectors stored once by `filled`, and 10 queries."""
    from conftest import clustered

    return clustered(300, 32, seed=1), clustered(10, 32, seed=2)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, corpus):
    from conftest import serving

    vectors, _ = corpus
    settings = {"encoder__model": "none", "encoder__dim": 32, "index__prefix_dim": 16}
    with serving(tmp_path_factory.mktemp("filled"), **settings) as server:
        documents = [
            {"id": f"{i:03}", "vector": vector.tolist(), "metadata": {"n": i}, "text": f"text {i}"}
            for i, vector in enumerate(vectors)
        ]
        answer = server.http.post("/documents", json={"documents": documents})
        assert answer.status_code == 201
        yield server
        assert server.stop() == 0


def ids_and_scores(answer):
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]], [hit["score"] for hit in answer.json()["hits"]]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("prefix", lambda v, q: reference.prefix(v, q, 16, 10)),
        ("exact", lambda v, q: reference.exact(v, q, 10)),
        ("two_pass", lambda v, q: [each[:, :10] for each in reference.two_pass(v, q, 16, 80)]),
    ],
)
def test_each_mode_answers_like_plain_numpy(filled, corpus, mode, expected):
    vectors, queries = corpus
    rows, scores = expected(stored(vectors), queries)
    for query, true_rows, true_scores in zip(queries, rows, scores, strict=True):
        answer = filled.http.post("/search", json={"vector": query.tolist(), "mode": mode})
        ids, found = ids_and_scores(answer)
        assert ids == [f"{row:03}" for row in true_rows]
        np.testing.assert_allclose(found, true_scores, atol=1e-3)
        assert answer.json()["certified"] is (mode == "exact")


def test_a_batch_answers_like_its_searches(filled, corpus):
    _, queries = corpus
    searches = [
        {"vector": query.tolist(), "k": 1 + i % 3, "mode": ["prefix", "two_pass", "exact"][i % 3]}
        for i, query in enumerate(queries)
    ]
    results = filled.http.post("/search/batch", json={"searches": searches}).json()["results"]
    for search, result in zip(searches, results, strict=True):
        alone = filled.http.post("/search", json=search).json()
        assert [hit["id"] for hit in result["hits"]] == [hit["id"] for hit in alone["hits"]]
        assert len(result["hits"]) == search["k"]


def test_include_decides_what_a_hit_carries(filled, corpus):
    vectors, _ = corpus
    search = {"vector": vectors[7].tolist(), "k": 1}
    hit = filled.http.post("/search", json=search).json()["hits"][0]
    assert hit["id"] == "007" and hit["score"] == pytest.approx(1, abs=1e-3)
    assert hit["text"] == "text 7" and hit["metadata"] == {"n": 7}
    assert hit["passage"] == {"start": 0, "end": 6, "text": "text 7"}
    assert "vector" not in hit and "explain" not in hit
    bare = filled.http.post("/search", json={**search, "include": []}).json()
    assert bare["hits"][0] == {
        "id": "007",
        "score": hit["score"],
        "passage": {"start": 0, "end": 6, "text": None},
    }
    full = filled.http.post("/search", json={**search, "include": ["vector", "explain"]}).json()
    np.testing.assert_allclose(full["hits"][0]["vector"], vectors[7], atol=1e-3)
    explained = full["hits"][0]["explain"]
    assert (explained["prefix_rank"], explained["rank"]) == (1, 1)
    assert explained["prefix_score"] == pytest.approx(1, abs=1e-3)
    cold_reads = full["explain"].pop("cold_reads")
    assert cold_reads is None or 0 <= cold_reads <= 80
    assert full["explain"] == {
        "rows_read": 80, "bytes_read": 80 * 32 * 2, "proved": 0, "oversample": 8, "lists": None,
        "measured_recall": None, "allowed": None,
    }  # fmt: skip
    assert full["candidates"] == 80
    assert set(full["timings_ms"]) == {
        "encode",
        "filter",
        "first_pass",
        "second_pass",
        "words",
        "fetch",
        "total",
    }


def test_oversample_and_threshold(filled, corpus):
    _, queries = corpus
    search = {"vector": queries[0].tolist(), "k": 20}
    assert filled.http.post("/search", json=search).json()["candidates"] == 160
    assert filled.http.post("/search", json={**search, "oversample": 4.5}).json()["candidates"] == 90
    assert filled.http.post("/search", json={**search, "oversample": 1}).json()["candidates"] == 80
    _, scores = ids_and_scores(filled.http.post("/search", json=search))
    _, kept = ids_and_scores(filled.http.post("/search", json={**search, "score_threshold": scores[4]}))
    assert kept == scores[:5]


def test_more_hits_than_documents_gives_them_all(filled, corpus):
    ids, scores = ids_and_scores(
        filled.http.post("/search", json={"vector": corpus[1][0].tolist(), "k": 1000})
    )
    assert sorted(ids) == [f"{i:03}" for i in range(300)]
    assert scores == sorted(scores, reverse=True)


def test_pages_go_through_all_ids_in_order(filled):
    seen, after = [], ""
    while after is not None:
        page = filled.http.get("/documents", params={"limit": 70, "after": after}).json()
        seen += [document["id"] for document in page["documents"]]
        after = page["next"]
    assert seen == [f"{i:03}" for i in range(300)]
    assert page["documents"][-1] == {"id": "299", "text": "text 299", "metadata": {"n": 299}, "passages": 1}


def test_the_life_of_a_document(brought, make_vectors):
    old, new = (vector.tolist() for vector in make_vectors(2, 32, seed=3))
    document = {"id": "a/b c?é", "vector": old, "metadata": {"v": 1}}

    def send(**changes):
        answer = brought.http.post("/documents", json={"documents": [{**document, **changes}]}).json()
        return answer["created"], answer["updated"], answer["unchanged"], answer["passages"]

    def best(vector):
        return brought.http.post("/search", json={"vector": vector, "k": 1}).json()["hits"][0]

    path = "/documents/a%2Fb%20c%3F%C3%A9"
    assert send() == (1, 0, 0, 1)
    assert send() == (0, 0, 1, 0)
    assert send(metadata={"v": 2}) == (0, 1, 0, 0)
    assert brought.http.get(path).json()["metadata"] == {"v": 2}
    assert best(old)["id"] == document["id"]
    assert send(vector=new) == (0, 1, 0, 1)
    assert best(old)["score"] < 0.99 and best(new)["id"] == document["id"]
    assert brought.http.delete(path).json() == {"deleted": 1, "missing": []}
    assert brought.http.get(path).status_code == 404
    assert brought.http.delete(path).status_code == 404
    gone = brought.http.post("/search", json={"vector": new, "k": 100}).json()["hits"]
    assert document["id"] not in [hit["id"] for hit in gone]


def test_ids_are_made_where_none_are_given(brought, make_vectors):
    documents = [{"vector": vector.tolist()} for vector in make_vectors(3, 32, seed=4)]
    ids = brought.http.post("/documents", json={"documents": documents}).json()["ids"]
    assert len(set(ids)) == 3
    for identifier in ids:
        assert brought.http.get(f"/documents/{identifier}").json()["text"] is None
    answer = brought.http.post("/documents/delete", json={"ids": [*ids, "never", "never"]}).json()
    assert answer == {"deleted": 3, "missing": ["never"]}


def test_documents_come_as_ndjson_too(brought, make_vectors):
    vectors = make_vectors(3, 32, seed=5)
    lines = [json.dumps({"id": f"line {i}", "vector": v.tolist()}) for i, v in enumerate(vectors)]
    answer = brought.http.post(
        "/documents",
        content="\n".join([*lines, "", ""]),
        headers={"content-type": "application/x-ndjson; charset=utf-8"},
    )
    assert answer.json()["ids"] == ["line 0", "line 1", "line 2"]
    brought.http.post("/documents/delete", json={"ids": answer.json()["ids"]})


def test_a_clients_vector_is_normalised_and_its_direction_kept(brought, make_vectors):
    vector = make_vectors(1, 32, seed=6)[0]
    huge = (vector * 1e25).tolist()
    brought.http.post("/documents", json={"documents": [{"id": "huge", "vector": huge}]})
    hit = brought.http.post("/search", json={"vector": (vector * 1e-20).tolist(), "k": 1}).json()["hits"][0]
    assert hit["id"] == "huge" and hit["score"] == pytest.approx(1, abs=1e-3)
    brought.http.delete("/documents/huge")


def test_health_info_and_stats(filled):
    for path in ("/livez", "/readyz", "/health"):
        assert filled.http.get(path).json() == {"status": "ok"}
    info = filled.http.get("/info").json()
    assert (info["model"], info["dim"], info["prefix_dim"]) == ("none", 32, 16)
    assert info["limits"]["k"] == 1000
    stats = filled.http.get("/stats").json()
    assert (stats["documents"], stats["passages"], stats["rows"], stats["tombstones"]) == (300, 300, 300, 0)
    assert stats["disk_bytes"]["vectors-0001.f16"] == 300 * 64
    assert stats["damage"] == {"rows": 0, "documents": 0, "ids": []}


def test_openapi_names_every_route_and_the_error_shape(filled):
    openapi = filled.http.get("/openapi.json").json()
    assert set(openapi["paths"]) == {
        "/documents", "/documents/{id}", "/documents/compare", "/documents/delete", "/metadata/fields", "/search",
        "/search/batch",
        "/jobs/{id}/cancel", "/jobs/{id}/events", "/jobs/{id}/pause", "/jobs/{id}/resume",
        "/index/reembed", "/index/rollback", "/index/generations", "/index/generations/{number}",
        "/v1/embeddings", "/v1/models", "/v1/models/{model}", "/evaluate",
        "/metadata/indexes", "/metadata/indexes/{path}", "/snapshots", "/snapshots/{name}", "/index/compact",
        "/index/rebuild", "/jobs", "/jobs/{id}", "/stats", "/stats/recall", "/info", "/metrics", "/doctor",
        "/livez", "/readyz", "/health",
    }  # fmt: skip
    body = openapi["paths"]["/documents"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-ndjson"}
    for path in openapi["paths"].values():
        for operation in path.values():
            assert operation["responses"]["default"]["content"]["application/problem+json"]


def test_a_request_keeps_its_id_in_answer_error_and_log(brought):
    answer = brought.http.get("/documents/no", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1" and answer.json()["request_id"] == "mine-1"
    made = brought.http.get("/livez", headers={"x-request-id": "no spaces"}).headers["x-request-id"]
    assert made != "no spaces" and len(made) == 32


def test_neither_texts_nor_ids_nor_queries_reach_the_log(tmp_path, serve, make_vectors):
    settings = {"encoder__model": "none", "encoder__dim": 8, "log__level": "debug"}
    vector = make_vectors(1, 8, seed=7)[0].tolist()
    with serve(tmp_path, **settings) as server:
        secret = {"id": "s3cret-id", "text": "s3cret text", "metadata": {"m": "s3cret"}, "vector": vector}
        server.http.post("/documents", json={"documents": [secret]})
        server.http.get("/documents/s3cret-id")
        server.http.post("/documents", json={"documents": [{"id": "s3cret-id", "txt": "s3cret"}]})
        server.http.post("/search", json={"query": "s3cret query"})
        server.http.post("/search", json={"vector": "s3cret vector"})
        server.stop()
        assert len([line for line in server.log if line["event"] == "request"]) == 5
        assert "s3cret" not in json.dumps(server.log) + "".join(server.other)


def test_a_key_is_asked_for_everywhere_but_at_the_health_routes(tmp_path, serve):
    settings = {"encoder__model": "none", "encoder__dim": 8, "server__api_key": "right-key"}
    with serve(tmp_path, **settings) as server:
        for path in ("/livez", "/readyz", "/health"):
            assert server.http.get(path).status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic right-key"},
                        {"authorization": "right-key"}, {"authorization": "Bearer right-keyx"}):  # fmt: skip
            answer = server.http.get("/stats", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["code"] == "unauthorized"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"
        assert server.http.get("/stats", headers={"authorization": "Bearer right-key"}).status_code == 200
        assert server.http.post("/documents", content=b"x" * 40_000_000).status_code == 401
        server.stop()
        assert "right-key" not in json.dumps(server.log)


def test_a_server_on_another_vectors_prefix_and_dtype(tmp_path, serve, make_vectors):
    vectors, queries = make_vectors(200, 24, seed=8), make_vectors(5, 24, seed=9)
    settings = {"encoder__model": "none", "encoder__dim": 24, "index__vector_dtype": "float32"}
    with serve(tmp_path, **settings, index__prefix_dim=12) as server:
        documents = [{"id": f"{i:03}", "vector": v.tolist()} for i, v in enumerate(vectors)]
        server.http.post("/documents", json={"documents": documents})
        assert server.stop() == 0
    for prefix_dim in (12, 6):  # the prefix length may change from start to start
        rows, scores = reference.two_pass(vectors, queries, prefix_dim, 80)
        with serve(tmp_path, **settings, index__prefix_dim=prefix_dim) as server:
            for query, true_rows, true_scores in zip(queries, rows, scores, strict=True):
                answer = server.http.post("/search", json={"vector": query.tolist()})
                ids, found = ids_and_scores(answer)
                assert ids == [f"{row:03}" for row in true_rows[:10]]
                np.testing.assert_allclose(found, true_scores[:10], atol=1e-6)
            server.stop()
