"""Real vectors through HTTP against brute-force numpy: the same ids in the same order, scores within rounding."""

from pathlib import Path

import numpy as np

from benchmarks.serving import serving, temporary_folder
from index import reference
from index.evaluation import recall_at_k
from index.vectors import Float32, Rows, normalise

K, PREFIX, POOL = 10, 256, 80


def run(data: Path) -> None:
    """4 040 stored and 500 query vectors of nomic-embed-text-v1.5, 768 dimensions, sent as client vectors."""
    folder = data / "vectors-nomic-768"
    corpus = normalise(np.load(folder / "corpus.npy").astype(np.float32))
    queries = normalise(np.load(folder / "queries.npy").astype(np.float32))
    for dtype, tolerance in (("float16", 1e-3), ("float32", 1e-6)):
        _compare(corpus, queries, dtype, tolerance)


def _compare(corpus: Float32, queries: Float32, dtype: str, tolerance: float) -> None:
    stored = corpus.astype(dtype).astype(np.float32)
    pool_rows, pool_scores = reference.two_pass(stored, queries, PREFIX, POOL)
    expected = {
        "prefix": reference.prefix(stored, queries, PREFIX, K),
        "exact": reference.exact(stored, queries, K),
        "two_pass": (pool_rows[:, :K], pool_scores[:, :K]),
    }
    settings = {"encoder__model": "none", "encoder__dim": corpus.shape[1], "index__vector_dtype": dtype}
    found: dict[str, Rows] = {}
    print(f"\n{dtype}, {len(corpus)} vectors, {len(queries)} queries, k = {K}")
    with temporary_folder() as data_dir, serving(data_dir, **settings) as server:
        server.add([{"id": str(row), "vector": vector.tolist()} for row, vector in enumerate(corpus)])
        for mode, (rows, scores) in expected.items():
            searches = [{"vector": query.tolist(), "k": K, "mode": mode, "include": []} for query in queries]
            results = server.search(searches)
            found[mode] = np.array([[int(hit["id"]) for hit in each["hits"]] for each in results])
            found_scores = np.array([[hit["score"] for hit in each["hits"]] for each in results])
            n_same = int((found[mode] == rows).all(axis=1).sum())
            worst = float(np.abs(found_scores - scores).max())
            # Against the vectors as they were sent, before rounding to the stored dtype.
            unrounded = (
                np.einsum("qd,qkd->qk", queries, corpus[found[mode]])
                if mode != "prefix"
                else np.einsum(
                    "qd,qkd->qk",
                    normalise(queries[:, :PREFIX]),
                    normalise(corpus[:, :PREFIX])[found[mode]],
                )
            )
            rounding = float(np.abs(found_scores - unrounded).max())
            print(
                f"  {mode:9} ids and order equal: {n_same} of {len(queries)}; largest score difference "
                f"{worst:.1e} from stored, {rounding:.1e} from sent vectors (allowed {tolerance:.0e})"
            )
            for query in np.flatnonzero((found[mode] != rows).any(axis=1))[:5]:
                slots = np.flatnonzero(found[mode][query] != rows[query])
                gap = np.abs(np.diff(scores[query]))[max(0, slots[0] - 1) : slots[-1] + 1].min()
                print(
                    f"    query {query} differs at {slots.tolist()}; nearest scores there differ by {gap:.1e}"
                )
    print(f"  recall@{K} of two_pass against exact: {recall_at_k(found['two_pass'], found['exact']):.4f}")
    print(f"  recall@{K} of prefix   against exact: {recall_at_k(found['prefix'], found['exact']):.4f}")
