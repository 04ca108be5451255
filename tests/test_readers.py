"""Files, folders, lines of JSON and standard input, read into documents."""

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import decoding
from server.folders.finding import find_sources
from server.html_text import html_to_text
from server.incoming import Skipped, Skips
from server.readers import count_documents, read_paths


def read(*paths, base=None, stdin=b""):
    skips = Skips()
    documents = list(read_paths(paths, skips.add, base, io.BytesIO(stdin)))
    return documents, [(each.source, each.reason) for each in skips.first]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def id_of(path: Path) -> str:
    return path.resolve().relative_to("/").as_posix()


def test_a_folder_is_read_in_order_without_what_is_hidden_or_of_another_kind(tmp_path):
    for name in (
        "b.md",
        "a.txt",
        "sub/c.rst",
        "sub/deep/d.HTML",
        ".hidden.txt",
        ".git/x.txt",
        "p.png",
        "Makefile",
    ):
        write(tmp_path / name, f"words in {name}")
    skips = Skips()
    found = find_sources([tmp_path], skips.add)
    names = ["a.txt", "b.md", "sub/c.rst", "sub/deep/d.HTML"]
    assert [source.path for source in found.sources] == [tmp_path / name for name in names]
    assert found.other_kinds == {".png": 1, "no suffix": 1}
    assert skips.count == 0


def test_two_folders_with_the_same_file_name_give_two_documents(tmp_path):
    one = write(tmp_path / "a" / "docs" / "README.md", "one")
    two = write(tmp_path / "b" / "docs" / "README.md", "two")
    documents, _ = read(one.parent, two.parent)
    assert [document["id"] for document in documents] == [id_of(one), id_of(two)]


def test_the_id_is_the_same_from_every_working_directory_and_however_the_file_is_given(tmp_path, monkeypatch):
    file = write(tmp_path / "notes" / "todo.md", "buy bread")
    ids = [read(file)[0][0]["id"], read(tmp_path)[0][0]["id"]]
    monkeypatch.chdir(tmp_path)
    ids += [read("notes")[0][0]["id"], read("notes/../notes/todo.md")[0][0]["id"]]
    monkeypatch.chdir(tmp_path / "notes")
    ids += [read(".")[0][0]["id"], read("todo.md")[0][0]["id"]]
    (tmp_path / "shortcut").symlink_to(file.parent)
    ids.append(read(tmp_path / "shortcut")[0][0]["id"])
    assert ids == [id_of(file)] * 7


def test_a_base_makes_ids_relative_and_refuses_what_lies_outside(tmp_path):
    write(tmp_path / "home" / "notes" / "todo.md", "buy bread")
    outside = write(tmp_path / "elsewhere.md", "not here")
    documents, skipped = read(tmp_path / "home", outside, base=tmp_path / "home")
    assert [document["id"] for document in documents] == ["notes/todo.md"]
    assert skipped == [(str(outside), f"is not below the base folder {tmp_path / 'home'}")]


def test_a_file_that_is_reached_twice_is_read_once(tmp_path):
    file = write(tmp_path / "a.txt", "once")
    (tmp_path / "link.txt").symlink_to(file)
    assert [document["id"] for document in read(tmp_path, file)[0]] == [id_of(file)]


def test_a_path_longer_than_an_id_keeps_its_beginning_and_ends_in_a_hash(tmp_path):
    folder = tmp_path / ("ä" * 120) / ("ö" * 120)
    files = [write(folder / f"{name}.txt", name) for name in ("one", "two")]
    ids = [document["id"] for document in read(folder)[0]]
    assert len(set(ids)) == 2
    for file, identifier in zip(files, ids, strict=True):
        assert 505 <= len(identifier.encode()) <= 512
        assert id_of(file).startswith(identifier.rpartition("~")[0])
    assert [document["id"] for document in read(folder)[0]] == ids


def test_touching_a_file_changes_nothing_in_its_document(tmp_path):
    file = write(tmp_path / "a.md", "# Title\n\ntext")
    before = read(file)
    os.utime(file, (1, 1))
    file.chmod(0o600)
    assert read(file) == before
    assert before[0] == [
        {
            "id": id_of(file),
            "text": "# Title\n\ntext",
            "metadata": {"path": str(file), "title": "Title"},
        }
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"caf\xe9", "is not UTF-8 (byte 3); save it as UTF-8"),
        ("text".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"a\0b", "is binary, not text"),
    ],
)
def test_a_file_that_is_no_text_is_skipped_with_the_reason_and_the_rest_is_read(tmp_path, content, reason):
    bad = write(tmp_path / "a.txt", content)
    write(tmp_path / "b.txt", "good")
    documents, skipped = read(tmp_path)
    assert [document["text"] for document in documents] == ["good"]
    assert skipped == [(str(bad), reason)]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    assert read(write(tmp_path / "a.txt", b"\xef\xbb\xbfgood"))[0][0]["text"] == "good"


