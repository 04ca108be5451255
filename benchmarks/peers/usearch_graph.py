"""USearch: HNSW over shorter numbers, served from a mapped file (`view`), which is its advice for little memory."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from benchmarks.peers.peer import Float32, Rows, Setting, batches


class UsearchFloat16:
    """float16 vectors; connectivity and expansion at their defaults, the graph mapped."""

    packages = ("usearch",)
    told = "float16, connectivity 16, expansion_add 128, mapped"
    settings = tuple({"expansion_search": n} for n in (64, 128, 256, 512, 1024, 2048))
    _dtype = "f16"

    def __init__(self, folder: Path, dim: int) -> None:
        self._path, self._dim = folder / "graph.usearch", dim

    def build(self, vectors: NDArray[np.float16]) -> None:
        index = self._new()
        for rows, block in batches(vectors):
            index.add(rows, block, threads=1)
        index.save(self._path)

    def open(self) -> None:
        self._index = self._new()
        self._index.view(self._path)

    def use(self, setting: Setting) -> None:
        self._index.expansion_search = setting["expansion_search"]

    def search(self, query: Float32, k: int) -> Rows:
        return np.asarray(self._index.search(query, k, threads=1).keys, np.int64)

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        self._index.reset()

    def _new(self) -> Index:
        return Index(ndim=self._dim, metric="cos", dtype=self._dtype, connectivity=16, expansion_add=128)


class UsearchInt8(UsearchFloat16):
    """8-bit vectors, no second pass."""

    told = "int8, connectivity 16, expansion_add 128, mapped"
    _dtype = "i8"
