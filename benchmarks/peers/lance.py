"""LanceDB inside the process: vectors on disk, an inverted file over product-quantised or 8-bit vectors.

The number of partitions is its default; sub-vectors and the pairing of nprobes with a refine factor follow its page
on vector indexes.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.peers.peer import Float32, Rows, Setting, batches


class LancePq:
    """IVF_PQ and a second pass over the stored vectors."""

    packages: Sequence[str] = ("lancedb",)
    told = "IVF_PQ, dim / 8 sub-vectors, refined with float32 on disk"
    settings: Sequence[Setting] = (
        {"nprobes": 10, "refine_factor": 10},
        {"nprobes": 20, "refine_factor": 10},
        {"nprobes": 20, "refine_factor": 30},
        {"nprobes": 50, "refine_factor": 20},
    )

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder, self._dim = folder / "lance", dim

    def build(self, vectors: NDArray[np.float16]) -> None:
        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), self._dim))])

        def table() -> pa.RecordBatchReader:
            made = (
                pa.record_batch(
                    [rows, pa.FixedSizeListArray.from_arrays(block.ravel(), self._dim)], schema=schema
                )
                for rows, block in batches(vectors)
            )
            return pa.RecordBatchReader.from_batches(schema, made)

        stored = lancedb.connect(self._folder).create_table("vectors", table(), schema=schema)
        stored.create_index(metric="cosine", **self._index())

    def open(self) -> None:
        self._table = lancedb.connect(self._folder).open_table("vectors")

    def use(self, setting: Setting) -> None:
        self._setting = setting

    def search(self, query: Float32, k: int) -> Rows:
        # Asked without its distance, it logs a warning at every search.
        asked = self._table.search(query).distance_type("cosine").limit(k).select(["id", "_distance"])
        for knob, value in self._setting.items():
            asked = getattr(asked, knob)(value)
        return np.asarray(asked.to_arrow()["id"])

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        pass

    def _index(self) -> dict[str, object]:
        return {"index_type": "IVF_PQ", "num_sub_vectors": self._dim // 8}


class LanceHnsw(LancePq):
    """IVF_HNSW_SQ: a graph over 8-bit vectors, m 20 and ef_construction 300 by default."""

    told = "IVF_HNSW_SQ, its defaults, refined with float32 on disk"
    settings = (
        {"ef": 60, "refine_factor": 2},
        {"ef": 120, "refine_factor": 4},
        {"ef": 250, "refine_factor": 4},
        {"ef": 500, "refine_factor": 4},
    )

    def _index(self) -> dict[str, object]:
        return {"index_type": "IVF_HNSW_SQ"}
