"""The catalog: older formats become the present one, jobs and the inbox outlive a restart, generations are filled."""

import json
import shutil
import sqlite3
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import clustered, serving

from server.catalog import Catalog, database
from server.catalog.schema import FORMAT_VERSION, MIGRATIONS
from server.errors import FormatError
from server.records import DocumentWrite, InboxDocument, SavedJob
from server.verification import verify

GOLDEN = Path(__file__).parent / "golden"
# What the version that wrote each golden folder answered to clustered(40, 32, seed=5)[0], k = 5.
ANSWERS = [
    ("d0", 0.9999935626983643),
    ("d9", 0.9999935626983643),
    ("d25", 0.8757662773132324),
    ("d16", 0.7972829341888428),
    ("d22", 0.5483196377754211),
]


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        catalog.generations.begin(1, "{}", 4, "float16")
        yield catalog


def store(catalog, identifier, text, row, **more):
    write = DocumentWrite(identifier, text, "{}", text.encode(), False, [(0, len(text))])
    return catalog.store(1, [write], [], row, [7], **more)


def tables(path):
    with sqlite3.connect(path) as connection:
        found = {
            name: [column[1:4] for column in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            if not name.startswith("sqlite_")
        }
        rest = set(connection.execute("SELECT type, name FROM sqlite_schema WHERE type != 'table'"))
    connection.close()
    return found, rest


def test_every_earlier_format_has_a_golden_folder_and_a_migration():
    assert sorted(MIGRATIONS) == list(range(1, FORMAT_VERSION))
    assert sorted(path.name for path in GOLDEN.glob("format-*")) == [
        f"format-{n}" for n in range(1, FORMAT_VERSION)
    ]


@pytest.mark.parametrize("number", range(1, FORMAT_VERSION))
def test_a_golden_folder_can_be_checked_served_and_written_to(number, tmp_path):
    shutil.copytree(GOLDEN / f"format-{number}", tmp_path, dirs_exist_ok=True)
    report = verify(tmp_path, lambda *_: None)
    assert (report.problems, report.documents, report.rows) == ([], 38, 38)
    with serving(tmp_path, encoder__model="none", encoder__dim=32, index__prefix_dim=16) as server:
        vectors = clustered(41, 32, seed=5)
        body = {"vector": clustered(40, 32, seed=5)[0].tolist(), "k": 5}
        hits = server.http.post("/search", json=body).json()["hits"]
        assert [hit["id"] for hit in hits] == [identifier for identifier, _ in ANSWERS]
        np.testing.assert_allclose([hit["score"] for hit in hits], [score for _, score in ANSWERS], atol=1e-6)
        assert hits[2]["text"] == "Document 25 of the golden folder."
        assert hits[2]["metadata"] == {"n": 25, "even": False}
        new = {"documents": [{"id": "new", "vector": vectors[40].tolist()}]}
        assert server.http.post("/documents", json=new).status_code == 201
        server.stop()
    report = verify(tmp_path, lambda *_: None)
    assert (report.problems, report.documents) == ([], 39)


def test_a_migrated_catalog_has_the_tables_of_a_new_one(tmp_path):
    Catalog(tmp_path / "new.sqlite3").close()
    shutil.copy(GOLDEN / "format-1" / "collections" / "default" / "catalog.sqlite3", tmp_path / "old.sqlite3")
    Catalog(tmp_path / "old.sqlite3").close()
    assert tables(tmp_path / "old.sqlite3") == tables(tmp_path / "new.sqlite3")


def test_other_tables_than_those_that_were_written_under_this_number_take_the_next_one(tmp_path):
    """The golden backup is of format 2, as it was when it got its number."""
    with tarfile.open(GOLDEN / "backup-1.tar") as backup:
        backup.extract("catalog.sqlite3", tmp_path, filter="data")
    Catalog(tmp_path / "new.sqlite3").close()
    assert FORMAT_VERSION == 2
    assert tables(tmp_path / "catalog.sqlite3") == tables(tmp_path / "new.sqlite3")


def test_a_migration_that_breaks_off_leaves_the_catalog_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "old.sqlite3"
    shutil.copy(GOLDEN / "format-1" / "collections" / "default" / "catalog.sqlite3", path)
    before = tables(path)
    monkeypatch.setitem(MIGRATIONS, 1, MIGRATIONS[1] + ";\nCREATE TABLE jobs (id TEXT)")
    with pytest.raises(Exception, match="jobs already exists"):
        Catalog(path)
    assert tables(path) == before


def test_a_catalog_of_a_newer_version_is_refused_with_both_numbers(tmp_path):
    path = tmp_path / "catalog.sqlite3"
    Catalog(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'format_version'", (FORMAT_VERSION + 1,))
    connection.close()
    with pytest.raises(FormatError, match=f"format {FORMAT_VERSION + 1}; .* format {FORMAT_VERSION}"):
        Catalog(path)


def test_jobs_and_their_documents_outlive_a_restart_in_the_order_of_arrival(tmp_path):
    path = tmp_path / "catalog.sqlite3"
    vector = np.arange(4, dtype="<f4").tobytes()
    documents = [InboxDocument(0, "b", "late", "{}", None), InboxDocument(0, "a", None, '{"n":1}', vector)]
    with Catalog(path) as catalog:
        catalog.jobs.add(SavedJob("j1", "ingest", "waiting", 0, 2, "{}"), documents)
        catalog.jobs.add(SavedJob("j2", "ingest", "waiting", 0, 1, "{}"), documents[:1])
    with Catalog(path) as catalog:
        assert [job.id for job in catalog.jobs.all()] == ["j1", "j2"]
        found = catalog.jobs.waiting("j1", 10)
        assert [(each.id, each.text, each.metadata, each.vector) for each in found] == [
            ("b", "late", "{}", None),
            ("a", None, '{"n":1}', vector),
        ]
        assert (catalog.jobs.n_waiting(), catalog.jobs.n_waiting("j2")) == (3, 1)
        catalog.jobs.drop([found[0].number])
        assert catalog.jobs.drop_all("j2") == 1
        assert [each.id for each in catalog.jobs.waiting("j1", 10)] == ["a"]
        catalog.jobs.save(SavedJob("j1", "ingest", "failed", 1, 2, "{}", error="why"))
        assert catalog.jobs.all()[0].error == "why"


def test_a_document_leaves_the_inbox_in_the_transaction_that_stores_it(catalog):
    waiting = [InboxDocument(0, name, name, "{}", None) for name in ("a", "b", "a", "c")]
    catalog.jobs.add(SavedJob("j", "ingest", "running", 0, 4, "{}"), waiting)
    first = catalog.jobs.waiting("j", 1)[0]
    store(catalog, "a", "a", 0, from_inbox=[first.number])
    assert [each.id for each in catalog.jobs.waiting("j", 9)] == ["b", "a", "c"]
    store(catalog, "a", "newer", 1, overtaken=["a"])
    assert [each.id for each in catalog.jobs.waiting("j", 9)] == ["b", "c"]
    assert catalog.delete(["b", "nothing"])[0] == ["b"]
    assert [each.id for each in catalog.jobs.waiting("j", 9)] == ["c"]


def test_the_oldest_ended_jobs_are_forgotten_but_none_that_still_has_documents(catalog):
    catalog.jobs.add(
        SavedJob("kept", "ingest", "failed", 0, 1, "{}"), [InboxDocument(0, "a", "a", "{}", None)]
    )
    for number in range(120):
        catalog.jobs.add(SavedJob(f"j{number}", "ingest", "done", 1, 1, "{}"))
    names = [job.id for job in catalog.jobs.all()]
    assert names[0] == "kept"
    assert names[1:] == [f"j{number}" for number in range(20, 120)]


def test_room_of_what_was_removed_is_given_back_page_by_page_while_others_write(catalog, monkeypatch):
    monkeypatch.setattr(database, "PAGES_AT_ONCE", 50)
    for row in range(200):
        store(catalog, f"d{row}", f"{row} " + "text " * 2000, row)
    catalog.give_back(lambda: False)
    full = catalog.path.stat().st_size
    catalog.delete([f"d{row}" for row in range(10, 200)])
    rounds = []

    def stop():
        rounds.append(store(catalog, f"late{len(rounds)}", "late", 200 + len(rounds)).created)
        return len(rounds) > 4

    assert catalog.give_back(stop) == 2 * 50 * 4096  # after two steps through the words
    assert rounds == [1] * 5
    assert catalog.give_back(lambda: False) > 0.7 * full
    assert catalog.path.stat().st_size < 0.3 * full
    assert catalog.problems() == []
    page = [document.id for document in catalog.page("", 100)]
    assert page == sorted([*(f"d{row}" for row in range(10)), *(f"late{n}" for n in range(5))])


def test_the_words_of_deleted_documents_leave_the_index(catalog):
    def words():
        with catalog._database.reading() as connection:
            return connection.execute("SELECT sum(length(block)) FROM fulltext_data").fetchone()[0]

    for row in range(40):
        store(catalog, f"d{row}", " ".join(f"word{row}x{n}" for n in range(500)), row)
    full = words()
    catalog.delete([f"d{row}" for row in range(4, 40)])
    catalog.give_back(lambda: False)
    assert words() < 0.2 * full
    assert catalog.fulltext.search("word3x7 word9x7", 10).documents.tolist() == [4]
    assert catalog.problems() == []


def test_a_copy_of_a_catalog_that_was_made_before_room_was_given_back_can_do_it(tmp_path):
    shutil.copy(GOLDEN / "format-1" / "collections" / "default" / "catalog.sqlite3", tmp_path / "old")

    def room_given_back(path):
        with Catalog(path) as catalog:
            waiting = InboxDocument(0, "a", "text " * 20_000, "{}", None)
            catalog.jobs.add(SavedJob("j", "ingest", "cancelled", 0, 1, "{}"), [waiting])
            catalog.jobs.forget("j")
            catalog.copy(tmp_path / f"copy of {path.name}", lambda: False)
            return catalog.give_back(lambda: False)

    assert room_given_back(tmp_path / "old") == 0
    assert room_given_back(tmp_path / "copy of old") > 90_000


def test_a_generation_is_filled_with_what_is_missing_and_takes_over_in_one_step(catalog):
    for row, name in enumerate("abc"):
        store(catalog, name, f"text {name}", row)
    catalog.generations.prepare(2, '{"new":1}', 8, "float16", '{"model":"new"}', '{"model":"old"}')
    missing = catalog.missing(2, 0, 2)
    assert [(text, content_hash) for _, text, content_hash in missing] == [
        ("text a", b"text a"),
        ("text b", b"text b"),
    ]
    numbers = [number for number, _, _ in missing]
    store(catalog, "b", "changed", 3)  # while it was being encoded
    fillings = [(numbers[0], b"text a", [(0, 3), (3, 6)]), (numbers[1], b"text b", [(0, 6)])]
    assert catalog.fill(2, fillings, 0, [1, 2, 3]).tolist() == [2]
    assert [text for _, text, _ in catalog.missing(2, 0, 9)] == ["changed", "text c"]
    assert catalog.generations.get(2).n_rows == 3
    assert catalog.live_rows(2).rows.tolist() == [0, 1]
    removed = store(catalog, "a", "anew", 4).removed
    assert {generation: rows.tolist() for generation, rows in removed.items()} == {1: [0], 2: [0, 1]}

    catalog.jobs.add(SavedJob("j", "reembed", "running", 1, 3, "{}"))
    assert catalog.generations.current().number == 1
    catalog.generations.switch(2, "j", json.dumps({"generation": 2}))
    assert catalog.generations.current().number == 2
    assert [number for number, _ in catalog.generations.retired()] == [1]
    [job] = catalog.jobs.all()
    assert (job.status, job.done, job.result) == ("done", 3, '{"generation": 2}')
    assert catalog.generations.encoder(2) == ('{"model":"new"}', '{"model":"old"}')

    catalog.generations.drop(1)
    assert catalog.generations.numbers() == [2]
    assert catalog.live_rows(1).rows.tolist() == []
