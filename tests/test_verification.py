"""server/verification.py: what is wrong is named, what is right is left exactly as it was."""

import contextlib
import hashlib
import sqlite3
from dataclasses import replace

import pytest
from conftest import clustered, without_model

from server.app import open_collection
from server.catalog import Catalog
from server.checking import NewDocument
from server.errors import CatalogDamagedError, NotFoundError
from server.filters import parse_filter
from server.verification import verify

VECTORS = "vectors-0001.f16"
BROUGHT = {"encoder__model": "none", "encoder__dim": 16}


@pytest.fixture
def data_dir(tmp_path):
    """Two hundred documents, ten of them replaced, five deleted, and a clean end."""
    vectors = clustered(200, 16, seed=1)
    documents = [NewDocument(str(i), f"text {i}", {}, vector) for i, vector in enumerate(vectors)]
    with open_collection(without_model(tmp_path, 16)) as collection:
        collection.add(documents)
        collection.add([replace(each, text="another") for each in documents[:10]])
        collection.delete(["100", "101", "102", "103", "104"])
    return tmp_path


def collection(data_dir):
    return data_dir / "collections" / "default"


def run(data_dir):
    steps = []
    report = verify(data_dir, lambda done, total: steps.append((done, total)))
    return report, steps


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_clean_collection_is_reported_clean_and_left_as_it_was(data_dir):
    before = contents(collection(data_dir))
    report, steps = run(data_dir)
    assert report.ok and report.problems == []
    assert (report.documents, report.rows, report.checked_bytes) == (195, 195, 195 * 32)
    assert steps[-1] == (195, 195)
    assert contents(collection(data_dir)) == before


def test_it_runs_beside_a_server(data_dir, serve):
    with serve(data_dir, **BROUGHT) as server:
        server.http.post("/documents", json={"documents": [{"vector": [1.0] * 16}]})
        report, _ = run(data_dir)
        assert (report.problems, report.documents) == ([], 196)
        assert server.stop() == 0


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def swap(old, new):
    def harm(folder):
        path = folder / "catalog.sqlite3"
        path.write_bytes(path.read_bytes().replace(old, new))

    return harm


def change(sql):
    def harm(folder):
        connection = sqlite3.connect(folder / "catalog.sqlite3")
        connection.create_function(
            "spaced", 1, lambda text: text
        )  # what the triggers of the index of words call
        connection.execute(sql)
        connection.commit()
        connection.close()

    return harm


def made_anew(folder):
    (folder / "catalog.sqlite3").unlink()
    Catalog(folder / "catalog.sqlite3").close()


@pytest.mark.parametrize(
    ("harm", "codes", "words"),
    [
        (lambda folder: flip(folder / VECTORS, 50 * 32), ["client_vector_damaged", "vectors_damaged"], "'50'"),
        (
            lambda folder: (folder / VECTORS).unlink(),
            ["client_vector_damaged"] * 195 + ["vectors_damaged"],
            "195 of 195",
        ),
        (lambda folder: flip(folder / VECTORS, 3 * 32), [], ""),  # a replaced row: nobody misses it
        (change("UPDATE passages SET row = 9999 WHERE row = 60"), ["catalog_inconsistent"], "last committed row"),
        (change("UPDATE documents SET text = 'other', own_vector = 0 WHERE id = '7'"), ["text_damaged"], "'7'"),
        (change("DELETE FROM passages WHERE row = 60"), ["catalog_inconsistent"], "no passage"),
        (change("UPDATE documents SET metadata = '{\"a\":' WHERE id = '7'"), ["metadata_damaged"], "'7'"),
        (swap(b"text 150", b"text \xff50"), ["text_damaged"], "'150'"),
        (change("UPDATE documents SET id = CAST(x'ff' AS TEXT) WHERE id = '7'"), ["catalog_damaged"], "UTF-8"),
        (lambda folder: (folder / "catalog.sqlite3").write_bytes(b"x" * 9000), ["catalog_damaged"], "catalog"),
        (lambda folder: (folder / "catalog.sqlite3").unlink(), ["catalog_damaged"], "vectors-0001.f16 lies there"),
        (made_anew, ["catalog_damaged"], "vectors-0001.f16 lies there"),  # as a start that is refused leaves it
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(data_dir, harm, codes, words):
    harm(collection(data_dir))
    report, _ = run(data_dir)
    assert sorted(problem.code for problem in report.problems) == codes
    assert words in " ".join(problem.detail for problem in report.problems)
    assert all(problem.hint for problem in report.problems)


def test_where_there_is_nothing_it_says_so(tmp_path):
    with pytest.raises(NotFoundError, match="no collection"):
        run(tmp_path)


def test_a_passage_whose_row_is_no_number_is_a_damaged_catalog(data_dir):
    """What flipped bits can leave; SQLite itself would not store it, and is told for a moment that it may."""
    with contextlib.closing(sqlite3.connect(collection(data_dir) / "catalog.sqlite3")) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (as_it_is,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'passages'").fetchone()
        assert "STRICT, " in as_it_is
        for sql in (as_it_is.replace("STRICT, ", ""), as_it_is):
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'passages'", (sql,))
            connection.execute("PRAGMA writable_schema = RESET")
            connection.execute("PRAGMA writable_schema = ON")
            if sql != as_it_is:
                connection.execute("UPDATE passages SET checksum = 'none' WHERE row = 60")
            connection.commit()
    with (
        pytest.raises(CatalogDamagedError, match="a row of a passage"),
        open_collection(without_model(data_dir, 16)),
    ):
        pass


def test_metadata_that_a_filter_can_not_read_are_a_damaged_catalog(data_dir):
    change("UPDATE documents SET metadata = '{\"n\":' WHERE id = '7'")(collection(data_dir))
    with open_collection(without_model(data_dir, 16)) as opened:
        with pytest.raises(CatalogDamagedError, match="is damaged: malformed JSON"):
            opened.delete_matching(parse_filter({"n": {"$gte": 0}}, limits=opened.limits))
        assert opened.store.catalog.counts()[0] == 195  # nothing was deleted
