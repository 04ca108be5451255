"""The use cases: add, search, delete, read, repair. Texts and vectors in, documents and hits out.

Knows no HTTP and no rows' files: storing and searching is the store's, encoding the encoder's.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from index.axes import Order
from index.disk import DiskSpeed
from index.errors import IndexFault
from index.plan import Codec, Kind
from index.two_pass import Mode
from index.vectors import Float32
from server.backups.snapshots import Snapshots
from server.catalog.stored_json import read_json
from server.checking import MAX_ID_BYTES, NewDocument, content_hash
from server.checks import check_count
from server.compacting import Compacting
from server.conditions import Filter
from server.encoders.drift import SAME_MODEL, drift
from server.encoders.encoder import Encoder
from server.encoders.errors import EncoderError, RemoteEncoderDown
from server.encoders.known import prefix_warnings
from server.errors import GenerationChangedError, InputError, NotFoundError, StoppingError
from server.evaluating import Evaluating
from server.gauge import Gauge
from server.inbox import Inbox
from server.ingest import Added
from server.jobs import Job, Jobs
from server.live import Live
from server.metadata_indexes import MetadataIndexes
from server.queries import Answer, Query
from server.recall_history import RecallHistory
from server.receiving import Accepted, Receiving
from server.records import Document
from server.reembedding import LoadEncoder, Reembedding, Workshop
from server.settings import Settings
from server.store import LocalStore, file_sizes

DRIFT_ROWS = 4  # stored vectors that are compared at start with what a program elsewhere makes now
DELETED_AT_ONCE = 1000  # documents, in one transaction
SNAPSHOTS = "snapshots"  # folder of the backups, in the data directory
MAX_IDS_TOLD = 100  # damaged documents named in /stats


@dataclass(frozen=True)
class RebuildWishes:
    """What a first pass shall be made of; None: as the settings say."""

    order: Order | None = None
    codec: Codec | None = None
    kind: Kind | None = None
    prefix_dim: int | None = None


@dataclass(frozen=True)
class Compared:
    """What a client needn't send again, and what it has to."""

    same: int
    missing: list[str]
    different: list[str]


