"""ONNX exports: the same vectors as torch, kept and checked, and a clear word where a model can't be exported."""

import json

import numpy as np
import onnxruntime
import pytest
from test_encoders import write_model, write_static_model

from index.vectors import normalise
from server.encoders.errors import ExportFailed
from server.encoders.exporting import compare, padded
from server.encoders.exports import MANIFEST, find_export, make_export
from server.encoders.model_files import ModelFolder, combined_digest, file_digests

TEXTS = [
    "the tide came in",
    "noon",
    "a longer text about snails and the stones that they sleep under in winter",
]


def exported(folder, models_dir, precision="float32", least=0.98):
    digest = combined_digest(file_digests(folder))
    return make_export(ModelFolder("model", folder), digest, precision, least, models_dir), digest


def by_torch(folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), local_files_only=True)
    return normalise(np.asarray(model.encode(TEXTS), np.float32))


def by_onnx(export):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(export.folder / "tokenizer.json"))
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    ids, mask = padded(tokens, export.pad_id)
    session = onnxruntime.InferenceSession(str(export.folder / "model.onnx"))
    inputs = {"input_ids": ids, "attention_mask": mask}
    [vectors] = session.run(["vectors"], {each.name: inputs[each.name] for each in session.get_inputs()})
    assert compare(export.folder, tokens, export.pad_id, normalise(vectors)).min() > 0.99999
    return normalise(vectors)


def test_an_export_gives_the_vectors_of_torch_and_damage_to_it_is_found(tmp_path):
    folder = write_model(tmp_path / "model", pooling="cls", modules=())
    export, digest = exported(folder, tmp_path / "models")
    np.testing.assert_allclose(by_onnx(export), by_torch(folder), atol=1e-5)
    assert export.cosine_min >= 0.9999
    assert (export.fingerprint.dim, export.fingerprint.weights_sha256) == (32, digest)
    assert find_export(tmp_path / "models", digest, "float32") == export
    tables = export.folder / "tables.bin"
    assert tables.stat().st_size >= 30522 * 32 * 4 > (export.folder / "model.onnx").stat().st_size
    content = tables.read_bytes()
    tables.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    assert find_export(tmp_path / "models", digest, "float32") is None
    tables.write_bytes(content)
    assert find_export(tmp_path / "models", digest, "float32") == export
    (export.folder / MANIFEST).unlink()
    assert find_export(tmp_path / "models", digest, "float32") is None


def test_static_embeddings_are_exported_too(tmp_path):
    folder = write_static_model(tmp_path / "model")
    export, _ = exported(folder, tmp_path / "models")
    np.testing.assert_allclose(by_onnx(export), by_torch(folder), atol=1e-5)


def test_eight_bits_are_refused_below_the_wanted_cosine_and_taken_when_it_is_lowered(tmp_path):
    folder = write_model(tmp_path / "model")
    (tmp_path / "models" / "onnx").mkdir(parents=True)
    digest = combined_digest(file_digests(folder))
    (tmp_path / "models" / "onnx" / f"{digest[:24]}-int8.writing").mkdir()  # of an export that was killed
    with pytest.raises(ExportFailed, match=r"mean cosine of 0\.9\d{5} .* asks for 1\.0") as refused:
        exported(folder, tmp_path / "models", "int8", 1.0)
    assert "lower encoder.int8_min_cosine" in refused.value.hint
    assert list((tmp_path / "models" / "onnx").iterdir()) == []
    export, _ = exported(folder, tmp_path / "models", "int8", 0.5)
    assert export.fingerprint.precision == "int8"
    assert 0.5 < export.cosine_mean < 1
    told = json.loads((export.folder / MANIFEST).read_text())
    assert told["cosine"]["mean"] == export.cosine_mean
    assert set(told["versions"]) == {"torch", "sentence-transformers", "onnxruntime", "twopass"}


def test_what_cannot_be_exported_says_why_and_leaves_nothing(tmp_path):
    folder = write_model(tmp_path / "model")
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    with pytest.raises(ExportFailed, match="leaves out the prompt") as failed:
        exported(folder, tmp_path / "models")
    assert "torch" in failed.value.hint
    assert list((tmp_path / "models" / "onnx").iterdir()) == []
