"""One size of `python -m benchmarks.scale growth`: ROWS DIM FOLDER. A first pass alone, its vectors never stored.

Prints milliseconds a search on one thread, and the share of the true 10 nearest in the pool, found by scoring every
vector as it is made.
"""

import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.synthetic import BLOCK, blocks, queries
from index.evaluation import ExactScan
from index.first_pass.codecs import ROWS_PER_LIST
from index.first_pass.files import FirstPassFolder, Manifest
from index.first_pass.recipe import train
from index.first_pass.writer import FirstPass
from index.plan import Wish
from index.planner import Machine, machine_factor, propose
from index.vectors import Float32, Rows

N_QUERIES, K = 200, 10
PROBED_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class MadeVectors:
    """Vectors that are made as they are read, once, in row order: what a first pass needs of a VectorView."""

    dtype = np.dtype("<f2")

    def __init__(self, n_rows: int, dim: int) -> None:
        self.n_rows, self.dim = n_rows, dim
        self._made = blocks(n_rows, dim)

    def blocks(self, first_row: int, end_row: int) -> Iterator[tuple[int, Float32]]:
        """Yield the next blocks up to end_row."""
        while first_row < end_row:
            first_row, block = next(self._made)
            yield first_row, block
            first_row += len(block)

    def gather(self, rows: Rows) -> Float32:
        """What a manifest keeps checksums of; no one reads it again."""
        return np.zeros((len(rows), self.dim), np.float32)


def main() -> None:
    """Build, search, print a line."""
    n_rows, dim, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    n_rows = n_rows // BLOCK * BLOCK  # parts of whole blocks
    folder.mkdir(parents=True, exist_ok=True)
    plan = propose(n_rows, dim, Wish(256), Machine(machine_factor()))[0].plan
    sample = np.concatenate([block for _, block in blocks(max(32_768, plan.n_lists * ROWS_PER_LIST), dim)])
    started = time.perf_counter()
    files = FirstPassFolder(folder, 1)
    first_pass = FirstPass(files, train(plan, sample, with_bounds=False), Manifest(1, plan))
    asked = queries(N_QUERIES, n_rows, dim)
    exact = ExactScan(asked, K)

    def watch(first_row: int, block: Float32) -> None:
        exact.add(first_row, block, np.ones(len(block), np.bool_))

    vectors = MadeVectors(n_rows, dim)
    first_pass.build(vectors, n_rows, lambda: False, watch)  # type: ignore[arg-type]
    first_pass.set_live(np.full(math.ceil(n_rows / 8), 255, np.uint8))
    build_s = time.perf_counter() - started
    snapshot = first_pass.snapshot()
    for share in PROBED_SHARES if plan.n_lists > 1 else (1.0,):
        n_probes = math.ceil(plan.n_lists * share)
        found = snapshot.search(asked, 80, n_probes).rows
        recall = np.mean([np.isin(true, mine).mean() for true, mine in zip(exact.rows, found, strict=True)])
        took = []
        for query in asked:
            begun = time.perf_counter()
            snapshot.search(query[None], 80, n_probes)
            took.append((time.perf_counter() - begun) * 1e3)
        told = replace(plan, n_probes=n_probes).told()
        print(
            f"  {n_rows} rows: {np.median(took):.3f} ms, true {K} in 80 candidates {recall:.4f}, {told}; made, scored "
            f"and built in {build_s:.0f} s",
            flush=True,
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
