"""From paths to documents: text files, web pages, JSON lines and standard input.

How ids are made: a file's id is its full path, links resolved, relative to `base`, which is the root of the
file system unless the caller names a folder. So the id doesn't depend on where the command runs, nor on
whether the file was given itself or found in a folder, and two folders that both hold a README.md give two
documents, today and in every later run. (Ids that began with the name of the folder given would let ~/b/docs
silently replace ~/a/docs.) To share ids between machines, or to move the files, name a base.

A line of JSON brings its own id, or gets the file's id, `#` and its line number; those hold as long as lines
are only appended, so give ids to lines that move. Standard input has no name, so the id of what comes from
there is made from the content: reading the same again changes nothing, and other input never replaces it.

Separators are `/` everywhere. A path beyond the 512 bytes that an id may have keeps its beginning and ends in
a hash of the whole. Metadata is the path and, where there is one, the title: nothing that a touch of the file
would change.
"""

import hashlib
import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any, TypedDict, cast

SUFFIXES = frozenset({".txt", ".md", ".rst", ".html", ".htm", ".jsonl"})
STANDARD_INPUT = "-"
MAX_ID_BYTES = 512  # of UTF-8, as the server has it
MAX_DOCUMENT_BYTES = (
    32 * 1024 * 1024
)  # the server's default limit for a request; it names its own if that is lower
SHOWN_SKIPS = 20

# Of a line of JSON: each field's type, and how to say it.
FIELDS: dict[str, tuple[type, str]] = {
    "id": (str, "a text in quotes"),
    "text": (str, "a text in quotes"),
    "metadata": (dict, "an object"),
    "vector": (list, "a list of numbers"),
}

MARKDOWN_TITLE = re.compile(r"\s*#[ \t]+(\S[^\r\n]*?)[ \t]*#*[ \t]*(?:\r?\n|\Z)")
RST_TITLE = re.compile(
    r"\s*(?:([^\w\s])\1{2,}[ ]*\r?\n[ ]*)?(\w[^\r\n]*?)[ ]*\r?\n([^\w\s])\3{2,}[ ]*(?:\r?\n|\Z)"
)

# HTML elements whose content is left out, that stand as paragraphs, on lines of their own, and in rows.
DROPPED = frozenset(("script", "style", "template", "svg"))
PARAGRAPHS = frozenset((
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "pre", "blockquote", "body",
    "section", "article", "header", "footer", "nav", "aside", "main", "figure", "form", "hr", "address",
    "details",
))  # fmt: skip
LINES = frozenset((
    "br", "div", "li", "tr", "dt", "dd", "figcaption", "caption", "legend", "option", "summary", "label",
))  # fmt: skip
CELLS = frozenset(("td", "th"))


class Document(TypedDict, total=False):
    """A document as POST /documents takes it; those read here always have an id."""

    id: str
    text: str
    metadata: dict[str, Any]
    vector: list[float]


@dataclass(frozen=True)
class Skipped:
    """Something that wasn't read or stored, and why. `source` is a path, a path and line, or an id."""

    source: str
    reason: str


@dataclass
class Skips:
    """How many were skipped, and the first of them."""

    count: int = 0
    first: list[Skipped] = field(default_factory=list)

    def add(self, skipped: Skipped) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < SHOWN_SKIPS:
            self.first.append(skipped)


OnSkip = Callable[[Skipped], None]


@dataclass(frozen=True)
class Source:
    """One file to read, or standard input where `path` is None; its documents' ids begin with `id`."""

    path: Path | None
    id: str


@dataclass
class Found:
    """The files below some paths, in order, and what lies beside them, counted by suffix."""

    sources: list[Source] = field(default_factory=list)
    other_kinds: Counter[str] = field(default_factory=Counter)


def read_paths(
    paths: Iterable[str | Path], on_skip: OnSkip, base: Path | None = None, stdin: IO[bytes] | None = None
) -> Iterator[Document]:
    """Yield the documents of files, folders and standard input (`-`), in a fixed order.

    Nothing here is fatal: what can't be read is told to `on_skip` with the reason, and the rest goes on.
    """
    return read_sources(find_sources(paths, on_skip, base).sources, on_skip, stdin)


def find_sources(paths: Iterable[str | Path], on_skip: OnSkip, base: Path | None = None) -> Found:
    """List the files to read, sorted by path within each folder, each file once.

    In a folder, hidden files and folders and kinds other than SUFFIXES are passed over, and links to folders
    are not followed. A file that is given itself is read whatever its name.
    """
    found = Found()
    seen: set[str] = set()
    for given in paths:
        if str(given) == STANDARD_INPUT:
            _take(None, "stdin", found, seen)
            continue
        inside = _walk(Path(given), found.other_kinds, on_skip) if Path(given).is_dir() else [Path(given)]
        for path in inside:
            _take_file(path, base, found, seen, on_skip)
    return found


