"""The process that runs the model: what it is told and says, how it dies, and that nobody else minds."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
import structlog
from conftest import serving
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.api.threads import INGEST_THREADS, READ_THREADS
from server.encoders import frames
from server.encoders.cores import Lanes, n_cores, threads_and_lanes
from server.encoders.errors import EncoderUnavailable, EncodingFailed, ModelDamaged
from server.encoders.fingerprint import Role
from server.encoders.frames import Kind
from server.encoders.loading import load_encoder
from server.encoders.worker_process import WorkerProcess
from server.settings import EncoderSettings, PassageSettings

ROOT = Path(__file__).parent.parent
QUERY = Role.QUERY


@pytest.fixture(scope="module")
def encoder(bundled_export):
    """The bundled model in a process of its own. No cache: each query is to reach the process."""
    encoder = load_encoder(
        EncoderSettings(query_cache=0, idle_unload_s=3600), PassageSettings(), bundled_export
    )
    yield encoder
    encoder.close()


@pytest.fixture
def process(encoder):
    """The process of `encoder`; its thread is idle as long as nobody encodes."""
    return encoder._model._process


@pytest.fixture
def spec(process):
    return dict(process._spec)


@contextlib.contextmanager
def watched(pid):
    """Something that a test can wait for: the process's end."""
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        yield lambda: ended.poll(120_000) != []
    finally:
        os.close(descriptor)


def kill(pid, how=signal.SIGKILL):
    """Kill a child of this process and wait until it is dead, but leave it to its owner to bury."""
    os.kill(pid, how)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


class Doomed(WorkerProcess):
    """A process that dies as soon as it has loaded its model."""

    def _start(self):
        about = super()._start()
        kill(self.pid)
        return about


# --- what goes over the connection

token_ids = hnp.arrays(np.int32, st.integers(0, 9), elements=st.integers(0, 2**31 - 1))


@given(st.lists(token_ids, min_size=1, max_size=6), st.integers(0, 5))
def test_token_ids_arrive_as_they_were_sent_padded_to_the_longest(texts, pad_id):
    ids, mask = frames.unpack_tokens(bytearray(frames.pack_tokens(texts)), pad_id)
    longest = max(1, *map(len, texts))
    assert ids.dtype == mask.dtype == np.int64
    assert ids.tolist() == [[*text, *[pad_id] * (longest - len(text))] for text in texts]
    assert mask.tolist() == [[1] * len(text) + [0] * (longest - len(text)) for text in texts]


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)))
def test_vectors_arrive_as_they_were_sent(vectors):
    np.testing.assert_array_equal(
        frames.unpack_vectors(bytearray(frames.pack_vectors(vectors))), vectors, strict=True
    )


def test_the_process_of_an_exported_model_imports_little(spec):
    """What it imports is memory: torch 400 MiB, pydantic 10, tokenizers 15 with its vocabulary."""
    code = """
import json, sys
from pathlib import Path
from server.encoders.worker import open_runner
open_runner(json.loads(sys.argv[1]))
print(json.dumps(sorted(name for name in sys.modules if name.startswith("server") or "." not in name)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spec)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(json.loads(done.stdout))
    assert modules & {
        "torch", "transformers", "tokenizers", "pydantic", "fastapi", "faiss", "sqlite3", "yaml", "structlog", "httpx",
        "index", "server.settings", "asyncio", "ssl",
    } == set()  # fmt: skip
    assert {name for name in modules if name.startswith("server.")} == {
        "server.encoders", "server.encoders.errors", "server.encoders.frames", "server.encoders.onnx_runner",
        "server.encoders.onnx_session", "server.encoders.worker", "server.memory",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("quota", "at_most"),
    [("max 100000", 1000), ("150000 100000", 2), ("100000 100000", 1), ("5000 100000", 1)],
)
def test_a_container_with_a_share_of_the_cores_gets_no_more_threads(tmp_path, quota, at_most):
    (tmp_path / "cpu.max").write_text(quota)
    n_there = n_cores(tmp_path / "no such file")
    assert n_there == len(os.sched_getaffinity(0))
    assert n_cores(tmp_path / "cpu.max") == min(n_there, at_most)


# --- how it dies


def test_a_process_that_died_between_two_batches_is_started_again(encoder, process):
    expected = encoder.encode_queries(["noon"])
    first = process.pid
    kill(first)
    with structlog.testing.capture_logs() as logged:
        np.testing.assert_array_equal(encoder.encode_queries(["noon"]), expected)
    assert process.pid not in (None, first)
    assert [(each["event"], each["ended"]) for each in logged] == [
        ("the model's process died", "was killed by signal 9 (Killed)")
    ]


def test_a_process_that_dies_over_batches_is_started_again_and_the_batches_with_it(encoder, process):
    expected = encoder.encode_queries(["noon"])
    first = process.pid
    os.kill(first, signal.SIGSTOP)  # whenever a batch is sent, it is not answered before the kill
    with structlog.testing.capture_logs() as logged, ThreadPoolExecutor(4) as threads:
        encoding = [threads.submit(encoder.encode_queries, ["noon"]) for _ in range(4)]
        os.kill(first, signal.SIGKILL)
        for each in encoding:
            np.testing.assert_allclose(each.result(60), expected, atol=1e-6)
    assert process.pid not in (None, first)
    assert len(logged) == 1  # of several threads that see it die, one clears it away


def test_of_two_threads_that_find_it_dead_one_clears_it_away_and_neither_the_next(spec):
    """The other one comes between the first one's look and what it does about it."""
    process, batch = WorkerProcess(spec), frames.pack_tokens([np.array([101, 2, 102], np.int32)])
    process.start()
    dead = process._running

    def look(poll=dead.process.poll):
        dead.process.poll = poll
        process.encode(Kind.TOKENS, batch)
        return poll()

    kill(process.pid)
    dead.process.poll = look
    with structlog.testing.capture_logs() as logged:
        process.encode(Kind.TOKENS, batch)
    process.end()
    assert [each["event"] for each in logged] == ["the model's process died"]


