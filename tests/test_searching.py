"""Searches as people ask them: filters, pages, groups, likenesses, diversity, a recall that is asked for."""

import numpy as np
import pytest
from conftest import clustered, serving, until

from index.calibration import surely
from server.api.schemas import SearchIn
from server.api.search import query_of
from server.fusion import Fusion
from server.hybrid import Hybrid
from server.settings import IndexSettings, Settings

N, DIM = 3000, 32


@pytest.fixture(scope="module")
def vectors():
    return clustered(N, DIM, seed=11)


@pytest.fixture(scope="module")
def server(tmp_path_factory, vectors):
    settings = {"encoder__model": "none", "encoder__dim": DIM, "index__vector_dtype": "float32"}
    with serving(tmp_path_factory.mktemp("searching"), **settings) as server:
        documents = [
            {"id": f"d{n:04}", "metadata": metadata(n), "vector": vectors[n].tolist()} for n in range(N)
        ]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        yield server
        server.stop()


def metadata(n):
    return {
        "n": n,
        "even": n % 2 == 0,
        "tags": ["rare"] if n % 1000 == 7 else ["common"],
        "place": {"room": n % 5},
    }


def search(server, vector, **more):
    answer = server.http.post("/search", json={"vector": vector.tolist(), "include": ["metadata"], **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer):
    return [hit["id"] for hit in answer["hits"]]


def best(vectors, query, numbers, k=10):
    numbers = np.asarray(list(numbers))
    return [f"d{n:04}" for n in numbers[np.argsort(-(vectors[numbers] @ query), kind="stable")[:k]]]


@pytest.mark.parametrize("mode", ["two_pass", "certified", "exact"])
@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({"even": True}, lambda n: n % 2 == 0),
        ({"n": {"$gte": 2900}}, lambda n: n >= 2900),
        ({"tags": "rare"}, lambda n: n % 1000 == 7),
        ({"place.room": {"$in": [1, 2]}, "n": {"$lt": 100}}, lambda n: n % 5 in (1, 2) and n < 100),
        ({"n": -1}, lambda n: False),
    ],
)
def test_a_filter_gives_the_best_of_those_that_match_and_k_where_there_are_k(
    server, vectors, mode, wanted, matches
):
    query = clustered(1, DIM, seed=77)[0]
    matching = [n for n in range(N) if matches(n)]
    answer = search(server, query, filter=wanted, mode=mode, include=["metadata", "explain"])
    assert ids(answer) == (best(vectors, query, matching) if matching else [])
    assert answer["explain"]["allowed"] == len(matching)
    if len(matching) <= 512:  # few are all scored
        assert answer["certified"] is True


def test_a_filter_follows_writes(server, vectors):
    query = vectors[5]
    wanted = {"colour": "blue"}
    assert ids(search(server, query, filter=wanted)) == []
    blue = {"id": "blue", "metadata": {"colour": "blue"}, "vector": query.tolist()}
    assert server.http.post("/documents", json={"documents": [blue]}).status_code == 201
    assert ids(search(server, query, filter=wanted)) == ["blue"]
    blue["metadata"] = {"colour": "red"}
    assert server.http.post("/documents", json={"documents": [blue]}).status_code == 201
    assert ids(search(server, query, filter=wanted)) == []
    gone = server.http.post("/documents/delete", json={"filter": {"colour": {"$in": ["red", "green"]}}})
    assert gone.json() == {"deleted": 1, "missing": []}
    assert server.http.get("/documents/blue").status_code == 404


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        ({"filter": {}}, "invalid", "filter"),
        ({}, "invalid", None),
        ({"ids": ["a"], "filter": {"a": 1}}, "invalid", None),
        ({"filter": {"a": {"$gtt": 1}}}, "invalid_filter", "filter.a.$gtt"),
    ],
)
def test_deleting_says_what_is_wrong(server, body, code, where):
    problem = server.http.post("/documents/delete", json=body).json()
    assert problem["status"] == 422
    assert problem["code"] == code
    if where:
        assert problem["where"] == where


