"""The use cases: add, search, delete, read, repair. Texts and vectors in, documents and hits out.

Knows no HTTP and no rows' files: storing and searching is the store's, encoding the encoder's.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from index.axes import Order
from index.errors import IndexFault
from index.plan import Codec, Kind
from index.two_pass import Mode
from server.encoders.encoder import Encoder
from server.encoders.errors import EncoderError
from server.errors import InputError, NotFoundError, StoppingError, TooLargeError
from server.ingest import MAX_ID_BYTES, Added, Ingest, NewDocument
from server.jobs import Job, Jobs
from server.records import Document
from server.searches import Answer, Query, Searches
from server.settings import IndexSettings, LimitSettings
from server.store import LocalStore
from server.upkeep import Upkeep

MAX_IDS_TOLD = 100  # damaged documents named in /stats


@dataclass(frozen=True)
class RebuildWishes:
    """What a first pass shall be made of; None: as the settings say."""

    order: Order | None = None
    codec: Codec | None = None
    kind: Kind | None = None
    prefix_dim: int | None = None


class Collection:
    """One collection of documents. Every method may be called from any thread."""

    def __init__(
        self, store: LocalStore, encoder: Encoder | None, index: IndexSettings, limits: LimitSettings
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.index = index
        self.limits = limits
        self._stopping = threading.Event()
        self._repair: threading.Thread | None = None
        self._ingest = Ingest(store, encoder, limits, self._stopping)
        self._searches = Searches(store, encoder, index)
        self.jobs = Jobs()
        self._upkeep = Upkeep(store, index, self.jobs)

    def add(self, documents: Sequence[NewDocument]) -> Added:
        """Store documents, encoding what is new; all of them or, if this raises, none. See Ingest.add."""
        added = self._ingest.add(documents)
        self._upkeep.wake()
        return added

    def search(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer searches, encoding their texts together. See Searches.search."""
        return self._searches.search(queries)

    def rebuild(self, wishes: RebuildWishes) -> Job:
        """Have the first pass made anew; returns at once. What isn't wished for is as the settings say."""
        wish = self._upkeep.wish()
        dim = self.store.shape.dim
        if wishes.prefix_dim is not None and wishes.prefix_dim > dim:
            raise InputError(
                f"prefix_dim is {wishes.prefix_dim}, but the vectors have {dim} dimensions", "prefix_dim"
            )
        return self._upkeep.rebuild(
            replace(wish, **{name: value for name, value in vars(wishes).items() if value is not None})
        )

    def get(self, identifier: str) -> Document:
        """Return one document. Raises NotFoundError."""
        document = self.store.catalog.document(identifier)
        if document is None:
            raise NotFoundError(f"there is no document with the id {identifier!r}")
        return document

    def page(self, after: str, limit: int) -> list[Document]:
        """Return up to `limit` documents behind the id `after`, in id order."""
        return self.store.catalog.page(after, limit)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Remove documents; return those of the ids that existed."""
        if self.is_stopping:
            raise StoppingError("the server is shutting down")
        if len(ids) > self.limits.documents_per_request:
            raise TooLargeError(
                f"{len(ids)} ids in one request; the limit is {self.limits.documents_per_request}"
            )
        return self.store.delete(ids)

    def delete_one(self, identifier: str) -> None:
        """Remove one document. Raises NotFoundError."""
        if not self.delete([identifier]):
            raise NotFoundError(f"there is no document with the id {identifier!r}")

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, for people and dashboards."""
        store = self.store
        n_documents, n_passages = store.catalog.counts()
        return {
            "documents": n_documents,
            "passages": n_passages,
            "rows": store.index.n_rows,
            "tombstones": store.index.n_rows - n_passages,
            "generation": store.generation,
            "first_pass": {
                **store.index.plan.told(),
                "bytes": store.index.prefix_bytes,
                "oversample": max(self.index.oversample, store.index.oversample),
                "evidence": store.index.evidence,
            },
            "disk": None if self._upkeep.disk is None else vars(self._upkeep.disk),
            "wave_rows": store.index.wave_rows,
            "disk_bytes": {each.name: each.stat().st_size for each in sorted(store.folder.iterdir())},
            "damage": self.damage(),
        }

    def info(self) -> dict[str, Any]:
        """What doesn't change while the server runs."""
        encoder = self.encoder
        return {
            "model": encoder.fingerprint.model if encoder else "none",
            "fingerprint": vars(encoder.fingerprint) if encoder else None,
            "dim": self.store.shape.dim,
            "prefix_dim": self.store.shape.prefix_dim,
            "vector_dtype": self.store.shape.vector_dtype,
            "oversample": self.index.oversample,
            "min_candidates": self.index.min_candidates,
            "modes": [mode.value for mode in Mode],
            "limits": {**self.limits.model_dump(), "id_bytes": MAX_ID_BYTES},
        }

    def damage(self) -> dict[str, Any]:
        """What start found damaged and isn't mended yet: rows, and documents that only their sender can mend."""
        lost = sorted(self.store.damage.ids)
        return {"rows": len(self.store.damage.rows), "documents": len(lost), "ids": lost[:MAX_IDS_TOLD]}

    @property
    def is_degraded(self) -> bool:
        """Whether some documents can't be found by search."""
        return bool(self.store.damage.rows)

    @property
    def is_stopping(self) -> bool:
        """Whether the server was told to stop."""
        return self._stopping.is_set()

    def start_upkeep(self) -> None:
        """Keep the index in shape from now on, in the background."""
        self._upkeep.start()

    def start_repair(self) -> None:
        """Mend what was found damaged at start, in the background; searches go on without it meanwhile."""
        if self.store.damage.rows and self.encoder is not None:
            self._repair = threading.Thread(
                target=self._mend, args=(self.encoder,), name="repair", daemon=True
            )
            self._repair.start()

    def stop(self) -> None:
        """Ask running ingests to end at the next sub-batch, with nothing of them stored, and index work too."""
        self._stopping.set()
        self._upkeep.stop()

    def close(self) -> None:
        """Stop, wait for repair and upkeep, close encoder and store. No other call may be running."""
        self.stop()
        self._upkeep.close()
        if self._repair is not None:
            self._repair.join()
        if self.encoder is not None:
            self.encoder.close()
        self.store.close()

    def _mend(self, encoder: Encoder) -> None:
        try:
            self.store.repair(lambda texts: encoder.encode_documents(texts, self._stopping.is_set))
        except (EncoderError, IndexFault) as error:
            # What is mended is committed; the rest stays in /stats as damaged and is tried at the next start.
            structlog.get_logger().warning("mending damaged vectors stopped", kind=type(error).__name__)
