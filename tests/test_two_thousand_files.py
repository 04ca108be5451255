"""A folder as people have them: 2,000 files of all kinds, many of them broken. All are told of, none is fatal."""

import itertools
import json
import os
import socket
import subprocess
import sys
from collections import Counter

import made_files
import pytest
from conftest import ROOT, environment

TOLD_READING = """
import sys
root = sys.argv[1]
opened = []
sys.addaudithook(lambda event, a: event == "open" and str(a[0]).startswith(root) and opened.append(str(a[0])))
from server.cli import main
sys.argv = ["twopass", *sys.argv[2:]]
try:
    main()
finally:
    print(len(opened), *opened[:3], file=sys.stderr)
"""
"""Runs the command, and says how many files below a folder it has opened."""

TOPICS = ("tides", "bread", "clocks", "snails", "boats", "lamps", "winters", "gardens", "rivers", "sheds")


def words(n):
    return f"Note {n} is about {TOPICS[n % 10]} and {TOPICS[n // 10 % 10]}."


class Made:
    """A folder that is filled, and what is to be expected of it."""

    def __init__(self, root):
        self.root = root
        self.documents = 0
        self.skipped = Counter()  # reasons, as far as they are the same everywhere
        self.other_kinds = Counter()
        self._numbers = itertools.count()

    def path(self, suffix):
        n = next(self._numbers)
        folder = self.root / f"{n % 20:02}" / f"{n % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"file {n:04}{suffix}", n

    def add(self, times, suffix, content, documents=1, reason=""):
        for _ in range(times):
            path, n = self.path(suffix)
            made = content(n)
            path.write_bytes(made if isinstance(made, bytes) else made.encode())
            self.documents += documents
            if reason:
                self.skipped[reason] += 1

    @property
    def entries(self):
        return sum(len(names) for _, _, names in os.walk(self.root))


def fill(root):
    made = Made(root)
    made.add(721, ".txt", words)
    made.add(360, ".md", lambda n: f"# Note {n}\n\n{words(n)}\n")
    made.add(
        60, ".MD", lambda n: f"# Book {n}\n{words(n)}\n## One\n{words(n + 1)}\n## Two\n{words(n + 2)}\n", 3
    )
    made.add(200, ".html", lambda n: f"<title>Page {n}</title><script>x</script><p>{words(n)}</p>")
    made.add(50, ".rst", lambda n: f"Note {n}\n=======\n\n{words(n)}\n")
    picture = ("photo.jpg", b"x", "image/jpeg")
    attached = lambda n: ("invoice.pdf", made_files.pdf(words(n)))  # noqa: E731
    line = lambda n, k: json.dumps({"text": words(n + k), "metadata": {"k": k}})  # noqa: E731
    made.add(
        20, ".jsonl", lambda n: "\n".join([*(line(n, k) for k in range(3)), "no json"]), 3, "is not JSON"
    )
    made.add(40, ".eml", lambda n: made_files.eml(f"Mail {n}", words(n)))
    made.add(10, ".eml", lambda n: made_files.mail(f"Mail {n}", words(n), attached(n), picture), 2)
    made.add(10, ".pdf", lambda n: made_files.pdf(words(n)))
    made.add(10, ".docx", lambda n: made_files.docx([("One", words(n)), ("Two", words(n + 1))]), 2)
    made.add(4, ".pptx", lambda n: made_files.pptx([("Plans", words(n)), ("Costs", words(n + 1))]), 2)
    made.add(8, ".xlsx", lambda n: made_files.xlsx({"Stock": [["what", "n"], [words(n), n]]}))
    made.add(8, ".epub", lambda n: made_files.epub(f"Book {n}", [("I", words(n)), ("II", words(n + 1))]), 3)
    made.add(4, ".msg", lambda n: made_files.msg(f"Mail {n}", words(n)))
    # What can't be read
    made.add(10, ".eml", lambda n: made_files.eml("Mail", words(n), "", "plan.pdf"), 1, "can't be converted")
    made.add(30, ".pdf", lambda n: b"%PDF-1.7\n" + os.urandom(200), 0, "can't be converted")
    made.add(20, ".pdf", lambda n: made_files.pdf(words(n))[: 300 + n % 200], 0, "can't be converted")
    made.add(20, ".docx", lambda n: made_files.docx([("", words(n))])[:-100], 0, "can't be converted")
    made.add(10, ".xlsx", lambda n: b"", 0, "can't be converted")
    made.add(5, ".pdf", lambda n: made_files.pdf(), 0, "has no text")
    made.add(80, ".txt", lambda n: "", 0, "is empty")
    made.add(30, ".md", lambda n: "\n \n", 0, "is empty")
    made.add(60, ".txt", lambda n: b"\0" + os.urandom(100), 0, "is binary, not text")
    made.add(40, ".md", lambda n: f"caf\u00e9 {n}".encode("latin-1"), 0, "is not UTF-8")
    made.add(20, ".txt", lambda n: words(n).encode("utf-16"), 0, "is UTF-16")
    made.add(10, ".html", lambda n: "<script>x</script>", 0, "has no text")
    made.add(1, ".txt", lambda n: b"five " * 10_000_000, 0, "has 50.0 MB of text")
    made.add(1, ".md", lambda n: b"five " * 10_000_000, 0, "is larger than a request may be")
    made.add(120, ".jpg", lambda n: os.urandom(64), 0)
    made.add(20, "", lambda n: "no ending", 0)
    made.other_kinds = {".jpg": 120, "no suffix": 20}
    # Odd names, links, and what is no file
    for name in ("new\nline", "quote'\"", "-rf", "%41#?", "ünï", "😀", " spaces ", "a" * 240):
        (root / f"{name}.txt").write_text(f"An odd name: {name}")
        made.documents += 1
    (root / os.fsdecode(b"latin-\xe9.txt")).write_text("A name that is not UTF-8")
    made.skipped["its name is not UTF-8"] += 1
    for n in range(5):
        (root / f"dangling-{n}.txt").symlink_to(root / "nowhere.txt")
        made.skipped["there is no such file or folder"] += 1
    (root / "loop.txt").symlink_to(root / "loop.txt")
    made.skipped["is a link that leads back to itself"] += 1
    os.mkfifo(root / "pipe.md")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket.txt"))
    made.skipped["is no regular file"] += 2
    shut = root / "shut.txt"
    shut.write_text("Nobody may read this but root.")
    shut.chmod(0)
    if os.geteuid() == 0:
        made.documents += 1
    else:
        made.skipped["may not be read: permission denied"] += 1
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (1_600_000_000, 1_600_000_000))
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("two-thousand") / "files"
    root.mkdir()
    return fill(root)