def test_a_file_that_is_too_large_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_DOCUMENT_BYTES", 1 << 20)
    at_limit = write(tmp_path / "a.txt", b"a" * (1 << 20))
    above = write(tmp_path / "b.txt", b"a" * ((1 << 20) + 1))
    documents, skipped = read(tmp_path)
    assert [document["id"] for document in documents] == [id_of(at_limit)]
    assert skipped == [(str(above), "is larger than a request may be (1 MiB); split it")]


def test_what_is_missing_or_no_file_is_skipped(tmp_path):
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    documents, skipped = read(tmp_path, tmp_path / "missing")
    assert documents == []
    assert skipped == [
        (str(tmp_path / "broken.txt"), "there is no such file or folder"),
        (str(tmp_path / "loop.txt"), "is a link that leads back to itself"),
        (str(tmp_path / "missing"), "there is no such file or folder"),
        (str(tmp_path / "pipe.txt"), "is no regular file; pipe it in, with - as the path"),
    ]


def test_a_file_may_not_be_read(tmp_path, monkeypatch):
    file = write(tmp_path / "a.txt", "secret")

    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert read(file) == ([], [(str(file), "may not be read: permission denied")])


def test_a_file_name_that_is_not_utf8_is_skipped(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    write(tmp_path / name, "coffee")
    documents, skipped = read(tmp_path)
    assert documents == []
    assert skipped == [(ascii(str(tmp_path / name)), "its name is not UTF-8; rename it")]


def test_a_file_given_by_name_is_read_whatever_its_suffix(tmp_path):
    assert read(write(tmp_path / "Makefile", "all: clean"))[0][0]["text"] == "all: clean"


def test_skips_count_all_and_keep_the_first():
    skips = Skips()
    for number in range(50):
        skips.add(Skipped(str(number), "no"))
    assert skips.count == 50
    assert [each.source for each in skips.first] == [str(number) for number in range(20)]


def test_lines_of_json_keep_their_own_ids_or_get_the_files_and_their_number(tmp_path):
    lines = '{"id": "mine", "text": "one", "metadata": {"n": 1}}\n\n{"text": "two"}\n{"id": null, "vector": [1, 0.5]}'
    file = write(tmp_path / "list.jsonl", lines)
    assert read(file) == (
        [
            {"id": "mine", "text": "one", "metadata": {"n": 1}},
            {"id": f"{id_of(file)}#3", "text": "two"},
            {"id": f"{id_of(file)}#4", "vector": [1, 0.5]},
        ],
        [],
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "is not JSON: expecting ',' delimiter at column 13"),
        (b"[1, 2]", "is not a JSON object"),
        (b'"text"', "is not a JSON object"),
        (b'{"text": "caf\xe9"}', "is not UTF-8 (byte 13); save it as UTF-8"),
        (b'{"text": ""}', "has an empty text"),
        (b'{"id": "a"}', "has neither a text nor a vector"),
        (b"{}", "has neither a text nor a vector"),
        (b'{"text": 7}', "has a wrong text: it must be a text in quotes"),
        (b'{"id": 7, "text": "a"}', "has a wrong id: it must be a text in quotes"),
        (b'{"text": "a", "metadata": []}', "has a wrong metadata: it must be an object"),
        (b'{"vector": 7}', "has a wrong vector: it must be a list of numbers, or base64 of them"),
        (b'{"vector": [NaN]}', "is not JSON that can be used: NaN is no number"),
        (b'{"vector": [-Infinity]}', "is not JSON that can be used: -Infinity is no number"),
        (b'{"id": "", "text": "a"}', "has an id of 0 bytes; 1 to 512 are allowed"),
        (json.dumps({"id": "ä" * 257, "text": "a"}).encode(), "has an id of 514 bytes; 1 to 512 are allowed"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, line, reason):
    file = write(tmp_path / "list.jsonl", b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    documents, skipped = read(file)
    assert [document["text"] for document in documents] == ["before", "after"]
    assert skipped == [(f"{file}, line 2", reason)]


def test_a_misspelt_field_of_a_line_is_named_with_those_there_are(tmp_path):
    _, [(_, reason)] = read(write(tmp_path / "list.jsonl", '{"text": "a", "titel": "b"}'))
    assert reason.startswith('has an unknown field "titel"; there are id, text, metadata and vector')


def test_a_line_nested_without_end_is_skipped(tmp_path):
    file = write(tmp_path / "list.jsonl", '{"metadata": ' + "[" * 100_000)
    documents, [(source, reason)] = read(file)
    assert (documents, source) == ([], f"{file}, line 1")
    assert reason.startswith("is not JSON that can be used: ")


def test_a_line_that_is_too_long_is_skipped_and_the_next_one_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_DOCUMENT_BYTES", 1 << 20)
    long = json.dumps({"text": "a" * (3 << 20)})
    file = write(tmp_path / "list.jsonl", f'{long}\n{{"text": "next"}}\n')
    documents, skipped = read(file)
    assert documents == [{"id": f"{id_of(file)}#2", "text": "next"}]
    assert skipped == [(f"{file}, line 1", "is larger than a request may be (1 MiB); split it")]


def test_documents_are_counted_without_reading_them_as_json(tmp_path):
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "b.jsonl", '{"text": "two"}\n{"text": "three"}\nnot json')
    write(tmp_path / "c.jsonl", "")
    found = find_sources([tmp_path], Skips().add)
    assert count_documents(found.sources) == 4
    assert count_documents(find_sources([tmp_path, "-"], Skips().add).sources) is None


def test_standard_input_is_one_text_whose_id_comes_from_its_content():
    [first], _ = read("-", stdin=b"\nA letter.\nSecond line.\n")
    assert first["text"] == "\nA letter.\nSecond line.\n"
    assert first["id"].startswith("stdin#")
    assert read("-", stdin=b"\nA letter.\nSecond line.\n")[0] == [first]
    assert read("-", stdin=b"Another letter.")[0][0]["id"] != first["id"]


def test_standard_input_is_json_lines_if_its_first_line_is_an_object():
    documents, skipped = read("-", stdin=b'\n \n{"id": "a", "text": "one"}\noops\n{"text": "two"}\n')
    assert [document["text"] for document in documents] == ["one", "two"]
    assert documents[0]["id"] == "a"
    assert skipped == [("standard input, line 4", "is not JSON: expecting value at column 1")]
    alone = read("-", stdin=b'{"text": "two"}')[0][0]
    assert documents[1]["id"] == alone["id"]  # wherever in the input it stands


def test_standard_input_that_is_empty_or_no_text_is_skipped():
    assert read("-") == ([], [("standard input", "is empty")])
    assert read("-", stdin=b"\x89PNG\0")[1] == [("standard input", "is binary, not text")]


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("a.md", "# Bread\n\nFlour.", "Bread"),
        ("a.md", "\n\n#  Bread & butter #\r\n", "Bread & butter"),
        ("a.md", "Flour.", None),
        ("a.md", "#hashtag", None),
        ("a.rst", "Bread\n=====\n\nFlour.", "Bread"),
        ("a.rst", "=====\n Bread\n=====\n", "Bread"),
        ("a.rst", "Flour,\nwater.\n", None),
        ("a.txt", "# Bread", None),
        ("a.html", "<title>Bread</title><p>Flour.", "Bread"),
    ],
)
def test_the_title_is_the_heading_that_a_file_begins_with(tmp_path, name, text, title):
    [document], _ = read(write(tmp_path / name, text))
    assert document["metadata"].get("title") == title


PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8">
<title>Bread &amp;
 butter</title><style>p { color: red }</style><script>if (a < b) { document.write("<p>no</p>") }</script></head>
<body>
<h1>How to   bake <em>bread</em></h1>
<p>Mix flour &#38;&nbsp;water.<br>Wait &frac12; hour.</p>
<ul><li>flour</li><li>water</li></ul>
<table><tr><th>what</th><th>grams</th></tr><tr><td>flour</td><td>500</td></tr></table>
<pre>
oven:
    hot
</pre>
<svg><title>no</title><text>no</text></svg><template><p>no</p></template>
<div>The <b>e</b>nd</div></body></html>"""


def test_a_page_becomes_lines_of_text_without_scripts_and_styles():
    assert html_to_text(PAGE) == (
        "Bread & butter",
        "How to bake bread\n\nMix flour & water.\nWait ½ hour.\n\nflour\nwater\n\n"
        "what\tgrams\nflour\t500\n\noven:\n    hot\n\nThe end",
    )


def test_a_page_with_forgotten_end_tags_is_read():
    assert html_to_text("<title>T<body><p>one<p>two<li>three") == ("T", "one\n\ntwo\nthree")


def test_a_page_without_text_is_skipped(tmp_path):
    page = write(
        tmp_path / "a.html", "<html><head><title>T</title></head><body><script>1</script></body></html>"
    )
    assert read(page) == ([], [(str(page), "has no text")])


@given(st.text(alphabet=st.sampled_from(list("<>/!-[]=&;#\"' \nabpreh1")), max_size=200))
def test_no_page_is_too_broken_to_read(page):
    title, text = html_to_text(page)
    assert text == text.strip()
    assert "\n\n\n" not in text
    assert title == " ".join(title.split())


@given(st.binary(max_size=300))
def test_no_standard_input_is_too_broken_to_read(raw):
    documents, skipped = read("-", stdin=raw)
    assert documents or skipped or not raw.strip()
    for document in documents:
        assert 1 <= len(document["id"].encode()) <= 512
