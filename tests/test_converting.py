"""PDF, office files, books and mails as text; and that a hostile file harms nobody."""

import os
import signal
import socket
import threading
import zipfile

import made_files
import pytest

from server.converting.converter import Converter, NotReadNow
from server.converting.process import Guard
from server.decoding import UnreadableError
from server.incoming import Skips
from server.readers import read_paths

ENTITIES = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'
OUTSIDE = '<container><rootfiles><rootfile full-path="../../../../etc/passwd"/></rootfiles></container>'


@pytest.fixture
def convert(converter, tmp_path):
    """Returns what a file of those bytes is converted to."""

    def converted(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return converter.convert(path)

    return converted


def test_a_pdf_is_plain_text(convert):
    made = convert("a.pdf", made_files.pdf("The tide turns twice a day.", "# no heading"))
    assert (made.title, made.text.split("\n")) == ("", ["The tide turns twice a day.", "# no heading"])


def test_a_document_keeps_its_headings(convert):
    made = convert("a.docx", made_files.docx([("", "Before."), ("Yeast", "It rises."), ("Salt", "A pinch.")]))
    assert made.text == "Before.\n\n# Yeast\n\nIt rises.\n\n# Salt\n\nA pinch."


def test_slides_are_read_with_their_titles(convert):
    made = convert("a.pptx", made_files.pptx([("Plans", "Grow more."), ("Costs", "Spend less.")]))
    assert made.text.split() == ["#", "Plans", "Grow", "more.", "#", "Costs", "Spend", "less."]


def test_sheets_are_tables(convert):
    made = convert("a.xlsx", made_files.xlsx({"Stock": [["what", "n"], ["nails", 12]]}))
    assert made.text.startswith("## Stock\n")
    assert "| nails | 12 |" in made.text


def test_a_book_has_its_title(convert):
    made = convert("a.epub", made_files.epub("The Sea", [("Tides", "They turn."), ("Waves", "They break.")]))
    assert made.title == "The Sea"
    assert "# Tides\n\nThey turn.\n\n# Waves\n\nThey break." in made.text


def test_a_mail_is_its_plain_part_and_who_sent_it_when(convert):
    made = convert("a.eml", made_files.eml("Grüße", "The plain part.", "<p>The page.</p>", "plan.pdf"))
    assert (made.title, made.text) == ("Grüße", "The plain part.")
    assert made.metadata == {
        "from": "Ada <ada@example.org>", "to": "bob@example.org", "date": "2024-01-02T09:00:00Z",
        "attachments": ["plan.pdf"],
    }  # fmt: skip
    assert convert("b.eml", made_files.eml("x", "", "<p>Only <b>a</b> page.</p>")).text == "Only a page."


def test_a_mail_with_a_charset_that_nobody_knows_is_read(convert):
    raw = b"Subject: x\nContent-Type: text/plain; charset=klingon\nDate: never\n\nhello \xff"
    assert convert("a.eml", raw).text == "hello \ufffd"


def test_outlooks_mail_is_read(convert):
    made = convert("a.msg", made_files.msg("About boats", "The boat leaves at noon."))
    assert "About boats" in made.text and "The boat leaves at noon." in made.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", b"%PDF-1.4 and nothing else", "can't be converted"),
        ("a.pdf", b"", "can't be converted"),
        ("a.pdf", made_files.pdf("x")[:200], "can't be converted"),
        ("a.pdf", made_files.pdf(), "has no text; if it is scanned"),
        ("a.docx", b"PK\3\4 no archive", "can't be converted"),
        ("a.docx", made_files.zipped({"word/document.xml": "<a>"}), "can't be converted"),
        ("a.pptx", b"\0" * 1000, "can't be converted"),
        ("a.xlsx", made_files.zipped({"x": "y"}), "can't be converted"),
        ("a.epub", made_files.zipped({"x": "y"}), "can't be converted"),
        ("a.msg", b"junk", "can't be converted"),
        ("a.epub", made_files.zipped({"META-INF/container.xml": ENTITIES}), "can't be converted"),
        ("a.epub", made_files.zipped({"META-INF/container.xml": OUTSIDE}), "can't be converted"),
        ("a.eml", made_files.nested_parts(3000), "is nested too deep"),
        ("a.eml", b"\0\1\2 junk", "is no e-mail"),
        ("a.eml", b"Subject: nothing\n\n", "has no text"),
        ("a.eml", made_files.eml("x", "", "", "only.png"), "has no text, only attachments"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason_and_the_next_one_is_read(convert, name, content, words):
    with pytest.raises(UnreadableError, match=words):
        convert(name, content)
    assert convert("good.eml", made_files.eml("x", "Good.")).text == "Good."


def test_a_file_that_is_not_there_says_nothing_of_its_content(converter, tmp_path):
    with pytest.raises(NotReadNow, match="can't be read: no such file"):
        converter.convert(tmp_path / "gone.pdf")


def test_a_file_that_takes_too_long_is_given_up_and_the_next_one_is_read(tmp_path, monkeypatch):
    """A page that keeps its parser busy for minutes."""
    page, good = tmp_path / "busy.html", tmp_path / "good.eml"
    page.write_text("<a " * 100_000)
    good.write_bytes(made_files.eml("x", "Good."))
    with Converter(limit_s=1.0) as converter:
        with pytest.raises(UnreadableError, match="took longer than 1 s to convert, and was given up"):
            converter.convert(page)
        monkeypatch.setattr(converter, "limit_s", 60.0)
        assert converter.convert(good).text == "Good."


def test_a_file_that_kills_what_converts_it_is_named_and_the_next_one_is_read(tmp_path):
    os.mkfifo(tmp_path / "deadly.eml")
    good = tmp_path / "good.eml"
    good.write_bytes(made_files.eml("x", "Good."))
    with Converter() as converter:
        converter.convert(good)
        killed = converter._process

        def kill_when_it_is_open():
            with (tmp_path / "deadly.eml").open("wb"):  # returns when the other end opens it
                killed.send_signal(signal.SIGKILL)
                killed.wait()

        thread = threading.Thread(target=kill_when_it_is_open)
        thread.start()
        with pytest.raises(UnreadableError, match="the converter was killed by SIGKILL over it"):
            converter.convert(tmp_path / "deadly.eml")
        thread.join()
        assert converter.convert(good).text == "Good."


TOO_MUCH = "takes more than 100 MiB of memory to convert"
BOMBS = [
    # name, what it is without the bomb, the file in it that is one, what is said
    ("bomb.docx", made_files.docx([("", "x")]), "word/footnotes.xml", TOO_MUCH),
    ("bomb.xlsx", made_files.xlsx({"a": [["x"]]}), "xl/worksheets/sheet1.xml", f"{TOO_MUCH}|can't be"),
    ("bomb.pptx", made_files.pptx([("a", "x")]), "ppt/slides/slide1.xml", f"{TOO_MUCH}|can't be"),
    ("bomb.epub", made_files.epub("a", [("b", "x")]), "META-INF/container.xml", f"{TOO_MUCH}|can't be"),
]


@pytest.mark.parametrize(
    ("name", "plain", "member", "words"),
    [BOMBS[0], *(pytest.param(*each, marks=pytest.mark.faults) for each in BOMBS[1:])],
)
def test_a_file_that_takes_all_memory_is_stopped_and_the_next_one_is_read(
    tmp_path, name, plain, member, words
):
    bomb = tmp_path / name
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in zipfile_of(plain).items():
            if each != member:
                archive.writestr(each, content)
        archive.writestr(member, b" " * (150 << 20))
    good = tmp_path / "good.docx"
    good.write_bytes(made_files.docx([("", "Good.")]))
    assert bomb.stat().st_size < 1 << 20
    with Converter(memory_bytes=100 << 20) as converter:
        with pytest.raises(UnreadableError, match=words):
            converter.convert(bomb)
        assert converter.convert(good).text == "Good."


def test_what_libraries_take_is_not_held_against_a_file_whatever_came_before_it(tmp_path):
    """A mail needs none; the bound on its memory must not hold while those for office files are imported."""
    mail, document = tmp_path / "a.eml", tmp_path / "b.docx"
    mail.write_bytes(made_files.eml("x", "Good."))
    document.write_bytes(made_files.docx([("", "Good too.")]))
    with Converter(memory_bytes=100 << 20) as converter:
        assert [converter.convert(path).text for path in (mail, document)] == ["Good.", "Good too."]


def zipfile_of(content):
    import io

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_nothing_is_fetched_that_a_file_names(convert):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"
        page = f"<p>Text.</p><img src='{address}'/>"
        made = convert("a.epub", made_files.epub("Book", [("One", page)]))
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert "Text." in made.text


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("socket.connect", (None, ("example.org", 80))),
        ("socket.getaddrinfo", ("example.org", 80)),
        ("subprocess.Popen", ("sh",)),
        ("os.system", ("true",)),
        ("open", ("/tmp/x", "w", os.O_WRONLY | os.O_CREAT)),
        ("os.remove", ("/tmp/x",)),
    ],
)
def test_a_file_gets_neither_network_nor_programs_nor_anything_written(event, arguments):
    guard = Guard()
    guard(event, arguments)  # only while it is entered
    with guard, pytest.raises(PermissionError, match=event):
        guard(event, arguments)
    with guard:
        guard("open", ("/etc/hostname", "r", os.O_RDONLY | os.O_CLOEXEC))


