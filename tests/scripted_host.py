"""A program that encodes, over a real socket, with the manners of those in the field: what it answers is scripted."""

import base64
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

DIM = 32


@dataclass
class Reply:
    """An answer other than the vectors. `cuts` closes the connection instead."""

    status: int = 200
    content: object = None
    headers: dict[str, str] = field(default_factory=dict)
    cuts: bool = False


def vector(text: str, dim: int = DIM) -> np.ndarray:
    """A vector of the words' own directions, longer the more words there are: the mean pooling of this program."""
    words = [np.frombuffer(hashlib.blake2b(word.encode()).digest(), np.int8)[:dim] for word in text.split()]
    return np.sum(words, axis=0).astype(np.float32) if words else np.zeros(dim, np.float32)


class Program:
    """Answers at /v1/embeddings and /api/embed until it is stopped; requests are counted and kept.

    `script` is asked first: what it returns is the answer, None leaves it to the program. `reads` are the words that
    it reads of a text, `counts` how many tokens it says a text has (None: it doesn't say).
    """

    def __init__(self, port: int = 0) -> None:
        self.script: Callable[[list[str]], Reply | None] = lambda texts: None
        self.dim = DIM
        self.reads = 10**9
        self.counts: Callable[[str], int] | None = lambda text: len(text.split()) + 2
        self.sends_base64 = True
        self.paths = ("/v1/embeddings", "/api/embed")
        self.models: object = None
        self.requests: list[tuple[str, dict[str, str], dict]] = []  # path, headers, body
        program = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: object) -> None:
                """Nothing on standard error."""

            def do_GET(self) -> None:
                self.reply(Reply(404 if program.models is None else 200, program.models))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                program.requests.append((self.path, dict(self.headers), body))
                known = self.path in program.paths
                self.reply(
                    program.answer(self.path, body) if known else Reply(404, {"error": "no such path"})
                )

            def reply(self, reply: Reply) -> None:
                if reply.cuts:
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                content = (
                    reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
                )
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            def process_request(self, request: socket.socket, client_address: object) -> None:
                program._connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that went away is what some tests are about."""

        self._connections: list[socket.socket] = []

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True)
        self._thread.start()

    @property
    def texts(self) -> list[list[str]]:
        """What was asked for, request by request."""
        return [body["input"] for _, _, body in self.requests]

    def vectors(self, texts: list[str]) -> list[list[float]]:
        return [vector(" ".join(text.split()[: self.reads]), self.dim).tolist() for text in texts]

    def answer(self, path: str, body: dict) -> Reply:
        texts = body["input"]
        scripted = self.script(texts)
        if scripted is not None:
            return scripted
        n_tokens = None if self.counts is None else sum(map(self.counts, texts))
        vectors: list = self.vectors(texts)
        if path == "/api/embed":
            content = {"model": body["model"], "embeddings": vectors}
            return Reply(content=content if n_tokens is None else {**content, "prompt_eval_count": n_tokens})
        if self.sends_base64 and body.get("encoding_format") == "base64":
            vectors = [base64.b64encode(np.array(each, "<f4").tobytes()).decode() for each in vectors]
        content = {"data": [{"index": at, "embedding": each} for at, each in enumerate(vectors)]}
        usage = {} if n_tokens is None else {"usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens}}
        return Reply(content={**content, **usage})

    def stop(self) -> None:
        """End it, and the connections that clients keep open."""
        self._server.shutdown()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # closed long ago
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()
