"""POST /documents/compare: what a client needn't send again."""

import hashlib


def sha(text):
    return hashlib.sha256(b"text\0" + text.encode()).hexdigest()


def compare(server, **hashes):
    body = {"documents": [{"id": name} | ({"hash": each} if each else {}) for name, each in hashes.items()]}
    answer = server.http.post("/documents/compare", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_documents_are_compared_by_the_hash_of_their_text(texts):
    documents = [{"id": "cmp-a", "text": "alpha", "metadata": {"n": 1}}, {"id": "cmp-b", "text": "Grüße"}]
    assert texts.http.post("/documents", json={"documents": documents}).status_code == 201
    asked = {"cmp-a": sha("alpha"), "cmp-b": sha("other"), "cmp-none": sha("alpha"), "cmp-c": None}
    assert compare(texts, **asked) == {"same": 1, "missing": ["cmp-none", "cmp-c"], "different": ["cmp-b"]}
    assert compare(texts, **{"cmp-a": None, "cmp-b": sha("Grüße")}) == {
        "same": 2,
        "missing": [],
        "different": [],
    }


def test_a_vector_that_a_client_brought_is_another_content_than_the_text_alone(brought):
    documents = [{"id": "cmp-v", "text": "alpha", "vector": [1.0] * 32}]
    assert brought.http.post("/documents", json={"documents": documents}).status_code == 201
    assert compare(brought, **{"cmp-v": sha("alpha")})["different"] == ["cmp-v"]
    assert compare(brought, **{"cmp-v": None})["same"] == 1


def test_too_many_or_malformed_are_refused(texts):
    many = {"documents": [{"id": str(n)} for n in range(10_001)]}
    answer = texts.http.post("/documents/compare", json=many)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    for bad in ({"id": "a", "hash": "xyz"}, {"hash": sha("a")}, {"id": "a", "text": "a"}):
        assert texts.http.post("/documents/compare", json={"documents": [bad]}).status_code == 422
