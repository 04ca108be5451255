"""`twopass ingest` run again: what it reads, sends and deletes when a folder has changed, and when it hasn't."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import made_files
import pytest
from conftest import ROOT, called, deny_listing, environment
from embedding_host import embedding_host

from server.checking import content_hash
from server.converting.converter import Converter
from server.folders import syncing
from server.incoming import text_hash
from server.uploading import BATCH_DOCUMENTS


@pytest.fixture
def folder(tmp_path):
    """A folder with two texts and a Markdown file of three parts."""
    made = tmp_path / "notes"
    made.mkdir()
    (made / "one.txt").write_text("one lamp")
    (made / "two.txt").write_text("two lamps")
    (made / "list.md").write_text("# List\nintro\n## Red\nred lamp\n## Blue\nblue lamp\n")
    return age(made)


def age(folder):
    """Make a folder's files look as if they had been written long ago."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (1_600_000_000, 1_600_000_000))
    return folder


@pytest.fixture
def ingest(texts, tmp_path):
    """Runs the command as JSON, and returns its report."""

    def run(*words, state=tmp_path / "state.sqlite3"):
        done = called(tmp_path, "ingest", *map(str, words), "--json", "--state", str(state), url=texts.url)
        report = json.loads(done.out)
        assert report["exit_code"] == done.code
        return report

    return run


def counts(report):
    return tuple(report[name] for name in ("created", "updated", "unchanged", "deleted"))


@pytest.fixture
def stored(texts, folder):
    """Returns the ids that the server has of the folder's documents, as they go on below it."""

    def ids():
        after = str(folder).lstrip("/")
        page = texts.http.get("/documents", params={"after": after, "limit": 1000}).json()["documents"]
        found = [each["id"] for each in page if each["id"].startswith(after + "/")]
        return [identifier[len(after) + 1 :] for identifier in found]

    return ids


def never(*arguments, **named):
    raise AssertionError("this was not to be called")


ALL = ["list.md", "list.md#blue", "list.md#red", "one.txt", "two.txt"]


def test_a_second_run_reads_nothing_and_counts_all_as_unchanged(ingest, folder, stored, monkeypatch):
    assert counts(ingest(folder)) == (5, 0, 0, 0)
    assert stored() == ALL
    monkeypatch.setattr(syncing, "read_file", never)
    report = ingest(folder)
    assert (counts(report), report["passages"], report["exit_code"]) == ((0, 0, 5, 0), 0, 0)


def test_what_is_said_without_json(texts, tmp_path, folder):
    (folder / "bad.txt").write_bytes(b"\0")
    (folder / "photo.png").write_bytes(b"")
    (folder / ".hidden").write_bytes(b"")
    state = str(tmp_path / "state.sqlite3")
    done = called(tmp_path, "ingest", str(folder), "--exclude", "one*", "--state", state, url=texts.url)
    assert done.code == 1
    assert re.sub(r"in [\d.]+ s", "in 1 s", done.out).splitlines() == [
        "4 documents stored: 4 new, 0 updated, 0 unchanged (4 passages) in 1 s.",
        "Skipped: 1",
        f"  {folder}/bad.txt: is binary, not text",
        "Passed over: 1 file of other kinds (1 .png), 1 by patterns, 1 hidden",
    ]
    (folder / "two.txt").unlink()
    done = called(tmp_path, "ingest", str(folder), "--delete", "--state", state, url=texts.url)
    assert "1 document deleted: what they came from is gone.\n" in done.out


def test_a_part_that_vanished_from_a_file_is_deleted_and_the_others_stay_as_they_are(ingest, folder, stored):
    ingest(folder)
    (folder / "list.md").write_text("# List\nintro\n## Blue\nblue lamp\n## Green\ngreen lamp\n")
    age(folder)
    assert counts(ingest(folder)) == (1, 0, 4, 1)
    assert stored() == ["list.md", "list.md#blue", "list.md#green", "one.txt", "two.txt"]
    (folder / "list.md").write_text("")
    report = ingest(folder)
    assert (counts(report), report["skipped"]) == (
        (0, 0, 2, 3),
        [{"source": str(folder / "list.md"), "reason": "is empty"}],
    )


