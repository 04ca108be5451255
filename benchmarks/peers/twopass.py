"""twopass itself, without HTTP and catalog, as its peers here are without them."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Float32, Rows, Setting, batches
from index.plan import Wish
from index.two_pass import Mode, Shape, TwoPassIndex, n_rows_on_disk, pool_size

PREFIX_DIM = 256  # the server's default


class TwoPass:
    """The first pass that a rebuild plans by itself, full vectors as float16 on disk."""

    packages = ("faiss-cpu",)
    told = "first pass as planned, prefix of at most 256; full vectors float16 on disk"
    settings = (
        {"oversample": 4},
        {"oversample": 8},
        {"oversample": 16},
        {"oversample": 32},
        {"certified": 1},
    )

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder = folder
        self._shape = Shape(1, dim, min(PREFIX_DIM, dim), "float16")

    def build(self, vectors: NDArray[np.float16]) -> None:
        index = TwoPassIndex(self._folder, self._shape, 0, np.zeros(0, np.bool_))
        for rows, block in batches(vectors):
            index.publish(index.append(block, int(rows[0])), np.zeros(0, np.int64))
        index.rebuild(Wish(self._shape.prefix_dim))

    def open(self) -> None:
        n_rows = n_rows_on_disk(self._folder, self._shape)
        self._index = TwoPassIndex(self._folder, self._shape, n_rows, np.ones(n_rows, np.bool_))

    def use(self, setting: Setting) -> None:
        self._mode = Mode.CERTIFIED if "certified" in setting else Mode.TWO_PASS
        self._oversample = setting.get("oversample", 1)

    def search(self, query: Float32, k: int) -> Rows:
        n_candidates = pool_size(k, self._oversample, k, self._index.n_rows)
        return self._index.search(query[None], n_candidates, self._mode, n_hits=k).rows[0, :k]

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        del self._index
