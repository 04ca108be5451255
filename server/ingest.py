"""Taking documents in: check everything first, encode what is new, store all of it at once."""

import hashlib
import json
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from index.vectors import Float32
from server.checks import check_utf8, unit_vector
from server.encoders.encoder import Encoder
from server.errors import (
    DuplicateIdError,
    InputError,
    NoEncoderError,
    StaleWriteError,
    StoppingError,
    TooLargeError,
)
from server.records import DocumentWrite
from server.settings import LimitSettings
from server.store import LocalStore

MAX_ID_BYTES = 512


@dataclass(frozen=True)
class NewDocument:
    """A document as a client brings it; at least one of text and vector."""

    id: str | None
    text: str | None
    metadata: dict[str, Any]
    vector: Float32 | None  # (dim,), any length other than zero


@dataclass(frozen=True)
class Added:
    """What an ingest did. The documents survive a power loss from now on."""

    ids: list[str]
    created: int
    updated: int
    unchanged: int
    passages: int  # newly encoded or taken over
    warnings: list[str]


@dataclass
class _Plan:
    """An ingest, sorted into what has to be done."""

    new: list[DocumentWrite] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # to encode, passage by passage
    sources: list[Float32 | None] = field(default_factory=list)  # per passage: the client's vector, or None
    new_metadata: list[tuple[str, bytes, str]] = field(default_factory=list)
    unchanged: int = 0


class Ingest:
    """Adds documents to a store. Any number of threads at once."""

    def __init__(
        self,
        store: LocalStore,
        encoder: Encoder | None,
        limits: LimitSettings,
        stopping: threading.Event,
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.limits = limits
        self._stopping = stopping

    def add(self, documents: Sequence[NewDocument]) -> Added:
        """Store documents, encoding what is new; all of them or, if this raises, none.

         Texts that stand unchanged under their id are not encoded again. Raises InputError, TooLargeError,
        , StoppingError, EncoderError, DiskFullError or StorageError.
        """
        self._check_running()
        if len(documents) > self.limits.documents_per_request:
            raise TooLargeError(
                f"{len(documents)} documents in one request; the limit is {self.limits.documents_per_request}"
            )
        if not documents:
            raise InputError("there are no documents in the request", "documents", "Send at least one.")
        ids = self._ids(documents)
        metadata = [self._metadata(document, at) for at, document in enumerate(documents)]
        own_vectors = [self._own_vector(document, at) for at, document in enumerate(documents)]
        for at, document in enumerate(documents):
            self._check_text(document, at)
        while True:
            plan = self._plan(ids, documents, metadata, own_vectors)
            vectors = self._encode_passages(plan)
            self._check_running()
            try:
                stored = self.store.put(plan.new, vectors, plan.new_metadata)
            except StaleWriteError:
                continue  # another request changed a document between our look and our write: look again
            return Added(
                ids,
                stored.created,
                stored.updated + len(plan.new_metadata),
                plan.unchanged,
                len(plan.sources),
                [],
            )

    def _check_running(self) -> None:
        if self._stopping.is_set():
            raise StoppingError("the server is shutting down")

    def _ids(self, documents: Sequence[NewDocument]) -> list[str]:
        ids: list[str] = []
        seen: dict[str, int] = {}
        for at, document in enumerate(documents):
            where = f"documents[{at}].id"
            identifier = uuid.uuid4().hex if document.id is None else document.id
            n_bytes = len(check_utf8(identifier, where))
            if not 1 <= n_bytes <= MAX_ID_BYTES:
                raise InputError(f"an id has 1 to {MAX_ID_BYTES} bytes of UTF-8, this one {n_bytes}", where)
            if identifier in seen:
                raise DuplicateIdError(
                    f"documents {seen[identifier]} and {at} have the same id {identifier!r}", where
                )
            seen[identifier] = at
            ids.append(identifier)
        return ids

    def _metadata(self, document: NewDocument, at: int) -> str:
        where = f"documents[{at}].metadata"
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
        if n_bytes > self.limits.metadata_bytes:
            raise TooLargeError(
                f"{where} has {n_bytes} bytes of JSON; the limit is {self.limits.metadata_bytes}",
                "Put long texts into `text`, or raise limits.metadata_bytes.",
            )
        return text

    def _own_vector(self, document: NewDocument, at: int) -> Float32 | None:
        if document.vector is None:
            return None
        return unit_vector(document.vector, self.store.shape.dim, f"documents[{at}].vector")

    def _check_text(self, document: NewDocument, at: int) -> None:
        where = f"documents[{at}].text"
        if document.text is None:
            if document.vector is None:
                raise InputError("a document needs a text or a vector", f"documents[{at}]")
            return
        check_utf8(document.text, where)
        if not document.text.strip() and document.vector is None:
            raise InputError("the text is empty", where, "Leave the document out, or give it a text.")
        if document.vector is None and self.encoder is None:
            raise NoEncoderError("this server has no model to encode text", where)

    def _plan(
        self,
        ids: Sequence[str],
        documents: Sequence[NewDocument],
        metadata: Sequence[str],
        own_vectors: Sequence[Float32 | None],
    ) -> _Plan:
        known = self.store.known(ids)
        plan = _Plan()
        for identifier, document, described, own in zip(ids, documents, metadata, own_vectors, strict=True):
            written_hash = content_hash(document.text, own)
            before = known.get(identifier)
            if before is not None and before.content_hash == written_hash:
                if before.metadata == described:
                    plan.unchanged += 1
                else:
                    plan.new_metadata.append((identifier, written_hash, described))
                continue
            text = document.text or ""
            if own is not None or self.encoder is None:
                passages = [(0, len(text))]
            else:
                passages = self.encoder.split(text)
                plan.texts += [text[start:end] for start, end in passages]
            plan.sources += [own] * len(passages)
            plan.new.append(
                DocumentWrite(identifier, document.text, described, written_hash, own is not None, passages)
            )
        return plan

    def _encode_passages(self, plan: _Plan) -> Float32:
        """Return the vectors of a plan's passages, (n_passages, dim), in order."""
        vectors = np.empty((len(plan.sources), self.store.shape.dim), np.float32)
        if plan.texts and self.encoder is not None:
            is_text = np.array([source is None for source in plan.sources])
            vectors[is_text] = self.encoder.encode_documents(plan.texts, self._stopping.is_set)
        for at, source in enumerate(plan.sources):
            if source is not None:
                vectors[at] = source
        return vectors


def content_hash(text: str | None, vector: Float32 | None) -> bytes:
    """SHA-256 of what decides a document's vectors."""
    content = hashlib.sha256()
    if text is not None:
        content.update(b"text\0" + text.encode())
    if vector is not None:
        content.update(b"vector\0" + vector.tobytes())
    return content.digest()
