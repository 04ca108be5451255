"""Chroma, inside the process and as its own server over HTTP; index settings are its defaults, but for the sweep."""

import os
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import chromadb
import numpy as np
from chromadb.api import ClientAPI
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings
from numpy.typing import NDArray

from benchmarks.peers.peer import Float32, Rows, Setting, batches


def quiet() -> Settings:
    """Return settings without telemetry; anew each time, since a client writes its address into them."""
    return Settings(anonymized_telemetry=False)


class Chroma:
    """`PersistentClient`: SQLite beside an HNSW graph in memory."""

    packages = ("chromadb",)
    told = "HNSW max_neighbors 16, ef_construction 100 (its defaults), float32 in memory"
    settings = tuple({"ef_search": n} for n in (50, 100, 200, 400, 800, 1600))

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder = folder
        self._setting: Setting = {}

    def build(self, vectors: NDArray[np.float16]) -> None:
        client = chromadb.PersistentClient(str(self._folder), quiet())
        # It gets no model: vectors come with the ids, which are all there is of a document.
        configuration = {"hnsw": {"space": "cosine", "num_threads": 1}, "embedding_function": None}
        collection = client.create_collection("vectors", configuration=configuration)
        for rows, block in batches(vectors):
            collection.add(ids=[str(row) for row in rows], embeddings=block)

    def open(self) -> None:
        self._collection = self._connect().get_collection("vectors", embedding_function=None)

    def use(self, setting: Setting) -> None:
        """Change the stored setting, and open again: a loaded graph keeps the one it was loaded with."""
        if setting == self._setting:
            return
        self._setting = setting
        self._collection.modify(configuration={"hnsw": {"ef_search": setting["ef_search"]}})
        self.close()
        self.open()

    def search(self, query: Float32, k: int) -> Rows:
        answer = self._collection.query(query_embeddings=[query], n_results=k, include=[])
        return np.array([int(id) for id in answer["ids"][0]], np.int64)

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        del self._collection
        SharedSystemClient.clear_system_cache()

    def _connect(self) -> ClientAPI:
        return chromadb.PersistentClient(str(self._folder), quiet())


class ChromaHttp(Chroma):
    """`chroma run` and its Python client; the memory is the server's."""

    told = "the same, `chroma run`, over HTTP on this machine"

    def process_ids(self) -> list[int]:
        return [self._server.pid]

    def close(self) -> None:
        super().close()
        self._server.terminate()
        self._server.wait(timeout=30)

    def _connect(self) -> ClientAPI:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        chroma = Path(sysconfig.get_path("scripts")) / "chroma"
        self._server = subprocess.Popen(
            [chroma, "run", "--path", self._folder, "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):  # half a minute
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return chromadb.HttpClient("127.0.0.1", port, settings=quiet())
            time.sleep(0.1)
        raise RuntimeError("chroma's server did not start")