def test_a_batch_over_which_two_processes_died_is_refused_and_later_ones_are_not(encoder, spec, monkeypatch):
    doomed = Doomed(spec)
    monkeypatch.setattr(encoder._model, "_process", doomed)
    expected = r"the model's process was killed by signal 9 \(Killed\) over this batch, and a second one too"
    with pytest.raises(EncoderUnavailable, match=expected) as raised:
        encoder.encode_queries(["a question that no cache has"])
    assert "encoder.batch_tokens" in raised.value.hint
    assert doomed.pid is None
    monkeypatch.undo()
    assert encoder.encode_queries(["noon"]).shape == (1, 384)


def test_a_batch_that_the_model_refuses_fails_and_the_process_lives_on(encoder, process):
    """Token ids beyond the vocabulary make ONNX Runtime raise."""
    before = process.pid
    good, bad = np.array([101, 2, 102], np.int32), np.array([101, 10**6, 102], np.int32)
    with pytest.raises(EncodingFailed, match=r"the model failed on 2 texts of up to 3 tokens: .*indices"):
        encoder._queue.submit([good, bad], 3, QUERY).result(30)
    assert encoder._queue.submit([good], 3, QUERY).result(30).shape == (1, 384)
    assert process.pid == before


def test_a_model_that_cannot_be_loaded_is_told_with_the_reason(spec, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    broken = WorkerProcess(spec | {"folder": str(tmp_path)})
    with pytest.raises(ModelDamaged):
        broken.start()
    assert broken.pid is None


def test_a_process_that_ends_before_its_model_is_loaded_is_told(spec, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(
        EncoderUnavailable, match="the model's process ended with status 1 while it loaded the model"
    ):
        WorkerProcess(spec).start()


def test_what_the_process_prints_goes_to_the_log_line_by_line(spec, monkeypatch):
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    process = WorkerProcess(spec)
    with structlog.testing.capture_logs() as logged:
        process.start()
        kill(process.pid, signal.SIGABRT)
        process.end()
    assert logged[0] == {
        "event": "the model's process says", "line": "Fatal Python error: Aborted", "log_level": "warning"
    }  # fmt: skip
    assert len(logged) > 2  # where each of its threads was


def test_the_process_ends_with_the_server_even_in_the_middle_of_a_batch(spec):
    code = """
import json, sys, time
import numpy as np
from server.encoders.frames import Kind, pack_tokens
from server.encoders.worker_process import WorkerProcess
process = WorkerProcess(json.loads(sys.argv[1]))
process.start()
print(process.pid, flush=True)
texts = [np.full(256, 2000, np.int32)] * 2000  # a minute's work
process.encode(Kind.TOKENS, pack_tokens(texts))
"""
    server = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(spec)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with server, watched(int(server.stdout.readline())) as ended:
        server.kill()
        assert ended()


def test_signals_for_the_whole_service_are_left_to_the_server(encoder, process):
    """systemd sends SIGTERM to every process of a service at once, and the server still answers for a while."""
    before = process.pid
    for each in (signal.SIGTERM, signal.SIGINT):
        os.kill(before, each)
    assert encoder.encode_queries(["noon"]).shape == (1, 384)
    assert process.pid == before


def test_where_memory_runs_out_the_kernel_takes_the_models_process_first(process):
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "500\n"
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 500


def test_lanes_encode_at_once_with_the_vectors_of_one(spec):
    process = WorkerProcess(spec, Lanes(3, 3))
    batches = [
        frames.pack_tokens([np.arange(1000 + at, 1000 + at + length, dtype=np.int32) for at in range(4)])
        for length in range(3, 33)
    ]
    expected = [frames.unpack_vectors(process.encode(Kind.TOKENS, batch)) for batch in batches]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda batch: process.encode(Kind.TOKENS, batch), batches))
    for mine, alone in zip(found, expected, strict=True):
        np.testing.assert_allclose(frames.unpack_vectors(mine), alone, atol=1e-6)
    process.end()