def test_a_change_within_the_same_size_and_time_is_noticed(ingest, folder):
    ingest(folder)
    (folder / "one.txt").write_text("One Lamp")
    assert counts(ingest(age(folder))) == (0, 1, 4, 0)


def test_a_file_that_was_written_this_very_moment_is_read_again(ingest, folder, monkeypatch):
    monkeypatch.setattr(
        syncing, "SETTLED_S", 3600.0
    )  # a slow machine may need more than a second to get there
    (folder / "one.txt").write_text("just now")
    ingest(folder)
    ledger = sqlite3.connect(folder.parent / "state.sqlite3")
    [(stamp,)] = ledger.execute("SELECT stamp FROM files WHERE path LIKE '%one.txt'")
    ledger.close()
    assert stamp == ""
    assert counts(ingest(folder)) == (0, 0, 5, 0)


def test_documents_of_files_that_are_gone_stay_until_they_are_to_be_deleted(ingest, folder, stored):
    ingest(folder)
    (folder / "one.txt").unlink()
    (folder / "list.md").rename(folder / "lost.md")
    assert counts(ingest(folder)) == (3, 0, 1, 0)
    assert len(stored()) == 8
    assert counts(ingest(folder, "--delete")) == (0, 0, 4, 4)
    assert stored() == ["lost.md", "lost.md#blue", "lost.md#red", "two.txt"]
    assert counts(ingest(folder, "--delete")) == (0, 0, 4, 0)


def test_what_is_left_out_by_a_new_pattern_is_deleted_too(ingest, folder, stored):
    ingest(folder)
    assert counts(ingest(folder, "--delete", "--exclude", "*.md")) == (0, 0, 2, 3)
    assert stored() == ["one.txt", "two.txt"]


def test_only_documents_that_came_from_the_folder_are_deleted(ingest, texts, folder, stored):
    ingest(folder)
    prefix = str(folder).lstrip("/")
    mine = [
        {"id": f"{prefix}/three.txt", "text": "somebody's own"},
        {"id": f"{prefix}/one.txt", "text": "changed by somebody"},
    ]
    assert texts.http.post("/documents", json={"documents": mine}).status_code == 201
    (folder / "one.txt").unlink()
    (folder / "two.txt").unlink()
    report = ingest(folder, "--delete")
    assert counts(report) == (0, 0, 3, 1)
    assert stored() == ["list.md", "list.md#blue", "list.md#red", "one.txt", "three.txt"]
    assert "somebody else has changed" in report["warnings"][0]