def count_documents(sources: Sequence[Source]) -> int | None:
    """Count the documents to come without parsing any: a file is one, each line of a .jsonl is one.

    None if standard input is among them. Blank lines count too, so this may be a few too many.
    """
    total = 0
    for source in sources:
        if source.path is None:
            return None
        total += _count_lines(source.path) if _is_jsonl(source.path) else 1
    return total


def read_sources(
    sources: Iterable[Source], on_skip: OnSkip, stdin: IO[bytes] | None = None
) -> Iterator[Document]:
    """Yield the documents of the files found."""
    for source in sources:
        if source.path is None:
            yield from _read_stdin(stdin or sys.stdin.buffer, on_skip)
            continue
        try:
            if _is_jsonl(source.path):
                with source.path.open("rb") as lines:
                    yield from _read_lines(_numbered_lines(lines, 1), source, on_skip)
            else:
                yield from _read_file(source.path, source.id, on_skip)
        except OSError as error:
            on_skip(Skipped(str(source.path), _why(error)))


def html_to_text(page: str) -> tuple[str, str]:
    """Return a page's title ("" if it has none) and its text, a line for each block.

    Scripts, styles and all of the head but the title are left out; entities are resolved; white space is kept
    only in <pre>.
    """
    reader = _HtmlReader()
    reader.feed(page)
    reader.close()
    return reader.title_and_text()


def _walk(folder: Path, other_kinds: Counter[str], on_skip: OnSkip) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        on_skip(Skipped(str(error.filename), _why(error)))

    for here, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = Path(here, name)
            if path.suffix.lower() in SUFFIXES:
                yield path
            else:
                other_kinds[path.suffix.lower() or "no suffix"] += 1


def _take_file(path: Path, base: Path | None, found: Found, seen: set[str], on_skip: OnSkip) -> None:
    try:
        real = path.resolve(strict=True)
        identifier = real.relative_to(base.resolve() if base else real.anchor).as_posix()
        identifier.encode()
    except UnicodeEncodeError:
        on_skip(Skipped(ascii(str(path)), "its name is not UTF-8; rename it"))
    except ValueError:
        on_skip(Skipped(str(path), f"is not below the base folder {base}"))
    except OSError as error:
        on_skip(Skipped(str(path), _why(error)))
    except RuntimeError:
        on_skip(Skipped(str(path), "is a link that leads back to itself"))
    else:
        _take(real, _short_id(identifier), found, seen)


def _take(path: Path | None, identifier: str, found: Found, seen: set[str]) -> None:
    if identifier not in seen:
        seen.add(identifier)
        found.sources.append(Source(path, identifier))


def _short_id(identifier: str) -> str:
    """Return the id, or its beginning and a hash of the whole if it is longer than an id may be."""
    raw = identifier.encode()
    if len(raw) <= MAX_ID_BYTES:
        return identifier
    ending = "~" + hashlib.sha256(raw).hexdigest()[:16]
    return raw[: MAX_ID_BYTES - len(ending)].decode(errors="ignore") + ending


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _count_lines(path: Path) -> int:
    lines, last = 0, b""
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
                last = block
    except OSError:
        return 1  # it will be reported when it is read
    return lines + (not last.endswith(b"\n") if last else 0)


class _UnreadableError(Exception):
    """This can't become a document; the text says why."""


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    if isinstance(error, PermissionError):
        return "may not be read: permission denied"
    return f"can't be read: {(error.strerror or str(error)).lower()}"


