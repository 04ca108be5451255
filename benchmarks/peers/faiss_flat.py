"""FAISS without an index structure: every vector in memory as float32, every search a full scan. Exact."""

import os
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Float32, Rows, Setting, batches


class FaissFlat:
    """`IndexFlatIP`, read into memory."""

    packages = ("faiss-cpu",)
    told = "IndexFlatIP, float32, exact"
    settings: Sequence[Setting] = ({},)

    def __init__(self, folder: Path, dim: int) -> None:
        self._path, self._dim = folder / "flat.faiss", dim

    def build(self, vectors: NDArray[np.float16]) -> None:
        index = faiss.IndexFlatIP(self._dim)
        for _, block in batches(vectors):
            index.add(block)
        faiss.write_index(index, str(self._path))

    def open(self) -> None:
        self._index = faiss.read_index(str(self._path))

    def use(self, setting: Setting) -> None:
        pass

    def search(self, query: Float32, k: int) -> Rows:
        return np.asarray(self._index.search(query[None], k)[1][0])

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        pass