def test_another_folder_or_base_deletes_nothing_of_this_one(ingest, folder, stored, tmp_path):
    ingest(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.txt").write_text("x")
    assert counts(ingest(other, "--delete")) == (1, 0, 0, 0)
    assert ingest(folder, "--delete", "--base", tmp_path)["deleted"] == 0
    assert stored() == ALL


def test_an_empty_folder_may_be_a_disk_that_is_not_mounted(ingest, folder, stored):
    ingest(folder)
    shutil.move(folder, folder.with_name("away"))
    folder.mkdir()
    report = ingest(folder, "--delete")
    assert (counts(report), report["exit_code"]) == ((0, 0, 0, 0), 1)
    [skipped] = report["skipped"]
    assert skipped["source"] == str(folder)
    assert skipped["reason"].startswith("is empty, and 3 files came from it. Is its disk mounted?")
    assert stored() == ALL
    (folder / "a.txt").write_text("back")
    assert counts(ingest(folder, "--delete")) == (1, 0, 0, 5)


def test_what_lies_in_a_folder_that_cannot_be_listed_stays(ingest, folder, stored, monkeypatch):
    (folder / "sub").mkdir()
    (folder / "sub/x.txt").write_text("x")
    ingest(folder)
    deny_listing(monkeypatch, "sub")
    assert ingest(folder, "--delete")["deleted"] == 0
    assert stored() == [*ALL[:4], "sub/x.txt", "two.txt"]


def test_a_file_that_cannot_be_read_now_keeps_its_documents(ingest, folder, stored, monkeypatch):
    ingest(folder)
    (folder / "one.txt").write_text("changed")
    opened = Path.open

    def deny(path, *arguments, **named):
        if path.name == "one.txt":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", deny)
        report = ingest(folder, "--delete")
    assert report["skipped"] == [
        {"source": str(folder / "one.txt"), "reason": "may not be read: permission denied"}
    ]
    assert stored() == ALL
    assert counts(ingest(folder)) == (0, 1, 4, 0)


def test_a_document_that_the_server_lost_is_sent_again(ingest, texts, folder, stored):
    ingest(folder)
    prefix = str(folder).lstrip("/")
    texts.http.post("/documents/delete", json={"ids": [f"{prefix}/one.txt", f"{prefix}/list.md#red"]})
    changed = {"id": f"{prefix}/two.txt", "text": "three lamps"}
    texts.http.post("/documents", json={"documents": [changed]})
    assert counts(ingest(folder)) == (2, 1, 2, 0)
    assert stored() == ALL


def test_a_run_that_was_killed_is_gone_on_with(serve, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(400):
        (folder / f"{n}.txt").write_text(f"Number {n} of the lamps")
    with embedding_host() as host:
        settings = {"encoder__model": "words-16", "encoder__url": host.url, "encoder__retries": 0}
        encode = host.answer

        def hold_the_second_request(body):
            if sum(text.startswith("Number") for _, text in host.encoded) == BATCH_DOCUMENTS:
                host.gate = threading.Semaphore(0)
            return encode(body)

        with serve(tmp_path / "data", **settings) as server:
            host.answer = hold_the_second_request
            words = ["ingest", str(age(folder)), "--state", str(tmp_path / "state.sqlite3"), "--json"]
            killed = subprocess.Popen(
                [sys.executable, "-m", "server.cli", *words],
                env=environment(tmp_path, url=server.url),
                cwd=ROOT,
            )
            try:
                while host.n_held == 0:
                    assert killed.poll() is None
            finally:
                killed.kill()
                killed.wait()
            host.answer = encode
            host.gate.release(10**6)
            report = json.loads(called(tmp_path, *words, url=server.url).out)
            assert report["created"] + report["unchanged"] == 400
            assert report["unchanged"] >= BATCH_DOCUMENTS
            assert server.http.get("/stats").json()["documents"] == 400
            assert server.stop() == 0


def test_without_what_it_remembered_all_is_read_and_nothing_encoded_again(ingest, folder, tmp_path):
    ingest(folder)
    report = ingest(folder, state=tmp_path / "other" / "state.sqlite3")
    assert (counts(report), report["passages"]) == ((0, 0, 5, 0), 0)


def test_where_nothing_can_be_remembered_it_is_said_and_deleting_is_refused(
    texts, tmp_path, folder, monkeypatch
):
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    done = called(tmp_path, "ingest", str(folder), url=texts.url)
    assert done.code == 0 and done.out.startswith("5 documents stored: 5 new")
    assert done.err.startswith("Note: what was sent can't be remembered, so all is read: ")
    done = called(tmp_path, "ingest", str(folder), "--delete", url=texts.url)
    assert done.code == 2
    assert done.err.endswith("\nName another file with --state.\n")
    (tmp_path / "junk").write_text("no database, but long enough to be looked at as if it were one")
    done = called(tmp_path, "ingest", str(folder), "--state", str(tmp_path / "junk"), url=texts.url)
    assert done.code == 2 and "file is not a database" in done.err


def test_what_was_skipped_is_told_again_without_being_tried_again(ingest, folder, monkeypatch):
    (folder / "broken.eml").write_bytes(b"junk")
    (folder / "lines.jsonl").write_text('{"text": "a lamp"}\noops\n')
    first = ingest(age(folder))
    assert (first["exit_code"], len(first["skipped"])) == (1, 2)
    monkeypatch.setattr(Converter, "convert", never)
    monkeypatch.setattr(syncing, "read_file", never)
    second = ingest(folder)
    assert counts(second) == (0, 0, 6, 0)
    assert second["skipped"] == first["skipped"]


def test_a_text_that_the_server_would_not_take_is_told_with_what_to_do(ingest, folder):
    (folder / "long.txt").write_bytes(b"word " * 2_000_000)
    [skipped] = ingest(folder)["skipped"]
    assert skipped == {
        "source": str(folder / "long.txt"),
        "reason": "has 10.0 MB of text, and this server takes 8.4 MB at most: split it, or raise limits.text_bytes",
    }


def test_lines_with_ids_of_their_own_stay_when_they_vanish_unless_they_are_to_be_deleted(
    ingest, tmp_path, texts
):
    file = tmp_path / "feed" / "feed.jsonl"
    file.parent.mkdir()

    def write(*names):
        file.write_text("\n".join(json.dumps({"id": f"{tmp_path}-{name}", "text": name}) for name in names))
        age(file.parent)

    write("monday", "tuesday")
    assert counts(ingest(file.parent)) == (2, 0, 0, 0)
    write("tuesday", "wednesday")
    assert counts(ingest(file.parent)) == (1, 0, 1, 0)
    write("thursday!")
    assert counts(ingest(file.parent, "--delete")) == (1, 0, 0, 2)
    there = {
        name: texts.http.get(f"/documents/{tmp_path}-{name}").status_code for name in ("monday", "tuesday")
    }
    assert there == {"monday": 200, "tuesday": 404}


def test_a_document_that_two_files_have_is_the_later_ones_in_every_run(ingest, tmp_path, texts):
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"id": f"{tmp_path}-both", "text": f"from {name}"}))
    age(folder)
    ingest(folder)
    for _ in range(2):
        assert counts(ingest(folder)) == (0, 0, 1, 0)
        assert texts.http.get(f"/documents/{tmp_path}-both").json()["text"] == "from b"


