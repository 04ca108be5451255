"""A disk without room: a small tmpfs, filled for real."""

import os
import shutil

import numpy as np
import pytest
from conftest import clustered

from index.errors import DiskFullError
from index.plan import Wish
from index.two_pass import Shape, TwoPassIndex
from server.verification import verify

DIM = 256
BROUGHT = {"encoder__model": "none", "encoder__dim": DIM}


def documents(vectors, first):
    return [
        {"id": f"{i:05}", "vector": v.tolist(), "text": f"{i} " * 40} for i, v in enumerate(vectors, first)
    ]


def test_a_full_disk_refuses_writes_keeps_everything_and_goes_on_when_there_is_room(small_disk, serve):
    vectors = clustered(8000, DIM, seed=1)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    n_stored = 0

    def search(server, i):
        hits = server.http.post("/search", json={"vector": vectors[i].tolist(), "k": 1}).json()["hits"]
        return hits[0]["id"]

    with serve(small_disk / "data", **BROUGHT) as server:
        refusals = []
        for size in (200, 20, 3, 1):  # ever smaller bites, until nothing more fits
            while True:
                body = {"documents": documents(vectors[n_stored : n_stored + size], n_stored)}
                answer = server.http.post("/documents", json=body)
                if answer.status_code != 201:
                    refusals.append(answer)
                    break
                n_stored += size
        for refusal in refusals:
            assert (refusal.status_code, refusal.json()["code"]) == (507, "disk_full"), refusal.text
            assert "Free some room" in refusal.json()["hint"]
        assert n_stored > 1000
        assert server.http.get("/stats").json()["documents"] == n_stored
        for i in (0, 7, n_stored - 1):
            assert search(server, i) == f"{i:05}"
        ballast.unlink()
        body = {"documents": documents(vectors[n_stored : n_stored + 100], n_stored)}
        assert server.http.post("/documents", json=body).status_code == 201
        n_stored += 100
        server.stop(how=9)
    assert verify(small_disk / "data", lambda done, total: None).problems == []
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - 4096)))
    with serve(small_disk / "data", **BROUGHT) as server:  # a full disk must not keep it from starting
        assert server.http.get("/stats").json()["documents"] == n_stored
        assert search(server, n_stored - 1) == f"{n_stored - 1:05}"
        assert server.stop() == 0


def test_a_first_pass_that_has_no_room_says_so_and_leaves_nothing(small_disk):
    index = TwoPassIndex(small_disk, Shape(1, 32, 32, "float16"), 0, np.zeros(0, np.bool_))
    index.publish(index.append(clustered(2000, 32, seed=3), 0), np.zeros(0, np.int64))
    before = sorted(path.name for path in small_disk.iterdir())
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 50_000))
    with pytest.raises(
        DiskFullError, match=r"^no room left on the disk for .*/first-pass-0001-0001-000000000.faiss$"
    ):
        index.rebuild(Wish(32))
    (small_disk / "ballast").unlink()
    assert sorted(path.name for path in small_disk.iterdir()) == before
    assert index.rebuild(Wish(32)) is not None
    del index  # what it has mapped would keep the disk busy
