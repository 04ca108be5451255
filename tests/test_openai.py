"""/v1/embeddings and /v1/models as OpenAI's own package sees them, against the real server and the bundled model."""

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from conftest import serving

TEXTS = ["Open, read and write zip archives.", "Noon.", "Zürich, 日本語, naïve — 🚀"]
LONG = "The tide came in over the flats, and the boats stood up again. " * 30


def client_of(server, key="none"):
    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key=key,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


@pytest.fixture(scope="module")
def client(texts):
    with client_of(texts) as client:
        yield client


def vectors_of(answer):
    return np.array([item.embedding for item in answer.data], np.float32)


def stored_vector(server, text):
    """The vector that the server stores and finds for the text."""
    identifier = f"openai {text}"
    server.http.post("/documents", json={"documents": [{"id": identifier, "text": text}]}).raise_for_status()
    found = server.http.post("/search", json={"query": text, "k": 50, "include": ["vector"]}).json()
    [hit] = [hit for hit in found["hits"] if hit["id"] == identifier]
    return np.array(hit["vector"], np.float32)


def test_the_package_gets_the_vectors_that_search_has(texts, client):
    answer = client.embeddings.create(model="bundled", input=TEXTS)  # the package asks for base64 of its own
    assert (answer.object, answer.model, [item.index for item in answer.data]) == (
        "list",
        "bundled",
        [0, 1, 2],
    )
    assert {item.object for item in answer.data} == {"embedding"}
    vectors = vectors_of(answer)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(vector, stored_vector(texts, text), atol=1e-3)  # stored as float16


def test_a_single_text_gives_a_list_of_one_and_the_same_vector(client):
    [alone] = client.embeddings.create(model="bundled", input=TEXTS[0]).data
    np.testing.assert_allclose(
        alone.embedding, vectors_of(client.embeddings.create(model="bundled", input=TEXTS))[0], atol=1e-6
    )


def test_floats_and_base64_are_the_same_numbers(texts):
    answers = {
        format: texts.http.post(
            "/v1/embeddings", json={"model": "bundled", "input": TEXTS, "encoding_format": format}
        ).json()
        for format in ("float", "base64")
    }
    for as_float, as_base64 in zip(answers["float"]["data"], answers["base64"]["data"], strict=True):
        raw = base64.b64decode(as_base64["embedding"], validate=True)
        np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), np.array(as_float["embedding"], np.float32))


def test_fewer_dimensions_are_the_first_ones_normalised_again(client):
    whole = vectors_of(client.embeddings.create(model="bundled", input=TEXTS))
    short = vectors_of(client.embeddings.create(model="bundled", input=TEXTS, dimensions=64))
    np.testing.assert_allclose(
        short, whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True), atol=1e-6
    )
    np.testing.assert_array_equal(
        vectors_of(client.embeddings.create(model="bundled", input=TEXTS, dimensions=384)), whole
    )


def test_usage_counts_the_models_own_tokens(client):
    """Noon. is noon and a full stop, between [CLS] and [SEP]."""
    usage = client.embeddings.create(model="bundled", input="Noon.").usage
    assert (usage.prompt_tokens, usage.total_tokens) == (4, 4)
    assert client.embeddings.create(model="bundled", input=["Noon."] * 3).usage.prompt_tokens == 12


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """A server whose model has prompts, and which takes 20 texts at most."""
    prompts = {"encoder__query_prompt": "question: ", "encoder__document_prompt": "passage: "}
    with serving(tmp_path_factory.mktemp("prompted"), limits__documents_per_request=20, **prompts) as server:
        yield server


def test_queries_and_documents_get_their_own_prompts(prompted):
    with client_of(prompted) as client:

        def embed(text, **more):
            return vectors_of(client.embeddings.create(model="bundled", input=text, extra_body=more))[0]

        as_query, as_document = embed("noon", input_type="query"), embed("noon", input_type="document")
        np.testing.assert_array_equal(embed("noon"), as_document)
        np.testing.assert_array_equal(embed("noon", input_type="passage"), as_document)
        [model] = client.models.list().data
    assert as_query @ as_document < 0.99
    assert (model.query_prompt, model.document_prompt) == ("question: ", "passage: ")
    prompted.http.post("/documents", json={"documents": [{"id": "1", "text": "noon"}]}).raise_for_status()
    [hit] = prompted.http.post("/search", json={"query": "noon", "include": ["vector"]}).json()["hits"]
    assert hit["score"] == pytest.approx(float(as_query @ as_document), abs=1e-3)
    np.testing.assert_allclose(hit["vector"], as_document, atol=1e-3)


