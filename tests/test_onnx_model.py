"""An exported model in the server's own process: the vectors of one apart, nobody beside it, and memory given back."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import serving, until

from server.encoders.errors import EncodingFailed, ModelDamaged
from server.encoders.fingerprint import Role
from server.encoders.loading import load_encoder
from server.encoders.onnx_model import open_runner
from server.encoders.onnx_session import GRAPH
from server.settings import EncoderSettings, PassageSettings

TEXTS = ["Noon.", "The tide came in over the flats. " * 20, "Zürich, 日本語, naïve — 🚀", "word " * 200]


@pytest.fixture(scope="module")
def encoder(bundled_export):
    encoder = load_encoder(EncoderSettings(query_cache=0), PassageSettings(), bundled_export)
    yield encoder
    encoder.close()


@pytest.fixture
def runner(encoder):
    return encoder._model._runner


def children():
    return [
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_it_gives_the_vectors_of_one_in_a_process_of_its_own_and_starts_none(bundled_export):
    before = children()
    here = load_encoder(EncoderSettings(), PassageSettings(), bundled_export)
    assert children() == before
    apart = load_encoder(EncoderSettings(idle_unload_s=3600), PassageSettings(), bundled_export)
    assert len(children()) == len(before) + 1
    assert here.fingerprint == apart.fingerprint
    np.testing.assert_array_equal(here.encode_documents(TEXTS), apart.encode_documents(TEXTS), strict=True)
    np.testing.assert_array_equal(here.encode_queries(TEXTS), apart.encode_queries(TEXTS), strict=True)
    here.close()
    here.close()
    apart.close()


def test_what_a_large_batch_left_is_given_back_when_no_text_comes_any_more(encoder, runner):
    encoder.encode_queries(["noon"])
    until(lambda: runner.patience_s is None)  # of another test
    encoder.encode_documents(["word " * 200] * 5)
    assert runner.patience_s is not None
    until(lambda: runner.patience_s is None)
    expected = encoder.encode_queries(["noon"])
    assert np.linalg.norm(expected) == pytest.approx(1)


def test_resting_without_a_large_batch_before_encodes_nothing(encoder, runner, monkeypatch):
    until(lambda: runner.patience_s is None)
    monkeypatch.setattr(runner, "embed", None)
    encoder._model.rest()


def test_a_batch_that_the_model_refuses_fails_with_its_reason_and_the_next_does_not(encoder):
    model = encoder._model
    too_large = np.array([10**6], np.int32)  # no token has this number
    with pytest.raises(Exception, match=r"(?i)indices|out of"):
        model.embed([too_large], Role.QUERY)
    failed = encoder._queue.submit([too_large], 1, Role.QUERY)
    with pytest.raises(EncodingFailed, match="failed on 1 texts of up to 1 tokens"):
        failed.result()
    assert encoder.encode_queries(["noon"]).shape == (1, 384)


def test_a_model_that_cannot_be_loaded_is_told_with_the_reason(runner, bundled_export, tmp_path):
    [graph] = bundled_export.rglob(GRAPH)
    folder = tmp_path / "export"
    shutil.copytree(graph.parent, folder)
    (folder / GRAPH).write_bytes(b"x" * 1000)
    with pytest.raises(ModelDamaged, match="the model can't be loaded: "):
        open_runner(folder, 1, 0)


def test_a_server_with_an_exported_model_is_one_process(tmp_path):
    with serving(tmp_path) as server:
        pid = server.process.pid
        found = [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        assert found == []
        server.http.post("/documents", json={"documents": [{"text": "The tide came in."}]})
        answer = server.http.post("/search", json={"query": "high water"})
        assert answer.json()["hits"][0]["text"] == "The tide came in."
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "onnxruntime" in mapped and "libtorch" not in mapped
        assert server.stop() == 0
