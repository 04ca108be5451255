"""A million synthetic vectors and more: `python -m benchmarks.scale fill|rebuild|http|disk|restart|growth`.

`fill` makes a collection in --folder through the server's own code (no HTTP) and waits for its first pass; the other
parts use what it made:

- rebuild: makes the first pass anew, and says how long that took and how much memory;
- http: searches a second over HTTP on this machine, load generator included, and their recall against mode exact;
- tight: milliseconds a search over HTTP, each query once after the page cache was emptied, then again; to be run under
  shared/tools/small-machine with a quarter of the vector file's size as memory;
- disk: milliseconds and reads a search, warm or, under shared/tools/small-machine, from a slow disk;
- restart: seconds from the start of the process to the first answer;
- growth: milliseconds of a first pass over growing numbers of rows, vectors made as they are needed.
"""

import argparse
import base64
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import serving, wait_for_index
from benchmarks.synthetic import BLOCK, blocks, queries
from benchmarks.wire import Connection, request, requests_per_s_of
from index.two_pass import Mode
from index.vectors import Float32
from server.app import open_collection
from server.checking import NewDocument
from server.collection import Collection, RebuildWishes
from server.memory import keep_memory_small
from server.settings import load_settings

BATCH = 4096  # documents stored in one go
N_QUERIES = 500
K = 10


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("part", choices=("fill", "rebuild", "http", "tight", "disk", "restart", "growth"))
    parser.add_argument("--folder", type=Path, default=Path("scale-data"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--pause-s", type=float, default=0.0, help="between the searches of part disk")
    parser.add_argument("--read-all", action="store_true", help="part disk: read whole pools, for comparison")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings, as index__codec=pq4"
    )
    arguments = parser.parse_args()
    keep_memory_small()  # as the server does
    settings = dict(each.split("=", 1) for each in arguments.set)
    settings |= {"encoder__model": "none", "encoder__dim": str(arguments.dim)}
    parts = {
        "fill": fill,
        "rebuild": rebuild,
        "http": over_http,
        "tight": tight,
        "disk": from_disk,
        "restart": restart,
        "growth": growth,
    }
    parts[arguments.part](arguments, settings)


def fill(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """Store the rows and wait until the first pass is in shape."""
    started = time.perf_counter()
    with _collection(arguments.folder, settings) as collection:
        for first_row, block in blocks(arguments.rows, arguments.dim):
            for start in range(0, len(block), BATCH):
                collection.add(
                    [
                        NewDocument(str(first_row + start + at), None, {}, vector)
                        for at, vector in enumerate(block[start : start + BATCH])
                    ]
                )
            if first_row // BLOCK % 8 == 0:
                print(f"  {first_row + len(block)} rows, {time.perf_counter() - started:.0f} s", flush=True)
        stored_s = time.perf_counter() - started
        # The rebuilds that ingest set off have used an earlier size: make one for all rows, as an owner would.
        _rebuild(collection)
    print(f"stored in {stored_s:.0f} s")


def rebuild(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """Make the first pass anew."""
    with _collection(arguments.folder, settings) as collection:
        time.sleep(2)  # other settings than those it was made by: the server begins by itself
        _rebuild(collection)


def _rebuild(collection: Collection) -> None:
    running = [job for job in collection.jobs.all() if job.status == "running"]
    job = running[0] if running else collection.rebuild(RebuildWishes())
    while job.status in ("waiting", "running"):
        time.sleep(0.2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first_pass = collection.stats()["first_pass"]
    print(
        f"rebuild: {job.status} {job.error or ''} in {first_pass['evidence']['seconds']} s; peak RSS {peak:.0f} MiB"
    )
    print(json.dumps(first_pass))


def over_http(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """Searches a second, vectors as base64 and as numbers, at several numbers of connections; recall by mode exact."""
    asked = queries(N_QUERIES, arguments.rows, arguments.dim)
    with serving(arguments.folder, **settings) as server:
        stats = server.http.get("/stats").json()["first_pass"]
        told = {name: value for name, value in stats.items() if name != "evidence"}
        searches = [{"vector": _base64(query), "k": K, "include": []} for query in asked]
        found = [_ids(result) for result in server.search(searches)]
        exact = [
            _ids(result) for result in server.search([{**each, "mode": "exact"} for each in searches], 100)
        ]
        recall = np.mean([len(set(mine) & set(true)) / K for mine, true in zip(found, exact, strict=True)])
        print(
            f"{stats['bytes'] / 2**20:.1f} MiB first pass {told}; recall@{K} {recall:.4f} over {len(asked)} queries"
        )
        port = server.http.base_url.port
        assert port is not None
        for name, bodies in {
            "base64": [json.dumps(each).encode() for each in searches],
            "numbers": [json.dumps({"vector": q.tolist(), "k": K, "include": []}).encode() for q in asked],
        }.items():
            requests = [request("POST", "/search", body) for body in bodies]
            for n_connections in (1, 2, 4, 16):
                rates = [requests_per_s_of(port, requests, n_connections, 1000) for _ in range(3)]
                print(f"  {name}, {n_connections} connections: {np.median(rates):.0f} searches/s", flush=True)
        print(f"  server's memory afterwards: { {n: v >> 20 for n, v in server.memory_bytes().items()} } MiB")


def tight(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """Searches one after another over HTTP, from a cold page cache and then warm; what the server says of itself."""
    asked = queries(N_QUERIES, arguments.rows, arguments.dim)
    requests = [
        request(
            "POST", "/search", json.dumps({"vector": _base64(query), "k": K, "include": ["explain"]}).encode()
        )
        for query in asked
    ]
    _forget(arguments.folder)
    with serving(arguments.folder, **settings) as server:
        print(f"ready after {server.ready_s:.1f} s", flush=True)
        wait_for_index(server)
        port = server.http.base_url.port
        assert port is not None
        for name in ("cold", "warm", "warm again"):
            if name == "cold":
                _forget(arguments.folder)
            took, cold, read = [], [], []
            with Connection(port) as connection:
                for sent in requests:
                    started = time.perf_counter()
                    answer = json.loads(connection.ask(sent))
                    took.append((time.perf_counter() - started) * 1e3)
                    cold.append(answer["explain"]["cold_reads"])
                    read.append(answer["explain"]["rows_read"])
            p50, p90, p99 = np.percentile(took, (50, 90, 99))
            print(
                f"{name}: p50 {p50:.1f} ms, p90 {p90:.1f}, p99 {p99:.1f}, most {max(took):.0f}; rows read "
                f"{np.mean(read):.0f} a search, {np.mean(cold):.0f} of them from the disk",
                flush=True,
            )
        stats = server.http.get("/stats").json()
        told = {each: value for each, value in stats["first_pass"].items() if each != "evidence"}
        print(f"first pass {told}; disk {stats['disk']}")
        print(f"server's memory: { {name: size >> 20 for name, size in server.memory_bytes().items()} } MiB")


def _forget(folder: Path) -> None:
    """Have the files leave the page cache, so that their pages count as those of whoever reads them next."""
    for path in folder.glob("collections/default/*"):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def from_disk(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """Each query once, in process; vectors leave the page cache first. Reads are those the page cache didn't answer."""
    asked = queries(200, arguments.rows, arguments.dim)
    _forget(arguments.folder)
    with _collection(arguments.folder, settings) as collection:
        index, store = collection.store.index, collection.store
        time.sleep(1)  # upkeep measures the disk
        oversample = 8.0  # pools of 80, for comparison with reading all 80
        took, cold, read, ids = [], [], [], []
        for query in asked:
            time.sleep(arguments.pause_s)
            started = time.perf_counter()
            (found,) = store.search(
                query[None], K, Mode.TWO_PASS, oversample, 80, read_all=arguments.read_all
            )
            took.append((time.perf_counter() - started) * 1e3)
            cold.append(found.cold_reads)
            read.append(found.rows_read)
            ids.append([hit.row for hit in found.hits])
        print(f"plan {index.plan.told()}; wave {index.wave_rows}; oversample {oversample}")
        print(f"disk {collection.stats()['disk']}")
        print(
            f"ms: p50 {np.median(took):.1f}, p90 {np.percentile(took, 90):.1f}, mean {np.mean(took):.1f}; rows read: "
            f"median {np.median(read):.0f}, mean {np.mean(read):.1f}; of them cold {np.mean(cold):.1f}"
        )
        # The same answers as reading the whole pool? Asked afterwards, so that nothing was warmed for the above.
        same = [
            [hit.row for hit in store.search(q[None], K, Mode.TWO_PASS, 8, 80, read_all=True)[0].hits] == mine
            for q, mine in zip(asked[:100], ids, strict=False)
        ]
        print(f"same {K} hits in the same order as reading 80 candidates: {np.mean(same):.3f} of {len(same)}")


def restart(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """Start the server on the filled folder and ask it."""
    body = {"vector": _base64(queries(1, arguments.rows, arguments.dim)[0]), "include": []}
    for _ in range(3):
        started = time.perf_counter()
        with serving(arguments.folder, **settings) as server:
            server.http.post("/search", json=body).raise_for_status()
            print(
                f"  ready after {server.ready_s:.2f} s, first answer after {time.perf_counter() - started:.2f} s"
            )


def growth(arguments: argparse.Namespace, settings: dict[str, str]) -> None:
    """Time a first pass at 100 000, 1 000 000, … up to --rows rows; each in a process of its own."""
    n_rows = 100_000
    while n_rows <= arguments.rows:
        command = [
            sys.executable,
            "-m",
            "benchmarks.growth",
            str(n_rows),
            str(arguments.dim),
            str(arguments.folder),
        ]
        subprocess.run(command, check=True)
        n_rows *= 10


@contextlib.contextmanager
def _collection(folder: Path, settings: dict[str, str]) -> Iterator[Collection]:
    environ = {f"TWOPASS_{name.upper()}": value for name, value in settings.items()}
    with open_collection(load_settings(environ=environ | {"TWOPASS_DATA_DIR": str(folder)})) as collection:
        yield collection


def _base64(vector: Float32) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _ids(result: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in result["hits"]]


if __name__ == "__main__":
    main()
