"""ONNX exports: the same vectors as torch, kept and checked, and a clear word where a model can't be exported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import structlog
from onnx import helper
from onnx.numpy_helper import from_array
from test_encoders import BUNDLED, write_json, write_model, write_modules, write_static_model

from index.durable import DirectoryLock
from server.encoders import export_check, exporting, exports
from server.encoders.errors import ExportFailed, ModelDamaged, ModelNotFound, ModelNotSupported
from server.encoders.export_check import Probe, cosines
from server.encoders.exports import LOCK, MANIFEST, find_export, make_export
from server.encoders.fingerprint import Role
from server.encoders.frames import pack_tokens, unpack_tokens
from server.encoders.model_files import ModelFolder, combined_digest, file_digests
from server.encoders.onnx_session import GRAPH, TABLES, TABLES_LIST, open_session
from server.encoders.probe_texts import TEXTS as TEXTS_OF_ALL_KINDS
from server.encoders.quantising import TOKEN_LEVELS, WEIGHT_LEVELS, quantise
from server.encoders.tokens import TokenCounter
from server.encoders.weight_files import WEIGHTS, write_graph

ROOT = Path(__file__).parent.parent
TEXTS = [
    "the tide came in",
    "noon",
    "a longer text about snails and the stones that they sleep under in winter",
]
N_PROBES = len(TEXTS_OF_ALL_KINDS[::8]) + 2
TABLE_BYTES = 30522 * 32 * 4  # of the words of a model by write_model


@pytest.fixture(autouse=True)
def few_probes(monkeypatch):
    """Of all kinds, but few, to save time; the child process takes all."""
    monkeypatch.setattr(export_check, "TEXTS", TEXTS_OF_ALL_KINDS[::8])


def export_here(folder, target, precision="float32", least=0.0):
    """What the child process does, in this one: seconds less."""
    target.mkdir()
    spec = {
        "model": "model",
        "folder": str(folder),
        "weights_sha256": "0" * 64,
        "precision": precision,
        "int8_min_cosine": least,
        "target": str(target),
    }
    return exporting.export(spec)


def export_by_child(folder, models_dir, precision="float32", least=0.98):
    return make_export(ModelFolder("model", folder), digest_of(folder), precision, least, models_dir)


def digest_of(folder):
    return combined_digest(file_digests(folder))


def run(session, ids, pad_id):
    """Unit vectors, (n_texts, dim), of texts as the server would send them."""
    padded, mask = unpack_tokens(bytearray(pack_tokens(ids)), pad_id)
    feed = {"input_ids": padded, "attention_mask": mask}
    [vectors] = session.run(["vectors"], {each.name: feed[each.name] for each in session.get_inputs()})
    assert vectors.dtype == np.float32
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_onnx(folder, texts=TEXTS, prompt=""):
    """Tokenised and encoded as the server does it, in one batch."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.truncation is None and tokenizer.padding is None
    ids, _ = TokenCounter(tokenizer, dict.fromkeys(Role, prompt)).ids(texts, Role.QUERY, 64)
    return run(open_session(folder, 1), ids, 0)


