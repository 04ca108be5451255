"""Changing the model: the old one serves until the new one has every text, whatever happens in between."""

import json
import random
import signal
import threading
from functools import partial

import httpx
import numpy as np
import pytest
from conftest import beside, ended, serving, twopass, until
from embedding_host import WORDS, embed, embedding_host

from server.verification import verify

OLD, NEW = "words-24", "words-40"


@pytest.fixture
def host():
    with embedding_host() as host:
        yield host


def settings(host, model=OLD, **more):
    return {"encoder__model": model, "encoder__url": host.url, "encoder__retries": 0, **more}


def text_of(n, seed=1):
    words = random.Random(f"{seed} {n}").choices(WORDS, k=6)
    return f"Number {n}: {' '.join(words)}."


def put(server, numbers, seed=1):
    documents = [{"id": f"d{n}", "text": text_of(n, seed)} for n in numbers]
    answer = server.http.post("/documents", json={"documents": documents})
    assert answer.status_code == 201, answer.text


def best(server, query, k=3):
    answer = server.http.post("/search", json={"query": query, "k": k, "mode": "exact"})
    assert answer.status_code == 200, answer.text
    return {hit["id"]: round(hit["score"], 3) for hit in answer.json()["hits"]}


class Best(dict):
    """The scores of all, by id; equal to the scores of k hits that are as good as the k best."""

    def __eq__(self, hits):
        found = {name: self.get(name) for name in hits}
        return found == hits and sorted(hits.values()) == sorted(self.values())[-len(hits) :]


def expected(texts, query, model):
    """Brute force over {id: text}."""
    dim = int(model.rpartition("-")[2])
    vectors = np.stack([embed(text, model, dim) for text in texts.values()])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = embed(query, model, dim)
    scores = vectors @ (asked / np.linalg.norm(asked))
    return Best({name: round(float(score), 3) for name, score in zip(texts, scores, strict=True)})


def begin(server, model=NEW, **more):
    answer = server.http.post("/index/reembed", json={"model": model, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]["id"]


def until_held(host, server, job, n_before=0):
    """Wait until the host holds one more request of a job that goes on."""

    def n_held():
        assert server.http.get(f"/jobs/{job}").json()["status"] in ("waiting", "running")
        return host.n_held

    until(n_held, lambda n: n > n_before)


def states(server):
    return {
        each["generation"]: (each["state"], each["model"])
        for each in server.http.get("/index/generations").json()["generations"]
    }


def test_the_new_model_takes_over_when_every_text_is_encoded_and_a_restart_keeps_it(host, tmp_path):
    texts = {f"d{n}": text_of(n) for n in range(150)}
    query = "winter boat"
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(150))
        assert best(server, query) == expected(texts, query, OLD)
        job = ended(server, begin(server, url=host.url))
        assert (job["status"], job["progress"]["done"], job["progress"]["total"]) == ("done", 150, 150)
        assert best(server, query) == expected(texts, query, NEW)
        assert server.http.get("/info").json()["dim"] == 40
        assert states(server) == {1: ("retired", OLD), 2: ("current", NEW)}
        assert (
            max(count for (model, text), count in host.encoded.items() if model == NEW and "Number" in text)
            == 1
        )
        server.stop()
    with serving(tmp_path, **settings(host)) as server:  # the configuration still names the old model
        assert best(server, query) == expected(texts, query, NEW)
        [told] = [line for line in server.log if "changed by re-embedding" in line["event"]]
        assert told["model"] == NEW
        server.stop()
    with serving(tmp_path, **settings(host, NEW)) as server:
        assert best(server, query) == expected(texts, query, NEW)
        server.stop()
    assert verify(tmp_path, lambda *_: None).problems == []


def test_what_is_added_changed_and_deleted_meanwhile_is_right_in_the_new_generation(host, tmp_path):
    texts = {f"d{n}": text_of(n) for n in range(200)}
    query = "stone lamp"
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(200))
        host.gate, host.gated = threading.Semaphore(2), NEW
        job = begin(server, url=host.url)
        until_held(host, server, job)
        put(server, [3, 199, 500], seed=2)
        texts |= {f"d{n}": text_of(n, 2) for n in (3, 199, 500)}
        assert server.http.post("/documents/delete", json={"ids": ["d5", "d198"]}).json()["deleted"] == 2
        del texts["d5"], texts["d198"]
        assert server.http.get(f"/jobs/{job}").json()["status"] == "running"
        host.gate.release(10**6)
        assert ended(server, job)["status"] == "done"
        assert best(server, query, 10) == expected(texts, query, NEW)
        stats = server.http.get("/stats").json()
        assert (stats["documents"], stats["passages"]) == (199, 199)
        server.stop()
    assert verify(tmp_path, lambda *_: None).problems == []


