"""Compaction: dead rows go, their room is given back, and nobody who searches or writes notices."""

import contextlib
import random
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from conftest import ROOT, beside, clustered, ended, mounted, serving, until
from typer.testing import CliRunner

from index.errors import StorageError
from index.two_pass import Mode
from server import compacting, row_copying
from server.app import open_collection
from server.catalog import Catalog
from server.checking import NewDocument
from server.cli import app
from server.collection import RebuildWishes
from server.compacting import Compacting
from server.errors import ConflictError
from server.jobs import Job, Jobs
from server.records import DocumentWrite
from server.row_copying import RowCopying
from server.settings import Settings
from server.store import LocalStore
from server.upkeep import Upkeep
from server.verification import verify

DIM = 48
VECTORS = clustered(12_000, DIM, seed=6)
BROUGHT = {"encoder__model": "none", "encoder__dim": DIM, "index__prefix_dim": 32}


def document(n, version=0):
    return {
        "id": f"d{n:05}",
        "vector": VECTORS[(n + 5000 * version) % len(VECTORS)].tolist(),
        "text": f"text {n} of {version}",
        "metadata": {"n": n},
    }


def put(http, numbers, version=0):
    numbers = list(numbers)
    for start in range(0, len(numbers), 1000):
        documents = [document(n, version) for n in numbers[start : start + 1000]]
        answer = http.post("/documents", json={"documents": documents})
        assert answer.status_code == 201, answer.text


def delete(http, numbers):
    ids = [f"d{n:05}" for n in numbers]
    assert http.post("/documents/delete", json={"ids": ids}).json()["missing"] == []


def found(http, mode="two_pass", **more):
    searches = [{"vector": VECTORS[n].tolist(), "k": 8, "mode": mode, **more} for n in range(0, 12_000, 800)]
    answer = http.post("/search/batch", json={"searches": searches})
    assert answer.status_code == 200, answer.text
    return [result["hits"] for result in answer.json()["results"]]


def everything(http):
    return {
        "two_pass": found(http),
        "certified": found(http, "certified"),
        "exact": found(http, "exact"),
        "filtered": found(http, filter={"n": {"$lt": 300}}),
        "words": http.post("/search", json={"like": "d00002", "k": 3}).json()["hits"],
        "page": http.get("/documents?limit=1000").json()["documents"],
    }


def compact(server):
    answer = server.http.post("/index/compact")
    assert answer.status_code == 202, answer.text
    return ended(server, answer.json()["job"]["id"])


def rebuilt(server):
    """Have the first pass made of the rows that there are: the server then makes none by itself."""
    answer = server.http.post("/index/rebuild", json={})
    return ended(server, answer.json()["job"]["id"])


def names(folder):
    return sorted(
        path.name for path in (folder / "collections" / "default").iterdir() if path.name[0] in "vf"
    )


def deleted_files(server):
    """Files that the server keeps open though they are deleted: their room isn't given back."""
    links = []
    for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except FileNotFoundError:
            continue
    return [
        link for link in links if link.endswith("(deleted)") and ("vectors-" in link or "first-pass-" in link)
    ]


def test_answers_are_the_same_before_and_after_and_the_room_is_given_back(tmp_path):
    # The gauge keeps what it looks at open, a while longer than the one who searched.
    settings = {**BROUGHT, "index__compact_share": 0, "index__gauge_share": 0}
    with serving(tmp_path, **settings) as server:
        put(server.http, range(2500))
        put(server.http, range(300, 500), version=1)
        put(server.http, [900, 901])  # unchanged
        delete(server.http, range(1000, 2000, 2))
        assert rebuilt(server)["result"]["plan"]
        before, stats = everything(server.http), server.http.get("/stats").json()
        assert (stats["rows"], stats["tombstones"], stats["passages"]) == (2700, 700, 2000)
        job = compact(server)
        assert (job["type"], job["status"], job["progress"]["unit"]) == ("compact", "done", "rows"), job
        assert (job["result"]["rows_before"], job["result"]["rows"]) == (2700, 2000)
        assert job["result"]["freed_bytes"] > 700 * DIM * 2
        assert everything(server.http) == before
        after = server.http.get("/stats").json()
        assert (after["rows"], after["tombstones"], after["passages"]) == (2000, 0, 2000)
        assert after["disk_bytes"]["vectors-0002.f16"] == 2000 * DIM * 2
        assert not [name for name in names(tmp_path) if "-0001" in name.partition("-")[2][:5]]
        assert deleted_files(server) == []
        assert [each["generation"] for each in after["generations"]] == [2]
        assert [after["first_pass"][name] for name in ("codec", "order", "prefix_dim")] == [
            stats["first_pass"][name] for name in ("codec", "order", "prefix_dim")
        ]
        nothing = compact(server)
        assert (nothing["status"], nothing["result"]["rows"]) == ("done", 2000)
        put(server.http, [2400], version=1)
        delete(server.http, [0])
        before = everything(server.http)
        server.stop()
    report = verify(tmp_path, lambda *_: None)
    assert (report.problems, report.documents, report.rows) == ([], 1999, 1999)
    with serving(tmp_path, **BROUGHT, index__compact_share=0) as server:
        assert everything(server.http) == before
        done = CliRunner().invoke(app, ["compact", "--wait", "--url", server.url])
        assert done.exit_code == 0 and done.stdout.startswith("2 vectors dropped, "), (
            done.stdout,
            done.stderr,
        )
        assert everything(server.http) == before
        server.stop()
    assert names(tmp_path)[-1] == "vectors-0003.f16"


