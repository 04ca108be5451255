"""`twopass ingest --watch`: a folder kept in step while it changes, the server restarts, and until Ctrl-C."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest
from conftest import ROOT, environment, kept_port, serving


class Watch:
    """A running watch, and what it has said so far: reports on standard output, words on standard error."""

    def __init__(self, folder, url, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "ingest", str(folder), "--watch", "--json", *words],
            env=environment(folder.parent, url=url)
            | {"XDG_STATE_HOME": str(folder.parent / "state"), "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.reports, self.words = queue.Queue(), queue.Queue()
        self._threads = [
            threading.Thread(target=self._read, args=[stream, into])
            for stream, into in ((self.process.stdout, self.reports), (self.process.stderr, self.words))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream, into):
        for line in stream:
            into.put(line)
        stream.close()
        into.put("")

    def report(self):
        """What the next look did that changed something: new, updated, deleted, and what was skipped."""
        told = json.loads(self.reports.get(timeout=60))
        return told["created"], told["updated"], told["deleted"], [each["reason"] for each in told["skipped"]]

    def counts(self, created, updated, deleted):
        """Wait until its looks have done so much together: it may look while several things are being changed."""
        left = Counter(created=created, updated=updated, deleted=deleted)
        while left.total():
            told = json.loads(self.reports.get(timeout=60))
            left.subtract({name: told[name] for name in left})
            assert min(left.values()) >= 0, told

    def until(self, said):
        """Wait until it says this on standard error."""
        heard = ""
        while said not in heard:
            line = self.words.get(timeout=60)
            assert line, f"it ended without saying {said!r}: {heard}"
            heard += line

    def stop(self, how):
        self.process.send_signal(how)
        code = self.process.wait(60)
        for thread in self._threads:
            thread.join()
        return code


@contextlib.contextmanager
def watching(folder, url, *words):
    watch = Watch(folder, url, *words)
    try:
        yield watch
    finally:
        if watch.process.poll() is None:
            watch.stop(signal.SIGKILL)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "notes"
    made.mkdir()
    for name in ("one.txt", "two.txt"):
        (made / name).write_text(f"{name} lamp")
        os.utime(made / name, (1_600_000_000, 1_600_000_000))
    return made


def text_of(server, path):
    answer = server.http.get(f"/documents/{str(path).lstrip('/')}")
    return answer.json()["text"] if answer.status_code == 200 else None


def test_what_is_added_changed_moved_and_deleted_is_followed(texts, folder):
    with watching(folder, texts.url) as watch:
        watch.counts(2, 0, 0)
        (folder / "sub").mkdir()
        (folder / "sub" / "three.md").write_text("# Three\nlamps\n## Red\none\n")
        (folder / "one.txt").write_text("one lantern")
        watch.counts(2, 1, 0)
        assert text_of(texts, folder / "one.txt") == "one lantern"
        (folder / "two.txt").unlink()
        watch.counts(0, 0, 1)
        (folder / "sub").rename(folder / "moved")
        watch.counts(2, 0, 2)
        assert text_of(texts, folder / "moved/three.md") == "# Three\nlamps"
        (folder / "bad.txt").write_bytes(b"\0\1")
        assert watch.report() == (0, 0, 0, ["is binary, not text"])
        (folder / ".twopassignore").write_text("moved\n")
        watch.counts(0, 0, 2)
        assert watch.stop(signal.SIGINT) == 0
        watch.until("Stopped watching.")
    assert text_of(texts, folder / "two.txt") is None


def test_a_watch_goes_on_where_the_last_one_stopped_also_without_the_kernels_help(texts, folder):
    with watching(folder, texts.url) as watch:
        watch.counts(2, 0, 0)
        assert watch.stop(signal.SIGTERM) == 0
    (folder / "one.txt").unlink()
    with watching(folder, texts.url, "--poll", "0.1") as watch:
        watch.counts(0, 0, 1)
        (folder / "three.txt").write_text("three lamps")
        watch.counts(1, 0, 0)
        assert watch.stop(signal.SIGINT) == 0


def test_a_server_that_goes_away_is_waited_for_and_what_changed_meanwhile_is_sent(tmp_path):
    folder, settings = tmp_path / "vectors", {"encoder__model": "none", "encoder__dim": 2}
    folder.mkdir()
    write_vectors(folder / "one.jsonl", "a", "b")
    write_vectors(folder / "two.jsonl", "c")
    with kept_port() as port:
        settings["server__port"] = port
        with serving(tmp_path / "data", **settings) as server, watching(folder, server.url) as watch:
            watch.counts(3, 0, 0)
            assert server.stop() == 0
            write_vectors(folder / "three.jsonl", "d")
            (folder / "one.jsonl").unlink()
            watch.until("Trying again in")
            with serving(tmp_path / "data", **settings) as back:
                watch.counts(1, 0, 2)
                page = back.http.get("/documents").json()["documents"]
                assert [each["id"] for each in page] == ["c", "d"]
                assert watch.stop(signal.SIGINT) == 0
                assert back.stop() == 0


def write_vectors(path, *names):
    path.write_text("\n".join(json.dumps({"id": name, "vector": [1.0, 0.5]}) for name in names))


def test_only_folders_can_be_watched(texts, folder):
    with watching(folder / "one.txt", texts.url) as watch:
        watch.until(f"--watch takes folders, and {folder / 'one.txt'} is none.")
        assert watch.process.wait(60) == 2
