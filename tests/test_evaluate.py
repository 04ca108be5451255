"""Measured recall against brute force of its own, its job, and quality by known items."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, clustered, ended, serving

from index.calibration import Reach
from index.curve import wilson
from server.quality import first_sentence, rank_of, scores_of, title_of
from server.queries import Answer, Hit
from server.records import Document
from server.store import DocumentHit, Found

N, DIM, K = 1500, 80, 10

HOLDS_100 = """
from server import evaluating
true_rows = evaluating.true_rows
def held(blocks, prefixes, queries, k, stop, on_progress):
    while k == 100 and not stop():
        pass
    return true_rows(blocks, prefixes, queries, k, stop, on_progress)
evaluating.true_rows = held
from server.cli import main
main()
"""


@pytest.fixture(scope="module")
def vectors():
    return clustered(N, DIM, seed=3)


@pytest.fixture(scope="module")
def queries():
    return clustered(50, DIM, seed=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory, vectors):
    settings = {
        "encoder__model": "none", "encoder__dim": DIM, "index__prefix_dim": 64, "index__vector_dtype": "float32",
        "index__min_candidates": 10, "index__oversample": 2, "index__target_recall": 0.6,
    }  # fmt: skip
    with serving(tmp_path_factory.mktemp("evaluate"), ("-c", HOLDS_100), **settings) as server:
        documents = [{"id": f"d{n:04}", "vector": vectors[n].tolist()} for n in range(N)]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        rebuilding = server.http.post("/index/rebuild", json={"codec": "int8", "order": "model"})
        ended(server, rebuilding.json()["job"]["id"])
        yield server
        server.stop()


def evaluated(server, **body):
    response = server.http.post("/evaluate", json=body)
    assert response.status_code == 202, response.text
    job = ended(server, response.json()["job"]["id"])
    assert (job["type"], job["status"], job["error"]) == ("evaluate", "done", None)
    return job["result"]


@pytest.fixture(scope="module")
def measured(server, queries):
    return evaluated(server, vectors=queries.tolist(), k=K)


def ranked(stored, queries):
    return np.argsort(-(queries.astype(np.float64) @ stored.astype(np.float64).T), axis=1, kind="stable")


def share_found(found, true):
    return np.mean(
        [len(set(f) & set(t)) / len(t) for f, t in zip(found.tolist(), true.tolist(), strict=True)]
    )


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def form(result, codec, order, prefix_dim):
    (found,) = (
        each
        for each in result["curve"]["forms"]
        if (each["codec"], each["order"], each["prefix_dim"]) == (codec, order, prefix_dim)
    )
    return found["recall"]


def test_recall_of_prefixes_in_the_models_order_equals_brute_force(measured, vectors, queries):
    true = ranked(vectors, queries)[:, :K]
    order = ranked(unit(vectors[:, :64]), unit(queries[:, :64]))
    for oversample, recall in form(measured, "float32", "model", 64).items():
        assert recall == pytest.approx(share_found(order[:, : int(oversample) * K], true), abs=0.001)


def test_recall_of_prefixes_in_the_corpuss_order_equals_brute_force(measured, vectors, queries):
    true = ranked(vectors, queries)[:, :K]
    _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    axes = axes[:, ::-1][:, :64]
    order = ranked(unit(vectors @ axes), unit(queries @ axes))
    for oversample, recall in form(measured, "float32", "corpus", 64).items():
        assert recall == pytest.approx(share_found(order[:, : int(oversample) * K], true), abs=0.001)


def test_the_whole_vector_as_it_is_finds_everything_and_short_codes_find_less(measured):
    assert set(form(measured, "float32", "model", DIM).values()) == {1.0}
    assert form(measured, "rabitq", "model", 64)["1"] < form(measured, "int8", "model", 64)["1"]
    for each in measured["curve"]["forms"]:
        shares = list(each["recall"].values())
        assert shares == sorted(shares) and shares[-1] > 0.9, each


def test_recall_as_it_serves_is_that_of_the_answers_people_get(measured, server, vectors, queries):
    true = ranked(vectors, queries)[:, :K]

    def found(n, mode):
        searches = [{"vector": query.tolist(), "k": n, "mode": mode, "include": []} for query in queries]
        answers = server.http.post("/search/batch", json={"searches": searches}).json()["results"]
        return np.array([[int(hit["id"][1:]) for hit in each["hits"]] for each in answers])

    told = measured["serving"]
    assert told["first_pass"]["codec"] == "int8"
    assert told["recall"]["mean"] == pytest.approx(share_found(found(K, "two_pass"), true), abs=0.001)
    pool = found(told["candidates"], "prefix")
    assert pool.shape == (50, told["candidates"])
    assert told["pool_recall"]["mean"] == pytest.approx(share_found(pool, true), abs=0.001)
    assert told["pool_recall"]["low"] < told["pool_recall"]["mean"] <= told["pool_recall"]["high"]
    assert told["bytes_read"] == told["rows_read"] * DIM * 4
    assert measured["passages"] == measured["curve"]["passages"] == N


def test_stored_passages_are_left_out_of_their_own_answers(server, vectors):
    result = evaluated(server, sample=20, k=1)
    assert (result["queries"], result["from"]) == (20, "stored passages")
    # Were they not, each would be its own nearest by any prefix.
    assert form(result, "rabitq", "model", 64)["1"] < 1


def test_the_command_prints_a_table_and_draws_a_picture(server, tmp_path):
    path = tmp_path / "recall.png"
    command = [sys.executable, "-m", "server.cli", "evaluate", "--sample", "20", "--plot", str(path)]
    done = subprocess.run(
        [*command, "--url", server.url], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "As it serves: int8, model's order, 64 dimensions" in done.stdout
    assert "rabitq" in done.stdout and "1,500 passages" in done.stdout
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"sample": 1}, "invalid"),
        ({"quality": True}, "no_encoder"),
        ({"queries": ["a text"]}, "no_encoder"),
        ({"vectors": [[1.0]]}, "invalid_vector"),
    ],
)
def test_what_cannot_be_measured_is_refused(server, body, code):
    problem = server.http.post("/evaluate", json=body).json()
    assert (problem["status"], problem["code"]) == (422, code)


def test_one_at_a_time_and_it_can_be_cancelled(server):
    first = server.http.post("/evaluate", json={"k": 100}).json()["job"]
    second = server.http.post("/evaluate", json={})
    assert (second.status_code, second.json()["code"]) == (409, "conflict")
    assert server.http.post(f"/jobs/{first['id']}/cancel").status_code == 200
    job = ended(server, first["id"])
    assert (job["status"], job["result"]) == ("cancelled", None)


def test_a_server_of_few_passages_says_so(tmp_path):
    with serving(tmp_path, encoder__model="none", encoder__dim=4) as server:
        answer = server.http.post("/evaluate", json={})
        assert answer.status_code == 409 and "0 passages" in answer.json()["detail"]
        server.stop()


def test_wilsons_interval_is_the_textbooks():
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-3)
    assert wilson(1.0, 50) == pytest.approx((0.9287, 1.0), abs=1e-3)
    assert wilson(0.5, 0) == (0.0, 1.0)


def document(text, **metadata):
    return Document(1, "a", text, metadata, 1)


def test_questions_are_titles_and_first_sentences():
    text = "# On bees\nBees dance to tell the way. The others follow it at once."
    assert title_of(document(text)) == "On bees"
    assert title_of(document(text, title="Dances")) == "Dances"
    assert title_of(document("One line alone.")) is None
    assert first_sentence(document(text)) == "Bees dance to tell the way."
    assert first_sentence(document("Too short. And this is more of it.")) is None
    assert first_sentence(document("There is nothing after this.")) is None


def test_scores_of_ranks_are_the_definitions():
    assert scores_of([1, 2, 0, 4]) == {
        "mrr": pytest.approx((1 + 1 / 2 + 1 / 4) / 4, abs=1e-4),
        "ndcg": pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(5)) / 4, abs=1e-4),
        "found": 0.75,
    }


def ethiopic(text):
    """The same in letters that the model doesn't know: to it, every word is like every other."""
    return "".join(
        chr(0x1200 + 8 * (ord(each.lower()) - ord("a"))) if each.isalpha() else each for each in text
    )


