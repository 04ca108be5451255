"""Backups of a running server: over HTTP and by the command, while ingest and search go on."""

import contextlib
import json
import os
import socket
import stat
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, beside, clustered, ended, serving, until
from typer.testing import CliRunner

from server.backups.reading import check_backup
from server.backups.restoring import restore
from server.cli import app
from server.verification import verify

DIM = 32
BROUGHT = {"encoder__model": "none", "encoder__dim": DIM, "index__prefix_dim": 16}
VECTORS = clustered(4000, DIM, seed=3)
N_FIRST = 1500


def document(n):
    return {"id": f"d{n:04}", "vector": VECTORS[n].tolist(), "text": f"text {n}", "metadata": {"n": n}}


def put(http, numbers):
    answer = http.post("/documents", json={"documents": [document(n) for n in numbers]})
    assert answer.status_code == 201, answer.text


def found(http, numbers):
    """Hits of both passes, with scores, texts and metadata."""
    searches = [{"vector": VECTORS[n].tolist(), "k": 5} for n in numbers]
    answer = http.post("/search/batch", json={"searches": searches}).json()
    return [result["hits"] for result in answer["results"]]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def twopass(*arguments):
    """The command, in this process: a second less each time."""
    return CliRunner().invoke(app, [*map(str, arguments)], prog_name="twopass")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("snapshots")
    with serving(data_dir, **BROUGHT) as server:
        server.data_dir = data_dir
        put(server.http, range(N_FIRST))
        put(server.http, [3999])
        server.http.post("/documents", json={"documents": [document(3) | {"vector": VECTORS[5].tolist()}]})
        server.http.post("/documents/delete", json={"ids": ["d0007", "d0008"]})
        yield server
        server.stop()


def test_a_backup_by_the_command_restored_elsewhere_answers_as_the_server_did(server, tmp_path):
    file, other = tmp_path / "backups" / "twopass.tar", tmp_path / "other"
    done = twopass("backup", file, "--url", server.url)
    assert (done.exit_code, done.stderr.splitlines()[-1:]) == (0, ["checking …"]), done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{file}: ")
    assert lines[1] == "  1,499 documents · 1,502 vectors of 32 dimensions · model none"
    assert names(file.parent) == [file.name]
    assert names(server.data_dir / "snapshots") == []  # the server's own copy is deleted
    again = twopass("backup", file, "--url", server.url)
    assert (again.exit_code, again.stderr) == (
        1, f"twopass: {file} exists already.\nChoose another name, or add --replace.\n",
    )  # fmt: skip
    busy = twopass("backup", tmp_path / "busy.tar", "--data-dir", server.data_dir)
    assert busy.exit_code == 1 and "is using" in busy.stderr and "Leave --data-dir out" in busy.stderr
    busy = twopass("restore", file, "--data-dir", server.data_dir, "--replace")
    assert busy.exit_code == 1 and "is using" in busy.stderr and "Stop that server" in busy.stderr
    restored = twopass("restore", file, "--data-dir", other, "--json")
    assert restored.exit_code == 0, restored.stderr
    told = json.loads(restored.stdout)
    assert (told["folder"], told["aside"], told["documents"]) == (
        str(other / "collections/default"), None, 1499,
    )  # fmt: skip
    refused = twopass("restore", file, "--data-dir", other)
    assert refused.exit_code == 1 and "add --replace" in refused.stderr
    assert verify(other, lambda *_: None).problems == []
    expected = found(server.http, range(0, 200, 4))
    with serving(other, **BROUGHT) as second:
        assert found(second.http, range(0, 200, 4)) == expected
        assert second.http.get("/documents/d0003").json()["metadata"] == {"n": 3}
        assert second.http.get("/documents/d0007").status_code == 404
        put(second.http, [2000])
        second.stop()
    closed = twopass("backup", tmp_path / "closed.tar", "--data-dir", other, "--json")
    assert json.loads(closed.stdout)["documents"] == 1500