def test_the_room_of_deleted_texts_is_given_back_too(tmp_path):
    settings = Settings.model_validate({"data_dir": tmp_path, "encoder": {"model": "none", "dim": DIM}})
    with open_collection(settings) as collection:
        for start in range(0, 300, 100):
            numbers = range(start, start + 100)
            collection.add([NewDocument(f"d{n}", f"{n} " * 2000, {}, VECTORS[n]) for n in numbers])
        collection.compacting.begin()
        while collection.jobs.unfinished("compact"):
            pass
        full = collection.stats()["disk_bytes"]["catalog.sqlite3"]
        collection.delete([f"d{n}" for n in range(10, 300)])
        job = collection.compacting.begin()
        while not job.has_ended:
            pass
        left = collection.stats()["disk_bytes"]["catalog.sqlite3"]
        assert job.status == "done" and left < 0.3 * full
        assert full - left <= job.result["freed_bytes"] < 1.2 * full
    assert verify(tmp_path, lambda *_: None).problems == []


def test_it_begins_by_itself_where_dead_rows_are_many_and_a_good_part(tmp_path, monkeypatch):
    monkeypatch.setattr(compacting, "MIN_TOMBSTONES", 300)
    settings = Settings.model_validate({
        "data_dir": tmp_path, "encoder": {"model": "none", "dim": DIM}, "index": {"prefix_dim": 32},
    })  # fmt: skip
    with open_collection(settings) as collection:
        documents = [NewDocument(f"d{n}", f"text {n}", {}, VECTORS[n]) for n in range(2000)]
        collection.add(documents)
        is_due = collection.compacting._is_due
        collection.delete([f"d{n}" for n in range(399)])
        assert not is_due()  # enough of them, but 19.95 %
        assert "compact" not in [job.type for job in collection.jobs.all()]
        collection.delete(["d399"])
        until(lambda: not collection.stats()["tombstones"])
        (job,) = [job for job in collection.jobs.all() if job.type == "compact"]
        assert collection.stats()["rows"] == 1600
        collection.delete([f"d{n}" for n in range(400, 410)])
        assert not is_due()
        until(lambda: job.has_ended)
        assert (job.status, job.result["rows_before"], job.result["rows"]) == ("done", 2000, 1600)
    assert verify(tmp_path, lambda *_: None).problems == []


def test_searches_and_writes_go_on_meanwhile_and_no_document_is_lost_or_comes_back(tmp_path):
    expected, failures, n_searches = {}, [], [0]

    def write(seed, is_over):
        chance = random.Random(seed)
        mine = range(seed, 3000, 3)
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            version = 1
            while not is_over.is_set():
                version += 1
                some = chance.sample(mine, 20)
                if chance.random() < 0.3:
                    http.post(
                        "/documents/delete", json={"ids": [f"d{n:05}" for n in some]}
                    ).raise_for_status()
                    expected.update(dict.fromkeys(some))
                else:
                    put(http, some, version)
                    expected.update(dict.fromkeys(some, version))

    def search(is_over):
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            while not is_over.is_set():
                body = {"vector": VECTORS[n_searches[0] % 999].tolist(), "k": 5}
                answer = http.post("/search", json=body)
                n_searches[0] += 1
                # A document may be deleted between its being found and its being read: then there is a hit less.
                if answer.status_code != 200 or len({hit["id"] for hit in answer.json()["hits"]}) < 3:
                    failures.append(answer.text)

    with serving(tmp_path, **BROUGHT, index__compact_share=0) as server:
        put(server.http, range(3000))
        expected = dict.fromkeys(range(3000), 0)
        delete(server.http, range(0, 3000, 5))
        expected.update(dict.fromkeys(range(0, 3000, 5)))
        with beside(search, *(partial(write, seed) for seed in range(3))):
            results = [compact(server) for _ in range(4)]
        assert [job["status"] for job in results] == ["done"] * 4
        assert failures == [] and n_searches[0] > 4
        there, after = {}, ""
        while after is not None:
            page = server.http.get("/documents", params={"limit": 1000, "after": after}).json()
            there |= {each["id"]: (each["text"], each["passages"]) for each in page["documents"]}
            after = page["next"]
        assert there == {
            f"d{n:05}": (f"text {n} of {version}", 1)
            for n, version in expected.items()
            if version is not None
        }
        job = compact(server)
        assert job["result"]["rows"] == len(there)
        some = [(n, version) for n, version in expected.items() if version is not None][::40]
        for n, version in some:
            hits = server.http.post(
                "/search", json={"vector": document(n, version)["vector"], "k": 4}
            ).json()["hits"]
            assert f"d{n:05}" in [hit["id"] for hit in hits]
        server.stop()
    assert verify(tmp_path, lambda *_: None).problems == []


