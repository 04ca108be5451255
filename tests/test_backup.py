"""server/backups: what is written is whole and can be read by anyone; what is damaged changes nothing."""

import hashlib
import io
import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, clustered, mounted, until

from index import durable
from index.errors import DiskFullError, LockedError
from index.two_pass import Mode
from server.backups import snapshots
from server.backups.reading import check_backup, read_manifest
from server.backups.restoring import READY, UNPACKING, restore, settle
from server.backups.snapshots import Snapshots
from server.backups.writing import write_backup
from server.catalog import Catalog
from server.catalog.schema import FORMAT_VERSION
from server.errors import BackupDamagedError, ConflictError, FormatError, NotFoundError
from server.jobs import Job, Jobs
from server.records import DocumentWrite, SavedJob
from server.store import CATALOG_NAME, LocalStore
from server.verification import verify

GOLDEN = Path(__file__).parent / "golden"
COLLECTION = Path("collections", "default")
# What the version that wrote the golden folders answered to clustered(40, 32, seed=5)[0], k = 5.
ANSWERS = {"d0": 1.0, "d9": 1.0, "d25": 0.8758, "d16": 0.7973, "d22": 0.5483}


def ignore(*_):
    pass


def never():
    return False


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def back_up(data_dir, path, **more):
    with Catalog(data_dir / COLLECTION / CATALOG_NAME, read_only=True) as catalog:
        return write_backup(catalog, path, more.get("stop", never), more.get("on_progress", ignore))


def answers(data_dir):
    """What the golden query finds, read as a server would."""
    with Catalog(data_dir / COLLECTION / CATALOG_NAME) as catalog:
        store = LocalStore(catalog, catalog.generations.current(), 16)
        (found,) = store.search(clustered(40, 32, seed=5)[:1], 5, Mode.EXACT, 8, 80)
        documents = store.documents([hit.document for hit in found.hits])
        store.close()
        return {documents[hit.document].id: round(hit.score, 4) for hit in found.hits}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The golden folder of format 1: 38 documents, 41 rows."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(GOLDEN / "format-1", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def archive(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "twopass.tar"
    before = contents(data_dir)
    manifest = back_up(data_dir, path)
    assert contents(data_dir) == before
    assert (manifest.documents, manifest.passages, manifest.rows, manifest.damaged) == (38, 38, 41, 0)
    assert names(path.parent) == [path.name]
    return path


@pytest.mark.parametrize("source", [*sorted(GOLDEN.glob("format-*")), *sorted(GOLDEN.glob("*.tar"))], ids=str)
def test_what_every_version_wrote_is_backed_up_restored_and_answers_as_it_did(source, tmp_path):
    path = source
    if source.is_dir():
        path = tmp_path / "twopass.tar"
        assert back_up(source, path).catalog_format == FORMAT_VERSION
    restored = restore(path, tmp_path / "new", False, ignore)
    assert restored.aside is None and restored.folder == tmp_path / "new" / COLLECTION
    assert answers(tmp_path / "new") == ANSWERS
    report = verify(tmp_path / "new", ignore)
    assert (report.problems, report.documents, report.rows) == ([], 38, 38)