def test_going_back_encodes_what_the_old_generation_lacks_and_nothing_else(host, tmp_path):
    texts = {f"d{n}": text_of(n) for n in range(100)}
    query = "garden clock"
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(100))
        assert ended(server, begin(server, url=host.url))["status"] == "done"
        put(server, [7, 300], seed=2)
        texts |= {f"d{n}": text_of(n, 2) for n in (7, 300)}
        host.encoded.clear()
        answer = server.http.post("/index/rollback")
        assert answer.status_code == 202
        assert ended(server, answer.json()["job"]["id"])["status"] == "done"
        assert sorted(text for model, text in host.encoded if model == OLD and "Number" in text) == sorted(
            [text_of(7, 2), text_of(300, 2)]
        )
        assert best(server, query, 10) == expected(texts, query, OLD)
        assert states(server) == {1: ("current", OLD), 2: ("retired", NEW)}
        server.stop()
    with serving(tmp_path, **settings(host)) as server:
        assert best(server, query, 10) == expected(texts, query, OLD)
        assert server.http.delete("/index/generations/1").json()["code"] == "conflict"
        assert server.http.delete("/index/generations/2").status_code == 200
        assert states(server) == {1: ("current", OLD)}
        assert server.http.post("/index/rollback").json()["code"] == "not_found"
        server.stop()
    files = sorted(path.name for path in (tmp_path / "collections" / "default").iterdir())
    assert not any("-0002" in name for name in files)
    assert "vectors-0001.f16" in files


def test_killed_again_and_again_it_completes_and_encodes_no_text_twice_beyond_a_batch_a_kill(host, tmp_path):
    n_documents, n_kills = 600, 4
    query = "river bread"
    texts = {f"d{n}": text_of(n) for n in range(n_documents)}
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(n_documents))
        server.stop()
    job, chance = None, random.Random(5)
    for _ in range(n_kills):
        host.gate = threading.Semaphore(2 + chance.randrange(2))
        n_held = host.n_held  # those of killed servers wait for ever
        with serving(tmp_path, **settings(host)) as server:
            if job is None:
                job = begin(server, url=host.url)
            until_held(host, server, job, n_held)
            server.stop(signal.SIGKILL)
    host.gate = threading.Semaphore(10**9)
    with serving(tmp_path, **settings(host)) as server:
        assert ended(server, job)["status"] == "done"
        assert best(server, query) == expected(texts, query, NEW)
        server.stop()
    again = [count - 1 for (model, text), count in host.encoded.items() if model == NEW and "Number" in text]
    assert len(again) == n_documents
    assert sum(again) <= 64 * n_kills
    assert verify(tmp_path, lambda *_: None).problems == []


def test_it_can_be_paused_over_a_restart_resumed_and_cancelled(host, tmp_path):
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(300))
        host.gate = threading.Semaphore(1)
        job = begin(server, url=host.url)
        until(lambda: host.n_held)
        assert server.http.post(f"/jobs/{job}/pause").status_code == 200
        host.gate.release(10**6)
        until(lambda: server.http.get(f"/jobs/{job}").json()["status"] == "paused")
        n_encoded = len(host.encoded)
        another = {"model": "words-8", "url": host.url}
        assert server.http.post("/index/reembed", json=another).json()["code"] == "conflict"
        server.stop()
    with serving(tmp_path, **settings(host)) as server:
        assert server.http.get(f"/jobs/{job}").json()["status"] == "paused"
        assert list(best(server, text_of(4), 1)) == ["d4"]
        assert server.http.post(f"/jobs/{job}/cancel").status_code == 200
        until(lambda: server.http.get(f"/jobs/{job}").json()["status"] != "paused")
        assert ended(server, job)["status"] == "cancelled"
        assert states(server) == {1: ("current", OLD)}
        assert len([1 for model, text in host.encoded if model == NEW and "Number" in text]) <= n_encoded
        host.gate = threading.Semaphore(0)
        job = begin(server, url=host.url)
        assert server.http.post(f"/jobs/{job}/pause").status_code == 200
        assert server.http.post(f"/jobs/{job}/resume").status_code == 200
        host.gate.release(10**6)
        assert ended(server, job)["status"] == "done"
        server.stop()
    names = {path.name for path in (tmp_path / "collections" / "default").glob("vectors-*")}
    assert names == {"vectors-0001.f16", "vectors-0002.f16"}


