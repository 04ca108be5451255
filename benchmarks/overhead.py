"""What HTTP adds to a search: client vectors of 768 dimensions, 200 documents, beside FastAPI doing nothing."""

import base64
import contextlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.serving import serving, temporary_folder
from benchmarks.wire import Connection, request, requests_per_s

N_ROUNDS, N_IN_A_ROUND = (
    20,
    100,
)  # servers and requests take turns, so that a busy machine is busy for all of them
N_AT_ONCE = (1, 4, 16)
N_FOR_RATE = 3000


def run(data: Path) -> None:
    """Medians over one kept connection, as a client that costs nothing sees them, and searches a second."""
    rng = np.random.default_rng(1)
    vector = rng.standard_normal(768).astype(np.float32)
    numbers = json.dumps({"vector": vector.astype(float).tolist()}).encode()
    packed = json.dumps({"vector": base64.b64encode(vector.tobytes()).decode()}).encode()
    requests = {
        "GET /livez": request("GET", "/livez"),
        "POST /search, numbers": request("POST", "/search", numbers),
        "POST /search, base64": request("POST", "/search", packed),
    }
    settings = {"encoder__model": "none", "encoder__dim": 768}
    with temporary_folder() as data_dir, serving(data_dir, **settings) as server, bare_server() as bare_port:
        server.add([{"id": str(i), "vector": rng.standard_normal(768).tolist()} for i in range(200)])
        port = server.http.base_url.port
        assert port is not None
        measured = take_turns({"bare": bare_port, "twopass": port}, requests)
        print(
            f"\nHTTP overhead, medians of {N_ROUNDS * N_IN_A_ROUND} requests in ms ({len(numbers)} bytes of"
        )
        print(f"JSON with numbers, {len(packed)} with base64)")
        print(f"  {'':<22} {'FastAPI':>8} {'twopass':>8} {'search':>8} {'HTTP':>8} {'HTTP/FastAPI':>13}")
        for name in requests:
            bare, whole = (float(np.median(measured[who, name])) for who in ("bare", "twopass"))
            search = float(np.median(measured["search", name] or [0.0]))
            http = float(np.median(measured["http", name] or [whole]))
            print(f"  {name:<22} {bare:8.2f} {whole:8.2f} {search:8.2f} {http:8.2f} {http / bare:13.2f}")
        for name in list(requests)[1:]:
            rates = [requests_per_s(port, requests[name], n, N_FOR_RATE) for n in N_AT_ONCE]
            told = ", ".join(f"{rate:.0f} ({n})" for n, rate in zip(N_AT_ONCE, rates, strict=True))
            print(f"  {name}: searches a second (connections): {told}")


def take_turns(ports: dict[str, int], requests: dict[str, bytes]) -> dict[tuple[str, str], list[float]]:
    """Return the milliseconds of each (server, request), after a round to warm up.

    A search says how long Collection.search took; that is counted as ("search", request), and the rest of what the
    client measured as ("http", request).
    """
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        connections = {who: stack.enter_context(Connection(port)) for who, port in ports.items()}
        for round in range(1 + N_ROUNDS):
            for who, connection in connections.items():
                for name, sent in requests.items():
                    for _ in range(N_IN_A_ROUND):
                        started = time.perf_counter()
                        answer = connection.ask(sent)
                        took_ms = (time.perf_counter() - started) * 1000
                        if round > 0:
                            measured[who, name].append(took_ms)
                            if who == "twopass" and b'"timings_ms"' in answer:
                                search_ms = json.loads(answer)["timings_ms"]["total"]
                                measured["search", name].append(search_ms)
                                measured["http", name].append(took_ms - search_ms)
    return measured


@contextlib.contextmanager
def bare_server() -> Iterator[int]:
    """Run benchmarks.bare in a process of its own; its port."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bare"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()