def test_vectors_that_lines_bring_are_not_sent_again(brought, tmp_path):
    folder = tmp_path / "vectors"
    folder.mkdir()
    lines = [{"id": f"{tmp_path}-{n}", "vector": [1.0] * 31 + [n]} for n in range(3)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    age(folder)
    for counted in (
        "3 new, 0 updated, 0 unchanged (3 passages)",
        "0 new, 0 updated, 3 unchanged (0 passages)",
    ):
        told = called(tmp_path, "ingest", str(folder), url=brought.url).out
        assert told.startswith(f"3 documents stored: {counted}")


def test_what_is_accepted_for_later_counts_as_sent(ingest, folder):
    report = ingest(folder, "--no-wait")
    assert (report["accepted"], len(report["jobs"]), report["exit_code"]) == (5, 1, 0)
    again = ingest(folder, "--no-wait")
    assert (again["accepted"], again["unchanged"]) == (0, 5)


def test_nothing_to_ingest_as_json(ingest, tmp_path):
    report = ingest(tmp_path / "missing")
    assert (report["exit_code"], report["skipped"][0]["reason"]) == (1, "there is no such file or folder")


def test_options_that_make_no_sense_are_refused(texts, tmp_path, folder):
    done = called(tmp_path, "ingest", str(folder), "--exclude", "!", url=texts.url)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("twopass: --exclude can't be read: ")
    done = called(tmp_path, "ingest", str(folder), "--poll", "5", url=texts.url)
    assert (done.code, done.out) == (2, "")


def test_files_that_are_converted_are_sent_like_the_others(ingest, texts, folder, stored):
    (folder / "tides.pdf").write_bytes(made_files.pdf("The tide turns twice a day, pulled by the moon."))
    (folder / "plan.docx").write_bytes(made_files.docx([("Garden", "Beans climb."), ("Shed", "It leaks.")]))
    assert counts(ingest(age(folder))) == (8, 0, 0, 0)
    assert {"tides.pdf", "plan.docx#garden", "plan.docx#shed"} < set(stored())
    hit = texts.http.post("/search", json={"query": "why do tides turn", "k": 1}).json()["hits"][0]
    assert hit["metadata"] == {"path": str(folder / "tides.pdf")}


def test_the_command_and_the_server_hash_a_text_alike():
    assert text_hash({"id": "a", "text": "Grüße"}) == content_hash("Grüße", None).hex()
    assert text_hash({"id": "a", "text": "x", "vector": [1.0]}) is None


def test_what_was_remembered_by_a_newer_twopass_is_not_touched(texts, tmp_path, folder):
    state = tmp_path / "state.sqlite3"
    with sqlite3.connect(state) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    done = called(tmp_path, "ingest", str(folder), "--state", str(state), url=texts.url)
    assert done.code == 2 and "was written by another twopass, in form 99" in done.err
