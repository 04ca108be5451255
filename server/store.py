"""Where a collection lives on this machine: catalog and two-pass index, kept in step. Rows stay in here.

The write order: 1 append vectors, 2 make them durable, 3 commit in the catalog, 4 show them to searches; then the
caller answers. A crash between any two leaves either nothing of the write or all of it.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index import durable
from index.errors import DiskFullError, IndexFault
from index.two_pass import (
    MAX_READ,
    Appended,
    Hits,
    Mode,
    Shape,
    TwoPassIndex,
    damaged_rows,
    generation_files,
    n_rows_on_disk,
    pool_size,
)
from index.vectors import Float32, Rows
from server.budget import RESERVE_BYTES
from server.catalog import Catalog
from server.errors import CatalogDamagedError, GenerationChangedError
from server.memory import room
from server.records import Document, DocumentWrite, Filling, Generation, Known, PassageRow, Removed, Stored

NEWEST_ROWS = 4096
"""Rows whose checksums are compared at every start: what a crash or power loss can have hurt was written last."""

MAX_TRIES = 5
"""How often a search whose documents were replaced under it is made again."""

LOOKED_UP = 2  # rows for each document asked for, whose passages are looked up at first

REPAIR_ROWS = 256
"""Rows encoded again in one go: each go is committed, so a restart continues where it stopped."""

CATALOG_NAME = "catalog.sqlite3"
NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class DocumentHit:
    """A document and its best passage."""

    document: int
    start: int  # of the passage, in characters
    end: int
    row: int
    score: float
    prefix_score: float | None  # None in mode exact
    prefix_rank: int | None  # from 1, among the passages of the first pass; None in mode exact


@dataclass(frozen=True)
class Found:
    """One query's answer."""

    hits: list[DocumentHit]  # best first, distinct documents
    certified: bool  # whether no document outside the hits can be better than one among them
    n_proved: int  # leading hits that are certainly the best, in order
    candidates: int  # passages that the first pass handed over
    rows_read: int  # full vectors read
    cold_reads: int  # those of them that weren't in the page cache; -1 where the system can't say
    bytes_read: int
    first_pass_s: float  # of the whole batch
    second_pass_s: float


@dataclass
class Damage:
    """What was found damaged at start and isn't mended yet."""

    rows: set[int]
    ids: set[str]  # documents whose vector the client brought: only it can mend them


