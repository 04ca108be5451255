"""Real texts with the real bundled model, through HTTP."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import serving


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A server of this file's own: what is found here depends on what else is stored."""
    with serving(tmp_path_factory.mktemp("texts")) as server:
        yield server
        assert server.stop() == 0


ANIMALS = {
    "cat": "Cats sleep most of the day and hunt mice at night.",
    "whale": "The blue whale is the largest animal that has ever lived; it feeds on krill.",
    "bee": "Honey bees dance to tell each other where flowers are.",
    "owl": "Owls turn their heads almost all the way round because their eyes can't move.",
}
FILLER = " ".join(
    f"Paragraph {i} is about the weather on an ordinary Tuesday in a small town." for i in range(200)
)


def add(server, **texts):
    documents = [{"id": identifier, "text": text} for identifier, text in texts.items()]
    answer = server.http.post("/documents", json={"documents": documents})
    assert answer.status_code == 201, answer.text
    return answer.json()


def search(server, query, **options):
    answer = server.http.post("/search", json={"query": query, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def remove(server, *ids):
    assert server.http.post("/documents/delete", json={"ids": list(ids)}).json()["missing"] == []


def test_texts_are_found_by_meaning_not_by_words(texts):
    add(texts, **ANIMALS)
    for query, expected in {
        "the biggest creature on earth": "whale",
        "insects that communicate by movement": "bee",
        "a pet that naps": "cat",
        "birds with fixed gaze": "owl",
    }.items():
        for mode in ("two_pass", "prefix", "exact"):
            assert search(texts, query, k=1, mode=mode)["hits"][0]["id"] == expected, (query, mode)
    remove(texts, *ANIMALS)


def test_a_long_text_is_split_and_its_best_passage_is_told_with_offsets(texts):
    needle = "The treasure chest lies buried under the old oak behind the lighthouse."
    middle = len(FILLER) // 2
    long = f"{FILLER[:middle]}\n\n{needle}\n\n{FILLER[middle:]}"
    added = add(texts, long=long, other=FILLER)
    assert added["passages"] > 20
    found = search(texts, "where is the treasure hidden?", k=2)
    hit = found["hits"][0]
    assert hit["id"] == "long" and needle in hit["passage"]["text"]
    assert long[hit["passage"]["start"] : hit["passage"]["end"]] == hit["passage"]["text"]
    assert hit["text"] == long
    remove(texts, "long", "other")


def test_k_counts_documents_even_when_one_has_hundreds_of_better_passages(tmp_path, serve):
    with serve(tmp_path, passages__max_tokens=32, passages__overlap_tokens=0) as server:
        flood = " ".join(f"Sentence {i} says that rain falls on the roof of the house." for i in range(200))
        others = {f"doc {i}": f"Item {i} of the shopping list: bread, {i} eggs and salt." for i in range(5)}
        assert add(server, flood=flood, **others)["passages"] >= 100 + 5
        found = search(server, "rain falls on the roof of the house", k=6)
        assert found["hits"][0]["id"] == "flood"
        assert sorted(hit["id"] for hit in found["hits"][1:]) == sorted(others)
        assert found["candidates"] > 80  # the pool was widened
        server.stop()


def test_unchanged_texts_are_not_encoded_again_and_changed_ones_are(texts):
    assert add(texts, **ANIMALS)["created"] == 4
    again = add(texts, **{**ANIMALS, "cat": "Cats are solitary hunters."})
    assert (again["created"], again["updated"], again["unchanged"], again["passages"]) == (0, 1, 3, 1)
    assert search(texts, "lonely predator", k=1)["hits"][0]["id"] == "cat"
    remove(texts, *ANIMALS)


def test_a_query_longer_than_the_model_reads_is_answered_with_a_warning(texts):
    add(texts, **ANIMALS)
    assert search(texts, "krill")["warnings"] == []
    (warning,) = search(texts, "The largest animal eats krill. " + FILLER)["warnings"]
    assert "256 tokens" in warning
    remove(texts, *ANIMALS)


def test_an_ingest_that_is_encoding_holds_up_no_search_and_shows_nothing_until_it_is_whole(texts):
    add(texts, **ANIMALS)
    documents = [
        {"id": f"slow {i}", "text": f"Krill report {i}: {FILLER[i * 40 : i * 40 + 900]}"} for i in range(120)
    ]
    with ThreadPoolExecutor(1) as threads:
        body = {"documents": documents}
        ingest = threads.submit(httpx.post, f"{texts.url}/documents", json=body, timeout=300, trust_env=False)
        n_during = 0
        while not ingest.done() and n_during < 5:
            found = [hit["id"] for hit in search(texts, "krill report", k=100)["hits"]]
            if not ingest.done():
                n_during += 1
                assert sorted(found) == sorted(ANIMALS)
    assert ingest.result().status_code == 201
    assert n_during == 5  # five searches were answered while the ingest went on
    assert len(search(texts, "krill report", k=300)["hits"]) == 124
    remove(texts, *ANIMALS, *(each["id"] for each in documents))


def test_text_and_vector_together_search_by_the_vector(texts):
    vector = [0.0] * 383 + [1.0]
    document = {"id": "both", "text": "A text that its vector doesn't describe.", "vector": vector}
    assert texts.http.post("/documents", json={"documents": [document]}).json()["passages"] == 1
    hit = texts.http.post("/search", json={"vector": vector, "k": 1}).json()["hits"][0]
    assert (hit["id"], hit["passage"]["text"]) == ("both", document["text"])
    assert hit["score"] > 0.999
    remove(texts, "both")


def test_info_tells_the_model_and_what_it_was_made_of(texts):
    info = texts.http.get("/info").json()
    assert (info["model"], info["dim"], info["prefix_dim"]) == ("bundled", 384, 256)
    assert info["fingerprint"]["max_tokens"] == 256
    assert len(info["fingerprint"]["weights_sha256"]) == 64