def test_a_rebuild_asked_for_while_the_generations_change_places_is_ended_with_the_reason(
    tmp_path, monkeypatch
):
    rebuild, is_asked, has_changed = Upkeep.rebuild, threading.Event(), threading.Event()

    def late(upkeep, wish):
        is_asked.set()
        assert has_changed.wait(60)
        return rebuild(upkeep, wish)

    settings = Settings.model_validate({
        "data_dir": tmp_path, "encoder": {"model": "none", "dim": DIM}, "index": {"prefix_dim": 32},
    })  # fmt: skip
    with open_collection(settings) as collection, ThreadPoolExecutor() as threads:
        collection.add([NewDocument(f"d{n}", None, {}, VECTORS[n]) for n in range(20)])
        collection.delete(["d7"])
        monkeypatch.setattr(Upkeep, "rebuild", late)
        old_thread = collection._live.upkeep._thread
        asking = threads.submit(collection.rebuild, RebuildWishes())
        assert is_asked.wait(60)
        compaction = collection.compacting.begin()
        old_thread.join(60)
        has_changed.set()
        job = asking.result(60)
        until(lambda: compaction.has_ended)
        assert (job.status, compaction.status) == ("cancelled", "done")
        assert job.error.endswith("begin it again")


FAILING = """
import os, signal
from server import compacting, row_copying
from server.app import open_collection
from server.catalog import Catalog
from server.catalog.generations import Generations
from index.two_pass import TwoPassIndex
row_copying.BATCH_ROWS = 256

def killed(owner, name, before=0, after=0):
    real, calls = getattr(owner, name), []

    def method(*args, **kwargs):
        calls.append(name)
        if len(calls) == before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, method)

{
    "appended, not committed": lambda: killed(Catalog, "copy_passages", before=3),
    "first pass made": lambda: killed(TwoPassIndex, "build_for", after=1),
    "after the switch": lambda: killed(Generations, "succeed", after=1),
    "files deleted, passages not": lambda: killed(Generations, "drop", before=int(os.environ["NTH_DROP"])),
}[os.environ["KILLED_AT"]]()
from server.cli import main
main()
"""
# Where it is killed, the generation that serves then, and whether the start before that had something to drop.
POINTS = [
    ("appended, not committed", 1, False),
    ("first pass made", 1, True),
    ("after the switch", 2, True),
    ("files deleted, passages not", 3, True),
]


def test_a_kill_at_any_point_leaves_one_whole_generation(tmp_path, monkeypatch):
    data_dir, program = tmp_path / "data", tmp_path / "failing.py"
    program.write_text(FAILING)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = {**BROUGHT, "index__compact_share": 0}
    with serving(data_dir, **settings) as server:
        put(server.http, range(1800))
        put(server.http, range(200), version=1)
        assert rebuilt(server)["status"] == "done"
        server.stop()
    answers, current = None, 1
    for number, (point, generation, has_leftover) in enumerate(POINTS):
        monkeypatch.setenv("KILLED_AT", point)
        monkeypatch.setenv("NTH_DROP", str(1 + has_leftover))
        with serving(data_dir, (str(program),), **settings) as server:
            assert server.http.get("/stats").json()["generation"] == current
            assert answers is None or everything(server.http) == answers
            delete(server.http, range(1000 + number, 1700, 7))
            answers, current = everything(server.http), generation
            with contextlib.suppress(httpx.TransportError):  # the kill may come before the answer
                assert server.http.post("/index/compact").status_code == 202
            assert server.end() == -signal.SIGKILL
        assert verify(data_dir, lambda *_: None).problems == []
    with serving(data_dir, **settings) as server:
        assert server.http.get("/stats").json()["generation"] == current
        assert everything(server.http) == answers
        assert compact(server)["status"] == "done"
        assert everything(server.http) == answers
        server.stop()
    with Catalog(data_dir / "collections/default/catalog.sqlite3") as catalog:
        assert len(catalog.generations.numbers()) == 1
        assert catalog.generations.leftover() is None
    assert len([name for name in names(data_dir) if name.startswith("vectors")]) == 1
    assert verify(data_dir, lambda *_: None).problems == []