def by_torch(folder, texts=TEXTS, prompt=""):
    """What sentence-transformers makes of each text alone, scaled to unit length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), local_files_only=True)
    vectors = np.concatenate([model.encode([text], prompt=prompt) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_dense(folder):
    """A layer behind the pooling, from 32 dimensions to 8, and normalisation behind that."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    dense = folder / "2_Dense"
    write_json(
        dense / "config.json",
        {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"},
    )  # fmt: skip
    save_file(
        {"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}, dense / "model.safetensors"
    )
    steps = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Dense", "Dense"),
        ("3_Normalize", "Normalize"),
    ]
    write_modules(folder, steps)
    return folder


def write_other(folder, kind, pooling, **more):
    """A random model of two layers of another architecture, with the bundled model's words."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    # Without a limit the model would be one of 512 tokens; long probes would only take longer.
    config = AutoConfig.for_model(kind, **sizes, vocab_size=30522, pad_token_id=0, **more)
    model = AutoModel.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    write_model(folder, pooling=pooling)
    model.save_pretrained(folder)
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    )
    return folder


# --- the same vectors


def test_an_export_gives_the_vectors_of_torch_whatever_the_pooling(tmp_path):
    modes = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
    folder = write_model(tmp_path / "model", pooling=modes, modules=())
    told = export_here(folder, tmp_path / "export")
    vectors = by_onnx(tmp_path / "export")
    assert vectors.shape == (3, 6 * 32)
    np.testing.assert_allclose(vectors, by_torch(folder), atol=1e-5)
    assert told["cosine"]["min"] > 0.999999
    assert told["cosine"]["n_texts"] == N_PROBES
    assert told["inputs"] == ["input_ids", "attention_mask"]


def test_both_prompts_are_tried_where_they_differ_and_layers_behind_the_pooling_are_in_the_graph(tmp_path):
    folder = write_dense(write_model(tmp_path / "model", prompts={"query": "question: ", "document": ""}))
    told = export_here(folder, tmp_path / "export")
    assert told["cosine"]["n_texts"] == 2 * N_PROBES
    assert (told["fingerprint"]["query_prompt"], told["fingerprint"]["document_prompt"]) == ("question: ", "")
    assert told["fingerprint"]["pooling"] == "mean+dense+normalize"
    vectors = by_onnx(tmp_path / "export", prompt="another: ")  # the graph holds for any
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(vectors, by_torch(folder, prompt="another: "), atol=1e-5)


def test_static_embeddings_are_exported_without_the_tokens_their_tokenizer_would_add(tmp_path):
    folder = write_static_model(tmp_path / "model")
    export_here(folder, tmp_path / "export")
    np.testing.assert_allclose(by_onnx(tmp_path / "export"), by_torch(folder), atol=1e-5)
    assert (tmp_path / "export" / TABLES).stat().st_size == 30522 * 16 * 4


@pytest.mark.parametrize(
    ("kind", "pooling", "more"),
    [
        (  # as EmbeddingGemma: attends both ways, in some layers to its neighbours only
            "gemma3_text",
            "mean",
            {
                "num_key_value_heads": 1,
                "head_dim": 16,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
                "use_bidirectional_attention": True,
            },
        ),
        # Would read types of tokens as words; its tokenizer gives none, so none must come.
        ("gpt2", "lasttoken", {}),
    ],
)
def test_models_that_were_made_to_write_are_exported_too(tmp_path, kind, pooling, more):
    folder = write_other(tmp_path / "model", kind, pooling, **more)
    told = export_here(folder, tmp_path / "export")
    np.testing.assert_allclose(by_onnx(tmp_path / "export"), by_torch(folder), atol=1e-5)
    assert told["cosine"]["min"] > 0.99999


def test_the_check_sees_one_wrong_vector_in_a_batch_or_alone(tmp_path):
    folder = write_model(tmp_path / "model")
    export_here(folder, tmp_path / "export")
    session = open_session(tmp_path / "export", 1)
    ids = [np.array([101, 3000 + number, 102], np.int32) for number in range(20)]
    right = [Probe(each, vector) for each, vector in zip(ids, run(session, ids, 0), strict=True)]
    np.testing.assert_allclose(cosines(session, right, 0), np.ones((20, 2)), atol=1e-5)
    wrong = [*right[:13], Probe(ids[13], -right[13].vector), *right[14:]]
    expected = np.ones((20, 2))
    expected[13] = -1
    np.testing.assert_allclose(cosines(session, wrong, 0), expected, atol=1e-5)
    for cosine, precision in ((0.99989, "float32"), (0.9799, "int8")):
        with pytest.raises(ExportFailed, match=str(cosine)):
            exporting.check_cosines(np.full((5, 2), cosine), precision, 0.98)
    exporting.check_cosines(np.full((5, 2), 0.99991), "float32", 0.98)
    exporting.check_cosines(np.full((5, 2), 0.9801), "int8", 0.98)


# --- what can't be exported


def leave_the_prompt_out(folder):
    pooling = folder / "1_Pooling" / "config.json"
    write_json(pooling, json.loads(pooling.read_text()) | {"include_prompt": False})


def cut_at_the_start(folder):
    config = folder / "tokenizer_config.json"
    write_json(config, json.loads(config.read_text()) | {"truncation_side": "left"})


def send_queries_elsewhere(folder):
    write_json(
        folder / "router_config.json",
        {
            "types": {
                "query_0_Transformer": "sentence_transformers.models.Transformer",
                "document_0_Transformer": "sentence_transformers.models.Transformer",
            },
            "structure": {"query": ["query_0_Transformer"], "document": ["document_0_Transformer"]},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
    )
    for role in Role:
        shutil.copytree(
            folder, folder / f"{role}_0_Transformer", ignore=shutil.ignore_patterns("*_*", "modules.json")
        )
        for name in ("tokenizer_config.json", "sentence_bert_config.json", "special_tokens_map.json"):
            shutil.copy(folder / name, folder / f"{role}_0_Transformer")
    write_modules(folder, [("", "Router"), ("1_Pooling", "Pooling")])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (leave_the_prompt_out, "pooling leaves out the prompt"),
        (cut_at_the_start, "the model makes 64 tokens of a text of which its tokenizer makes 64 others"),
        (send_queries_elsewhere, "sends queries and documents through different layers"),
    ],
)
def test_a_model_that_would_be_served_differently_is_refused_with_the_reason(tmp_path, change, expected):
    folder = write_model(tmp_path / "model")
    change(folder)
    with pytest.raises(ExportFailed, match=expected) as refused:
        export_here(folder, tmp_path / "export")
    assert refused.value.hint == "Set encoder.backend to torch; it runs this model as it is."


def test_a_graph_that_torch_cannot_write_is_refused_in_one_line(tmp_path):
    import torch

    from server.encoders.tracing import trace

    class Fourier(torch.nn.Module):
        def forward(self, features):
            spectrum = torch.fft.fftn(features["input_ids"].float())
            return {"sentence_embedding": spectrum.real}

    class Pipeline(list):
        def preprocess(self, texts):
            return {}

    texts = [np.array([101, 102], np.int32), np.array([101, 7, 102], np.int32)]
    with pytest.raises(
        ExportFailed, match=r"torch.onnx can't export the model: .*fft.* not supported"
    ) as refused:
        trace(Pipeline([Fourier()]), texts, 0, tmp_path / "graph.onnx")
    assert "\n" not in str(refused.value)


# --- weights


def small_graph(nodes, weights):
    """A graph from x (n, tokens, 4) to y with these weights."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", "tokens", 4])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    initialisers = [from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def in_eight_bits(tokens, matrix):
    """The oracle: whole numbers, a scale for each token and one for each column."""
    columns = np.abs(matrix).max(axis=0) / WEIGHT_LEVELS
    scales = np.abs(tokens).max(axis=-1, keepdims=True) / TOKEN_LEVELS
    return (np.round(tokens / scales) @ np.round(matrix / columns)) * scales * columns


def test_products_are_made_in_eight_bits_each_token_with_a_scale_of_its_own():
    import onnxruntime

    rng = np.random.default_rng(1)
    first, second, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (5, 6), (5,)))
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["once"]),
        helper.make_node("MatMul", ["x", "first"], ["again"]),  # shares both with the one before
        helper.make_node("Add", ["once", "again"], ["sum"]),
        helper.make_node("ReduceMean", ["sum", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "second", "bias"], ["y"], transB=1),
    ]
    weights = {"first": first, "second": second, "bias": bias, "axes": np.array([1])}
    model = small_graph(nodes, weights)
    quantise(model, Path())
    assert "first" not in {each.name for each in model.graph.initializer}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = (rng.standard_normal((3, 2, 4)) * np.array([1, 1000, 0.001])[:, None, None]).astype(np.float32)
    mean = (2 * in_eight_bits(x.astype(np.float64), first)).mean(axis=1)
    [y] = session.run(["y"], {"x": x})
    np.testing.assert_allclose(y, in_eight_bits(mean, second.T) + bias, rtol=1e-4, atol=1e-4)
    alone = np.concatenate([session.run(["y"], {"x": each[None]})[0] for each in x])
    np.testing.assert_array_equal(alone, y)  # neighbours of a thousand times the size change nothing


