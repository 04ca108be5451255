"""What readers hand on: documents as the server takes them, and what was skipped and why."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

MAX_ID_BYTES = 512  # of UTF-8, as the server has it
SHOWN_SKIPS = 20


class Document(TypedDict, total=False):
    """A document as POST /documents takes it; those read here always have an id."""

    id: str
    text: str
    metadata: dict[str, Any]
    vector: list[float] | str  # base64 of little-endian float32


@dataclass(frozen=True)
class Skipped:
    """Something that wasn't read or stored, and why. `source` is a path, a path and line, or an id."""

    source: str
    reason: str


@dataclass
class Skips:
    """How many were skipped, and the first `kept` of them."""

    count: int = 0
    first: list[Skipped] = field(default_factory=list)
    kept: float = SHOWN_SKIPS

    def add(self, skipped: Skipped) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < self.kept:
            self.first.append(skipped)


def text_hash(document: Document) -> str | None:
    """Return a document's hash as POST /documents/compare has it; None where a vector came with it."""
    if "vector" in document:
        return None
    return hashlib.sha256(b"text\0" + document["text"].encode(errors="surrogatepass")).hexdigest()


OnSkip = Callable[[Skipped], None]


def short_id(identifier: str) -> str:
    """Return the id, or its beginning and a hash of the whole if it is longer than an id may be."""
    raw = identifier.encode()
    if len(raw) <= MAX_ID_BYTES:
        return identifier
    ending = "~" + hashlib.sha256(raw).hexdigest()[:16]
    return raw[: MAX_ID_BYTES - len(ending)].decode(errors="ignore") + ending