def test_pages_join_to_the_whole(server, vectors):
    query = clustered(1, DIM, seed=3)[0]
    whole = ids(search(server, query, k=30, mode="exact"))
    pages = [ids(search(server, query, k=10, offset=offset, mode="exact")) for offset in (0, 10, 20)]
    assert [each for page in pages for each in page] == whole
    problem = server.http.post("/search", json={"vector": query.tolist(), "k": 10, "offset": 995}).json()
    assert (problem["code"], problem["where"]) == ("invalid", "offset")
    assert "1005" in problem["detail"]


def test_others_like_a_document_are_found_without_it(server, vectors):
    answer = server.http.post("/search", json={"like": "d0042", "k": 5, "mode": "exact"}).json()
    others = [n for n in range(N) if n != 42]
    assert ids(answer) == best(vectors, vectors[42], others, 5)
    assert server.http.post("/search", json={"like": "nobody"}).json()["code"] == "not_found"
    both = {"like": "d0042", "vector": vectors[0].tolist()}
    assert server.http.post("/search", json=both).json()["code"] == "invalid"


def test_of_each_group_the_best_is_found(server, vectors):
    query = clustered(1, DIM, seed=4)[0]
    answer = search(server, query, k=10, group_by="place.room", mode="exact")
    rooms = [hit["metadata"]["place"]["room"] for hit in answer["hits"]]
    assert sorted(rooms) == [0, 1, 2, 3, 4]
    expected = {best(vectors, query, range(room, N, 5), 1)[0] for room in range(5)}
    assert set(ids(answer)) == expected
    assert [hit["score"] for hit in answer["hits"]] == sorted(
        [hit["score"] for hit in answer["hits"]], reverse=True
    )


def test_diverse_hits_begin_with_the_best_and_are_less_alike(server, vectors):
    query = clustered(1, DIM, seed=5)[0]

    def likeness(found):
        rows = vectors[[int(each[1:]) for each in found]]
        return float((rows @ rows.T).mean())

    plain = ids(search(server, query, k=10))
    assert ids(search(server, query, k=10, mmr=0)) == plain
    diverse = ids(search(server, query, k=10, mmr=0.5))
    assert diverse[0] == plain[0]
    assert likeness(diverse) < likeness(plain)


def test_explain_tells_how_the_score_grew_and_what_each_stage_took(server, vectors):
    query = clustered(1, DIM, seed=6)[0]
    response = server.http.post(
        "/search", json={"vector": query.tolist(), "k": 3, "include": ["explain"], "filter": {"even": True}}
    )
    answer = response.json()
    stages = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert {name: float(ms) for name, ms in stages} == answer["timings_ms"]
    assert list(answer["timings_ms"]) == [
        "encode", "filter", "first_pass", "second_pass", "words", "fetch", "total",
    ]  # fmt: skip
    for hit in answer["hits"]:
        assert hit["explain"]["scores"] == {"32": pytest.approx(hit["score"], abs=1e-5)}


def test_the_recall_asked_for_decides_the_pool_by_what_was_measured(server, vectors):
    evidence = until(lambda: server.http.get("/stats").json()["first_pass"]["evidence"])
    calibration = evidence["calibration"]
    measured, n_queries = calibration["pool_recall"], calibration["n_queries"]
    query = clustered(1, DIM, seed=8)[0]
    for target in (0.9, 0.99):
        told = search(server, query, target_recall=target, include=["explain"])["explain"]
        wanted = min(surely(target, n_queries), max(measured.values()))
        least = min((float(each) for each, recall in measured.items() if recall >= wanted))
        assert told["oversample"] == least
        assert told["measured_recall"] >= target


def test_a_wrong_filter_names_the_place(server, vectors):
    body = {
        "searches": [{"vector": vectors[0].tolist()}, {"vector": vectors[0].tolist(), "filter": {"$any": []}}]
    }
    problem = server.http.post("/search/batch", json=body).json()
    assert (problem["status"], problem["where"]) == (422, "searches[1].filter.$any")


