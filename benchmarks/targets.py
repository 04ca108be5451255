"""Does `target_recall` hold on queries that nothing was measured with? `python -m benchmarks targets`.

Synthetic vectors, stored through the server's code; queries are more members of the same families. Printed: what was
chosen for each target, what was promised of it, and the share of the true 10 nearest (mode exact) that were found.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.synthetic import blocks, queries
from index.curve import shares
from index.two_pass import Mode, TwoPassIndex, pool_size
from index.vectors import Float32, Rows
from server.app import open_collection
from server.checking import NewDocument
from server.collection import Collection, RebuildWishes
from server.memory import keep_memory_small
from server.settings import load_settings

BATCH = 4096  # documents stored in one go
TARGETS = (0.9, 0.95, 0.99, 0.999)
K = 10


def main(arguments: list[str]) -> None:
    """Measure at each number of rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks targets", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument(
        "--folder", type=Path, help="a collection that `python -m benchmarks.scale fill` made"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="as index__kind=ivf")
    given = parser.parse_args(arguments)
    keep_memory_small()
    settings = dict(each.split("=", 1) for each in given.set)
    settings |= {"encoder__model": "none", "encoder__dim": str(given.dim), "index__gauge_share": "0"}
    for n_rows in given.rows:
        asked = queries(given.queries, n_rows, given.dim)
        with contextlib.ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="twopass-bench-")
            folder = given.folder or Path(stack.enter_context(temporary))
            collection = stack.enter_context(_collection(folder, settings))
            if given.folder is None:
                _fill(collection, n_rows, given.dim)
            told = collection.stats()["first_pass"]
            print(f"\n{n_rows} x {given.dim}, {len(asked)} queries: {told | {'evidence': '…'}}")
            print(
                f"  {'target':>7}{'oversample':>12}{'lists':>7}{'promised':>10}{'in pool':>9}{'found':>8}{'ms':>7}"
            )
            index = collection.store.index
            true = index.search(asked, 1, Mode.EXACT, K).rows[:, :K]
            for target in TARGETS:
                print(_line(index, asked, true, target, collection.index.min_candidates))


def _line(index: TwoPassIndex, asked: Float32, true: Rows, target: float, least: int) -> str:
    reach = index.reach_for(target, 8.0)
    n_candidates = pool_size(K, reach.oversample, least, index.n_rows)
    pools, hits, took = [], [], []
    for query in asked:
        pools.append(index.pool(query[None], n_candidates, reach.n_probes)[0])
        at = time.perf_counter()
        found = index.search(query[None], n_candidates, n_hits=K, n_probes=reach.n_probes)
        took.append((time.perf_counter() - at) * 1e3)
        hits.append(found.rows[0, :K])
    in_pool, in_hits = (float(np.mean(shares(each, true))) for each in (pools, hits))
    lists = "-" if reach.n_probes is None else reach.n_probes
    promised = "-" if reach.recall is None else f"{reach.recall:.4f}"
    return (
        f"  {target:>7}{reach.oversample:>12}{lists:>7}{promised:>10}{in_pool:>9.4f}{in_hits:>8.4f}"
        f"{median(took):>7.2f}"
    )


def _fill(collection: Collection, n_rows: int, dim: int) -> None:
    for first_row, block in blocks(n_rows, dim):
        for start in range(0, len(block), BATCH):
            part = block[start : start + BATCH]
            collection.add(
                [NewDocument(str(first_row + start + at), None, {}, row) for at, row in enumerate(part)]
            )
    job = collection.rebuild(RebuildWishes())
    while not job.has_ended:
        time.sleep(0.1)


@contextlib.contextmanager
def _collection(folder: Path, settings: dict[str, str]) -> Iterator[Collection]:
    environ = {f"TWOPASS_{name.upper()}": value for name, value in settings.items()}
    with open_collection(load_settings(environ=environ | {"TWOPASS_DATA_DIR": str(folder)})) as collection:
        yield collection