def test_models_are_listed_and_found_by_every_name(client):
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("bundled", "model", "twopass")
    assert (model.dim, model.max_tokens) == (384, 256)
    for name in ("bundled", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert client.models.retrieve(name).id == "bundled"
        assert client.embeddings.create(model=name, input="noon").model == "bundled"


def test_a_model_that_is_not_here_is_a_404_that_names_those_that_are(client):
    for call in (
        lambda: client.embeddings.create(model="text-embedding-3-small", input="noon"),
        lambda: client.models.retrieve("text-embedding-3-small"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "unknown_model"
        assert "text-embedding-3-small" in caught.value.body["message"]
        problem = caught.value.response.json()
        assert caught.value.response.headers["content-type"] == "application/problem+json"
        assert (problem["status"], problem["code"]) == (404, "unknown_model")
        assert "bundled" in problem["hint"]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": [[1, 2, 3]]}, "input", "not tokens"),
        ({"input": [1, 2, 3]}, "input", "not tokens"),
        ({"input": []}, "input", "no texts"),
        ({"input": ["noon", ""]}, "input[1]", "empty"),
        ({"input": ["noon", "\ud83d"]}, "input[1]", "surrogate"),
        ({"input": "noon", "dimensions": 385}, "dimensions", "385, but the model has 384"),
        ({"input": "noon", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "noon", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "noon", "input_type": "question"}, "input_type", "'query', 'document' or 'passage'"),
        ({"input": "noon", "dimension": 64}, "dimension", "not permitted"),
        ({"input": "noon", "model": None}, "model", "valid string"),
    ],
)
def test_what_is_wrong_is_told_to_both_kinds_of_clients(texts, body, param, says):
    answer = texts.http.post(
        "/v1/embeddings",
        content=openai._utils._json.openapi_dumps({"model": "bundled", **body})
        if param != "input[1]" or "surrogate" not in says
        else b'{"model": "bundled", "input": ["noon", "\\ud83d"]}',
        headers={"content-type": "application/json"},
    )
    problem = answer.json()
    assert (answer.status_code, problem["error"]["type"]) == (422, "invalid_request_error")
    assert (problem["where"], problem["error"]["param"]) == (param, param)
    assert problem["error"]["code"] == problem["code"]
    assert problem["error"]["message"] == problem["detail"]
    assert says in problem["detail"]


def test_a_text_that_is_too_long_is_refused_with_its_place_and_both_counts(texts, client):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.embeddings.create(model="bundled", input=["noon", LONG])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")
    n_tokens = 15 * 30 + 2
    assert f"input[1] has {n_tokens} tokens" in caught.value.body["message"]
    assert "reads 256" in caught.value.body["message"]


def test_exactly_as_many_tokens_as_the_model_reads_are_taken(client):
    assert client.embeddings.create(model="bundled", input="noon " * 254).usage.prompt_tokens == 256
    with pytest.raises(openai.UnprocessableEntityError, match="has 257 tokens"):
        client.embeddings.create(model="bundled", input="noon " * 255)


def test_more_texts_than_the_limit_are_too_many(prompted):
    with client_of(prompted) as client:
        assert len(client.embeddings.create(model="bundled", input=["a"] * 20).data) == 20
        with pytest.raises(openai.APIStatusError, match="the limit is 20") as caught:
            client.embeddings.create(model="bundled", input=["a"] * 21)
    assert (caught.value.status_code, caught.value.code) == (413, "too_large")


def test_the_key_is_asked_for_and_bearer_is_how_the_package_sends_it(serve, tmp_path):
    settings = {
        "server__api_key": "secret",
        "encoder__model": "none",
        "encoder__dim": 4,
        "index__prefix_dim": 4,
    }
    with serve(tmp_path / "keyed", **settings) as server:
        with client_of(server, "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert (caught.value.code, caught.value.type) == ("unauthorized", "invalid_request_error")
        with client_of(server, "secret") as client:
            assert client.models.list().data == []  # clients bring the vectors: there is no model
            with pytest.raises(openai.UnprocessableEntityError) as caught:
                client.embeddings.create(model="bundled", input="noon")
            assert caught.value.code == "no_encoder"


def test_paths_and_methods_that_are_not_there_are_told_in_the_same_shape(texts):
    for answer, status in (
        (texts.http.post("/v1/chat/completions", json={}), 404),
        (texts.http.get("/v1/embeddings"), 405),
        (texts.http.post("/v1/embeddings", content=b"{", headers={"content-type": "application/json"}), 400),
    ):
        problem = answer.json()
        assert (answer.status_code, problem["status"]) == (status, status)
        assert problem["error"]["message"] == problem["detail"]
    assert "error" not in texts.http.get("/nothing").json()


def test_many_clients_at_once_get_their_own_vectors(texts, client):
    words = [f"number {at}" for at in range(24)]
    expected = vectors_of(client.embeddings.create(model="bundled", input=words))

    def ask(at):
        role = "query" if at % 2 else "document"
        body = {"input_type": role}
        return vectors_of(client.embeddings.create(model="bundled", input=words[at], extra_body=body))[0]

    with ThreadPoolExecutor(len(words)) as threads:
        got = list(threads.map(ask, range(len(words))))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_openapi_describes_the_body_and_the_errors(texts):
    described = httpx.get(f"{texts.url}/openapi.json", trust_env=False).json()
    route = described["paths"]["/v1/embeddings"]["post"]
    assert route["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/EmbeddingsIn")
    assert "EmbeddingsIn" in described["components"]["schemas"]
    assert (
        "error"
        in route["responses"]["default"]["content"]["application/problem+json"]["schema"]["properties"]
    )
