"""The gauge of live recall, against what the answers that it judged really held."""

import numpy as np
import pytest
from conftest import clustered, serving, until

from index.curve import wilson
from server.gauge import _best_passages, _Sample

N, DIM, K, SEARCHES = 1500, 64, 5, 40


@pytest.fixture(scope="module")
def vectors():
    return clustered(N, DIM, seed=21)


@pytest.fixture(scope="module")
def server(tmp_path_factory, vectors):
    settings = {
        "encoder__model": "none", "encoder__dim": DIM, "index__vector_dtype": "float32", "index__gauge_share": 1,
        "index__min_candidates": 5, "index__oversample": 2, "index__target_recall": 0.5, "index__codec": "rabitq",
    }  # fmt: skip
    with serving(tmp_path_factory.mktemp("gauge"), **settings) as server:
        documents = [{"id": f"d{n:04}", "vector": vectors[n].tolist()} for n in range(N)]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        rebuilt(server)
        yield server
        server.stop()


def rebuilt(server):
    job = server.http.post("/index/rebuild", json={"codec": "rabitq"}).json()["job"]
    with server.http.stream("GET", f"/jobs/{job['id']}/events") as events:
        for _ in events.iter_lines():
            pass
    assert server.http.get(f"/jobs/{job['id']}").json()["status"] == "done"


def gauge(server):
    return server.http.get("/stats").json()["gauge"]


def searched(server, queries, **more):
    searches = [{"vector": query.tolist(), "k": K, "include": [], **more} for query in queries]
    answers = server.http.post("/search/batch", json={"searches": searches}).json()["results"]
    return np.array([[int(hit["id"][1:]) for hit in each["hits"]] for each in answers]), answers[0][
        "candidates"
    ]


def share_found(found, true):
    return np.mean(
        [len(set(f) & set(t)) / len(t) for f, t in zip(found.tolist(), true.tolist(), strict=True)]
    )


def test_it_tells_the_recall_of_the_answers_that_people_got_and_of_their_candidates(server, vectors):
    queries = clustered(SEARCHES, DIM, seed=22)
    before = gauge(server)["checked"]
    true = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    found, n_candidates = searched(server, queries)
    told = until(lambda: gauge(server), lambda told: told["checked"] >= before + SEARCHES)
    recall = share_found(found, true)
    assert recall < 0.999  # else there is nothing to be told
    assert told["recall"]["mean"] == pytest.approx(recall, abs=0.001)
    low, high = wilson(recall, SEARCHES)
    assert (told["recall"]["low"], told["recall"]["high"]) == pytest.approx((low, high), abs=0.001)
    pool, _ = searched(server, queries, k=n_candidates, mode="prefix")
    assert pool.shape == (SEARCHES, n_candidates)
    assert told["pool_recall"]["mean"] == pytest.approx(share_found(pool, true), abs=0.001)
    assert told["cpu_s"] > 0


def test_searches_that_it_cannot_judge_are_left_alone(server, vectors):
    before = gauge(server)
    searched(server, vectors[:5], mode="exact")
    searched(server, vectors[:5], mode="certified")
    searched(server, vectors[:5], filter={"a": 1})
    after = gauge(server)
    assert (after["checked"], after["waiting"]) == (before["checked"], 0)


def test_another_first_pass_begins_anew(server, vectors):
    rebuilt(server)
    searched(server, vectors[:1])
    told = until(lambda: gauge(server), lambda told: told["checked"] == 1)
    assert told["recall"]["mean"] >= 1 / K  # itself, at least


def test_without_a_share_nothing_is_looked_at(tmp_path, vectors):
    settings = {"encoder__model": "none", "encoder__dim": DIM, "index__gauge_share": 0}
    with serving(tmp_path, **settings) as server:
        documents = [{"vector": each.tolist()} for each in vectors[:20]]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        assert server.http.post("/search", json={"vector": vectors[0].tolist()}).status_code == 200
        told = gauge(server)
        server.stop()
    assert (told["share"], told["checked"], told["waiting"], told["recall"]) == (0, 0, 0, None)


def test_of_a_document_its_best_passage_counts_and_later_rows_do_not():
    sample = _Sample(1, 1, 100, np.zeros(4, np.float32), frozenset({7, 8}), 10)
    best = np.array([120, 3, 4, 50, 60, -1])
    documents = {3: 7, 4: 7, 50: 9, 60: 8, 120: 5}
    assert _best_passages(best, documents, sample).tolist() == [3, 50]
