"""Starting: what is refused, with which words; what goes on."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest
from conftest import ROOT, environment, lend_export, until, without_model
from structlog.testing import capture_logs

from server.app import listen_on, open_collection
from server.catalog.schema import FORMAT_VERSION
from server.checking import NewDocument
from server.settings import EncoderSettings, Settings
from server.verification import verify

BROUGHT = {"encoder__model": "none", "encoder__dim": 16}


def start(data_dir, **settings):
    """Run `twopass serve` until it gives up; return its exit status and what it says."""
    if settings.get("encoder__model") == "bundled":
        lend_export(data_dir)
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "serve"],
        env=environment(data_dir, **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


def store(data_dir, vectors):
    """Leave a collection of these vectors, as a server that has ended leaves it."""
    with open_collection(without_model(data_dir, 16)) as collection:
        collection.add([NewDocument(f"{i}", f"text {i}", {}, each) for i, each in enumerate(vectors)])


def fill(server, vectors):
    documents = [{"id": f"{i}", "vector": v.tolist(), "text": f"text {i}"} for i, v in enumerate(vectors)]
    assert server.http.post("/documents", json={"documents": documents}).status_code == 201


def test_a_second_server_on_the_same_data_is_refused_and_the_first_goes_on(tmp_path, serve):
    with serve(tmp_path, **BROUGHT) as first:
        status, words = start(tmp_path, **BROUGHT)
        assert status == 1
        assert f"another twopass (process {first.process.pid}) is using {tmp_path}" in words
        assert "TWOPASS_DATA_DIR" in words and "Traceback" not in words
        assert first.http.get("/readyz").status_code == 200
        assert first.stop() == 0


def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements():
    """asyncio sets TCP_NODELAY on a connection only if its listener names the protocol (44 ms otherwise)."""
    with listen_on("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_taken_port_is_named(tmp_path):
    with listen_on("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        status, words = start(tmp_path / "b", **BROUGHT, server__port=port)
        assert status == 1
        assert f"port {port}" in words and "TWOPASS_SERVER__PORT" in words and "Traceback" not in words
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"encoder__dim": 24}, "TWOPASS_ENCODER__MODEL=none TWOPASS_ENCODER__DIM=16"),
        ({"encoder__model": "bundled", "encoder__dim": ""}, "'none' (16 dimensions)"),
    ],
)
def test_another_model_under_existing_data_is_refused_with_the_way_back(
    tmp_path, make_vectors, changed, words
):
    store(tmp_path, make_vectors(3, 16, seed=1))
    status, said = start(tmp_path, **{**BROUGHT, **changed})
    assert status == 1 and words in said and "Traceback" not in said
    with open_collection(without_model(tmp_path, 16)) as collection:
        assert collection.stats()["documents"] == 3


def test_a_start_with_the_settings_of_the_last_one_has_nothing_to_warn_of(tmp_path):
    settings = Settings(data_dir=tmp_path, encoder=EncoderSettings(model="none", dim=16))
    for _ in range(2):
        with capture_logs() as told, open_collection(settings):
            pass
        assert told == []


def test_a_prefix_longer_than_the_vectors_is_refused(tmp_path):
    status, words = start(tmp_path, **BROUGHT, index__prefix_dim=17)
    assert status == 1 and "17" in words and "16" in words and "Traceback" not in words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"server__prot": 1}, "TWOPASS_SERVER__PORT"),
        ({"index__oversample": "lots"}, "index.oversample"),
        ({"encoder__model": "none"}, "encoder.dim"),
        ({"encoder__model": "/nowhere/model"}, "/nowhere/model"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, settings, words):
    status, said = start(tmp_path, **settings)
    assert status == 1 and words in said and "Traceback" not in said


def test_a_catalog_of_a_newer_format_is_left_alone(tmp_path, make_vectors):
    import sqlite3

    store(tmp_path, make_vectors(3, 16, seed=1))
    path = tmp_path / "collections" / "default" / "catalog.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = 3 WHERE key = 'format_version'")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    status, words = start(tmp_path, **BROUGHT)
    assert status == 1 and "format 3" in words and "newer twopass" in words
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", range(1, FORMAT_VERSION))
@pytest.mark.parametrize("wrong", [{"encoder__dim": 16}, {"index__prefix_dim": 48}])
def test_a_start_that_is_refused_leaves_an_earlier_versions_data_to_that_version(tmp_path, number, wrong):
    shutil.copytree(ROOT / f"tests/golden/format-{number}", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "collections/default/catalog.sqlite3"
    before = path.read_bytes()
    status, words = start(tmp_path, **BROUGHT | {"encoder__dim": 32} | wrong)
    assert status == 1 and "32 dimensions" in words
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no database at all, just text" * 200])
def test_a_catalog_that_is_none(tmp_path, make_vectors, content):
    store(tmp_path, make_vectors(3, 16, seed=1))
    (tmp_path / "collections" / "default" / "catalog.sqlite3").write_bytes(content)
    status, words = start(tmp_path, **BROUGHT)
    assert status == 1 and "Traceback" not in words
    assert "catalog" in words and "backup" in words


def test_damaged_client_vectors_are_named_and_mended_by_sending_them_again(tmp_path, serve, make_vectors):
    vectors = make_vectors(50, 16, seed=2)
    store(tmp_path, vectors)
    path = tmp_path / "collections" / "default" / "vectors-0001.f16"
    data = bytearray(path.read_bytes())
    data[7 * 32 + 3] ^= 0x40
    path.write_bytes(data[:-40])  # row 7 flipped, rows 48 and 49 cut off
    with serve(tmp_path, **BROUGHT) as server:
        assert server.http.get("/readyz").json() == {"status": "degraded"}
        damage = server.http.get("/stats").json()["damage"]
        assert damage == {"rows": 3, "documents": 3, "ids": ["48", "49", "7"]}
        (warning,) = (line for line in server.log if line["level"] == "warning")
        told = {name: warning[name] for name in warning if name not in ("level", "timestamp")}
        assert (told.pop("event")[:31], told) == (
            "some stored vectors are damaged",
            {"rows": 3, "documents": 3},
        )
        found = server.http.post(
            "/search", json={"vector": vectors[7].tolist(), "k": 50, "mode": "exact"}
        ).json()
        assert len(found["hits"]) == 47 and "7" not in [hit["id"] for hit in found["hits"]]
        assert found["certified"] is False  # one of the lost could have been better
        assert server.http.get("/documents/7").json()["text"] == "text 7"
        fill(server, vectors)  # the same documents again: only the damaged ones are written
        assert server.http.get("/readyz").json() == {"status": "ok"}
        assert server.http.get("/stats").json()["tombstones"] == 3
        hits = server.http.post("/search", json={"vector": vectors[7].tolist(), "k": 50}).json()["hits"]
        assert len(hits) == 50 and hits[0]["id"] == "7"
        server.stop()


def test_rows_that_were_lost_stay_known_until_they_are_sent_again(tmp_path, serve, make_vectors):
    vectors = make_vectors(5000, 16, seed=4)
    store(tmp_path, vectors)
    path = tmp_path / "collections" / "default" / "vectors-0001.f16"
    os.truncate(path, 100 * 32)
    for _ in range(2):
        with serve(tmp_path, **BROUGHT) as server:
            assert server.http.get("/stats").json()["damage"]["documents"] == 4900
            extra = [{"vector": vector.tolist()} for vector in make_vectors(5000, 16, seed=5)]
            # New rows go behind the lost ones, so the file is long again, with a hole of zeros.
            assert server.http.post("/documents", json={"documents": extra}).status_code == 201
            server.stop()
    store(tmp_path, vectors)
    with serve(tmp_path, **BROUGHT, index__check_on_open="all") as server:
        assert server.http.get("/readyz").json() == {"status": "ok"}
        assert server.http.get("/stats").json()["documents"] == 15_000
        server.stop()


def test_damaged_texts_are_encoded_again_at_start(tmp_path, serve):
    sentences = [f"The {animal} eats {food}." for animal in ("cat", "dog", "cow") for food in ("hay", "fish")]
    documents = [{"id": each, "text": each} for each in sentences]
    with serve(tmp_path) as server:
        server.http.post("/documents", json={"documents": documents})
        before = server.http.post("/search", json={"query": "a cow and its hay", "k": 6}).json()["hits"]
        server.stop()
    path = tmp_path / "collections" / "default" / "vectors-0001.f16"
    good = path.read_bytes()
    path.write_bytes(good[: 2 * 768] + bytes(768) + good[3 * 768 : -100])
    with serve(tmp_path) as server:
        until(lambda: server.http.get("/readyz").json()["status"] == "ok")
        after = server.http.post("/search", json={"query": "a cow and its hay", "k": 6}).json()["hits"]
        assert [hit["id"] for hit in after] == [hit["id"] for hit in before]
        np.testing.assert_allclose([h["score"] for h in after], [h["score"] for h in before], atol=1e-3)
        assert server.http.get("/stats").json()["damage"] == {"rows": 0, "documents": 0, "ids": []}
        server.stop()


def test_damage_among_older_rows_is_found_when_asked(tmp_path, serve, make_vectors):
    vectors = make_vectors(5000, 16, seed=3)
    store(tmp_path, vectors)
    path = tmp_path / "collections" / "default" / "vectors-0001.f16"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    for check, status in (("newest", "ok"), ("all", "degraded")):
        with serve(tmp_path, **BROUGHT, index__check_on_open=check) as server:
            assert server.http.get("/readyz").json() == {"status": status}
            server.stop()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_data_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    status, words = start(tmp_path, **BROUGHT)
    assert status == 1 and "Permission denied" in words and "Traceback" not in words


def test_a_disk_that_takes_no_writes_is_refused_and_checked_all_the_same(small_disk, serve, make_vectors):
    with serve(small_disk, **BROUGHT) as server:
        fill(server, make_vectors(3, 16, seed=1))
        server.stop()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, words = start(small_disk, **BROUGHT)
    assert status == 1 and "Read-only file system" in words and "Traceback" not in words
    assert verify(small_disk, lambda *_: None).problems == []
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    with serve(small_disk, **BROUGHT) as server:
        assert server.http.get("/stats").json()["documents"] == 3
        server.stop()


CLOSING_IS_LOGGED = """
import structlog
from index.durable import DirectoryLock
from server.cli import main
leave = DirectoryLock.__exit__
def told(*args):
    leave(*args)
    structlog.get_logger().info("the data are free")
