"""What HTTP adds to a search: client vectors of 768 dimensions, 200 documents, one connection, one at a time."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from benchmarks.serving import serving, temporary_folder

N_WARM_UP, N_MEASURED = 50, 1000


def run(data: Path) -> None:
    """Medians over a kept connection, as the client sees them, beside a request that does nothing."""
    rng = np.random.default_rng(1)
    body = json.dumps({"vector": rng.standard_normal(768).tolist()}).encode()
    headers = {"content-type": "application/json"}
    print(f"\nHTTP overhead, medians of {N_MEASURED} requests one after another")
    with temporary_folder() as data_dir, serving(data_dir, encoder__model="none", encoder__dim=768) as server:
        server.add([{"id": str(i), "vector": rng.standard_normal(768).tolist()} for i in range(200)])

        def search() -> httpx.Response:
            return server.http.post("/search", content=body, headers=headers)

        print(f"  GET /livez     {_median_ms(lambda: server.http.get('/livez')):.2f} ms")
        print(f"  POST /search   {_median_ms(search):.2f} ms")
        timings = [search().json()["timings_ms"] for _ in range(200)]
        medians = {name: round(float(np.median([each[name] for each in timings])), 3) for name in timings[0]}
        print(f"  of which, inside the server: {medians}")


def _median_ms(call: Callable[[], httpx.Response]) -> float:
    seconds = []
    for _ in range(N_WARM_UP + N_MEASURED):
        started = time.perf_counter()
        call().raise_for_status()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[N_WARM_UP:])) * 1000
