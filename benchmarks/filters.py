"""What a filter costs, by the share of the documents that it lets through: `python -m benchmarks filters`.

Synthetic vectors with metadata, in a server of their own. Every filter takes its turn in each round beside the search
without one. A filter's first use reads the metadata of all documents, or an index's values; later uses what was kept.
"""

import argparse
import json
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.serving import Server, serving, temporary_folder
from benchmarks.synthetic import blocks, queries
from benchmarks.wire import Connection, request

K = 10
N_ROUNDS = 300  # searches of each filter that was used before
N_FRESH = 20  # filters of each kind that weren't
SHARES = {"50 %": 0.5, "1 %": 0.01, "0.01 %": 0.0001, "0.003 %": 0.00003}
FIELD = "place"  # a number from 0 to 1, other for each document


def main(arguments: list[str]) -> None:
    """Measure with an index of the field and without."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks filters", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    given = parser.parse_args(arguments)
    places = np.random.default_rng(1).permutation(given.rows) / given.rows
    asked = queries(N_ROUNDS, given.rows, given.dim)
    with (
        temporary_folder() as folder,
        serving(folder, encoder__model="none", encoder__dim=given.dim) as server,
    ):
        for first_row, block in blocks(given.rows, given.dim):
            server.add(
                [
                    {
                        "id": str(row),
                        "vector": vector.tolist(),
                        "metadata": _metadata(row, float(places[row])),
                    }
                    for row, vector in enumerate(block, first_row)
                ],
                batch=2000,
            )
        _settled(server)
        print(
            f"\n{given.rows} documents of {given.dim} dimensions, k = {K}, medians in ms of the whole search"
        )
        print(
            f"  {'lets through':<14}{'documents':>10}{'hits':>6}{'used before':>13}{'to none':>9}{'recall':>8}"
            f"{'first use':>11}{'indexed':>9}"
        )
        rows = {name: _used_before(server, share, asked, places) for name, share in SHARES.items()}
        first = {name: _first_use(server, share, asked) for name, share in SHARES.items()}
        _ended(server, server.http.post("/metadata/indexes", json={"path": FIELD}).json()["job"]["id"])
        indexed = {name: _first_use(server, share, asked) for name, share in SHARES.items()}
        for name, row in rows.items():
            print(f"  {name:<14}{row}{first[name]:>11.2f}{indexed[name]:>9.2f}")


def _used_before(server: Server, share: float, asked: np.ndarray, places: np.ndarray) -> str:
    """Searches with one filter and without any, in turns."""
    n_matching = int((places < share).sum())
    wanted = {FIELD: {"$lt": share}}
    times: dict[bool, list[float]] = {True: [], False: []}
    n_hits, n_right = set(), 0
    with Connection(_port(server)) as connection:
        connection.ask(_search(asked[0], wanted))
        for query in asked:
            for is_filtered in times:
                body = _search(query, wanted if is_filtered else None)
                at = time.perf_counter()
                answer = connection.ask(body)
                times[is_filtered].append((time.perf_counter() - at) * 1000)
                if is_filtered:
                    hits = json.loads(answer)["hits"]
                    n_hits.add(len(hits))
        for query in asked[:50]:  # the same as an exact search over what the filter lets through?
            found = json.loads(connection.ask(_search(query, wanted)))["hits"]
            exact = json.loads(connection.ask(_search(query, wanted, "exact")))["hits"]
            n_right += len({hit["id"] for hit in found} & {hit["id"] for hit in exact})
    assert n_hits == {min(K, n_matching)}, n_hits
    mine, none = (median(times[each]) for each in (True, False))
    recall = n_right / (50 * min(K, n_matching))
    return f"{n_matching:>10}{n_hits.pop():>6}{mine:>13.2f}{mine / none:>8.2f}x{recall:>8.4f}"


def _first_use(server: Server, share: float, asked: np.ndarray) -> float:
    """Each search with a filter that was never used."""
    times = []
    with Connection(_port(server)) as connection:
        for at, query in enumerate(asked[:N_FRESH]):
            wanted = {FIELD: {"$lt": share * (1 + 1e-9 * (at + np.random.default_rng().random()))}}
            started = time.perf_counter()
            connection.ask(_search(query, wanted))
            times.append((time.perf_counter() - started) * 1000)
    return median(times)


def _metadata(row: int, place: float) -> dict[str, Any]:
    return {
        FIELD: place,
        "title": f"Document number {row}",
        "tags": ["home", f"t{row % 20}"],
        "year": 1990 + row % 35,
    }


def _search(query: np.ndarray, wanted: dict[str, Any] | None, mode: str = "two_pass") -> bytes:
    body = {"vector": query.tolist(), "k": K, "include": [], "mode": mode}
    return request(
        "POST", "/search", json.dumps(body if wanted is None else {**body, "filter": wanted}).encode()
    )


def _settled(server: Server) -> None:
    while any(job["status"] in ("waiting", "running") for job in server.http.get("/jobs").json()["jobs"]):
        time.sleep(0.1)


def _ended(server: Server, job: str) -> None:
    while server.http.get(f"/jobs/{job}").json()["status"] != "done":
        time.sleep(0.1)


def _port(server: Server) -> int:
    port = server.http.base_url.port
    assert port is not None
    return port