def fences(language):
    page = (ROOT / "docs/operating.md").read_text().partition("### Without twopass")[2].partition("###")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def test_the_lines_on_the_page_read_a_backup_without_twopass(archive, tmp_path, monkeypatch):
    if missing := [name for name in ("tar", "sha256sum", "sqlite3") if shutil.which(name) is None]:
        pytest.skip(f"{missing} not installed")
    shutil.copy(archive, tmp_path / "twopass.tar")
    monkeypatch.chdir(tmp_path)
    (shell,), (python,) = fences("sh"), fences("python")
    told = subprocess.run(
        ["sh", "-ec", shell], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[:3] == ["catalog.sqlite3: OK", "vectors-0001.f16: OK", "manifest.json: OK"]
    assert told[3] == 'd0|Document 0 of the golden folder.|{"even":true,"n":0}'
    places = [line.split("|") for line in told[3 + 38 :]]
    assert len(places) == 38
    names = {}
    exec(python, names)
    vectors = np.asarray(names["vectors"], np.float32)
    assert vectors.shape == (41, 32)
    row = {identifier: int(row) for row, identifier, _, _ in places}
    np.testing.assert_allclose(vectors[row["d25"]] @ vectors[row["d0"]], ANSWERS["d25"], atol=1e-3)


def test_plain_sqlite_does_what_the_page_says_and_no_more(archive, tmp_path):
    with tarfile.open(archive) as tar:
        tar.extract(CATALOG_NAME, tmp_path, filter="data")
    with sqlite3.connect(tmp_path / CATALOG_NAME) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        found = connection.execute("SELECT rowid FROM fulltext WHERE fulltext MATCH 'golden'").fetchall()
        assert len(found) == 36  # one has another text, one none
        for refused in (
            "SELECT text FROM searchable",
            "SELECT text FROM fulltext WHERE fulltext MATCH 'golden'",
            "UPDATE documents SET text = 'x'",
            "DELETE FROM documents",
        ):
            with pytest.raises(sqlite3.OperationalError, match="no such function: spaced"):
                connection.execute(refused).fetchall()
    connection.close()


def rewritten(archive, path, change):
    """Write the archive anew, each member as `change` leaves it: (TarInfo, bytes) or None."""
    with tarfile.open(archive) as old, tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as new:
        for info in old.getmembers():
            data = old.extractfile(info).read()
            if (changed := change(info, data)) is not None:
                info, data = changed
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
        for info, data in change(None, b"") or ():
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))


def without(name):
    return lambda info, data: None if info is None or info.name == name else (info, data)


def with_one_more(name, kind=tarfile.REGTYPE, link=""):
    more = tarfile.TarInfo(name)
    more.type, more.linkname = kind, link
    return lambda info, data: [(more, b"")] if info is None else (info, data)


