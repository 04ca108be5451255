"""One store in a process of its own: `python -m benchmarks.peers.child build|search …`, the result as JSON.

The parent has fixed threads and core before anything is imported.
"""

import argparse
import importlib
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS
from benchmarks.peers.peer import Float32, Peer, Rows, Setting

K = 10
N_WARM_UP = 200  # searches with the last setting before memory is read
N_UNCOUNTED = 20  # searches after a change of setting, before the clock starts
SAME = 1e-6  # scores closer than this are equal: texts that differ in capitals only have one vector


def load(name: str) -> type[Peer]:
    """Import a store's module, and so the store.

    Raises:
        ImportError: it is not installed.
    """
    module, kind = PEERS[name]
    found: type[Peer] = getattr(importlib.import_module(f"benchmarks.peers.{module}"), kind)
    return found


def memory_bytes(process_ids: list[int]) -> dict[str, int]:
    """Return what processes hold: `anon` their own and shared memory, `total` with mapped files; pages shared once."""
    sums = {"Pss": 0, "Pss_Anon": 0, "Pss_Shmem": 0}
    for process_id in process_ids:
        for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    return {"anon": sums["Pss_Anon"] + sums["Pss_Shmem"], "total": sums["Pss"]}


def build(peer: Peer, corpus: Path, n_rows: int) -> dict[str, Any]:
    """Build and close; the time includes both. The processor's time tells what a busy machine adds to the clock's."""
    vectors = np.load(corpus, mmap_mode="r")[:n_rows]
    started, cpu_started = time.perf_counter(), time.process_time()
    peer.build(vectors)
    return {"build_s": time.perf_counter() - started, "build_cpu_s": time.process_time() - cpu_started}


def search(
    peer: Peer,
    before: dict[str, int],
    corpus: Path,
    n_rows: int,
    queries: Float32,
    truth: Float32,
    limit_s: float,
) -> dict[str, Any]:
    """Open, warm up, read the memory, then measure every setting.

    Args:
        peer: what was built; not yet open.
        before: this process' memory with the store imported.
        corpus, n_rows: to score what is found.
        queries: (n, dim) of unit length.
        truth: (n,) exact score of each query's K-th neighbour.
        limit_s: a setting is measured with fewer queries when they would take longer.
    """
    started = time.perf_counter()
    peer.open()
    # One setting until memory is read: a store that opens anew for another one may keep what it had.
    peer.use(peer.settings[-1])
    peer.search(queries[0], K)
    open_s = time.perf_counter() - started
    _measure(peer, peer.settings[-1], queries[:N_WARM_UP], limit_s)
    own = [each for each in peer.process_ids() if before["process"] == each]
    held = memory_bytes(peer.process_ids())
    held = {name: held[name] - (before[name] if own else 0) for name in held}
    found = [_measure(peer, setting, queries, limit_s) for setting in peer.settings]
    peer.close()
    vectors = np.load(corpus, mmap_mode="r")[:n_rows]
    results = []
    for setting, (rows, seconds) in zip(peer.settings, found, strict=True):
        right = [_n_right(vectors, *each) for each in zip(queries, rows, truth, strict=False)]
        results.append(
            {
                "setting": ", ".join(f"{knob} {value}" for knob, value in setting.items()) or "–",
                "recall": sum(right) / (K * len(right)),
                "p50_ms": float(np.percentile(seconds, 50)) * 1000,
                "p99_ms": float(np.percentile(seconds, 99)) * 1000,
                "per_s": len(seconds) / sum(seconds),
                "n_queries": len(seconds),
            }
        )
    return {"open_s": open_s, "anon_bytes": held["anon"], "total_bytes": held["total"], "settings": results}


def _measure(
    peer: Peer, setting: Setting, queries: Float32, limit_s: float
) -> tuple[list[Rows], list[float]]:
    peer.use(setting)
    rows: list[Rows] = []
    seconds: list[float] = []
    for query in queries[:N_UNCOUNTED]:
        peer.search(query, K)
    for query in queries:
        started = time.perf_counter()
        rows.append(peer.search(query, K))
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > limit_s and len(seconds) >= 20:
            break
    return rows, seconds


def _n_right(vectors: Any, query: Float32, rows: Rows, threshold: float) -> int:
    rows = np.unique(rows[rows >= 0])
    found = vectors[rows].astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return int(np.count_nonzero(found @ query >= threshold - SAME))


def main() -> None:
    """Do one thing and print its result as the last line of standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.child")
    parser.add_argument("task", choices=("build", "search", "describe"))
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--questions", type=Path, help=".npz with queries and truth")
    parser.add_argument("--limit-s", type=float, default=20.0)
    arguments = parser.parse_args()
    try:
        kind = load(arguments.name)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    dim = np.load(arguments.corpus, mmap_mode="r").shape[1]
    peer = kind(arguments.folder, dim)
    result: dict[str, Any]
    if arguments.task == "describe":
        result = {"told": peer.told, "versions": {each: version(each) for each in peer.packages}}
    elif arguments.task == "build":
        result = build(peer, arguments.corpus, arguments.rows)
    else:
        questions = np.load(arguments.questions)
        queries, truth = questions["queries"], questions["truth"]
        before = memory_bytes([os.getpid()]) | {"process": os.getpid()}
        result = search(peer, before, arguments.corpus, arguments.rows, queries, truth, arguments.limit_s)
    sys.stdout.flush()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
