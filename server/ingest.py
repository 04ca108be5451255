"""Taking documents in: check everything first, encode what is new, store all of it at once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from index.vectors import Float32
from server.checking import CheckedDocument, Checks, NewDocument
from server.encoders.encoder import Encoder
from server.encoders.errors import TextNotEncodable
from server.errors import StaleWriteError, StoppingError
from server.records import DocumentWrite
from server.settings import LimitSettings
from server.store import LocalStore


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
    brought: list[Float32 | None] = field(
        default_factory=list
    )  # of each of `new`: the client's vector, or None
    texts: list[str] = field(default_factory=list)  # to encode, passage by passage; the same text once
    owners: list[int] = field(default_factory=list)  # of each text: its document's place in the list
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
        check_room: Callable[[int], None],
    ) -> None:
        """`check_room` raises MemoryFullError where so many passages more can't be kept."""
        self.store = store
        self.encoder = encoder
        self.checks = Checks(store.shape.dim, encoder is not None, limits)
        self._stopping = stopping
        self.check_room = check_room

    def add(self, documents: Sequence[NewDocument]) -> Added:
        """Store documents, encoding what is new; all of them or, if this raises, none.

        Texts that stand unchanged under their id are not encoded again. What waits in the inbox under one of their
        ids came earlier, and leaves it.

        Raises:
            InputError, TooLargeError, StoppingError, GenerationChangedError, EncoderError, MemoryFullError,
            DiskFullError, StorageError.
        """
        self.check_running()
        self.checks.check_count(documents)
        checked = self.checks.checked(documents)
        return self._store(checked, [], [each.id for each in checked], self._stopping.is_set)

    def add_waiting(
        self, documents: Sequence[CheckedDocument], numbers: Sequence[int], stop: Callable[[], bool]
    ) -> Added:
        """Store documents of the inbox, all of one job; in the same transaction they leave it.

        Those that have left it meanwhile are passed over: they were overtaken or deleted. `stop` is asked between two
        batches of the model.

        Raises:
            TextNotEncodable: `position` is the document's place in the list.
            EncodingStopped: `stop` said so; nothing has changed.
            StoppingError, GenerationChangedError, EncoderError, MemoryFullError, DiskFullError, StorageError: nothing
                has changed.
        """
        return self._store(documents, numbers, [], stop)

    def check_running(self) -> None:
        """Raise StoppingError if the server was told to stop."""
        if self._stopping.is_set():
            raise StoppingError("the server is shutting down")

    def _store(
        self,
        documents: Sequence[CheckedDocument],
        from_inbox: Sequence[int],
        overtaken: Sequence[str],
        stop: Callable[[], bool],
    ) -> Added:
        encoded: dict[bytes, Float32] = {}  # by content hash: (n_passages, dim)
        gone: set[int] = set()  # places of documents that have left the inbox
        while True:
            numbers = [number for at, number in enumerate(from_inbox) if at not in gone]
            plan = self._plan(documents, gone, encoded)
            if plan.new:
                self.check_room(sum(len(each.passages) for each in plan.new))
            self._encode(plan, encoded, stop)
            vectors = self._vectors(plan, encoded)
            self.check_running()
            try:
                stored = self.store.put(plan.new, vectors, plan.new_metadata, numbers, overtaken)
            except StaleWriteError:
                # Another request changed a document between our look and our write, or took it out of the inbox:
                # look again. What is encoded is kept.
                there = self.store.catalog.jobs.still_waiting(from_inbox)
                gone = {at for at, number in enumerate(from_inbox) if number not in there}
                if from_inbox and not there:
                    return Added([], 0, 0, 0, 0, [])
                continue
            return Added(
                [each.id for at, each in enumerate(documents) if at not in gone],
                stored.created,
                stored.updated + len(plan.new_metadata),
                plan.unchanged,
                len(vectors),
                [],
            )

    def _plan(
        self, documents: Sequence[CheckedDocument], gone: set[int], encoded: dict[bytes, Float32]
    ) -> _Plan:
        known = self.store.known([document.id for document in documents])
        plan, in_hand = _Plan(), set(encoded)
        for at, document in enumerate(documents):
            if at in gone:
                continue
            content_hash = document.content_hash()
            before = known.get(document.id)
            if before is not None and before.content_hash == content_hash:
                if before.metadata == document.metadata:
                    plan.unchanged += 1
                else:
                    plan.new_metadata.append((document.id, content_hash, document.metadata))
                continue
            text = document.text or ""
            if document.vector is not None or self.encoder is None:
                passages = [(0, len(text))]
            else:
                passages = self._split(text, at)
                if content_hash not in in_hand:
                    in_hand.add(content_hash)
                    plan.texts += [text[start:end] for start, end in passages]
                    plan.owners += [at] * len(passages)
            plan.brought.append(document.vector)
            plan.new.append(
                DocumentWrite(
                    document.id, document.text, document.metadata, content_hash,
                    document.vector is not None, passages,
                )
            )  # fmt: skip
        return plan

    def _split(self, text: str, at: int) -> list[tuple[int, int]]:
        assert self.encoder is not None
        try:
            return self.encoder.split(text)
        except TextNotEncodable as error:
            raise TextNotEncodable(str(error), error.hint, at) from error

    def _encode(self, plan: _Plan, encoded: dict[bytes, Float32], stop: Callable[[], bool]) -> None:
        """Encode a plan's texts, and put the vectors beside those that were encoded before."""
        if not plan.texts or self.encoder is None:
            return
        try:
            made = self.encoder.encode_documents(plan.texts, stop)
        except TextNotEncodable as error:
            raise TextNotEncodable(str(error), error.hint, plan.owners[error.position]) from error
        first = 0
        for document, brought in zip(plan.new, plan.brought, strict=True):
            if brought is None and document.content_hash not in encoded:
                encoded[document.content_hash] = made[first : first + len(document.passages)]
                first += len(document.passages)

    def _vectors(self, plan: _Plan, encoded: dict[bytes, Float32]) -> Float32:
        """Return the vectors of a plan's passages, (n_passages, dim), in order."""
        n_passages = sum(len(each.passages) for each in plan.new)
        vectors = np.empty((n_passages, self.store.shape.dim), np.float32)
        row = 0
        for document, brought in zip(plan.new, plan.brought, strict=True):
            end = row + len(document.passages)
            vectors[row:end] = encoded[document.content_hash] if brought is None else brought
            row = end
        return vectors