DirectoryLock.__exit__ = told
main()
"""


def test_that_it_has_stopped_is_said_when_another_may_use_the_data(tmp_path, serve):
    with serve(tmp_path, ("-c", CLOSING_IS_LOGGED), **BROUGHT) as server:
        assert server.stop() == 0
        assert [line["event"] for line in server.log][-2:] == ["the data are free", "stopped"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_an_ingest_ends_cleanly_with_nothing_half_stored(tmp_path, serve, how):
    texts = [f"Sentence number {i} about something else than sentence {i + 1}. " * 12 for i in range(600)]
    documents = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    with serve(tmp_path) as server:
        server.http.post("/documents", json={"documents": [{"id": "first", "text": "kept"}]})
        # Sent whole before the signal: the connection is there, whatever the server has made of it yet.
        ingest = http.client.HTTPConnection("127.0.0.1", httpx.URL(server.url).port, timeout=120)
        body = json.dumps({"documents": documents})
        ingest.request("POST", "/documents", body, {"Content-Type": "application/json"})
        server.http.post("/search", json={"query": "kept"})
        assert server.stop(how) == 0
        answer = ingest.getresponse()
        told = json.loads(answer.read())
        ingest.close()
    with serve(tmp_path) as server:
        stored = server.http.get("/stats").json()["documents"]
        if answer.status == 201:  # it was quicker than the signal
            assert stored == 601
        else:
            assert (answer.status, told["code"]) == (503, "shutting_down")
            assert answer.headers["retry-after"]
            assert stored == 1
        server.stop()
