"""Documents from lines of JSON."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from server.decoding import UnreadableError, decode, is_too_large, read_line
from server.incoming import MAX_ID_BYTES, Document, OnSkip, Skipped

# Of a line of JSON: each field's type, and how to say it.
FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "id": (str, "a text in quotes"),
    "text": (str, "a text in quotes"),
    "metadata": (dict, "an object"),
    "vector": ((list, str), "a list of numbers, or base64 of them"),
}


def read_lines(
    lines: Iterable[tuple[int, bytes]], origin: str, make_id: Callable[[int, Document], str], on_skip: OnSkip
) -> Iterator[Document]:
    """Yield the documents of numbered lines; blank ones are passed over.

    Args:
        origin: where the lines come from, for `on_skip`.
        make_id: given a line's number and its document, returns the id of a document that brings none.
    """
    for number, line in lines:
        if not line.strip():
            continue
        try:
            document = _parse_line(line)
        except UnreadableError as error:
            on_skip(Skipped(f"{origin}, line {number}", str(error)))
            continue
        if "id" not in document:
            document["id"] = make_id(number, document)
        yield document


def numbered_lines(stream: IO[bytes], number: int) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers; of a line that is too long only the beginning, still too long."""
    while line := read_line(stream):
        yield number, line
        while is_too_large(line) and not line.endswith(b"\n"):
            line = read_line(stream)
        number += 1


def count_lines(path: Path) -> int:
    """Count a file's lines without parsing any; 1 if it can't be read."""
    lines, last = 0, b""
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
                last = block
    except OSError:
        return 1  # it will be reported when it is read
    return lines + (not last.endswith(b"\n") if last else 0)


def is_object(line: bytes) -> bool:
    """Say whether this is a JSON object."""
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _parse_line(line: bytes) -> Document:
    """Return the document of one line of JSON. Raises UnreadableError."""
    try:
        fields = json.loads(decode(line.rstrip(b"\r\n")), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"is not JSON: {error.msg.lower()} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; a thousand brackets
        raise UnreadableError(f"is not JSON that can be used: {error}") from error
    if not isinstance(fields, dict):
        raise UnreadableError("is not a JSON object")
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, value in fields.items():
        if name not in FIELDS:
            raise UnreadableError(
                f'has an unknown field "{name}"; there are id, text, metadata and vector, '
                "and what else belongs to a document goes into metadata"
            )
        if not isinstance(value, FIELDS[name][0]):
            raise UnreadableError(f"has a wrong {name}: it must be {FIELDS[name][1]}")
    if not fields.get("text", "").strip() and "vector" not in fields:
        raise UnreadableError(
            "has neither a text nor a vector" if "text" not in fields else "has an empty text"
        )
    n_bytes = len(fields.get("id", "-").encode(errors="replace"))
    if not 1 <= n_bytes <= MAX_ID_BYTES:
        raise UnreadableError(f"has an id of {n_bytes} bytes; 1 to {MAX_ID_BYTES} are allowed")
    return cast(Document, fields)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
