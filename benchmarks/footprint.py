"""What 100 000 random 768-d client vectors cost: memory beyond the start, restart to ready."""

from pathlib import Path

import numpy as np

from benchmarks.serving import Server, serving, temporary_folder
from index.vectors import Float32, normalise

N, DIM, PREFIX, BATCH = 100_000, 768, 256, 1000


def run(data: Path) -> None:
    """Ingest, search, restart, search: at each point what the process holds, against the prefix index's size."""
    rng = np.random.default_rng(1)
    queries = normalise(rng.standard_normal((200, DIM), dtype=np.float32))
    prefix_bytes = N * PREFIX * 4
    settings = {"encoder__model": "none", "encoder__dim": DIM}
    print(f"\n{N} vectors of {DIM} dimensions; prefix index {prefix_bytes / 2**20:.0f} MiB")
    with temporary_folder() as data_dir:
        with serving(data_dir, **settings) as server:
            before = server.memory_bytes()
            _print("at start, empty", server, before, prefix_bytes)
            for start in range(0, N, BATCH):
                vectors = normalise(rng.standard_normal((BATCH, DIM), dtype=np.float32))
                server.add(
                    [{"id": f"{start + i}", "vector": v.tolist()} for i, v in enumerate(vectors)], BATCH
                )
            _print("after ingest", server, before, prefix_bytes)
            _searches(server, queries)
            _print("after 200 searches of each mode", server, before, prefix_bytes)
        with serving(data_dir, **settings) as server:
            print(f"  restart to ready: {server.ready_s:.2f} s")
            _print("after restart", server, before, prefix_bytes)
            _searches(server, queries)
            _print("after 200 searches of each mode", server, before, prefix_bytes)
            sizes = server.http.get("/stats").json()["disk_bytes"]
            print("  on disk:", {name: f"{size / 2**20:.1f} MiB" for name, size in sizes.items()})


def _searches(server: Server, queries: Float32) -> None:
    for mode in ("two_pass", "prefix", "exact"):
        times = []
        for query in queries:
            answer = server.http.post("/search", json={"vector": query.tolist(), "mode": mode})
            answer.raise_for_status()
            times.append(answer.json()["timings_ms"]["total"])
        print(f"    {mode:9} p50 {np.median(times):.1f} ms, p99 {np.percentile(times, 99):.1f} ms")


def _print(when: str, server: Server, before: dict[str, int], prefix_bytes: int) -> None:
    now = server.memory_bytes()
    told = ", ".join(
        f"{name} {now[name] / 2**20:.0f} MiB (+{(now[name] - before[name]) / prefix_bytes:.2f} of the prefix index)"
        for name in now
    )
    print(f"  {when}: {told}")