def test_a_host_that_goes_down_is_waited_for_and_what_cannot_work_is_said(host, tmp_path):
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(50))
        answer = server.http.post("/index/reembed", json={"model": "no such model, nor a folder"})
        job = ended(server, answer.json()["job"]["id"])
        assert job["status"] == "failed"
        assert "no such model" in job["error"]
        assert states(server) == {1: ("current", OLD)}
        for body, code, where in [
            ({"model": "none"}, "invalid", "model"),
            ({"model": NEW, "backend": "openai"}, "invalid", ""),
            ({}, "invalid", "model"),
            ({"model": NEW, "speed": "high"}, "unknown_field", "speed"),
        ]:
            problem = server.http.post("/index/reembed", json=body).json()
            assert problem["code"] == code
            assert where in json.dumps(problem)
        same = ended(server, begin(server, OLD, url=host.url))
        assert same["status"] == "failed"
        assert "the same vectors" in same["error"]
        server.stop()


def test_documents_that_came_with_a_vector_are_in_the_way_and_named(host, tmp_path):
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(3))
        own = {"documents": [{"id": "own", "text": "mine", "vector": [1.0] * 24}]}
        assert server.http.post("/documents", json=own).status_code == 201
        problem = server.http.post("/index/reembed", json={"model": NEW, "url": host.url}).json()
        assert (problem["code"], problem["status"]) == ("invalid", 422)
        assert problem["detail"].startswith("1 documents came with vectors")
        server.stop()


def test_searches_and_writes_never_fail_while_the_model_changes(host, tmp_path):
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(300))
        failures, counted = [], []

        def search(is_over):
            with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
                while not is_over.is_set():
                    n = random.randrange(300)
                    answer = http.post("/search", json={"query": text_of(n), "k": 1, "mode": "exact"})
                    counted.append(1)
                    if answer.status_code != 200 or answer.json()["hits"][0]["id"] != f"d{n}":
                        failures.append(answer.text)

        def write(is_over):
            with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
                n = 1000
                while not is_over.is_set():
                    n += 1
                    answer = http.post(
                        "/documents", json={"documents": [{"id": f"d{n}", "text": text_of(n)}]}
                    )
                    if answer.status_code != 201:
                        failures.append(answer.text)

        with beside(search, search, write):
            job = ended(server, begin(server, url=host.url))
            back = ended(server, server.http.post("/index/rollback").json()["job"]["id"])
        assert (job["status"], back["status"]) == ("done", "done")
        assert failures == []
        assert len(counted) > 10
        n_documents = server.http.get("/stats").json()["documents"]
        assert server.http.get("/stats").json()["passages"] == n_documents
        server.stop()
    assert verify(tmp_path, lambda *_: None).problems == []


def test_an_old_generation_is_deleted_when_it_has_had_its_time(host, tmp_path):
    with serving(tmp_path, **settings(host, index__keep_old_days=0.000001)) as server:
        put(server, range(20))
        assert ended(server, begin(server, url=host.url))["status"] == "done"
        until(lambda: states(server) == {2: ("current", NEW)})
        server.stop()


def test_the_command_begins_waits_and_tells_what_there_is(host, tmp_path):
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(20))

        reembed = partial(twopass, "reembed", "--url", server.url)
        assert reembed().out.splitlines()[0] == "The model was never changed."
        done = reembed("--model", NEW, "--encoder-url", host.url, "--wait")
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        assert lines[0].startswith("The change of the model is done, in ")
        assert lines[1] == "  1: retired · words-24, 24 dimensions · 20 rows, deleted on " + lines[1][-10:]
        assert lines[2] == "  2: current · words-40, 40 dimensions · 20 rows"
        assert reembed("--rollback", "--cancel").code == 2
        told = json.loads(reembed("--forget", "1", "--json").out)
        assert [each["generation"] for each in told["generations"]] == [2]
        server.stop()


def test_another_model_under_the_same_name_is_noticed_at_start_and_a_host_that_is_down_makes_it_degraded(
    host, tmp_path
):
    with serving(tmp_path, **settings(host)) as server:
        put(server, range(5))
        assert server.http.get("/readyz").json() == {"status": "ok"}
        host.is_down = True
        assert server.http.post("/search", json={"query": "snail"}).json()["code"] == "encoder_down"
        assert server.http.get("/readyz").json() == {"status": "degraded"}
        server.stop()
    host.is_down = False
    for seed, is_told in (("", False), ("other weights", True)):
        host.seed = seed
        with serving(tmp_path, **settings(host)) as server:
            server.stop()  # waits for the comparison
        told = [line for line in server.log if "gives other vectors than those stored" in line["event"]]
        assert len(told) == is_told
