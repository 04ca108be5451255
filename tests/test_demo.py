"""The demo's documents, and the demo itself on a part of them."""

import io
import re
import shlex
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import lend_export
from rich.console import Console

from server.demo import QUESTIONS, DemoError, run
from server.docstrings import collect_docstrings
from server.progress import progress

ROOT = Path(__file__).parent.parent

# What a good answer to each question has among its first three.
GOOD_ANSWERS = {
    "how do I undo a git-style diff": {"difflib.restore"},
    "read a zip archive": {"zipfile.ZipFile", "zipfile.ZipFile.read", "zipfile.ZipExtFile.read", "zipfile"},
    "make a temporary folder that deletes itself": {"tempfile.TemporaryDirectory"},
    "count how often each word occurs": {"collections.Counter", "collections.Counter.most_common"},
    "wait until several threads have all reached the same point": {"threading.Barrier.wait"},
    "remember the results of slow function calls": {"functools.cache", "functools.lru_cache"},
}
MODULES = frozenset(
    [
        "difflib",
        "dis",
        "zipfile",
        "tempfile",
        "shutil",
        "collections",
        "str",
        "threading",
        "functools",
        "time",
    ]
)


@pytest.fixture(scope="module")
def docstrings():
    return collect_docstrings()


def test_the_documents_are_some_thousands_and_the_same_at_every_call(docstrings):
    assert 2500 <= len(docstrings) <= 5000
    assert collect_docstrings() == docstrings
    assert [each["id"] for each in docstrings] == sorted({each["id"] for each in docstrings})


def test_modules_in_python_and_in_c_are_among_them(docstrings):
    named = {each["id"]: each for each in docstrings}
    assert named["difflib.restore"] == {
        "id": "difflib.restore",
        "text": "function difflib.restore: Generate one of the two sequences that generated a delta.\n\n"
        "Given a `delta` produced by `Differ.compare()` or `ndiff()`, extract\n"
        "lines originating from file 1 or 2 (parameter `which`), stripping off line\nprefixes.",
        "metadata": {"module": "difflib", "kind": "function"},
    }
    kinds = {
        "zipfile": "module",
        "zipfile.ZipFile": "class",
        "zipfile.ZipFile.extractall": "method",
        "itertools.chain": "class",
        "os.listdir": "function",
        "os.path.join": "function",
        "str.split": "method",
        "ValueError": "class",
    }
    assert {name: named[name]["metadata"]["kind"] for name in kinds if name in named} == kinds


def test_what_is_private_empty_or_said_twice_is_left_out(docstrings):
    parts = {part for each in docstrings for part in each["id"].split(".")}
    assert not [part for part in parts if part.startswith("_")]
    assert not parts & {"idlelib", "tkinter", "distutils", "ntpath"}
    bodies = [each["text"].partition(": ")[2] for each in docstrings]
    assert len(set(bodies)) == len(bodies)
    assert min(map(len, bodies)) >= 20
    assert max(map(len, bodies)) < 3000


def test_collecting_runs_no_module_for_its_docstring():
    script = """
import sys
from server.docstrings import collect_docstrings
collect_docstrings()
print({"this", "antigravity", "tkinter", "turtle", "idlelib", "mailbox", "imaplib"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "set()\n"


def started_too_late(other, start, command, **more):
    """Somebody else listens at the port already that the server is told to take."""
    other.bind(("127.0.0.1", int(command[command.index("--port") + 1])))
    other.listen()
    return start(command, **more)


def show(folder, documents):
    output = io.StringIO()
    run(folder, Console(file=output, width=100, highlight=False), progress, documents)
    return output.getvalue()


def answers(story):
    """question: the ids printed below it"""
    found = {}
    for question in QUESTIONS:
        block = story.partition(f"{question}\n")[2].partition("\n\n")[0]
        found[question] = re.findall(r"^ +0\.\d{3}   0\.\d{3} +\d+ → \d+ +(\S+)", block, re.MULTILINE)
        assert re.search(
            r"\n  [\d.]+ ms encoding, [\d.]+ ms first pass, [\d.]+ ms second pass over 80 cand", block
        )
    return found


@pytest.mark.slow
def test_the_demo_answers_its_questions_and_the_second_time_nothing_is_encoded(tmp_path, monkeypatch, serve):
    monkeypatch.setenv("TWOPASS_SERVER__API_KEY", "not for the demo")
    documents = collect_docstrings(MODULES)
    lend_export(tmp_path / "demo")
    with monkeypatch.context() as patch, socket.socket() as other:
        patch.setattr(subprocess, "Popen", partial(started_too_late, other, subprocess.Popen))
        first = show(tmp_path / "demo", documents)
    assert f"Stored      {len(documents)} new, 0 updated, 0 unchanged" in first
    found = answers(first)
    assert {question: len(ids) for question, ids in found.items()} == dict.fromkeys(QUESTIONS, 3)
    assert [question for question in QUESTIONS if not GOOD_ANSWERS[question] & set(found[question])] == []
    assert f"TWOPASS_DATA_DIR={tmp_path}/demo make serve" in first

    second = show(tmp_path / "demo", documents)
    assert f"Stored      0 new, 0 updated, {len(documents)} unchanged" in second
    assert answers(second) == found

    curls = [shlex.split(line) for line in first.splitlines() if line.startswith("  curl ")]
    with serve(tmp_path / "demo") as server:
        said = []
        for _, _, url, _, header, _, body in curls:
            assert header == "content-type: application/json"
            path = url.removeprefix("http://127.0.0.1:8000")
            answer = server.http.post(path, content=body, headers={"content-type": "application/json"})
            said.append((path, answer.status_code, answer.json()))
        assert server.stop() == 0
    assert [(path, status) for path, status, _ in said] == [
        ("/search", 200),
        ("/documents", 201),
        ("/search", 200),
    ]
    assert len(said[0][2]["hits"]) == 3
    assert [hit["id"] for hit in said[2][2]["hits"]] == ["note"]


@pytest.mark.slow
def test_a_folder_with_other_documents_is_left_alone(tmp_path, serve):
    with serve(tmp_path) as server:
        answer = server.http.post("/documents", json={"documents": [{"id": "mine", "text": "my diary"}]})
        assert answer.status_code == 201
        assert server.stop() == 0
    with pytest.raises(DemoError, match="holds other documents") as error:
        show(tmp_path, [{"id": "a.b", "text": "function a.b: docs", "metadata": {}}])
    assert "--data-dir" in error.value.hint


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path):
    catalog = tmp_path / "collections" / "default" / "catalog.sqlite3"
    catalog.parent.mkdir(parents=True)
    catalog.write_bytes(b"this is no catalog" * 100)
    lend_export(tmp_path)
    with pytest.raises(DemoError, match=r"could not start\.\nThe end of the server's log:\n(.*\n)*.*catalog"):
        show(tmp_path, [])


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoError, match="can't be made: "):
        show(tmp_path / "file" / "demo", [])