def test_int8_vectors_do_not_depend_on_the_batch(tmp_path):
    def enlarge(state):
        for name, weight in state.items():
            if "encoder" in name and weight.dim() == 2:
                weight *= 10  # random ones are so small that the words' own vectors are all that counts

    folder = write_model(tmp_path / "model", weights=enlarge)
    told = export_here(folder, tmp_path / "export", "int8", 0.98)
    assert told["fingerprint"]["precision"] == "int8"
    assert 0.99 < told["cosine"]["mean"] < 0.99999
    together = by_onnx(tmp_path / "export")
    alone = np.concatenate([by_onnx(tmp_path / "export", [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_a_model_without_products_gains_nothing_by_int8_and_says_so(tmp_path):
    with pytest.raises(ExportFailed, match="multiplies with no matrices"):
        export_here(write_static_model(tmp_path / "model"), tmp_path / "export", "int8")


def test_only_weights_that_are_read_by_rows_alone_are_tables(tmp_path):
    large = np.ones((70_000, 4), np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "rows"], ["a"]),
        helper.make_node("Gather", ["shared", "rows"], ["b"]),
        helper.make_node("Transpose", ["shared"], ["c"]),
        helper.make_node("MatMul", ["b", "c"], ["y"]),
    ]
    weights = {"table": large, "shared": 2 * large, "rows": np.array([1, 2]), "short": large[:9]}
    write_graph(small_graph(nodes, weights), Path(), tmp_path)
    assert json.loads((tmp_path / TABLES_LIST).read_text()) == [
        {"name": "table", "offset": 0, "shape": [70_000, 4]}
    ]
    np.testing.assert_array_equal(np.fromfile(tmp_path / TABLES, "<f4").reshape(-1, 4), large)
    np.testing.assert_array_equal(np.fromfile(tmp_path / WEIGHTS, "<f4").reshape(-1, 4), 2 * large)
    read = onnx.load(str(tmp_path / GRAPH))  # by the book, too
    for tensor in read.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), weights[tensor.name])


