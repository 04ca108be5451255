"""Pulling the plug: what was acknowledged is there, what was not is there wholly or not at all."""

import random
import signal
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import httpx
import numpy as np
import pytest
from conftest import ROOT, clustered, until

from server.verification import verify

DIM = 32
BROUGHT = {"encoder__model": "none", "encoder__dim": DIM, "index__prefix_dim": 16}
FAILING = (str(ROOT / "tests" / "failing_server.py"),)


def document(identifier, vector, version):
    return {
        "id": identifier,
        "vector": vector.tolist(),
        "text": f"{identifier} v{version}",
        "metadata": {"v": version},
    }


def stored(server):
    """Every document by id: (text, version)."""
    documents, after = {}, ""
    while after is not None:
        page = server.http.get("/documents", params={"limit": 1000, "after": after}).json()
        documents |= {each["id"]: (each["text"], each["metadata"]["v"]) for each in page["documents"]}
        after = page["next"]
    return documents


def check_clean(data_dir):
    report = verify(data_dir, lambda done, total: None)
    assert report.problems == []
    return report


def check_found(server, vectors_by_id):
    """Each of these documents is the nearest to its own vector."""
    wanted = list(vectors_by_id.items())
    for start in range(0, len(wanted), 100):
        part = wanted[start : start + 100]
        searches = [{"vector": vector.tolist(), "k": 1, "include": []} for _, vector in part]
        results = server.http.post("/search/batch", json={"searches": searches}).json()["results"]
        assert [result["hits"][0]["id"] for result in results] == [identifier for identifier, _ in part]


