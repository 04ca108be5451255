"""Qdrant's engine inside the process (qdrant-edge-py), in the three ways its documentation describes.

Graph parameters are Qdrant's defaults (m 16, ef_construct 100). `optimize` builds the graphs; until then a shard
scans.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qdrant_edge import (
    Distance,
    EdgeConfig,
    EdgeOptimizersConfig,
    EdgeShard,
    EdgeVectorParams,
    HnswIndexConfig,
    Memory,
    Point,
    Prefetch,
    QuantizationSearchParams,
    Query,
    QueryRequest,
    ScalarQuantizationConfig,
    ScalarType,
    SearchParams,
    UpdateOperation,
)

from benchmarks.peers.peer import Float32, Rows, Setting, batches

NO_GRAPH = HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000)


class QdrantGraph:
    """Full float32 vectors in memory, a graph over them."""

    packages: Sequence[str] = ("qdrant-edge-py",)
    told = "HNSW m 16, ef_construct 100, float32"
    settings: Sequence[Setting] = tuple({"hnsw_ef": n} for n in (64, 128, 256, 512, 1024, 2048))

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder, self._dim = folder / "shard", dim

    def build(self, vectors: NDArray[np.float16]) -> None:
        self._folder.mkdir(parents=True)
        config = EdgeConfig(
            vectors=self._vectors(),
            hnsw_config=HnswIndexConfig(
                m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=1
            ),
            # One segment, which is what Qdrant advises where throughput counts and one thread searches.
            optimizers=EdgeOptimizersConfig(default_segment_number=1, max_segment_size=2**30),
        )
        shard = EdgeShard.create(str(self._folder), config)
        for rows, block in batches(vectors, 1000):
            points = [Point(int(row), self._named(vector)) for row, vector in zip(rows, block, strict=True)]
            shard.update(UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self) -> None:
        self._shard = EdgeShard.load(str(self._folder))

    def use(self, setting: Setting) -> None:
        self._setting = setting

    def search(self, query: Float32, k: int) -> Rows:
        return np.array([point.id for point in self._shard.query(self._request(query, k))], np.int64)

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        self._shard.close()

    def _vectors(self) -> dict[str, EdgeVectorParams]:
        return {"full": EdgeVectorParams(size=self._dim, distance=Distance.Cosine)}

    def _named(self, vector: Float32) -> dict[str, list[float]]:
        return {"full": vector.tolist()}

    def _request(self, query: Float32, k: int) -> QueryRequest:
        return QueryRequest(
            limit=k,
            query=Query.Nearest(query.tolist(), using="full"),
            params=SearchParams(hnsw_ef=self._setting["hnsw_ef"]),
        )


class QdrantInt8(QdrantGraph):
    """8-bit codes pinned in memory, full vectors cold on disk, rescoring: its advice for little memory."""

    told = "HNSW over int8 codes in memory, float32 on disk, rescored"
    settings = (
        {"hnsw_ef": 64, "oversampling": 2},
        {"hnsw_ef": 128, "oversampling": 3},
        {"hnsw_ef": 256, "oversampling": 4},
        {"hnsw_ef": 512, "oversampling": 4},
        {"hnsw_ef": 1024, "oversampling": 8},
        {"hnsw_ef": 2048, "oversampling": 8},
    )

    def _vectors(self) -> dict[str, EdgeVectorParams]:
        codes = ScalarQuantizationConfig(type=ScalarType.Int8, quantile=0.99, memory=Memory.Pinned)
        return {
            "full": EdgeVectorParams(
                size=self._dim, distance=Distance.Cosine, memory=Memory.Cold, quantization_config=codes
            )
        }

    def _request(self, query: Float32, k: int) -> QueryRequest:
        rescored = QuantizationSearchParams(rescore=True, oversampling=self._setting["oversampling"])
        return QueryRequest(
            limit=k,
            query=Query.Nearest(query.tolist(), using="full"),
            params=SearchParams(hnsw_ef=self._setting["hnsw_ef"], quantization=rescored),
        )


class QdrantPrefix(QdrantGraph):
    """Two passes as in its page on Matryoshka models: prefetch on a short vector, rescore on the full one."""

    told = "prefetch on a 256-d prefix (HNSW over int8 codes), rescored with float32 on disk"
    settings = (
        {"hnsw_ef": 128, "prefetch": 80},
        {"hnsw_ef": 256, "prefetch": 160},
        {"hnsw_ef": 512, "prefetch": 160},
        {"hnsw_ef": 1024, "prefetch": 320},
        {"hnsw_ef": 2048, "prefetch": 640},
    )
    _prefix_dim = 256

    def _vectors(self) -> dict[str, EdgeVectorParams]:
        codes = ScalarQuantizationConfig(type=ScalarType.Int8, quantile=0.99, memory=Memory.Pinned)
        return {
            "prefix": EdgeVectorParams(
                size=self._prefix_dim, distance=Distance.Cosine, memory=Memory.Cold, quantization_config=codes
            ),
            "full": EdgeVectorParams(
                size=self._dim, distance=Distance.Cosine, memory=Memory.Cold, hnsw_config=NO_GRAPH
            ),
        }

    def _named(self, vector: Float32) -> dict[str, list[float]]:
        return {"full": vector.tolist(), "prefix": vector[: self._prefix_dim].tolist()}

    def _request(self, query: Float32, k: int) -> QueryRequest:
        on_codes = QuantizationSearchParams(rescore=False)
        first = Prefetch(
            limit=self._setting["prefetch"],
            query=Query.Nearest(query[: self._prefix_dim].tolist(), using="prefix"),
            params=SearchParams(hnsw_ef=self._setting["hnsw_ef"], quantization=on_codes),
        )
        return QueryRequest(limit=k, query=Query.Nearest(query.tolist(), using="full"), prefetches=[first])
