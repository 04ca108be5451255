"""Indexes of metadata over HTTP: declared or asked for, built beside the rest, and never of any effect on answers."""

import subprocess
import sys

import pytest
from conftest import ROOT, ended, environment, serving

from server.catalog import Catalog
from server.errors import FilterError, NotFoundError, StoppingError
from server.jobs import Jobs
from server.metadata_indexes import MetadataIndexes


def listed(server):
    return server.http.get("/metadata/indexes").json()["indexes"]


def found(server, wanted):
    body = {"vector": [1, 0, 0, 0], "k": 100, "filter": wanted, "include": []}
    return sorted(hit["id"] for hit in server.http.post("/search", json=body).json()["hits"])


def test_an_index_is_built_listed_used_and_forgotten_and_answers_stay_the_same(tmp_path):
    settings = {"encoder__model": "none", "encoder__dim": 4, "index__metadata_indexes": "year"}
    documents = [
        {"id": f"d{n}", "vector": [1, n, 0, 0], "metadata": {"year": n % 5, "author": {"name": f"a{n % 3}"}}}
        for n in range(30)
    ]
    wanted = {"author.name": "a1", "year": {"$gte": 3}}
    expected = sorted(f"d{n}" for n in range(30) if n % 3 == 1 and n % 5 >= 3)
    with serving(tmp_path, **settings) as server:
        assert server.http.post("/documents", json={"documents": documents}).status_code == 201
        assert found(server, wanted) == expected
        added = server.http.post("/metadata/indexes", json={"path": "author.name"})
        assert added.status_code == 202
        job = ended(server, added.json()["job"]["id"])
        assert (job["type"], job["status"], job["wishes"]) == (
            "index_metadata",
            "done",
            {"path": "author.name"},
        )
        assert job["progress"]["done"] == 30
        assert listed(server) == [
            {"path": "author.name", "built": True, "declared": False},
            {"path": "year", "built": True, "declared": True},
        ]
        assert found(server, wanted) == expected
        dropped = server.http.delete("/metadata/indexes/author.name")
        assert [each["path"] for each in dropped.json()["indexes"]] == ["year"]
        assert found(server, wanted) == expected
        gone = server.http.delete("/metadata/indexes/author.name")
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
        refused = server.http.post("/metadata/indexes", json={"path": "$where"})
        assert (refused.status_code, refused.json()["code"], refused.json()["where"]) == (
            422,
            "invalid_filter",
            "path",
        )
        for body in ({}, {"path": ""}, {"path": "a", "x": 1}):
            assert server.http.post("/metadata/indexes", json=body).status_code == 422
        assert server.stop() == 0


def test_a_declared_path_that_cannot_be_one_is_told_at_start(tmp_path):
    settings = {"encoder__model": "none", "encoder__dim": 4, "index__metadata_indexes": "$where"}
    ended = subprocess.run(
        [sys.executable, "-m", "server.cli", "serve"],
        env=environment(tmp_path, **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "'$where' begins with a dollar sign" in ended.stderr


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        catalog.generations.begin(1, "{}", 4, "float16")
        yield catalog


def test_what_a_stop_interrupted_is_begun_anew_at_the_next_start(catalog):
    indexes = MetadataIndexes(catalog, jobs := Jobs(), [])
    with indexes._threads._turn:  # another index is being built
        job = indexes.add("year")
        indexes.stop()
    indexes.close()
    assert job.status == "cancelled"
    assert indexes.told() == [{"path": "year", "built": False, "declared": False}]
    with pytest.raises(StoppingError):
        indexes.add("month")
    again = MetadataIndexes(catalog, jobs := Jobs(), ["year"])
    again.start()
    again._threads.wait()
    again.close()
    [job] = jobs.all()
    assert (job.wishes, job.status) == ({"path": "year"}, "done")
    assert again.told() == [{"path": "year", "built": True, "declared": True}]


def test_cancelling_the_job_forgets_the_index(catalog):
    indexes = MetadataIndexes(catalog, jobs := Jobs(), [])
    with indexes._threads._turn:  # another index is being built
        job = indexes.add("year")
        jobs.ask(job.id, "cancel")
    indexes._threads.wait()
    assert job.status == "cancelled"
    assert indexes.told() == []
    with pytest.raises(NotFoundError, match="no index of 'year'"):
        indexes.drop("year")
    with pytest.raises(FilterError):
        indexes.add("$x")
    indexes.close()