def test_the_tables_of_a_running_session_hold_next_to_no_memory(bundled_export):
    [folder] = (bundled_export / "onnx").glob("*-float32")
    session = open_session(folder, 1)
    for start in range(20):  # rows all over the table, each with its neighbours: all of it
        run(session, [np.arange(start, 30522, 600, dtype=np.int32)], 0)
        run(session, [np.array([101, 2000 + start, 102], np.int32)], 0)
    assert (folder / TABLES).stat().st_size == 30522 * 384 * 4
    assert resident_bytes(folder / TABLES) < 12 << 20


def resident_bytes(path):
    """How much of a file is in this process's memory by way of mappings."""
    total, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field = line.split()
        if not field[0].endswith(":"):
            mine = line.endswith(str(path))
        elif mine and field[0] == "Rss:":
            total += int(field[1]) * 1024
    return total


# --- kept, found, made again


def test_the_bundled_models_export_is_found_and_names_all_that_made_it(bundled_export):
    digest = digest_of(BUNDLED)
    export = find_export(bundled_export, digest, "float32")
    assert export.cosine_min > 0.999999
    assert (export.inputs, export.pad_id) == (("input_ids", "attention_mask"), 0)
    assert export.extra_tokens == {Role.QUERY: 0, Role.DOCUMENT: 0}
    assert (export.fingerprint.dim, export.fingerprint.pooling) == (384, "mean+normalize")
    assert export.folder.name == f"{digest[:24]}-float32"
    told = json.loads((export.folder / MANIFEST).read_text())
    assert set(told["files"]) == {GRAPH, TABLES, TABLES_LIST, WEIGHTS, "tokenizer.json"}
    assert {"torch", "sentence-transformers", "onnxruntime", "twopass"} <= set(told["versions"])
    assert find_export(bundled_export, digest, "int8") is None
    assert find_export(bundled_export, "f" * 64, "float32") is None