def test_what_is_no_file_is_never_replaced_and_links_are_followed(server, tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link.tar"
    os.mkfifo(pipe)
    for place in (pipe, tmp_path):
        for words in (["backup", place, "--replace"], ["export", place]):
            done = twopass(*words, "--url", server.url)
            assert (done.exit_code, done.stderr) == (
                1, f"twopass: {place} is no file.\nChoose another name.\n",
            )  # fmt: skip
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    link.symlink_to("there.tar")
    assert twopass("backup", link, "--url", server.url).exit_code == 0
    assert link.is_symlink() and check_backup(tmp_path / "there.tar", lambda *_: None).documents == 1499


def test_a_restore_for_which_there_is_no_room_says_so_and_leaves_nothing(small_disk):
    (small_disk / "full").write_bytes(bytes(4080 << 10))
    done = twopass("restore", ROOT / "tests/golden/backup-1.tar", "--data-dir", small_disk / "data")
    assert done.exit_code == 1 and "room for" in done.stderr
    assert done.stderr.splitlines()[-1] == "Nothing was changed. Free some room and run it again."
    assert names(small_disk / "data" / "collections") == []


def test_a_backup_while_requests_come_in_holds_whole_requests_and_all_that_were_acknowledged(
    server, tmp_path
):
    acknowledged = []

    def write(is_over):
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
            for first in range(2000, 3900, 10):
                put(http, range(first, first + 10))
                acknowledged.append(first)
                if is_over.is_set():
                    break

    def search(is_over):
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
            while not is_over.is_set():
                assert found(http, [1])[0][0]["id"] == "d0001"

    names = []
    with beside(write, search):
        for _ in range(3):
            n_before = len(acknowledged)
            answer = server.http.post("/snapshots")
            assert answer.status_code == 202
            told = ended(server, answer.json()["job"]["id"])
            assert (told["status"], told["type"], told["progress"]["unit"]) == ("done", "backup", "bytes")
            names.append((told["result"]["name"], n_before))
    listed = server.http.get("/snapshots").json()["snapshots"]
    assert [each["name"] for each in listed] == sorted(name for name, _ in names)
    assert {each["model"] for each in listed} == {"none"}
    for name, n_before in names:
        file = tmp_path / name
        with server.http.stream("GET", f"/snapshots/{name}") as answer:
            assert answer.headers["content-type"] == "application/x-tar"
            with file.open("wb") as into:
                for block in answer.iter_bytes():
                    into.write(block)
        manifest = check_backup(file, lambda *_: None)
        n_new = manifest.documents - 1499
        assert n_new % 10 == 0 and n_new >= 10 * n_before
        assert (manifest.damaged, manifest.rows) == (0, 1502 + n_new)
        restored = tmp_path / name.removesuffix(".tar")
        restore(file, restored, False, lambda *_: None)
        report = verify(restored, lambda *_: None)
        assert (report.problems, report.documents) == ([], manifest.documents)
        left = server.http.delete(f"/snapshots/{name}").json()["snapshots"]
        assert name not in [each["name"] for each in left]
    assert server.http.get(f"/snapshots/{names[0][0]}").json()["code"] == "not_found"
    assert server.http.delete("/snapshots/..%2Flock").json()["code"] in ("not_found", "unknown_path")


def test_who_leaves_in_the_middle_of_a_backup_leaves_no_file_open(server):
    name, folder = "large.tar", server.data_dir / "snapshots"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("wb") as file:
        file.truncate(64 << 20)  # more than sockets hold

    def is_open():
        for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.readlink().name == name:
                    return True
        return False

    url = httpx.URL(server.url)
    with socket.socket() as leaving:
        leaving.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )  # so that most of it stays on the server
        leaving.connect((url.host, url.port))
        leaving.sendall(f"GET /snapshots/{name} HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
        assert leaving.recv(12) == b"HTTP/1.1 200"
        until(is_open)
    until(lambda: not is_open())
    assert server.http.delete(f"/snapshots/{name}").status_code == 200


def test_a_restore_that_was_killed_before_its_last_step_is_finished_by_the_next_start(tmp_path):
    restore(ROOT / "tests/golden/backup-1.tar", tmp_path, False, lambda *_: None)
    collections = tmp_path / "collections"
    (collections / "default").rename(collections / "default.restored")
    with serving(tmp_path, **BROUGHT) as server:
        assert server.http.get("/stats").json()["documents"] == 38
        server.stop()
    assert names(collections) == ["default"]
