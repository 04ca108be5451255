"""New documents: everything about them that can be checked before they are encoded."""

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.vectors import Float32
from server.checks import check_count, check_utf8, unit_vector
from server.errors import DuplicateIdError, InputError, NoEncoderError, TooLargeError
from server.records import InboxDocument
from server.settings import LimitSettings

MAX_ID_BYTES = 512


@dataclass(frozen=True)
class NewDocument:
    """A document as a client brings it; at least one of text and vector."""

    id: str | None
    text: str | None
    metadata: dict[str, Any]
    vector: Float32 | None  # (dim,), any length other than zero
    where: str = ""  # what stands before a field's name in an error, as "line 3"; "": its place in the list


@dataclass(frozen=True)
class CheckedDocument:
    """A document that nothing is wrong with, as far as one can say before it is encoded."""

    id: str
    text: str | None
    metadata: str  # JSON object, in canonical form
    brought: Float32 | None  # (dim,), as the client brought it
    vector: Float32 | None  # (dim,), the same of unit length

    def content_hash(self) -> bytes:
        """SHA-256 of what decides its vectors."""
        return content_hash(self.text, self.vector)


class Checks:
    """Checks documents against one model's dimension and the limits."""

    def __init__(self, dim: int, has_encoder: bool, limits: LimitSettings) -> None:
        self._dim = dim
        self._has_encoder = has_encoder
        self._limits = limits

    def check_count(self, documents: Sequence[NewDocument]) -> None:
        """Raise TooLargeError or InputError if these are more than one request may bring, or none."""
        check_count(len(documents), "documents", self._limits.documents_per_request, "documents_per_request")
        if not documents:
            raise InputError("there are no documents in the request", "documents", "Send at least one.")

    def checked(self, documents: Sequence[NewDocument]) -> list[CheckedDocument]:
        """Check documents, and make the ids that are absent.

        Raises:
            InputError, TooLargeError: what is wrong with the first of them that something is wrong with.
        """
        places = [document.where or f"documents[{at}]" for at, document in enumerate(documents)]
        ids = _ids(documents, places)
        return [
            self._checked(identifier, document, where)
            for identifier, document, where in zip(ids, documents, places, strict=True)
        ]

    def _checked(self, identifier: str, document: NewDocument, where: str) -> CheckedDocument:
        metadata = self._metadata(document, f"{where}.metadata")
        vector = None
        if document.vector is not None:
            vector = unit_vector(document.vector, self._dim, f"{where}.vector")
        if document.text is not None:
            self._check_text(document.text, vector is not None, f"{where}.text")
        elif vector is None:
            raise InputError("a document needs a text or a vector", where)
        return CheckedDocument(identifier, document.text, metadata, document.vector, vector)

    def _metadata(self, document: NewDocument, where: str) -> str:
        try:
            text = json.dumps(
                document.metadata,
                ensure_ascii=False,
                sort_keys=True,
                separators=(",", ":"),
                allow_nan=False,
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"the metadata isn't plain JSON: {error}", where) from error
        n_bytes = len(check_utf8(text, where))
        if n_bytes > self._limits.metadata_bytes:
            raise TooLargeError(
                f"{where} has {n_bytes} bytes of JSON; the limit is {self._limits.metadata_bytes}",
                "Put long texts into `text`, or raise limits.metadata_bytes.",
            )
        return text

    def _check_text(self, text: str, has_vector: bool, where: str) -> None:
        n_bytes = len(check_utf8(text, where))
        if n_bytes > self._limits.text_bytes:
            raise TooLargeError(
                f"{where} has {n_bytes} bytes; the limit is {self._limits.text_bytes}",
                "Split it into several documents, or raise limits.text_bytes.",
            )
        if not text.strip() and not has_vector:
            raise InputError("the text is empty", where, "Leave the document out, or give it a text.")
        if not has_vector and not self._has_encoder:
            raise NoEncoderError("this server has no model to encode text", where)


def packed(document: CheckedDocument) -> InboxDocument:
    """Return a document as the inbox takes it, which gives it its number."""
    vector = None if document.brought is None else document.brought.astype("<f4").tobytes()
    return InboxDocument(0, document.id, document.text, document.metadata, vector)


def unpacked(document: InboxDocument, dim: int) -> CheckedDocument:
    """Return a document of the inbox.

    Raises:
        BadVectorError: it was brought for another model: its vector has another dimension than `dim`.
    """
    brought = None if document.vector is None else np.frombuffer(document.vector, "<f4")
    vector = None if brought is None else unit_vector(brought, dim, "vector")
    return CheckedDocument(document.id, document.text, document.metadata, brought, vector)


def content_hash(text: str | None, vector: Float32 | None) -> bytes:
    """SHA-256 of what decides a document's vectors."""
    content = hashlib.sha256()
    if text is not None:
        content.update(b"text\0" + text.encode())
    if vector is not None:
        content.update(b"vector\0" + vector.tobytes())
    return content.digest()


def _ids(documents: Sequence[NewDocument], places: Sequence[str]) -> list[str]:
    seen: dict[str, str] = {}
    for document, place in zip(documents, places, strict=True):
        where = f"{place}.id"
        identifier = uuid.uuid4().hex if document.id is None else document.id
        n_bytes = len(check_utf8(identifier, where))
        if not 1 <= n_bytes <= MAX_ID_BYTES:
            raise InputError(f"an id has 1 to {MAX_ID_BYTES} bytes of UTF-8, this one {n_bytes}", where)
        if identifier in seen:
            raise DuplicateIdError(f"{seen[identifier]} and {place} have the same id {identifier!r}", where)
        seen[identifier] = place
    return list(seen)