def test_the_guard_stands_before_the_process_that_converts(tmp_path):
    """What a library does there is refused by Python itself: a converter that connects."""
    import subprocess
    import sys

    script = """
import socket, sys
from server.converting import process
from server.converting.converted import Converted
def connects(stream):
    socket.create_connection(("127.0.0.1", 9))
process.reader_of = lambda suffix: connects
process.main()
"""
    request = (
        b'{"path": "/dev/null", "parts": [], "kind": ".pdf", "limit_s": 10, "memory_bytes": 100000000}\n'
    )
    done = subprocess.run([sys.executable, "-c", script], input=request, capture_output=True, check=True)
    assert b"PermissionError: a file that is converted may not do this: socket." in done.stdout


def test_without_markitdown_mails_are_read_and_the_rest_says_what_to_install(tmp_path, monkeypatch):
    stub = tmp_path / "packages" / "markitdown"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'markitdown'\")")
    monkeypatch.setenv("PYTHONPATH", str(stub.parent))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(made_files.pdf("x"))
    (folder / "b.eml").write_bytes(made_files.eml("x", "Good."))
    skips = Skips()
    assert [document["text"] for document in read_paths([folder], skips.add)] == ["Good."]
    [skipped] = skips.first
    assert skipped.source == str(folder / "a.pdf")
    assert skipped.reason == (
        ".pdf files need markitdown, which isn't installed here: pip install 'twopass[files]'"
    )


def test_what_is_converted_becomes_a_document_for_each_heading_with_path_and_title(tmp_path):
    (tmp_path / "a.docx").write_bytes(made_files.docx([("", "Before."), ("Yeast", "It rises.")]))
    (tmp_path / "b.epub").write_bytes(made_files.epub("The Sea", [("Tides", "Turn."), ("Waves", "Break.")]))
    (tmp_path / "c.eml").write_bytes(made_files.eml("Hello", "# not a heading\n\n# nor this"))
    skips = Skips()
    found = [
        (each["id"], each["metadata"].get("title")) for each in read_paths([tmp_path], skips.add, tmp_path)
    ]
    assert skips.first == []
    assert found == [
        ("a.docx", None),
        ("a.docx#yeast", "Yeast"),
        ("b.epub", "The Sea"),
        ("b.epub#tides", "The Sea › Tides"),
        ("b.epub#waves", "The Sea › Waves"),
        ("c.eml", "Hello"),
    ]
