"""A program that speaks OpenAI's /v1/embeddings, for tests: small vectors of words, and a count of what it encoded."""

import base64
import contextlib
import functools
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

WORDS = [
    "snail",
    "tide",
    "shed",
    "clock",
    "zip",
    "bread",
    "river",
    "lamp",
    "stone",
    "winter",
    "boat",
    "garden",
]


@functools.cache
def word_vector(word: str, model: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(f"{model} {word}".encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim)


def embed(text: str, model: str, dim: int) -> np.ndarray:
    """The sum of the words' vectors: texts that share words are near each other."""
    words = [word.strip(".,:;!?").lower() for word in text.split()]
    return np.sum([word_vector(word, model, dim) for word in words or [""]], axis=0).astype(np.float32)


class Host:
    """Knows any model called words-DIM, such as words-16."""

    def __init__(self) -> None:
        self.encoded: Counter[tuple[str, str]] = Counter()  # (model, text)
        self.is_down = False
        self.seed = ""  # another one is another model
        # Every batch of documents, texts that begin with "Number", takes one: tests decide how many pass.
        self.gate = threading.Semaphore(10**9)
        self.gated = ""  # the model whose documents it is for; "": of every one
        self.n_held = 0  # batches that the gate has no place for
        self._lock = threading.Lock()
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, answer = host.answer(body)
                content = json.dumps(answer).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that was killed
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()

    def answer(self, body: dict) -> tuple[int, dict]:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if self.is_down:
            return 503, {"error": {"message": "loading the model"}}
        model = body["model"]
        dim = int(model.rpartition("-")[2])
        if model.startswith(self.gated) and any(text.startswith("Number") for text in texts):
            gate = self.gate
            if not gate.acquire(blocking=False):
                with self._lock:
                    self.n_held += 1
                gate.acquire()
                with self._lock:
                    self.n_held -= 1
        with self._lock:
            self.encoded.update((model, text) for text in texts)
        vectors = [embed(text, self.seed + model, dim) for text in texts]
        in_base64 = body.get("encoding_format") == "base64"
        data = [
            {"index": at, "embedding": base64.b64encode(each).decode() if in_base64 else each.tolist()}
            for at, each in enumerate(vectors)
        ]
        n_tokens = sum(len(text.split()) + 2 for text in texts)
        return 200, {
            "data": data,
            "model": model,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }

    def close(self) -> None:
        self.gate.release(10**6)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def embedding_host() -> Iterator[Host]:
    host = Host()
    try:
        yield host
    finally:
        host.close()