def test_an_export_is_made_by_another_process_in_the_place_of_a_damaged_one_and_kept(tmp_path):
    folder = write_model(tmp_path / "model")
    models, digest = tmp_path / "models", digest_of(folder)
    damaged = models / "onnx" / f"{digest[:24]}-float32"
    damaged.mkdir(parents=True)
    (damaged / MANIFEST).write_text("damaged")
    left = models / "onnx" / "0000-int8.writing"  # of an export that was killed
    left.mkdir()
    (left / MANIFEST).write_text("{}")
    with structlog.testing.capture_logs() as logs:
        export = export_by_child(folder, models)
    assert [each["event"] for each in logs] == ["exporting the model to ONNX, once", "the model is exported"]
    assert logs[1]["cosine_min"] > 0.9999
    assert find_export(models, digest, "float32") == export
    assert [path.name for path in (models / "onnx").iterdir()] == [f"{digest[:24]}-float32"]
    tables = export.folder / TABLES
    assert tables.stat().st_size == TABLE_BYTES
    np.testing.assert_allclose(by_onnx(export.folder), by_torch(folder), atol=1e-5)
    content = bytearray(tables.read_bytes())
    content[1000] ^= 1
    tables.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        assert find_export(models, digest, "float32") is None
    assert [each["event"] for each in logs] == ["the exported model is damaged and is made anew"]


@pytest.mark.parametrize(
    "manifest", [None, "", "{}", "[]", '{"format": 2}', '{"format": 1, "files": {"gone.bin": "0"}}']
)
def test_a_folder_without_a_manifest_that_holds_is_no_export(tmp_path, manifest):
    folder = tmp_path / "onnx" / f"{'0' * 24}-float32"
    folder.mkdir(parents=True)
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)
    assert find_export(tmp_path, "0" * 64, "float32") is None


def as_child(script, tmp_path, monkeypatch):
    """Let this be what the server starts instead of Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(exports.sys, "executable", str(program))


@pytest.mark.parametrize("kind", [ExportFailed, ModelDamaged, ModelNotFound, ModelNotSupported])
def test_the_childs_refusal_arrives_as_what_it_is_and_leaves_nothing(tmp_path, monkeypatch, kind):
    told = json.dumps({"error": kind.__name__, "message": "there is no more", "hint": "Wait."})
    as_child(f"read spec; echo '{told}'", tmp_path, monkeypatch)
    with pytest.raises(kind, match=r"^there is no more$") as refused:
        export_by_child(write_static_model(tmp_path / "model"), tmp_path / "models")
    assert (type(refused.value), refused.value.hint) == (kind, "Wait.")
    assert list((tmp_path / "models" / "onnx").iterdir()) == []


@pytest.mark.parametrize("dies", ["after it was asked", "before it was asked"])
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("kill -9 $$", "was killed, as happens when memory runs out"),
        ("kill -11 $$", r"was ended by signal 11 \(Segmentation fault\)"),
        ("echo first >&2; echo 'no such thing' >&2; exit 3", "ended with status 3: no such thing"),
    ],
)
def test_a_child_that_dies_is_told_of(tmp_path, monkeypatch, script, expected, dies):
    if dies == "after it was asked":
        script = f"read spec; {script}"
    else:
        really = subprocess.Popen

        def started(*args, **kwargs):
            child = really(*args, **kwargs)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # its end of the pipe is closed now
            return child

        monkeypatch.setattr(exports.subprocess, "Popen", started)
    as_child(script, tmp_path, monkeypatch)
    folder = write_static_model(tmp_path / "model")
    with pytest.raises(ExportFailed, match=f"the process that exports the model {expected}"):
        export_by_child(folder, tmp_path / "models")
    assert list((tmp_path / "models" / "onnx").iterdir()) == []


def test_the_child_ends_when_its_parent_is_gone(tmp_path):
    work = tmp_path / "export"
    work.mkdir()
    spec = {"model": "m", "folder": str(BUNDLED), "weights_sha256": "0", "precision": "float32",
            "int8_min_cosine": 0, "target": str(work)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "server.encoders.exporting"],
        input=json.dumps(spec) + "\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_two_exports_at_once_do_not_get_in_each_others_way(tmp_path):
    (tmp_path / "onnx" / "x.writing").mkdir(parents=True)
    with DirectoryLock(tmp_path / LOCK), pytest.raises(ExportFailed, match=f"process {os.getpid()}"):
        export_by_child(write_static_model(tmp_path / "model"), tmp_path)
    assert (tmp_path / "onnx" / "x.writing").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    models = tmp_path / "models"
    models.write_text("a file")
    with pytest.raises(ExportFailed, match=str(models)):
        export_by_child(write_static_model(tmp_path / "model"), models)


def test_neither_torch_nor_onnx_is_imported_in_the_server():
    code = "import sys, server.encoders.exports; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