def ingest(made, url, *words):
    """Run the command; return its report, and how many files it has opened."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD_READING, made.root, "ingest", made.root, "--json", *words],
        env=environment(made.root.parent, url=url) | {"XDG_STATE_HOME": str(made.root.parent)},
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    n_opened = int(done.stderr.splitlines()[-1].split()[0])
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode
    return report, n_opened


def kinds(report, reasons):
    """The reasons of what was skipped, counted by how they begin."""
    found = Counter()
    for each in report["skipped"]:
        [reason] = [reason for reason in reasons if each["reason"].startswith(reason)] or [each["reason"]]
        found[reason] += 1
    return found


def test_all_are_told_of_none_is_fatal_and_a_second_run_touches_nothing(made, texts):
    assert made.entries == 2000
    first, n_opened = ingest(made, texts.url)
    assert first["exit_code"] == 1
    assert kinds(first, made.skipped) == made.skipped
    others = {"other_kinds": made.other_kinds, "attached": {".jpg": 10}}
    assert first["passed_over"] == {"hidden": 0, "left_out": 0, "links": 0, **others}
    assert (first["created"], first["updated"], first["unchanged"]) == (made.documents, 0, 0)
    assert first["refused"] == []
    assert n_opened > 1400

    second, n_opened = ingest(made, texts.url)
    assert (second["created"], second["updated"], second["unchanged"]) == (0, 0, made.documents)
    assert second["passages"] == 0
    assert sorted(second["skipped"], key=str) == sorted(first["skipped"], key=str)
    assert n_opened == 0

    (made.root / "-rf.txt").write_text("Changed.")
    (made.root / "ünï.txt").unlink()
    (made.root / "added.txt").write_text("Added.")
    third, n_opened = ingest(made, texts.url, "--delete")
    assert [third[name] for name in ("created", "updated", "unchanged", "deleted")] == [
        1, 1, made.documents - 2, 1,
    ]  # fmt: skip
    assert n_opened == 2