def test_hybrid_finds_exact_words_and_tells_what_they_did(texts):
    documents = [
        {
            "id": "hy-pump",
            "text": "Spare seals for the garden pump are ordered as XK4471Q.",
            "metadata": {"hy": 1},
        },
        *(
            {"id": f"hy-{n}", "text": f"A note about seals and pumps, part {n}.", "metadata": {"hy": 2}}
            for n in range(30)
        ),
        {"id": "hy-cat", "text": "The cat sleeps on the warm stove.", "metadata": {"hy": 1}},
    ]
    assert texts.http.post("/documents", json={"documents": documents}).status_code == 201
    body = {"query": "XK4471Q", "k": 3, "include": ["text", "explain"], "filter": {"hy": {"$gte": 1}}}
    for hybrid in (True, {"weight": 0.5}, {"fusion": "weighted", "weight": 0.6}):
        answer = texts.http.post("/search", json={**body, "hybrid": hybrid})
        assert answer.status_code == 200, answer.text
        first = answer.json()["hits"][0]
        assert first["id"] == "hy-pump"
        assert first["passage"]["text"] == documents[0]["text"]
        assert first["explain"]["words"]["rank"] == 1
        assert first["explain"]["words"]["score"] > 0
        fused = [hit["explain"]["words"]["fused"] for hit in answer.json()["hits"]]
        assert fused == sorted(fused, reverse=True)
    narrow = texts.http.post("/search", json={**body, "hybrid": True, "filter": {"hy": 2}}).json()
    assert "hy-pump" not in ids(narrow)
    assert len(narrow["hits"]) == 3
    for hostile in ('"', "NEAR(a b", "seals AND OR", "* ^ : -", "🚀", "text:seals"):
        answer = texts.http.post("/search", json={**body, "query": hostile, "hybrid": True})
        assert answer.status_code == 200, answer.text
    texts.http.post("/documents/delete", json={"filter": {"hy": {"$gte": 1}}})


@pytest.mark.parametrize(
    ("body", "is_hybrid"),
    [
        ({"query": "a"}, True),
        ({"query": "a", "filter": {"n": 1}, "score_threshold": 0.1}, True),
        ({"query": "a", "hybrid": False}, False),
        ({"query": "a", "mode": "prefix"}, False),
        ({"query": "a", "mode": "exact", "hybrid": True}, True),
        ({"query": "a", "mode": "certified"}, False),
        ({"query": "a", "group_by": "n"}, False),
        ({"query": "a", "mmr": 0.5}, False),
        ({"vector": [1.0]}, False),
        ({"like": "a"}, False),
    ],
)
def test_words_count_in_plain_searches_by_text_unless_they_or_the_setting_say_no(body, is_hybrid):
    found = query_of(SearchIn.model_validate(body, strict=False), Settings(), "")
    assert found.hybrid == (Hybrid(Fusion.WEIGHTED, None) if is_hybrid else None)
    settings = Settings(index=IndexSettings(hybrid="asked"))
    asked = body.get("hybrid") is True
    assert (query_of(SearchIn.model_validate(body, strict=False), settings, "").hybrid is not None) == asked


def test_a_question_whose_words_nobody_has_is_answered_by_meaning_and_can_be_certain(texts):
    body = {"query": "qwertzuiop", "k": 3, "include": ["explain"]}
    texts.http.post("/documents", json={"documents": [{"id": "se-any", "text": "Any text at all."}]})
    usual = texts.http.post("/search", json=body).json()
    by_meaning = texts.http.post("/search", json={**body, "hybrid": False}).json()
    assert ids(usual) == ids(by_meaning)
    assert usual["certified"] == by_meaning["certified"]
    assert by_meaning["hits"][0]["explain"]["words"] is None
    first = usual["hits"][0]["explain"]["words"]
    assert (first["score"], first["rank"], first["meaning_rank"]) == (None, None, 1)


def test_hybrid_needs_words(server, vectors):
    problem = server.http.post("/search", json={"vector": vectors[0].tolist(), "hybrid": True}).json()
    assert (problem["status"], problem["where"]) == (422, "query")
    assert server.http.post("/search", json={"query": "a", "hybrid": {"wight": 1}}).status_code == 422