@pytest.mark.parametrize(
    ("cores", "whole", "coarse"),
    [
        (1, (1, Lanes(1, 1)), (1, Lanes(1, 1))),
        (2, (2, Lanes(2, 1)), (1, Lanes(2, 2))),
        (3, (3, Lanes(2, 1)), (1, Lanes(2, 2))),
        (16, (16, Lanes(2, 1)), (8, Lanes(2, 2))),
    ],
)
def test_the_batches_that_are_encoded_at_once_share_the_cores(cores, whole, coarse):
    assert threads_and_lanes(cores, "float32") == whole
    assert threads_and_lanes(cores, "int8") == coarse


def test_closing_ends_the_process(bundled_export):
    encoder = load_encoder(EncoderSettings(idle_unload_s=3600), PassageSettings(), bundled_export)
    with watched(encoder._model._process.pid) as ended:
        encoder.close()
        assert ended()


# --- torch


def test_torch_runs_in_a_process_of_its_own_and_gives_the_vectors_of_the_export(encoder, bundled_export):
    settings = EncoderSettings(backend="torch")
    torch = load_encoder(settings, PassageSettings(), bundled_export)
    assert torch.fingerprint == encoder.fingerprint
    texts = ["Noon.", "The tide came in over the flats. " * 20, "Zürich, 日本語, naïve — 🚀"]
    np.testing.assert_allclose(torch.encode_documents(texts), encoder.encode_documents(texts), atol=1e-5)
    np.testing.assert_allclose(torch.encode_queries(texts), encoder.encode_queries(texts), atol=1e-5)
    assert torch.query_fits("noon " * 254) and not torch.query_fits("noon " * 255)
    torch.close()


# --- behind a server


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of which one search and one ingest may wait."""
    settings = {"limits__waiting_requests": 1, "encoder__query_cache": 0, "encoder__idle_unload_s": 3600}
    with serving(tmp_path_factory.mktemp("served"), **settings) as server:
        assert add(server, "The tide came in.").status_code == 201
        yield server
        assert server.stop() == 0


def model_process(server):
    """The number of the process that runs the server's model."""
    [pid] = children(server.process.pid)
    return pid


def children(pid):
    """The processes that this one started, by whichever thread, and that run."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def search(server, query):
    return server.http.post("/search", json={"query": query})


def add(server, text):
    return server.http.post("/documents", json={"documents": [{"id": text, "text": text}]})


@pytest.mark.parametrize(
    ("ask", "n_threads", "status", "words"),
    [
        (search, READ_THREADS, 200, "as many searches are waiting"),
        (add, INGEST_THREADS, 201, "as many writes are waiting"),
    ],
    ids=["searches", "ingests"],
)
def test_one_request_more_than_may_wait_is_answered_429_at_once(served, ask, n_threads, status, words):
    process = model_process(served)
    os.kill(process, signal.SIGSTOP)  # from here on nothing is encoded
    try:
        with ThreadPoolExecutor(n_threads + 2) as clients:
            asked = [clients.submit(ask, served, f"{words} {at}") for at in range(n_threads + 2)]
            [refused], others = wait(asked, 60, FIRST_COMPLETED)
            os.kill(process, signal.SIGCONT)
            answers = [each.result(60) for each in others]
    finally:
        os.kill(process, signal.SIGCONT)
    refusal = refused.result()
    assert (refusal.status_code, refusal.headers["Retry-After"]) == (429, "1")
    assert refusal.json()["code"] == "busy" and words in refusal.json()["detail"]
    assert [each.status_code for each in answers] == [status] * (n_threads + 1)


def test_a_search_after_the_kernel_killed_the_models_process_is_answered(served):
    process = model_process(served)
    with watched(process) as ended:
        os.kill(process, signal.SIGKILL)
        assert ended()
    assert search(served, "high water").json()["hits"][0]["text"] == "The tide came in."
    assert model_process(served) != process


def test_an_idle_models_process_ends_and_the_next_search_starts_another(tmp_path, serve):
    with serve(tmp_path, encoder__idle_unload_s=1) as server:
        # Its second may be over before it is looked for, on a slow machine.
        while not (running := children(server.process.pid)):
            search(server, "water")
        with contextlib.suppress(ProcessLookupError), watched(running[0]) as ended:
            assert ended()
        assert add(server, "The tide came in.").status_code == 201
        assert search(server, "high water").json()["hits"][0]["text"] == "The tide came in."
        while not (again := children(server.process.pid)):
            search(server, "water")
        assert again != running
        assert server.stop() == 0


def test_ctrl_c_ends_the_server_in_peace_and_the_process_with_it(tmp_path, serve):
    apart = {"encoder__idle_unload_s": 3600}
    with (
        serve(tmp_path, program=("-c", IN_A_GROUP), **apart) as server,
        watched(model_process(server)) as ended,
    ):
        os.killpg(server.process.pid, signal.SIGINT)  # as the terminal does
        assert server.end() == 0
        assert ended()
        assert server.other == []
        assert [each["event"] for each in server.log][-1] == "stopped"
        assert [each for each in server.log if "process" in each["event"]] == []


IN_A_GROUP = "import os, runpy; os.setpgid(0, 0); runpy.run_module('server.cli', run_name='__main__')"
