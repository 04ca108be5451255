"""Each file of a collection gone, cut off or with bits flipped anywhere, under the real server.

What is derived is made anew, vectors are encoded again from their texts, and a damaged catalog is refused with the
command that puts a backup back: at start, or, where it is seen only later, with each request that meets the damage.
"""

import random
import shutil

import pytest
from conftest import ended, serving, until
from embedding_host import embedding_host
from test_reembed import best, settings, text_of

from server.errors import ANSWERS, CatalogDamagedError
from server.verification import verify

N = 1100  # enough for a first pass with files of each kind
QUERIES = ["snail tide", "lamp stone winter", "bread", "garden boat river zip"]
DAMAGED = ANSWERS[CatalogDamagedError]


def cut(path, chance):
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size))


def flip(path, chance):
    data = bytearray(path.read_bytes())
    # Of a catalog, one for every other page: where there are few, most of them hit a text's letters.
    for _ in range(len(data) >> 13 if path.suffix == ".sqlite3" else chance.randint(1, 3)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


HARMS = {"gone": lambda path, chance: path.unlink(), "cut": cut, "flipped": flip}
TRIES = {"gone": 1, "cut": 2, "flipped": 3}


@pytest.fixture(scope="module")
def host():
    with embedding_host() as host:
        yield host


@pytest.fixture(scope="module")
def whole(host, tmp_path_factory):
    """A data directory with every kind of file, and the answers that it gives."""
    data_dir = tmp_path_factory.mktemp("whole")
    with serving(data_dir, **settings(host)) as server:
        documents = [{"id": f"d{n}", "text": text_of(n), "metadata": {"n": n}} for n in range(N)]
        server.http.post("/documents", json={"documents": documents}).raise_for_status()
        server.http.post("/documents/delete", json={"ids": ["d7", "d8"]}).raise_for_status()
        job = server.http.post("/index/rebuild", json={"codec": "pq4"}).json()["job"]["id"]
        assert ended(server, job)["status"] == "done"
        answers = [best(server, query, 10) for query in QUERIES]
        assert server.stop() == 0
    return data_dir, answers


def files(data_dir):
    return sorted(path.name for path in (data_dir / "collections" / "default").iterdir())


def harmed(whole, tmp_path, name, harm, seed):
    data_dir = tmp_path / f"data-{seed}"
    shutil.copytree(whole[0], data_dir)
    HARMS[harm](data_dir / "collections" / "default" / name, random.Random(seed))
    return data_dir


def seeds(n):
    first = random.randrange(1 << 30)
    print("seed", first)
    return range(first, first + n)


@pytest.mark.faults
@pytest.mark.parametrize("harm", HARMS)
def test_damaged_vectors_and_derived_files_are_made_anew(whole, host, tmp_path, harm):
    names = [name for name in files(whole[0]) if not name.startswith("catalog")]
    assert {name.rpartition(".")[2] for name in names} == {"bounds", "faiss", "json", "npz", "f16"}
    for name in names:
        for seed in seeds(TRIES[harm]):
            data_dir = harmed(whole, tmp_path, name, harm, seed)
            print(name, seed)
            with serving(data_dir, **settings(host)) as server:
                until(lambda server=server: server.http.get("/readyz").json() == {"status": "ok"})
                assert server.http.get("/stats").json()["documents"] == N - 2
                assert [best(server, query, 10) for query in QUERIES] == whole[1]
                found = server.http.post("/search", json={"query": text_of(9), "k": 1}).json()["hits"]
                assert found[0]["id"] == "d9"
                assert server.other == []
                assert server.stop() == 0
            codes = {problem.code for problem in verify(data_dir, lambda *_: None).problems}
            # A part that is as long as it was and has other bits is told of by verify alone.
            assert codes <= ({"first_pass_stale"} if name.endswith((".faiss", ".bounds")) else set())
            shutil.rmtree(data_dir)


@pytest.mark.faults
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_catalog_is_refused_with_the_way_back(whole, host, tmp_path, harm):
    (data_dir, _), n_refused = whole, 0
    for seed in seeds(1 if harm == "gone" else 4):
        data_dir = harmed(whole, tmp_path, "catalog.sqlite3", harm, seed)
        print(seed)
        try:
            with serving(data_dir, **settings(host)) as server:
                n_refused += sum(ask_for_everything(server))
                assert [line for line in server.log if line["event"] == "unforeseen error"] == []
                assert server.other == []
                server.stop()
        except AssertionError as error:
            if not str(error).startswith("the server ended"):
                raise
            words = str(error)
            assert words.startswith("the server ended with 1: twopass: ") and "Traceback" not in words
            assert "twopass restore" in words or "model" in words or "format" in words
            n_refused += 1
        shutil.rmtree(data_dir)
    assert n_refused


def ask_for_everything(server):
    """Whether each request was refused; what is refused says how to put a backup back."""
    documents = [{"id": f"d{n}", "text": f"another {n}"} for n in range(0, N, 40)]
    for method, path, body in [
        ("GET", "/documents?limit=1000", None),
        ("GET", "/documents?limit=1000&after=d9", None),
        ("GET", "/stats", None),
        ("GET", "/metadata/fields", None),
        ("POST", "/search", {"query": "snail", "k": 200}),
        ("POST", "/search", {"query": "snail", "k": 20, "hybrid": True}),
        ("POST", "/search", {"query": "snail", "k": 20, "filter": {"n": {"$lt": 300}}}),
        ("POST", "/documents", {"documents": documents}),
        ("POST", "/documents/delete", {"ids": [f"d{n}" for n in range(5, N, 40)]}),
    ]:
        answer = server.http.request(method, path, json=body)
        print(method, path, answer.status_code)
        if answer.status_code >= 400:
            assert (answer.status_code, answer.json()["code"]) == (DAMAGED.status, DAMAGED.code), answer.text
            assert "twopass restore" in answer.json()["hint"]
        yield answer.status_code >= 400
