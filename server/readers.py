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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from server.decoding import UnreadableError, decode, read_all, read_line
from server.html_text import html_to_text
from server.incoming import Document, OnSkip, Skipped, short_id
from server.jsonl import count_lines, is_object, numbered_lines, read_lines

SUFFIXES = frozenset({".txt", ".md", ".rst", ".html", ".htm", ".jsonl"})
STANDARD_INPUT = "-"

MARKDOWN_TITLE = re.compile(r"\s*#[ \t]+(\S[^\r\n]*?)[ \t]*#*[ \t]*(?:\r?\n|\Z)")
RST_TITLE = re.compile(
    r"\s*(?:([^\w\s])\1{2,}[ ]*\r?\n[ ]*)?(\w[^\r\n]*?)[ ]*\r?\n([^\w\s])\3{2,}[ ]*(?:\r?\n|\Z)"
)


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
        total += count_lines(source.path) if _is_jsonl(source.path) else 1
    return total


def read_export(stream: IO[bytes], origin: str, on_skip: OnSkip) -> Iterator[Document]:
    """Yield the documents of JSON lines, whatever the file is called; a line without an id gets one by its content."""
    return read_lines(numbered_lines(stream, 1), origin, lambda _, document: _content_id(document), on_skip)


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
                    yield from _read_jsonl(lines, source.path, source.id, on_skip)
            else:
                yield from _read_file(source.path, source.id, on_skip)
        except OSError as error:
            on_skip(Skipped(str(source.path), _why(error)))


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
        _take(real, short_id(identifier), found, seen)


def _take(path: Path | None, identifier: str, found: Found, seen: set[str]) -> None:
    if identifier not in seen:
        seen.add(identifier)
        found.sources.append(Source(path, identifier))


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    if isinstance(error, PermissionError):
        return "may not be read: permission denied"
    return f"can't be read: {(error.strerror or str(error)).lower()}"


def _read_jsonl(stream: IO[bytes], path: Path, identifier: str, on_skip: OnSkip) -> Iterator[Document]:
    def id_by_line(number: int, document: Document) -> str:
        return short_id(f"{identifier}#{number}")

    return read_lines(numbered_lines(stream, 1), str(path), id_by_line, on_skip)


def _read_file(path: Path, identifier: str, on_skip: OnSkip) -> Iterator[Document]:
    if path.exists() and not path.is_file():
        on_skip(Skipped(str(path), "is no regular file; pipe it in, with - as the path"))
        return
    with path.open("rb") as file:
        raw = read_all(file)
    try:
        text = decode(raw)
        title = _title(text, path.suffix.lower())
        if path.suffix.lower() in (".html", ".htm"):
            title, text = html_to_text(text)
            if not text:
                raise UnreadableError("has no text")
    except UnreadableError as error:
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
    while not beginning.strip() and (line := read_line(stream)):
        beginning += line
    if is_object(beginning):
        number = beginning.rstrip().count(b"\n") + 1
        lines = itertools.chain([(number, beginning.strip())], numbered_lines(stream, number + 1))
        yield from read_lines(lines, "standard input", lambda _, document: _content_id(document), on_skip)
        return
    try:
        text = decode(beginning + read_all(stream))
    except UnreadableError as error:
        on_skip(Skipped("standard input", str(error)))
        return
    yield Document(id=_content_id({"text": text}), text=text)


def _content_id(document: Document) -> str:
    content = json.dumps(document, sort_keys=True).encode()
    return "stdin#" + hashlib.sha256(content).hexdigest()[:16]