def _too_large() -> _UnreadableError:
    return _UnreadableError(f"is larger than a request may be ({MAX_DOCUMENT_BYTES >> 20} MiB); split it")


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise _too_large()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _UnreadableError("is UTF-16; save it as UTF-8")
    if b"\0" in raw:
        raise _UnreadableError("is binary, not text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise _UnreadableError("is empty")
    return text


def _read_file(path: Path, identifier: str, on_skip: OnSkip) -> Iterator[Document]:
    if path.exists() and not path.is_file():
        on_skip(Skipped(str(path), "is no regular file; pipe it in, with - as the path"))
        return
    with path.open("rb") as file:
        raw = file.read(MAX_DOCUMENT_BYTES + 1)
    try:
        text = _decode(raw)
        title = _title(text, path.suffix.lower())
        if path.suffix.lower() in (".html", ".htm"):
            title, text = html_to_text(text)
            if not text:
                raise _UnreadableError("has no text")
    except _UnreadableError as error:
        on_skip(Skipped(str(path), str(error)))
        return
    metadata = {"path": path.as_posix()} | ({"title": title} if title else {})
    yield Document(id=identifier, text=text, metadata=metadata)


def _title(text: str, suffix: str) -> str:
    """Return the heading that a text begins with, "" if it begins with none."""
    if suffix == ".md" and (found := MARKDOWN_TITLE.match(text)):
        return found[1]
    if suffix == ".rst" and (found := RST_TITLE.match(text)):
        return found[2]
    return ""


def _read_stdin(stream: IO[bytes], on_skip: OnSkip) -> Iterator[Document]:
    """Read JSON lines if the first line that isn't blank is a JSON object, else one text."""
    beginning = b""
    while not beginning.strip() and (line := stream.readline(MAX_DOCUMENT_BYTES + 1)):
        beginning += line
    source = Source(None, "stdin")
    if _is_object(beginning):
        number = beginning.rstrip().count(b"\n") + 1
        following = _numbered_lines(stream, number + 1)
        yield from _read_lines(itertools.chain([(number, beginning.strip())], following), source, on_skip)
        return
    try:
        text = _decode(beginning + stream.read(MAX_DOCUMENT_BYTES + 1))
    except _UnreadableError as error:
        on_skip(Skipped("standard input", str(error)))
        return
    yield Document(id=_content_id({"text": text}), text=text)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _numbered_lines(stream: IO[bytes], number: int) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers; of a line that is too long only the beginning, still too long."""
    while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
        yield number, line
        while len(line) > MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_DOCUMENT_BYTES + 1)
        number += 1


def _read_lines(lines: Iterable[tuple[int, bytes]], source: Source, on_skip: OnSkip) -> Iterator[Document]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            document = _parse_line(line)
        except _UnreadableError as error:
            on_skip(Skipped(f"{source.path or 'standard input'}, line {number}", str(error)))
            continue
        if "id" not in document:
            by_line = _short_id(f"{source.id}#{number}")
            document["id"] = _content_id(document) if source.path is None else by_line
        yield document


def _content_id(document: Document) -> str:
    content = json.dumps(document, sort_keys=True).encode()
    return "stdin#" + hashlib.sha256(content).hexdigest()[:16]


def _parse_line(line: bytes) -> Document:
    """Return the document of one line of JSON. Raises _UnreadableError."""
    try:
        fields = json.loads(_decode(line.rstrip(b"\r\n")), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _UnreadableError(f"is not JSON: {error.msg.lower()} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; a thousand brackets
        raise _UnreadableError(f"is not JSON that can be used: {error}") from error
    if not isinstance(fields, dict):
        raise _UnreadableError("is not a JSON object")
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, value in fields.items():
        if name not in FIELDS:
            raise _UnreadableError(
                f'has an unknown field "{name}"; there are id, text, metadata and vector, '
                "and what else belongs to a document goes into metadata"
            )
        if not isinstance(value, FIELDS[name][0]):
            raise _UnreadableError(f"has a wrong {name}: it must be {FIELDS[name][1]}")
    if not fields.get("text", "").strip() and "vector" not in fields:
        raise _UnreadableError(
            "has neither a text nor a vector" if "text" not in fields else "has an empty text"
        )
    n_bytes = len(fields.get("id", "-").encode(errors="replace"))
    if not 1 <= n_bytes <= MAX_ID_BYTES:
        raise _UnreadableError(f"has an id of {n_bytes} bytes; 1 to {MAX_ID_BYTES} are allowed")
    return cast(Document, fields)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


class _HtmlReader(HTMLParser):
    """Collects a page's text; see html_to_text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._title: list[str] = []
        self._text: list[str] = []
        self._line_breaks = 0  # owed before the next text
        self._in_title = False
        self._dropped: list[str] = []  # open elements whose content is left out
        self._pre_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._dropped or tag in DROPPED:
            if tag in DROPPED:
                self._dropped.append(tag)
            return
        if tag == "title":
            self._in_title = not self._title
        else:
            self._break(tag)
        if tag == "pre":
            self._pre_depth += 1

    def handle_endtag(self, tag: str) -> None:
        if self._dropped:
            if tag in self._dropped:
                del self._dropped[self._dropped.index(tag) :]
            return
        if tag == "title":
            self._in_title = False
        elif tag not in ("br", *CELLS):
            self._break(tag)
        if tag == "pre":
            self._pre_depth = max(0, self._pre_depth - 1)

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._in_title:
            self._title.append(data)
            return
        if not self._pre_depth:
            data = re.sub(r"\s+", " ", data)
            if self._line_breaks or not self._text or self._text[-1].endswith((" ", "\t", "\n")):
                data = data.lstrip()
        if data:
            self._text.append("\n" * self._line_breaks if self._text else "")
            self._text.append(data)
            self._line_breaks = 0

    def title_and_text(self) -> tuple[str, str]:
        """Return what was read."""
        text = re.sub(r"[^\S\n]+\n", "\n", "".join(self._text)).strip()
        return " ".join("".join(self._title).split()), re.sub(r"\n{3,}", "\n\n", text)

    def _break(self, tag: str) -> None:
        self._in_title = False  # whoever forgot </title> meant it to end here
        if tag in PARAGRAPHS:
            self._line_breaks = 2
        elif tag in LINES:
            self._line_breaks = max(self._line_breaks, 1)
        elif tag in CELLS and self._text and not self._line_breaks:
            self._text.append("\t")