class LocalStore:
    """One collection's documents, vectors and both passes, in one folder."""

    def __init__(
        self, catalog: Catalog, generation: Generation, prefix_dim: int, check_all: bool = False
    ) -> None:
        """Open a generation beside its catalog. The caller closes the catalog.

        Raises:
            PrefixError, DiskFullError, StorageError.
        """
        self.catalog = catalog
        self.folder = catalog.path.parent
        self.generation = generation.number
        self.shape = shape_of(generation, prefix_dim)
        self._write_lock = threading.Lock()
        self._is_retired = False
        self.successor: LocalStore | None = None  # being filled; learns here which of its rows die
        # More searches than cores would only take the interpreter from each other: over a million vectors sixteen
        # at once made 114 searches a second where two made 307.
        self._turns = threading.BoundedSemaphore(os.cpu_count() or 1)
        found = catalog.live_rows(generation.number)
        first_missing = int(np.searchsorted(found.rows, n_rows_on_disk(self.folder, self.shape)))
        first = 0 if check_all else min(max(0, len(found.rows) - NEWEST_ROWS), first_missing)
        bad = set(damaged_rows(self.folder, self.shape, found.rows[first:], found.checksums[first:]).tolist())
        known = set(found.rows[found.is_damaged].tolist())
        if newly_bad := sorted(bad - known):
            with contextlib.suppress(DiskFullError):  # then the next start has to find them again
                catalog.mark_damaged(generation.number, newly_bad)
        bad |= known
        live = np.zeros(generation.n_rows, np.bool_)
        live[found.rows] = True
        live[sorted(bad)] = False
        self.damage = Damage(bad, catalog.own_vector_ids(generation.number, sorted(bad)))
        # Codes that no longer fit would end every start by the kernel's hand.
        left = max(0, room().free_bytes - RESERVE_BYTES)
        self.index = TwoPassIndex(self.folder, self.shape, generation.n_rows, live, left)

    # Writing

    def put(
        self,
        documents: Sequence[DocumentWrite],
        vectors: Float32,
        new_metadata: Iterable[tuple[str, bytes, str]] = (),
        from_inbox: Sequence[int] = (),
        overtaken: Sequence[str] = (),
    ) -> Stored:
        """Store documents and the unit vectors of their passages, (n_passages, dim), in order. All or nothing.

        Args:
            from_inbox: numbers of the inbox's documents that these are; they leave it.
            overtaken: ids whose documents in the inbox came earlier and leave it too.

        Raises:
            StaleWriteError: a document of new_metadata was changed meanwhile.
            GenerationChangedError: another store is the current one now.
            DiskFullError, StorageError: nothing has changed.
        """
        with self._write_lock:
            self._check_current()
            with self._appended(vectors) as appended:
                stored = self.catalog.store(
                    self.generation, documents, new_metadata, appended.first_row, appended.checksums,
                    from_inbox, overtaken,
                )  # fmt: skip
            self._publish(appended, stored.removed)
            self.damage.ids -= {document.id for document in documents}
        return stored

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Remove documents; return the ids that existed.

        Raises:
            GenerationChangedError: another store is the current one now.
        """
        with self._write_lock:
            self._check_current()
            found, removed = self.catalog.delete(ids)
            self._publish(None, removed)
            self.damage.ids -= set(found)
        return found

    def fill(self, documents: Sequence[Filling], vectors: Float32) -> None:
        """Store passages, and their unit vectors, (n_passages, dim), of documents that another store holds too.

        Documents that were changed meanwhile are passed over; the caller finds them missing once more.

        Raises:
            DiskFullError, StorageError: nothing has changed.
        """
        with self._write_lock:
            with self._appended(vectors) as appended:
                unused = self.catalog.fill(
                    self.generation,
                    [(each.number, each.content_hash, each.passages) for each in documents],
                    appended.first_row,
                    appended.checksums,
                )
            self.index.publish(appended, unused)

    def hand_over(self, finish: Callable[[], bool]) -> bool:
        """Let another store take over: `finish` makes it the current one, or returns False where it can't yet.

        No write runs meanwhile; later ones raise GenerationChangedError.
        """
        with self._write_lock:
            if not finish():
                return False
            self._is_retired, self.successor = True, None
        return True

    def open_successor(self, generation: Generation) -> "LocalStore":
        """Open the store of another generation, to be filled: from now on it learns which of its rows die here."""
        with self._write_lock:
            self.successor = LocalStore(self.catalog, generation, min(self.shape.prefix_dim, generation.dim))
            return self.successor

    def set_successor(self, successor: "LocalStore | None") -> None:
        """Change who learns of dead rows."""
        with self._write_lock:
            self.successor = successor

    def _check_current(self) -> None:
        if self._is_retired:
            raise GenerationChangedError("another generation took over while the request was at work")

    def _publish(self, appended: Appended | None, removed: Removed) -> None:
        """Show a write to searches, and tell the successor which of its rows died."""
        mine = removed.get(self.generation, NO_ROWS)
        self.index.publish(appended, mine)
        self.damage.rows -= set(mine.tolist())
        if self.successor is not None and (theirs := removed.get(self.successor.generation)) is not None:
            self.successor.forget(theirs)

    def forget(self, rows: Rows) -> None:
        """Leave out rows whose document was changed or removed in the current store."""
        with self._write_lock:
            self.index.publish(None, rows)

    def repair(self, encode: Callable[[list[str]], Float32]) -> None:
        """Encode damaged rows again from their texts, a few hundred at a time.

        Rows whose vector the client brought stay damaged; their documents are named in `damage.ids`.
        """
        todo = sorted(self.damage.rows)
        for start in range(0, len(todo), REPAIR_ROWS):
            texts = self.catalog.row_texts(self.generation, todo[start : start + REPAIR_ROWS])
            if texts:
                self._replace(list(texts), encode(list(texts.values())))

    def _replace(self, rows: Sequence[int], vectors: Float32) -> None:
        with self._write_lock:
            alive = self.catalog.passages_of_rows(self.generation, rows)
            keep = [slot for slot, row in enumerate(rows) if row in alive]
            old = np.array([rows[slot] for slot in keep], np.int64)
            if len(old):
                with self._appended(vectors[keep]) as appended:
                    self.catalog.move_rows(self.generation, old, appended.first_row, appended.checksums)
                self.index.publish(appended, old)
            self.damage.rows -= set(rows)

    @contextlib.contextmanager
    def _appended(self, vectors: Float32) -> Iterator[Appended]:
        """Put rows durably on the disk; the block commits them, and if it raises they are dropped again."""
        self.catalog.settle()  # before rows of a write that failed are overwritten
        generation = self.catalog.generations.get(self.generation)
        appended = self.index.append(vectors, generation.n_rows if generation else 0)
        try:
            yield appended
        except BaseException:
            with contextlib.suppress(IndexFault):  # then the next write looks again
                self.catalog.settle()
                self.index.discard(appended)
            raise

    # Reading

    def search(
        self,
        queries: Float32,
        k: int,
        mode: Mode,
        oversample: float,
        min_candidates: int,
        max_read: int = MAX_READ,
        read_all: bool = False,
        allowed: NDArray[np.uint8] | None = None,
        n_probes: int | None = None,
        enough: int | None = None,
    ) -> list[Found]:
        """Find each query's k best documents by their best passage.

        A pool whose passages belong to fewer than k documents, or than are enough, is widened until there are as many
        or every passage has been ranked.

        Args:
            queries: (n_queries, dim) float32, unit length.
            max_read: full vectors that mode certified reads at most.
            read_all: whether mode two_pass reads every candidate, also those that can't be expected to matter.
            allowed: bitmap of the rows that may be found; None: all.
            n_probes: lists of an inverted file that are compared; None: as planned.
            enough: documents for which no pool need be widened; None: k.
        """
        enough = k if enough is None else min(k, enough)
        n_candidates = pool_size(k, oversample, min_candidates, self.index.n_live)
        n_hits = k
        answers: dict[int, Found] = {}
        waiting = np.arange(len(queries))
        for attempt in itertools.count():
            # Those that wait for a slow disk should be many: the more ask at once, the more it reads a second.
            with contextlib.nullcontext() if self.index.waits_for_disk else self._turns:
                hits = self.index.search(
                    queries[waiting], n_candidates, mode, n_candidates if read_all else n_hits, max_read, n_probes,
                    allowed,
                )  # fmt: skip
                passages = self._passages(hits.rows, k)
            n_live = hits.n_live
            short = []
            for position, query in enumerate(waiting.tolist()):
                found, n_proved, n_gone = _distinct_documents(hits, position, passages, k)
                rows_read = int(hits.rows_read[position])
                is_whole = {
                    Mode.PREFIX: n_candidates >= n_live,
                    Mode.TWO_PASS: min(n_candidates, n_hits) >= n_live,
                    Mode.CERTIFIED: n_hits >= n_live or rows_read >= min(max_read, n_live),
                    Mode.EXACT: n_hits >= n_live,
                }[mode]
                certified = n_proved == len(found) and bool(
                    len(found) == k or int(hits.proved[position]) >= n_live
                )
                answers[query] = Found(
                    found, certified, n_proved, int(hits.candidates[position]), rows_read,
                    int(hits.cold_reads[position]), rows_read * self.index.row_bytes, hits.first_pass_s,
                    hits.second_pass_s,
                )  # fmt: skip
                if len(found) < enough and not (is_whole and (n_gone == 0 or attempt >= MAX_TRIES)):
                    short.append(query)
            if not short:
                break
            waiting = np.array(short)
            n_candidates = max(1, min(n_candidates * 8, n_live))
            n_hits = max(1, min(n_hits * 8, n_live))
        return [answers[query] for query in range(len(queries))]

    def _passages(self, ranked: Rows, k: int) -> dict[int, PassageRow]:
        """Look up the passages that the best k documents of each query come from.

        A few more than k rows mostly hold k documents; looking all of a pool up would take longer than scoring it.
        """
        passages: dict[int, PassageRow] = {}
        for n_slots in (LOOKED_UP * k, ranked.shape[1]):
            rows = np.unique(ranked[:, :n_slots])
            passages = self.catalog.passages_of_rows(self.generation, rows[rows >= 0].tolist())
            fewest = min(
                (
                    len({passages[row].document for row in query if row in passages})
                    for query in ranked[:, :n_slots].tolist()
                ),
                default=k,
            )
            if fewest >= k:
                break
        return passages

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """Return what is stored under those ids; documents with damaged vectors are left out, to be written anew."""
        return {
            identifier: known
            for identifier, known in self.catalog.known(ids).items()
            if identifier not in self.damage.ids
        }

    def documents(self, numbers: Sequence[int]) -> dict[int, Document]:
        """Return documents by number."""
        return self.catalog.documents(numbers)

    def vectors(self, rows: Sequence[int]) -> Float32:
        """Return full vectors, (n, dim), unit length."""
        return self.index.read(np.array(rows, np.int64))

    def close(self) -> None:
        """Wait for a write that is under way to end."""
        with self._write_lock:
            pass


def delete_files(folder: Path, generation: int) -> None:
    """Delete a generation's files, as far as they are there. Raises StorageError."""
    for path in generation_files(folder, generation):
        durable.remove(path)


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file by name; one that a rebuild deletes meanwhile is left out."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            sizes[path.name] = path.stat().st_size
    return sizes


