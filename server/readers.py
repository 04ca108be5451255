"""From files to documents: text, Markdown, web pages, JSON lines, standard input, and what can be converted.

Markdown, also what an office file or a book was converted to, becomes a document for each heading: the file's id, `#`
and the path of headings. What stands before them, or the whole of a file without several headings, has the file's id.

A line of JSON brings its own id, or gets the file's id, `#` and its line number; those hold as long as lines
are only appended, so give ids to lines that move. Standard input has no name, so the id of what comes from
there is made from the content: reading the same again changes nothing, and other input never replaces it.

A mail is a document, and so is each file that is attached to it: the mail's id, `#attachment/` and the file's name.

Metadata is the path and, where there is one, the title; of a mail also who sent it when to whom. Nothing that a touch
of the file would change.
"""

import hashlib
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from server.converting.attachments import attached_to
from server.converting.converted import Converted
from server.converting.converter import Converter, NotReadNow
from server.converting.kinds import CONVERTED, HEADED
from server.decoding import UnreadableError, decode, read_all, read_line
from server.folders.finding import Source, find_sources, why
from server.incoming import Document, OnSkip, Skipped, short_id
from server.jsonl import count_lines, is_object, numbered_lines, read_lines
from server.markdown import BETWEEN_TITLES, Section, sections

RST_TITLE = re.compile(
    r"\s*(?:([^\w\s])\1{2,}[ ]*\r?\n[ ]*)?(\w[^\r\n]*?)[ ]*\r?\n([^\w\s])\3{2,}[ ]*(?:\r?\n|\Z)"
)


def read_paths(
    paths: Iterable[str | Path], on_skip: OnSkip, base: Path | None = None, stdin: IO[bytes] | None = None
) -> Iterator[Document]:
    """Yield the documents of files, folders and standard input (`-`), in a fixed order.

    Nothing here is fatal: what can't be read is told to `on_skip` with the reason, and the rest goes on.
    """
    found = find_sources(paths, on_skip, base)
    with Converter() as converter:
        for source in found.sources:
            if source.path is None:
                yield from read_stdin(stdin or sys.stdin.buffer, on_skip)
                continue
            try:
                yield from read_file(source.path, source.id, on_skip, converter, found.attached)
            except (OSError, NotReadNow) as error:
                on_skip(Skipped(str(source.path), reason(error)))


def count_documents(sources: Sequence[Source]) -> int | None:
    """Count the documents to come without parsing any: a file is one, each line of a .jsonl is one.

    None if standard input is among them. It is a guess: Markdown becomes several documents, blank lines none.
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


def read_file(
    path: Path,
    identifier: str,
    on_skip: OnSkip,
    converter: Converter,
    others: Counter[str],
    text_bytes: int | None = None,
) -> Iterator[Document]:
    """Yield the documents of one file; what of it is no document is told to `on_skip`.

    Args:
        others: counts, by suffix, what is attached to a mail and of no kind that is read.
        text_bytes: the longest text that the server takes; None: the server may say so itself.

    Raises:
        OSError, NotReadNow: the file, or something in it, can't be read now, which says nothing of what is in it.
    """
    if not path.is_file():
        if path.exists():
            on_skip(Skipped(str(path), "is no regular file; pipe it in, with - as the path"))
            return
        raise FileNotFoundError
    if _is_jsonl(path):
        with path.open("rb") as lines:
            yield from _read_jsonl(lines, path, identifier, on_skip)
        return
    try:
        made = converter.convert(path) if path.suffix.lower() in CONVERTED else _text(path, text_bytes)
    except UnreadableError as error:
        on_skip(Skipped(str(path), str(error)))
        return
    own = ((part, made.metadata) for part in _cut(path.suffix.lower(), made))
    for part, more in itertools.chain(own, _attached(made, path, converter, on_skip, others)):
        metadata = {"path": path.as_posix()} | ({"title": part.title} if part.title else {}) | more
        name = short_id(f"{identifier}#{part.anchor}") if part.anchor else identifier
        if text_bytes is not None and len(part.text.encode()) > text_bytes:
            place = f"{path}#{part.anchor}" if part.anchor else str(path)
            on_skip(Skipped(place, too_long(len(part.text.encode()), text_bytes)))
        else:
            yield Document(id=name, text=part.text, metadata=metadata)


def read_stdin(stream: IO[bytes], on_skip: OnSkip) -> Iterator[Document]:
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


def reason(error: OSError | NotReadNow) -> str:
    """Say why a file wasn't read."""
    return why(error) if isinstance(error, OSError) else str(error)


def too_long(n_bytes: int, text_bytes: int) -> str:
    """Say that a text is longer than the server takes, and what to do."""
    return (
        f"has {n_bytes / 1e6:.1f} MB of text, and this server takes {text_bytes / 1e6:.1f} MB at most: "
        "split it, or raise limits.text_bytes"
    )


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _read_jsonl(stream: IO[bytes], path: Path, identifier: str, on_skip: OnSkip) -> Iterator[Document]:
    def id_by_line(number: int, document: Document) -> str:
        return short_id(f"{identifier}#{number}")

    return read_lines(numbered_lines(stream, 1), str(path), id_by_line, on_skip)


def _attached(
    mail: Converted, path: Path, converter: Converter, on_skip: OnSkip, others: Counter[str]
) -> Iterator[tuple[Section, dict[str, Any]]]:
    """Yield the parts of what is attached to a mail, each with its metadata. Raises NotReadNow at the end."""
    for each in attached_to(mail, path, converter, on_skip, others):
        for part in _cut(each.kind, each.made):
            anchor = "/".join(filter(None, (each.anchor, part.anchor)))
            title = BETWEEN_TITLES.join(filter(None, (*each.titles, part.title)))
            yield Section(anchor, title, part.text), each.metadata


def _text(path: Path, text_bytes: int | None) -> Converted:
    n_bytes = path.stat().st_size
    if path.suffix.lower() != ".md" and text_bytes is not None and n_bytes > text_bytes:
        raise UnreadableError(too_long(n_bytes, text_bytes))  # without reading it
    with path.open("rb") as file:
        return Converted("", decode(read_all(file)))


def _cut(kind: str, made: Converted) -> list[Section]:
    """Return the parts of what a file says that become documents; none of a mail that only has something attached."""
    if kind in HEADED:
        return sections(made.text, made.title)
    found = RST_TITLE.match(made.text) if kind == ".rst" else None
    return [Section("", found[2] if found else made.title, made.text)] if made.text else []


def _content_id(document: Document) -> str:
    content = json.dumps(document, sort_keys=True).encode()
    return "stdin#" + hashlib.sha256(content).hexdigest()[:16]
