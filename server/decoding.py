"""Bytes that should be text: bounded, and UTF-8, or the reason why not."""

from typing import IO

# The server's default limit for a request; it names its own if that is lower.
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024


class UnreadableError(Exception):
    """This can't become a document; the text says why."""


def read_all(stream: IO[bytes]) -> bytes:
    """Return what is left, or of too much only the beginning, still too large."""
    return stream.read(MAX_DOCUMENT_BYTES + 1)


def read_line(stream: IO[bytes]) -> bytes:
    """Return the next line, b"" at the end, or of a line that is too long the beginning, still too large."""
    return stream.readline(MAX_DOCUMENT_BYTES + 1)


def is_too_large(raw: bytes) -> bool:
    """Say whether these bytes are more than one document may have."""
    return len(raw) > MAX_DOCUMENT_BYTES


def decode(raw: bytes) -> str:
    """Return the text that the bytes are. Raises UnreadableError."""
    if is_too_large(raw):
        raise UnreadableError(f"is larger than a request may be ({MAX_DOCUMENT_BYTES >> 20} MiB); split it")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableError("is UTF-16; save it as UTF-8")
    if b"\0" in raw:
        raise UnreadableError("is binary, not text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise UnreadableError("is empty")
    return text