def shape_of(generation: Generation, prefix_dim: int) -> Shape:
    """Return the index's shape for a generation."""
    return Shape(generation.number, generation.dim, prefix_dim, generation.vector_dtype)


def check_no_vectors(folder: Path) -> None:
    """Raise CatalogDamagedError if vectors lie in a folder whose catalog is missing, or knows of none."""
    if found := sorted(folder.glob("vectors-*")):
        raise CatalogDamagedError(
            f"{folder / CATALOG_NAME} is missing or empty, but {found[0].name} lies there"
        )


def _distinct_documents(
    hits: Hits, query: int, passages: dict[int, PassageRow], k: int
) -> tuple[list[DocumentHit], int, int]:
    """Keep each document's best passage.

    Also counts leading documents that are proved, and rows whose passage was replaced since the index was read.
    """
    found: dict[int, DocumentHit] = {}
    rows: Rows = hits.rows[query]
    n_proved = n_gone = 0
    for slot, row in enumerate(rows.tolist()):
        if row < 0 or len(found) == k:
            break
        passage = passages.get(row)
        if passage is None:
            n_gone += 1
        elif passage.document not in found:
            n_proved += bool(slot < hits.proved[query])
            rank = int(hits.prefix_ranks[query, slot])
            found[passage.document] = DocumentHit(
                passage.document, passage.start, passage.end, row, float(hits.scores[query, slot]),
                float(hits.prefix_scores[query, slot]) if rank >= 0 else None, rank + 1 if rank >= 0 else None,
            )  # fmt: skip
    return list(found.values()), n_proved, n_gone