class Collection:
    """One collection of documents. Every method may be called from any thread."""

    def __init__(
        self,
        store: LocalStore,
        encoder: Encoder | None,
        settings: Settings,
        load: LoadEncoder,
    ) -> None:
        """Serve a store with its encoder; `load` makes another encoder, for a change of the model."""
        self.index = settings.index
        self.limits = settings.limits
        self.catalog = store.catalog
        self.jobs = Jobs(store.catalog.jobs)
        self._stopping = threading.Event()
        self._repair: threading.Thread | None = None
        self._swapping = threading.Lock()
        self.metadata_indexes = MetadataIndexes(store.catalog, self.jobs, settings.index.metadata_indexes)
        self._search_listeners: list[Callable[[Sequence[Query], Sequence[Answer]], None]] = []
        self.recall = RecallHistory(store.catalog.recall)
        self.gauge = Gauge(self._using, settings.index, self.recall)
        self.evaluating = Evaluating(self.jobs, self._using, settings.index, self.recall)
        self.snapshots = Snapshots(settings.data_dir / SNAPSHOTS, store.catalog, self.jobs)
        self._live = self._make_live(store, encoder)
        self.inbox = Inbox(self.jobs, store.catalog.jobs, self._using)
        workshop = Workshop(
            store.catalog,
            self.jobs,
            settings.encoder,
            settings.index,
            load,
            lambda: self._live,
            self._make_live,
            self._take_over,
        )
        self.reembedding = Reembedding(workshop)
        self.compacting = Compacting(workshop)

    @property
    def store(self) -> LocalStore:
        """The store that serves now."""
        return self._live.store

    @property
    def encoder(self) -> Encoder | None:
        """The encoder that serves now."""
        return self._live.encoder

    def add(self, documents: Sequence[NewDocument]) -> Added | Accepted:
        """Store documents, encoding what is new; all of them or, if this raises, none. See Ingest.add.

        While the program that encodes is down they are accepted, and stored when it is back.
        """
        while True:
            try:
                with self._using() as live, contextlib.suppress(GenerationChangedError):
                    added = live.ingest.add(documents)
                    live.upkeep.wake()
                    self.compacting.wake()
                    return added
            except RemoteEncoderDown as error:
                n_documents = f"{len(documents)} document{'' if len(documents) == 1 else 's'}"
                return self.accept(
                    documents,
                    f"{error}; {n_documents} accepted, to be encoded and found as soon as it is back",
                )

    def accept(self, documents: Sequence[NewDocument], *warnings: str) -> Accepted:
        """Make documents safe, to be encoded and stored later; all of them or, if this raises, none.

        Raises:
            InputError, TooLargeError, StoppingError, MemoryFullError, DiskFullError, StorageError.
        """
        with self._using() as live:
            live.ingest.check_running()
            live.ingest.checks.check_count(documents)
            live.ingest.check_room(
                len(documents)
            )  # as many passages at least, unless they replace or repeat others
            checked = live.ingest.checks.checked(documents)
        return Accepted(self.inbox.accept(checked), [each.id for each in checked], list(warnings))

    def receive(self) -> Receiving:
        """Begin to accept documents that come piece by piece."""
        return Receiving(self.inbox, self.catalog.jobs, self._using)

    def search(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer searches, encoding their texts together. See Searches.search."""
        with self._using() as live:
            answers = live.searches.search(queries)
        for listener in self._search_listeners:
            listener(queries, answers)
        return answers

    def waits(self, queries: Sequence[Query]) -> bool:
        """Whether answering these is mostly waiting: for the model, or for a slow disk."""
        return self.store.index.waits_for_disk or any(query.text is not None for query in queries)

    def on_search(self, listener: Callable[[Sequence[Query], Sequence[Answer]], None]) -> None:
        """Have `listener` called, in the thread of the search, with searches that were answered together."""
        self._search_listeners.append(listener)

    def rebuild(self, wishes: RebuildWishes) -> Job:
        """Have the first pass made anew; returns at once. What isn't wished for is as the settings say."""
        wished_for = {name: value for name, value in vars(wishes).items() if value is not None}
        with self._using() as live:
            dim = live.store.shape.dim
            if wishes.prefix_dim is not None and wishes.prefix_dim > dim:
                raise InputError(
                    f"prefix_dim is {wishes.prefix_dim}, but the vectors have {dim} dimensions", "prefix_dim"
                )
            return live.upkeep.rebuild(replace(live.upkeep.wish(), **wished_for))

    def get(self, identifier: str) -> tuple[Document, bool]:
        """Return one document, and whether it or a newer version of it waits to be encoded. Raises NotFoundError."""
        waiting = self.catalog.jobs.latest(identifier)
        document = self.catalog.document(identifier)
        if document is None and waiting is not None:
            metadata = read_json(waiting.metadata, f"the metadata of document {identifier!r}")
            document = Document(0, identifier, waiting.text, metadata, 0)
        if document is None:
            raise NotFoundError(f"there is no document with the id {identifier!r}")
        return document, waiting is not None

    def page(self, after: str, limit: int) -> list[Document]:
        """Return up to `limit` documents behind the id `after`, in id order."""
        return self.store.catalog.page(after, limit)

    def page_vectors(self, documents: Sequence[Document], only_brought: bool) -> dict[int, Float32]:
        """Return documents' vectors, each (dim,), by number: of those with one passage, and none that is damaged."""
        with self._using() as live:
            numbers = [each.number for each in documents]
            rows = live.store.catalog.vector_rows(live.store.generation, numbers, only_brought)
            whole = {number: row for number, row in rows.items() if row not in live.store.damage.rows}
            return dict(zip(whole, live.store.vectors(list(whole.values())), strict=True))

    def compare(self, hashes: Mapping[str, str | None]) -> Compared:
        """Say which documents are stored, or wait to be encoded, with the content that a client has.

        Args:
            hashes: by id, the content hash in hexadecimal of a document of text alone; None: any content will do.

        Raises:
            TooLargeError.
        """
        check_count(len(hashes), "documents", self.limits.documents_per_request, "documents_per_request")
        ids = list(hashes)
        # In this order: what is stored meanwhile is found in one of the two, or in both.
        waiting = list(self.catalog.jobs.texts_waiting(ids))
        there = {identifier: each.content_hash.hex() for identifier, each in self.store.known(ids).items()}
        for identifier, text, has_vector in waiting:  # newer than what is stored
            there[identifier] = "" if has_vector else content_hash(text, None).hex()
        missing = [identifier for identifier in ids if identifier not in there]
        different = [
            identifier for identifier, stored in there.items() if hashes[identifier] not in (None, stored)
        ]
        return Compared(len(hashes) - len(missing) - len(different), missing, different)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Remove documents; return those of the ids that existed."""
        if self.is_stopping:
            raise StoppingError("the server is shutting down")
        check_count(len(ids), "ids", self.limits.documents_per_request, "documents_per_request")
        while True:
            with self._using() as live, contextlib.suppress(GenerationChangedError):
                found = live.store.delete(ids)
                self.compacting.wake()
                return found

    def delete_matching(self, wanted: Filter) -> int:
        """Remove every document that matches; return how many. Should it break off, those before stay removed."""
        if wanted.condition is None:
            raise InputError(
                "an empty filter matches every document",
                "filter",
                "To delete all, move the collection's folder away.",
            )
        n_deleted = 0
        while ids := self.catalog.filtering.documents(wanted, DELETED_AT_ONCE):
            n_deleted += len(self.delete(ids))
        return n_deleted

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
            "pending": self.catalog.jobs.n_waiting(),
            "rows": store.index.n_rows,
            "tombstones": store.index.n_rows - n_passages,
            "generation": store.generation,
            "generations": self.reembedding.generations(),
            "first_pass": {
                **store.index.plan.told(),
                "bytes": store.index.prefix_bytes,
                "oversample": max(self.index.oversample, store.index.oversample),
                "evidence": store.index.evidence,
            },
            "disk": None if self.disk is None else vars(self.disk),
            "wave_rows": store.index.wave_rows,
            "disk_bytes": file_sizes(store.folder),
            "gauge": self.gauge.told(),
            "damage": self.damage(),
        }

    def info(self) -> dict[str, Any]:
        """What doesn't change while the server runs."""
        encoder, shape = self.encoder, self.store.shape
        model = encoder.fingerprint.model if encoder else "none"
        return {
            "model": model,
            "fingerprint": vars(encoder.fingerprint) if encoder else None,
            "dim": shape.dim,
            "prefix_dim": shape.prefix_dim,
            "vector_dtype": shape.vector_dtype,
            "oversample": self.index.oversample,
            "min_candidates": self.index.min_candidates,
            "modes": [mode.value for mode in Mode],
            "limits": {**self.limits.model_dump(), "id_bytes": MAX_ID_BYTES},
            "warnings": prefix_warnings(model, shape.dim, shape.prefix_dim, self.index.order),
        }

    @property
    def disk(self) -> DiskSpeed | None:
        """The disk as it was measured; None: not yet, or the vectors are too few to measure it by."""
        return self._live.upkeep.disk

    def damage(self) -> dict[str, Any]:
        """What start found damaged and isn't mended yet: rows, and documents that only their sender can mend."""
        lost = sorted(self.store.damage.ids)
        return {"rows": len(self.store.damage.rows), "documents": len(lost), "ids": lost[:MAX_IDS_TOLD]}

    @property
    def is_degraded(self) -> bool:
        """Whether some documents can't be found by search, or texts can't be encoded now."""
        return bool(self.store.damage.rows) or (self.encoder is not None and self.encoder.is_down)

    @property
    def is_stopping(self) -> bool:
        """Whether the server was told to stop."""
        return self._stopping.is_set()

    def start_upkeep(self) -> None:
        """Keep the index in shape from now on, in the background, and go on with what a restart interrupted."""
        self._live.upkeep.start()
        self.metadata_indexes.start()
        self.reembedding.start()
        self.compacting.start()
        self.inbox.start()
        self.gauge.start()

    def start_repair(self) -> None:
        """Mend what was found damaged at start, in the background; searches go on without it meanwhile.

        Also looks whether another program still encodes as it did when the vectors were made.
        """
        encoder = self.encoder
        if encoder is not None and (
            self.store.damage.rows or encoder.fingerprint.pooling.startswith("remote")
        ):
            self._repair = threading.Thread(
                target=self._mend, args=(self._live, encoder), name="repair", daemon=True
            )
            self._repair.start()

    def stop(self) -> None:
        """Ask running ingests to end at the next sub-batch, with nothing of them stored, and index work too."""
        self._stopping.set()
        self.evaluating.stop()
        self.metadata_indexes.stop()
        self.snapshots.stop()
        self.gauge.stop()
        self.inbox.stop()
        self.reembedding.stop()
        self.compacting.stop()
        self._live.upkeep.stop()

    def close(self) -> None:
        """Stop, wait for repair and upkeep, close encoder and store. No other call may be running."""
        self.stop()
        if self.encoder is not None:
            self.encoder.close()  # whoever waits for it, however long, needn't any more
        self.evaluating.close()
        self.metadata_indexes.close()
        self.snapshots.close()
        self.gauge.close()
        self.inbox.close()
        self.reembedding.close()
        self.compacting.close()
        if self._repair is not None:
            self._repair.join()
        self._live.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator[Live]:
        """What serves now, kept open during the block."""
        with contextlib.ExitStack() as stack:
            with self._swapping:
                live = self._live
                stack.enter_context(live.used())
            yield live

    def _make_live(self, store: LocalStore, encoder: Encoder | None) -> Live:
        return Live(store, encoder, self.index, self.limits, self.jobs, self._stopping, self.gauge.notice)

    def _take_over(self, live: Live) -> None:
        with self._swapping:
            self._live = live

    def _mend(self, live: Live, encoder: Encoder) -> None:
        try:
            with live.used():
                if encoder.fingerprint.pooling.startswith("remote"):
                    self._look_for_drift(live.store, encoder)
                live.store.repair(lambda texts: encoder.encode_documents(texts, self._stopping.is_set))
        except (EncoderError, IndexFault) as error:
            # What is mended is committed; the rest stays in /stats as damaged and is tried at the next start.
            structlog.get_logger().warning("mending damaged vectors stopped", kind=type(error).__name__)

    def _look_for_drift(self, store: LocalStore, encoder: Encoder) -> None:
        """Compare a few stored vectors with what the encoder makes of their texts now: a name promises little."""
        rows = store.catalog.live_rows(store.generation).rows[:DRIFT_ROWS].tolist()
        texts = store.catalog.row_texts(
            store.generation, [row for row in rows if row not in store.damage.rows]
        )
        if texts:
            least = drift(encoder, list(texts.values()), store.vectors(list(texts)))
            if least < SAME_MODEL:
                structlog.get_logger().warning(
                    "the program at encoder.url gives other vectors than those stored; is it another model? "
                    "`twopass reembed` encodes the texts anew",
                    least_cosine=round(least, 3),
                )