def telling(**fields):
    """A manifest that says something else, with its checksum made to fit."""

    def change(info, data):
        if info is None:
            return None
        if info.name == "manifest.json":
            return info, json.dumps(json.loads(data) | fields).encode()
        return info, data

    return change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (without("catalog.sqlite3"), BackupDamagedError, "catalog.sqlite3 is missing"),
        (without("vectors-0001.f16"), BackupDamagedError, "vectors-0001.f16 is missing"),
        (without("manifest.json"), BackupDamagedError, "manifest.json is missing"),
        (without("SHA256SUMS"), BackupDamagedError, "SHA256SUMS is missing"),
        (with_one_more("../evil"), BackupDamagedError, "'../evil' has no place"),
        (with_one_more("/etc/evil"), BackupDamagedError, "'/etc/evil' has no place"),
        (with_one_more("catalog.sqlite3"), BackupDamagedError, "in it twice"),
        (with_one_more("vectors-0001.f16", tarfile.SYMTYPE, "/etc/passwd"), BackupDamagedError, "has no place"),
        (telling(version=2), FormatError, "version 2; this twopass reads up to version 1"),
        (telling(kind="something"), BackupDamagedError, "no backup of twopass"),
        (telling(rows=40), BackupDamagedError, "isn't as it was written"),
        (telling(members=[{"name": "../x", "bytes": 1, "sha256": ""}] * 2), BackupDamagedError, "'../x'"),
        (telling(members=3), BackupDamagedError, "doesn't say what it has to"),
        (telling(members=[{"name": 5, "bytes": 1, "sha256": ""}] * 2), BackupDamagedError, "doesn't say what it"),
        (telling(fingerprint=["a model"]), BackupDamagedError, "doesn't say what it has to"),
        (telling(version="1"), BackupDamagedError, "doesn't say of which version"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_as_it_was_written_is_refused_and_nothing_changes(
    archive, data_dir, tmp_path, change, error, words
):
    bad = tmp_path / "bad.tar"
    rewritten(archive, bad, change)
    shutil.copytree(data_dir, tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(error, match=re.escape(words)):
        restore(bad, tmp_path / "data", True, ignore)
    assert contents(tmp_path / "data") == before
    assert names(tmp_path / "data" / "collections") == ["default"]


def test_no_flipped_byte_and_no_cut_goes_unnoticed(archive, data_dir, tmp_path):
    """Unless it is in the padding between files, where it changes nothing of what is restored."""
    whole = archive.read_bytes()
    bad, target = tmp_path / "bad.tar", tmp_path / "data"
    chance = random.Random(1)
    with tarfile.open(archive) as tar:
        members = {info.name: info for info in tar.getmembers()}
    places = [info.offset + chance.randrange(500) for info in members.values()]  # headers
    places += [info.offset_data + chance.randrange(info.size) for info in members.values() for _ in range(4)]
    restore(archive, target, False, ignore)
    expected = contents(target)
    n_refused = 0
    for at in places:
        data = bytearray(whole)
        data[at] ^= 1 << chance.randrange(8)
        bad.write_bytes(data)
        try:
            check_backup(bad, ignore)
        except (BackupDamagedError, FormatError):
            n_refused += 1
            with pytest.raises((BackupDamagedError, FormatError)):
                restore(bad, target, True, ignore)
            assert contents(target) == expected
    assert n_refused == len(places)
    for size in (
        0,
        1,
        511,
        512,
        5000,
        members["vectors-0001.f16"].offset_data + 100,
        members["SHA256SUMS"].offset,
    ):
        bad.write_bytes(whole[:size])
        with pytest.raises(BackupDamagedError):
            restore(bad, target, True, ignore)
    assert contents(target) == expected


def before(at, header, body=b""):
    """What puts one more header, as it is, before the file `at`; `body` is what belongs to it."""

    def change(path):
        whole = path.read_bytes()
        with tarfile.open(path) as tar:
            offset = tar.getmember(at).offset
        header.size = header.size or len(body)
        more = header.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)
        path.write_bytes(whole[:offset] + more + whole[offset:])

    return change


def made_up(kind, size=0):
    info = tarfile.TarInfo("more")
    info.type, info.size = kind, size
    return info


@pytest.mark.parametrize(
    "change",
    [
        before("vectors-0001.f16", made_up(tarfile.XHDTYPE), b"14 size=-1536\n"),  # back to itself
        before("vectors-0001.f16", made_up(tarfile.XHDTYPE), b"27 size=9999999999999999999\n"),
        before("manifest.json", made_up(tarfile.XHDTYPE), b"9" * 5000 + b" size=1\n"),
        before("catalog.sqlite3", made_up(tarfile.XHDTYPE, -512)),
        before("catalog.sqlite3", made_up(tarfile.REGTYPE, 1 << 80)),
        before("SHA256SUMS", made_up(tarfile.REGTYPE), bytes(512 * 1000)),  # the end of an archive
    ],
    ids=["loop", "beyond", "digits", "negative", "huge", "end"],
)
def test_headers_that_lead_nowhere_are_refused(archive, tmp_path, change):
    bad = tmp_path / "bad.tar"
    shutil.copy(archive, bad)
    change(bad)
    with pytest.raises(BackupDamagedError):
        check_backup(bad, ignore)


def test_an_archive_of_headers_alone_is_not_read_to_its_end(tmp_path):
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as tar:
        for n in range(200):
            tar.addfile(tarfile.TarInfo(f"{n}"))
    with pytest.raises(BackupDamagedError, match="more than 100 files"):
        check_backup(bad, ignore)


@pytest.mark.parametrize(
    ("fields", "names"),
    [({"rows": 40}, {}), ({}, {"vectors-0001.f16": "vectors-0002.f16"})],
    ids=["fewer rows", "another generation"],
)
def test_a_catalog_and_vectors_of_two_backups_are_refused(archive, tmp_path, fields, names):
    """Checksums that fit don't make them belong together."""
    bad = tmp_path / "bad.tar"
    manifest = json.loads(dict(members_of(archive))["manifest.json"]) | fields
    for each in manifest["members"]:
        each["name"] = names.get(each["name"], each["name"])
    told = json.dumps(manifest).encode()
    sums = "".join(f"{each['sha256']}  {each['name']}\n" for each in manifest["members"])
    sums += f"{hashlib.sha256(told).hexdigest()}  manifest.json\n"
    new = {"manifest.json": told, "SHA256SUMS": sums.encode()}

    def change(info, data):
        if info is None:
            return None
        data = new.get(info.name, data)
        info.name = names.get(info.name, info.name)
        return info, data

    rewritten(archive, bad, change)
    with pytest.raises(BackupDamagedError, match="don't belong together"):
        restore(bad, tmp_path / "data", False, ignore)
    assert list((tmp_path / "data" / "collections").iterdir()) == []


def members_of(archive):
    with tarfile.open(archive) as tar:
        for info in tar.getmembers():
            yield info.name, tar.extractfile(info).read()


def test_a_file_that_is_no_backup_is_refused_before_anything_is_made(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no archive")
    with pytest.raises(BackupDamagedError, match=r"notes\.txt is no backup"):
        restore(path, tmp_path / "data", False, ignore)
    with pytest.raises(NotFoundError, match="there is no file"):
        restore(tmp_path / "nowhere.tar", tmp_path / "data", False, ignore)
    assert not (tmp_path / "data").exists()


def test_what_is_there_is_replaced_only_when_told_and_then_kept_aside(archive, data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    (tmp_path / "data" / COLLECTION / "mine.txt").write_text("mine")
    before = contents(tmp_path / "data" / COLLECTION)
    with pytest.raises(ConflictError, match=r"a collection in .* already"):
        restore(archive, tmp_path / "data", False, ignore)
    assert contents(tmp_path / "data" / COLLECTION) == before
    first = restore(archive, tmp_path / "data", True, ignore)
    assert contents(first.aside) == before
    second = restore(archive, tmp_path / "data", True, ignore)
    assert first.aside != second.aside
    assert names(second.folder) == ["catalog.sqlite3", "vectors-0001.f16"]
    with durable.DirectoryLock(tmp_path / "data" / "lock"), pytest.raises(LockedError):
        restore(archive, tmp_path / "data", True, ignore)


KILLED = """
import os, signal, sys
from pathlib import Path
from index import durable
from server.backups.restoring import restore
moves = []
def move(old, new, real=durable.move):
    moves.append(new)
    if len(moves) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(old, new)
durable.move = move
def on_progress(stage, done, total):
    if sys.argv[3] == "-1":
        os.kill(os.getpid(), signal.SIGKILL)
restore(Path(sys.argv[1]), Path(sys.argv[2]), True, on_progress)
"""


@pytest.mark.parametrize(("n_moves", "is_new"), [(-1, False), (0, False), (1, False), (2, True)])
def test_a_restore_that_is_killed_leaves_the_old_collection_or_the_new_one(
    archive, data_dir, tmp_path, n_moves, is_new
):
    shutil.copytree(data_dir, tmp_path / "data")
    (tmp_path / "data" / COLLECTION / "mine.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, archive, tmp_path / "data", str(n_moves)], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    settle(tmp_path / "data" / "collections")
    assert (tmp_path / "data" / COLLECTION / "mine.txt").exists() != is_new
    assert answers(tmp_path / "data") == ANSWERS
    left = {path.name.partition(".before")[0] for path in (tmp_path / "data" / "collections").iterdir()}
    assert left == {"default"}
    assert {UNPACKING, READY}.isdisjoint(left)


def test_a_backup_leaves_nothing_beside_itself_whatever_it_is_called(data_dir, tmp_path):
    back_up(data_dir, tmp_path / "a[1]*.tar")
    assert names(tmp_path) == ["a[1]*.tar"]


def test_a_backup_that_is_stopped_leaves_nothing(data_dir, tmp_path):
    path = tmp_path / "twopass.tar"
    seen = []

    def on_progress(stage, done, total):
        seen.append((stage, done, total))

    assert back_up(data_dir, path, stop=lambda: True) is None
    for n in (1, 2, 3):
        seen.clear()
        assert back_up(data_dir, path, stop=lambda n=n: len(seen) >= n, on_progress=on_progress) is None
        assert len(seen) >= n
        assert names(tmp_path) == []
    manifest = back_up(data_dir, path, on_progress=on_progress)
    total = sum(member.bytes for member in manifest.members)
    assert seen[-1] == ("writing", total, total)


def test_a_full_disk_is_noticed_before_and_where_it_comes_meanwhile_nothing_is_left(data_dir):
    with mounted("160k") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(120_000))
        with pytest.raises(DiskFullError, match=r"a backup takes .* has room for"):
            back_up(data_dir, disk / "twopass.tar")
        ballast.unlink()
        # The catalog of format 1 grows while it is led to the present one: then there is no room for the archive.
        with pytest.raises(DiskFullError, match="no room left"):
            back_up(data_dir, disk / "twopass.tar")
        assert names(disk) == []


def test_damaged_and_missing_vectors_are_counted_and_do_not_keep_the_texts_from_being_saved(
    data_dir, tmp_path
):
    shutil.copytree(data_dir, tmp_path / "data")
    vectors = tmp_path / "data" / COLLECTION / "vectors-0001.f16"
    data = bytearray(vectors.read_bytes())
    data[20 * 64] ^= 1
    vectors.write_bytes(data[: 38 * 64])  # the file lacks three rows too
    assert back_up(tmp_path / "data", tmp_path / "one.tar").damaged == 4
    vectors.unlink()
    assert back_up(tmp_path / "data", tmp_path / "two.tar").damaged == 38
    restore(tmp_path / "two.tar", tmp_path / "new", False, ignore)
    codes = {problem.code for problem in verify(tmp_path / "new", ignore).problems}
    assert codes == {"client_vector_damaged", "vectors_damaged"}


def unit(n):
    return clustered(n, 8, seed=n)


def write(identifier):
    return DocumentWrite(identifier, f"text of {identifier}", "{}", b"", False, [(0, 4)])


def test_only_the_current_generation_is_in_it_and_a_change_of_the_model_begins_anew(tmp_path):
    folder = tmp_path / COLLECTION
    folder.mkdir(parents=True)
    with Catalog(folder / CATALOG_NAME) as catalog:
        store = LocalStore(catalog, catalog.generations.begin(1, "{}", 8, "float32"), 8)
        store.put([write("a"), write("b")], unit(2))
        filled = catalog.generations.prepare(2, "{}", 8, "float32", "{}", "{}")
        catalog.fill(filled.number, [(1, b"", [(0, 4)])], 0, [7])
        catalog.jobs.add(
            SavedJob("j", "reembed", "running", 1, 2, '{"encoder":{"model":"m"},"generation":2}')
        )
        manifest = write_backup(catalog, tmp_path / "twopass.tar", never, ignore)
        assert catalog.generations.numbers() == [1, 2]
        store.close()
    assert (manifest.passages, manifest.rows, manifest.vector_dtype) == (2, 2, "float32")
    assert [member.name for member in manifest.members] == ["catalog.sqlite3", "vectors-0001.f32"]
    restore(tmp_path / "twopass.tar", tmp_path / "new", False, ignore)
    with Catalog(tmp_path / "new" / COLLECTION / CATALOG_NAME) as catalog:
        assert catalog.generations.numbers() == [1]
        assert [(job.status, job.wishes) for job in catalog.jobs.all()] == [
            ("running", '{"encoder":{"model":"m"}}')
        ]
    problems = verify(tmp_path / "new", ignore).problems
    assert {each.code for each in problems} == {"text_damaged"}  # they weren't hashed as ingest hashes them


def test_when_another_generation_takes_over_while_the_catalog_is_copied_it_is_that_ones_backup(
    tmp_path, monkeypatch
):
    folder = tmp_path / COLLECTION
    folder.mkdir(parents=True)
    with Catalog(folder / CATALOG_NAME) as catalog:
        store = LocalStore(catalog, catalog.generations.begin(1, "{}", 8, "float32"), 8)
        store.put([write("a"), write("b")], unit(2))
        second = LocalStore(catalog, catalog.generations.prepare(2, "{}", 8, "float32", "{}", "{}"), 8)
        second.put([write("a"), write("b"), write("c")], unit(3))
        catalog.jobs.add(SavedJob("j", "reembed", "running", 1, 2, "{}"))
        real, calls = Catalog.copy, []

        def copy(self, into, stop):
            calls.append(into)
            if len(calls) == 1:
                catalog.generations.switch(2, "j", "{}")
                catalog.generations.drop(1)
                (folder / "vectors-0001.f32").unlink()
            return real(self, into, stop)

        monkeypatch.setattr(Catalog, "copy", copy)
        manifest = write_backup(catalog, tmp_path / "twopass.tar", never, ignore)
        store.close()
        second.close()
    assert len(calls) == 2
    assert (manifest.generation, manifest.rows, manifest.damaged) == (2, 3, 0)
    assert check_backup(tmp_path / "twopass.tar", ignore) == manifest


@pytest.fixture
def kept(data_dir, tmp_path):
    with Catalog(data_dir / COLLECTION / CATALOG_NAME, read_only=True) as catalog:
        kept = Snapshots(tmp_path / "snapshots", catalog, Jobs())
        yield kept
        kept.close()


def test_backups_of_one_second_have_different_names_and_a_broken_one_is_listed_with_the_reason(
    kept, tmp_path, monkeypatch
):
    monkeypatch.setattr(snapshots.time, "strftime", lambda *_: "twopass-20260101T000000Z")
    for _ in range(2):
        job = kept.begin()
        kept._threads.wait()
        assert (job.status, job.result["rows"], job.done == job.total) == ("done", 41, True)
    (tmp_path / "snapshots" / "broken.tar").write_bytes(b"x" * 2000)
    (tmp_path / "snapshots" / "other.txt").write_bytes(b"x")
    told = kept.all()
    assert [each["name"] for each in told] == [
        "broken.tar", "twopass-20260101T000000Z-2.tar", "twopass-20260101T000000Z.tar",
    ]  # fmt: skip
    assert "no backup" in told[0]["error"] and told[1]["documents"] == 38
    kept.delete("broken.tar")
    for name in ("broken.tar", "other.txt", "../lock", "..", ""):
        with pytest.raises(NotFoundError):
            kept.path(name)


def test_the_next_backup_may_begin_as_soon_as_the_one_before_says_that_it_has_ended(kept, monkeypatch):
    go_on, end = threading.Event(), Job.end

    def end_and_linger(job, *how):
        end(job, *how)
        go_on.wait()

    monkeypatch.setattr(Job, "end", end_and_linger)
    first = kept.begin()
    until(lambda: first.has_ended)
    second = kept.begin()
    go_on.set()
    kept._threads.wait()
    assert (first.status, second.status, len(kept.all())) == ("done", "done", 2)


def test_one_backup_at_a_time_and_what_a_kill_left_is_removed_at_start(kept, data_dir, tmp_path, monkeypatch):
    begun, end = threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        end.wait()

    monkeypatch.setattr(snapshots, "write_backup", wait)
    job = kept.begin()
    begun.wait()
    with pytest.raises(ConflictError, match="under way"):
        kept.begin()
    end.set()
    kept._threads.wait()
    assert job.status == "cancelled"
    folder = tmp_path / "snapshots"
    for name in ("a.tar.writing", "a.tar.catalog.writing", "a.tar.catalog.writing-journal", "b.tar"):
        (folder / name).write_bytes(b"x")
    with Catalog(data_dir / COLLECTION / CATALOG_NAME, read_only=True) as catalog:
        Snapshots(folder, catalog, Jobs())
    assert names(folder) == ["b.tar"]


def test_the_golden_backup_says_what_it_said():
    manifest = read_manifest(GOLDEN / "backup-1.tar")
    assert (manifest.created_at[:4], manifest.catalog_format, manifest.documents, manifest.rows) == (
        "2026", 2, 38, 41,
    )  # fmt: skip