POINTS = [
    "1 half the rows appended",
    "1 rows appended",
    "2 instead of making rows durable",
    "2 rows durable",
    "3 half the transaction",
    "3 before the commit",
    "3 committed",
    "4 shown",
    "5 before the answer",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_at_any_write_step_keeps_what_it_acknowledged(tmp_path, serve, monkeypatch, point):
    vectors = clustered(80, DIM, seed=1)
    data_dir, when = tmp_path / "data", tmp_path / "armed"
    for name, value in {"FAIL_AT": point, "FAIL_HOW": "kill", "FAIL_WHEN": str(when)}.items():
        monkeypatch.setenv(name, value)
    first = [document(f"a{i}", vectors[i], 1) for i in range(30)]
    # Ten replace what is there, twenty are new.
    second = [document(f"a{i}", vectors[i + 30], 2) for i in range(20, 50)]
    old = {each["id"]: (each["text"], 1) for each in first}
    new = old | {each["id"]: (each["text"], 2) for each in second}
    with serve(data_dir, FAILING, **BROUGHT) as server:
        assert server.http.post("/documents", json={"documents": first}).status_code == 201
        when.touch()
        with pytest.raises(httpx.TransportError):
            server.http.post("/documents", json={"documents": second})
        server.end()
    when.unlink()
    report = check_clean(data_dir)
    with serve(data_dir, **BROUGHT) as server:
        there = stored(server)
        assert there == (new if point.startswith(("3 committed", "4", "5")) else old)
        assert report.documents == len(there)
        ids = {identifier: int(identifier[1:]) for identifier in there}
        check_found(
            server,
            {name: vectors[at + 30 if there[name][1] == 2 else at] for name, at in ids.items()},
        )
        assert server.http.post("/documents", json={"documents": second}).status_code == 201
        assert stored(server) == new
        assert server.stop() == 0
    check_clean(data_dir)


@pytest.mark.parametrize(("how", "status"), [("full", 507), ("io", 503)])
@pytest.mark.parametrize(
    "point", ["1 half the rows appended", "2 instead of making rows durable", "3 half the transaction"]
)
def test_a_disk_that_fails_at_a_write_step_loses_nothing_and_searches_go_on(
    tmp_path, serve, monkeypatch, point, how, status
):
    vectors = clustered(60, DIM, seed=2)
    data_dir, when = tmp_path / "data", tmp_path / "armed"
    for name, value in {"FAIL_AT": point, "FAIL_HOW": how, "FAIL_WHEN": str(when)}.items():
        monkeypatch.setenv(name, value)
    first = [document(f"a{i}", vectors[i], 1) for i in range(30)]
    second = [document(f"a{i}", vectors[i], 1) for i in range(30, 60)]
    with serve(data_dir, FAILING, **BROUGHT) as server:
        assert server.http.post("/documents", json={"documents": first}).status_code == 201
        when.touch()
        answer = server.http.post("/documents", json={"documents": second})
        assert answer.status_code == status
        assert answer.json()["hint"]
        vectors_file = data_dir / "collections" / "default" / "vectors-0001.f16"
        assert vectors_file.stat().st_size == 30 * DIM * 2  # the room is given back
        assert len(stored(server)) == 30
        check_found(server, {f"a{i}": vectors[i] for i in range(30)})
        when.unlink()
        assert server.http.post("/documents", json={"documents": second}).status_code == 201
        check_found(server, {f"a{i}": vectors[i] for i in range(60)})
        assert server.stop() == 0
    check_clean(data_dir)


class Writer:
    """Adds, replaces and deletes documents of its own until the server is gone; remembers what was acknowledged."""

    def __init__(self, url, name, seed):
        self.url, self.prefix = url, name
        self.random = random.Random(seed)
        self.vectors = np.random.default_rng(seed)
        self.acknowledged = {}  # id: (vector, version), or None once deleted
        self.uncertain = set()  # ids of the request that got no answer
        self.n_requests = 0

    def write(self):
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as http:
            for version in range(1_000_000):
                ids = self.random.sample(
                    [f"{self.prefix}-{i}" for i in range(400)], self.random.randint(1, 60)
                )
                is_delete = self.random.random() < 0.15
                new = {name: self.vectors.standard_normal(DIM).astype(np.float32) for name in ids}
                try:
                    if is_delete:
                        answer = http.post("/documents/delete", json={"ids": ids})
                    else:
                        body = {"documents": [document(name, new[name], version) for name in ids]}
                        answer = http.post("/documents", json=body)
                except httpx.TransportError:
                    self.uncertain = set(ids)
                    return
                if answer.status_code == 503 and answer.json()["code"] == "shutting_down":
                    return  # and what it says is held to: nothing of this request was stored
                assert answer.status_code in (200, 201), answer.text
                self.n_requests += 1
                for name in ids:
                    self.acknowledged[name] = None if is_delete else (new[name], version)


def test_kills_at_random_moments_of_concurrent_ingests_lose_nothing(tmp_path, serve):
    lose_nothing(tmp_path, serve, 8, [signal.SIGKILL])


@pytest.mark.faults
@pytest.mark.parametrize("part", range(4))
def test_100_kills_and_stops_at_random_moments_lose_nothing(tmp_path, serve, part):
    lose_nothing(tmp_path, serve, 25, [signal.SIGKILL, signal.SIGTERM])


def until_answered(writers, writing, n):
    """Wait until n requests of all writers were answered, or a writer has failed."""
    until(lambda: sum(each.n_requests for each in writers) >= n or any(each.done() for each in writing))


def lose_nothing(tmp_path, serve, n_rounds, ways):
    """End a server so often, in one of these ways, while three threads write; look each time what it has."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    moments = random.Random(seed)
    expected, uncertain = {}, set()
    n_requests = 0
    for round_number in range(n_rounds + 1):
        with serve(tmp_path, **BROUGHT) as server:
            there = stored(server)
            for name, (text, version) in there.items():
                assert text == f"{name} v{version}"  # never a mixture of two versions
            for name, kept in expected.items():
                if name not in uncertain:
                    assert there.get(name, (None, None))[1] == (kept[1] if kept else None), name
            certain = {n: kept[0] for n, kept in expected.items() if kept and n not in uncertain}
            check_found(server, certain)
            # What got no answer is settled now, one way or the other; take it out for the next round.
            server.http.post(
                "/documents/delete", json={"ids": sorted(uncertain | (set(there) - set(expected)))}
            )
            expected |= dict.fromkeys(uncertain)
            if round_number == n_rounds:
                assert server.stop() == 0
                break
            writers = [Writer(server.url, f"w{i}", seed + 10 * round_number + i) for i in range(3)]
            with ThreadPoolExecutor(3) as threads:
                writing = [threads.submit(writer.write) for writer in writers]
                # The moment is the test. It is counted in answers: on a busy machine none came in a second.
                until_answered(writers, writing, moments.randint(5, 40))
                wait(writing, moments.uniform(0, 0.05), FIRST_EXCEPTION)
                server.stop(moments.choice(ways))
            for each in writing:
                each.result()
        check_clean(tmp_path)
        uncertain = set().union(*(writer.uncertain for writer in writers))
        for writer in writers:
            expected |= writer.acknowledged
            n_requests += writer.n_requests
    assert n_requests > 4 * n_rounds
    print("acknowledged requests", n_requests)