def answer_with(*texts):
    """An answer whose hits are documents 1, 2, … with these texts."""
    hits = [
        Hit(Document(n, str(n), text, {}, 1), DocumentHit(n, 0, 1, n, 0.5, None, None), n, None)
        for n, text in enumerate(texts, 1)
    ]
    found = Found([], False, 0, 0, 0, 0, 0, 0.0, 0.0)
    return Answer(hits, found, False, 0.0, 0.0, 0.0, 0.0, Reach(8.0, None, None), None, [])


def test_a_rank_counts_other_texts_before_it_and_no_copies():
    answer = answer_with("other", "copy", "another", "copy")
    assert [rank_of(number, answer) for number in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, 0]


def test_titles_and_sentences_find_their_documents_where_the_model_knows_the_language(tmp_path):
    subjects = [
        "bees",
        "glaciers",
        "bridges",
        "violins",
        "taxes",
        "volcanoes",
        "bread",
        "satellites",
        "cotton",
        "owls",
    ]
    places = ["Norway", "Peru", "Kenya"]
    documents = [
        {
            "id": f"{subject} {place}",
            "metadata": {"title": f"A history of {subject} in {place}"},
            "text": f"People of {place} have known {subject} for long. Much was written about {subject} by them.",
        }
        for subject in subjects
        for place in places
    ]
    unknown = [
        {"id": each["id"], "text": ethiopic(each["text"]), "metadata": {"title": ethiopic(each["metadata"]["title"])}}
        for each in documents
    ]  # fmt: skip
    with serving(tmp_path) as server:
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        quality = evaluated(server, quality=True)["quality"]
        assert server.http.post("/documents", json={"documents": unknown}).json()["updated"] == 30
        unlike = evaluated(server, quality=True)["quality"]
        server.stop()
    assert quality["documents"] == quality["titles"]["questions"] == quality["sentences"]["questions"] == 30
    # The bundled model has no prompt to leave out.
    assert set(quality["titles"]) == {"questions", "two_pass", "prefix", "hybrid", "words"}
    for kind in ("titles", "sentences"):
        for way in ("two_pass", "hybrid", "words"):
            assert quality[kind][way]["found"] == 1.0
            assert quality[kind][way]["mrr"] > 0.9
    assert json.dumps(quality).count("bees") == 0
    assert quality["warnings"] == []
    assert unlike["titles"]["words"]["mrr"] == quality["titles"]["words"]["mrr"]
    assert unlike["titles"]["hybrid"]["mrr"] > unlike["titles"]["two_pass"]["mrr"]
    (titles, sentences) = unlike["warnings"]
    assert titles.startswith("words alone find far more documents by their titles than the model does")
    assert "the language of these texts" in sentences
