"""A backup of 100 000 documents while ingest and search run, restored elsewhere: are the answers identical?"""

import base64
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import Server, serving, temporary_folder
from benchmarks.synthetic import blocks, queries
from index.vectors import Float32

N, DIM, BATCH = 100_000, 384, 1000
N_MORE = 60_000  # documents at most that come in while the backup is made
N_QUERIES = 500
MODES = ("two_pass", "certified", "exact")
SETTINGS = {"encoder__model": "none", "encoder__dim": DIM, "index__compact_share": 0}


def run(data: Path) -> None:
    """Fill a server, back it up under load, restore that into another, ask both the same."""
    asked = queries(N_QUERIES, N, DIM)
    print(f"\nbackup: {N} documents with vectors of {DIM} dimensions, encoder none")
    with temporary_folder() as folder, serving(folder / "data", **SETTINGS) as server:
        documents = _documents()
        for _ in range(0, N, BATCH):
            server.add([next(documents) for _ in range(BATCH)], BATCH)
        _settle(server)
        print(f"  search alone: {_times(_search_for(server, asked, 5.0))}")
        file = folder / "twopass.tar"
        with _Load(server, documents, asked) as load:
            time.sleep(2)
            load.begin()
            took_s = _command("backup", file, "--url", str(server.http.base_url))
            rate, times = load.end()
        print(f"  backup by the command: {took_s:.1f} s, {file.stat().st_size / 2**20:.0f} MiB, checked")
        print(f"  meanwhile: {rate:.0f} documents a second stored; search {_times(times)}")
        took_s = _command("restore", file, "--data-dir", folder / "restored")
        print(f"  restore: {took_s:.1f} s")
        with serving(folder / "restored", **SETTINGS) as other:
            print(f"  start of the restored server to ready: {other.ready_s:.1f} s")
            _compare(server, other, asked)


def _documents() -> Iterator[dict[str, Any]]:
    n = 0
    for _, block in blocks(N + N_MORE, DIM):
        for vector in block:
            told = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            yield {"id": f"{n:06}", "vector": told, "text": f"Text {n}. " * 20, "metadata": {"n": n}}
            n += 1


def _settle(server: Server) -> None:
    """Wait for the first pass of all there is; none is made by itself then."""
    server.http.post("/index/rebuild", json={}).raise_for_status()
    _wait(server)


def _wait(server: Server) -> None:
    while any(job["status"] in ("waiting", "running") for job in server.http.get("/jobs").json()["jobs"]):
        time.sleep(0.2)


def _command(*arguments: object) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "server.cli", *map(str, arguments)], check=True)
    return time.perf_counter() - started


def _search_for(server: Server, asked: Float32, seconds: float) -> list[float]:
    """Search one after another; return milliseconds, HTTP included."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        body = {"vector": asked[len(times) % len(asked)].tolist(), "k": 10}
        server.http.post("/search", json=body).raise_for_status()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def _times(times: list[float]) -> str:
    return f"p50 {np.median(times):.1f} ms, p99 {np.percentile(times, 99):.1f} ms over {len(times)}"


class _Load:
    """One client that stores and one that searches, until the block ends."""

    def __init__(self, server: Server, documents: Iterator[dict[str, Any]], asked: Float32) -> None:
        self._url = server.http.base_url
        self._documents = documents
        self._asked = asked
        self._stopping = threading.Event()
        self._stored = 0
        self._times: list[float] = []
        self._begun = (0.0, 0, 0)
        self._threads = [threading.Thread(target=each) for each in (self._store, self._search)]

    def __enter__(self) -> "_Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def begin(self) -> None:
        """Count from here."""
        self._begun = (time.perf_counter(), self._stored, len(self._times))

    def end(self) -> tuple[float, list[float]]:
        """Documents stored a second, and milliseconds of each search, since `begin`."""
        started, stored, searches = self._begun
        return (self._stored - stored) / (time.perf_counter() - started), self._times[searches:]

    def _store(self) -> None:
        with httpx.Client(base_url=self._url, timeout=600, trust_env=False) as http:
            while not self._stopping.is_set():
                some = list(itertools.islice(self._documents, 100))
                if not some:
                    return
                http.post("/documents", json={"documents": some}).raise_for_status()
                self._stored += len(some)

    def _search(self) -> None:
        with httpx.Client(base_url=self._url, timeout=600, trust_env=False) as http:
            while not self._stopping.is_set():
                body = {"vector": self._asked[len(self._times) % len(self._asked)].tolist(), "k": 10}
                started = time.perf_counter()
                http.post("/search", json=body).raise_for_status()
                self._times.append((time.perf_counter() - started) * 1e3)


def _compare(server: Server, other: Server, asked: Float32) -> None:
    """Take what came after the backup out of the first server, and ask both for the same."""
    n = other.http.get("/stats").json()["documents"]
    deleted = server.http.post("/documents/delete", json={"filter": {"n": {"$gte": n}}}).json()["deleted"]
    print(f"  documents in the backup: {n}; came later: {deleted}")
    # Both first passes are then made anew, of the same rows: what was trained on others finds others now and then.
    job = server.http.post("/index/compact").raise_for_status().json()["job"]["id"]
    _wait(server)
    print(f"  compaction of the first server: {server.http.get(f'/jobs/{job}').json()['result']}")
    for each in (other, server):
        _settle(each)
        told = each.http.get("/stats").json()["first_pass"]
        print(f"  first pass: {told['codec']}, {told['order']}'s order, {told['prefix_dim']} dimensions")
    for mode in MODES:
        searches = [{"vector": each.tolist(), "k": 10, "mode": mode} for each in asked]
        mine, theirs = server.search(searches), other.search(searches)
        same = sum(one["hits"] == two["hits"] for one, two in zip(mine, theirs, strict=True))
        print(f"  {mode:9} {same} of {len(asked)} answers identical (ids, order, scores, texts, metadata)")
