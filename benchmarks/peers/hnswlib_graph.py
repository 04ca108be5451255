"""hnswlib, the reference implementation of HNSW: float32 vectors and graph in memory.

M and ef_construction as in its README's examples and ALGO_PARAMS.md ("a good starting point").
"""

import os
from pathlib import Path

import hnswlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Float32, Rows, Setting, batches


class Hnswlib:
    """A graph over float32 vectors."""

    packages = ("hnswlib",)
    told = "M 16, ef_construction 200, float32 in memory"
    settings = ({"ef": 50}, {"ef": 100}, {"ef": 200}, {"ef": 400}, {"ef": 800}, {"ef": 1600})

    def __init__(self, folder: Path, dim: int) -> None:
        self._path, self._dim = str(folder / "graph.hnsw"), dim

    def build(self, vectors: NDArray[np.float16]) -> None:
        index = hnswlib.Index(space="ip", dim=self._dim)
        index.init_index(max_elements=len(vectors), M=16, ef_construction=200, random_seed=1)
        for rows, block in batches(vectors):
            index.add_items(block, rows, num_threads=1)
        index.save_index(self._path)

    def open(self) -> None:
        self._index = hnswlib.Index(space="ip", dim=self._dim)
        self._index.load_index(self._path)
        self._index.set_num_threads(1)

    def use(self, setting: Setting) -> None:
        self._index.set_ef(setting["ef"])

    def search(self, query: Float32, k: int) -> Rows:
        return np.asarray(self._index.knn_query(query, k)[0][0], np.int64)

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        pass