def test_without_room_it_fails_with_both_numbers_and_with_room_it_is_done():
    with mounted("6m") as disk, serving(disk / "data", **BROUGHT, index__compact_share=0) as server:
        put(server.http, range(1500))
        delete(server.http, range(500))
        assert rebuilt(server)["status"] == "done"  # none comes by itself, and takes of the room that is left
        answers = found(server.http, "exact")
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 20_000))
        job = compact(server)
        assert (job["status"], job["result"]) == ("failed", None)
        assert re.fullmatch(r"the compaction takes \d+,\d+ bytes, but .* has room for \d+,\d+", job["error"])
        ballast.unlink()
        assert compact(server)["status"] == "done"
        assert found(server.http, "exact") == answers
        server.stop()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of 300 documents in one process, copied 64 rows at a time."""
    monkeypatch.setattr(row_copying, "BATCH_ROWS", 64)
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        store = LocalStore(catalog, catalog.generations.begin(1, '{"model":"m"}', DIM, "float16"), 32)
        add(store, range(300))
        yield store
        store.close()


def add(store, numbers, version=0):
    vectors = np.stack([VECTORS[(n + 5000 * version) % len(VECTORS)] for n in numbers])
    store.put(
        [DocumentWrite(f"d{n}", f"{n} {version}", "{}", b"", False, [(0, 1)]) for n in numbers], vectors
    )


def nearest(store):
    """The texts of the best of many queries."""
    hits = [found.hits for found in store.search(VECTORS[:400:3], 4, Mode.EXACT, 8, 80)]
    documents = store.documents([hit.document for each in hits for hit in each])
    return [[(documents[hit.document].text, hit.score) for hit in each] for each in hits]


def test_what_changes_between_two_batches_is_right_in_the_end(store, monkeypatch):
    changes = iter([
        lambda: store.delete(["d10", "d70", "d290"]),  # copied already, being copied, not copied yet
        lambda: add(store, [20, 100, 280], version=1),
        lambda: add(store, [500, 501]),
        lambda: store.delete(["d500", "d20"]),
    ])  # fmt: skip
    real = row_copying.RowCopying._step

    def step(self):
        next(changes, lambda: None)()
        return real(self)

    gathered = row_copying._gathered

    def delete_while_it_is_read(vectors, rows):
        if 130 in rows:
            store.delete(["d130"])
        return gathered(vectors, rows)

    monkeypatch.setattr(row_copying.RowCopying, "_step", step)
    monkeypatch.setattr(row_copying, "_gathered", delete_while_it_is_read)
    copying = RowCopying(store.catalog, store)
    assert copying.catch_up(lambda: False, lambda *_: None)
    add(store, [502])
    copying.rest()
    expected = nearest(store)
    assert store.catalog.generations.leftover() == 2
    store.catalog.generations.succeed()
    assert store.catalog.generations.leftover() == 1
    generation = store.catalog.generations.current()
    assert (generation.number, generation.fingerprint, generation.n_rows) == (
        2,
        '{"model":"m"}',
        copying.n_rows,
    )
    new = LocalStore(store.catalog, generation, 32)
    assert nearest(new) == expected
    assert new.index.n_live == store.index.n_live == 297
    assert new.damage.rows == set()
    assert store.catalog.problems() == []
    new.close()


def test_a_damaged_row_is_not_copied_but_named(store, tmp_path):
    path = tmp_path / "vectors-0001.f16"
    data = bytearray(path.read_bytes())
    data[100 * DIM * 2] ^= 1
    path.write_bytes(data)
    copying = RowCopying(store.catalog, store)
    with pytest.raises(StorageError, match="1 of the 64 vectors from row 64 on"):
        copying.catch_up(lambda: False, lambda *_: None)
    assert store.catalog.generations.current().number == 1


def test_it_does_not_begin_beside_a_change_of_the_model_nor_on_damaged_vectors():
    jobs, damage = Jobs(), SimpleNamespace(rows={1, 2})
    live = SimpleNamespace(store=SimpleNamespace(damage=damage))
    compaction = Compacting(SimpleNamespace(jobs=jobs, live=lambda: live))
    with pytest.raises(ConflictError, match="2 stored vectors are damaged"):
        compaction.begin()
    damage.rows = set()
    change = jobs.add(Job("reembed"))
    with pytest.raises(ConflictError, match="change of the model is under way"):
        compaction.begin()
    change.end("done")
    job = compaction.begin()
    with pytest.raises(ConflictError, match=f"under way, job {job.id}"):
        compaction.begin()
