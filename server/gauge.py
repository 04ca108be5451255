"""A gauge of live recall: a small share of the searches is answered again, exactly, when there is time for it.

Of a search that was drawn its vector and the documents found are kept, in memory, until it was looked at; no texts.
What is measured goes to the history of recall as sums.
The exact scan goes block by block, and after each block rests for as long as keeps it within its part of one core; it
lets searches go first. So a million passages of 768 dimensions take about a second of work and a minute of time.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from index.curve import shares
from index.errors import IndexFault
from index.evaluation import ExactScan
from index.vectors import Float32, Rows
from server.background import stand_back
from server.live import Live
from server.recall_history import Gathering, RecallHistory, first_pass_in, told_share
from server.settings import IndexSettings
from server.store import Found, LocalStore

CORE_SHARE = 0.02
"""Part of one core that the gauge may take, over any few seconds."""

WAITING = 64  # searches that wait to be looked at; at 1536 dimensions 400 kB. More are let go
AT_ONCE = 8  # of them looked at in one scan: reading the vectors costs more than comparing them
KEPT = 1000  # searches that the figures are of, the newest

QUIET_S = 0.02  # without a search, before a block is looked at
MOST_YIELDED_S = 0.5  # by one block, to searches that don't end: a server that is never idle is measured too

SLACK = 4
"""Rows looked for per document, that k documents with several passages among the best are mostly all found."""


@dataclass(frozen=True)
class _Sample:
    """A search that was answered."""

    generation: int
    build: int  # of the first pass
    n_rows: int  # that there were
    vector: Float32  # (dim,)
    documents: frozenset[int]  # found, by number
    n_candidates: int


class Gauge:
    """Measures pool recall and final recall of live searches in a thread of its own."""

    def __init__(
        self,
        use: Callable[[], AbstractContextManager[Live]],
        settings: IndexSettings,
        history: RecallHistory,
    ) -> None:
        """`use` lends what serves now."""
        self._use = use
        self._settings = settings
        self._share = settings.gauge_share
        self._gathering = Gathering(history)
        self._waiting: deque[_Sample] = deque()
        self._checked: deque[tuple[float, float]] = deque(maxlen=KEPT)  # pool recall, recall
        self._of = (0, 0)  # generation and build that the figures are of
        self._cpu_s = 0.0
        self._n_passed_over = 0
        self._last_search = 0.0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to look at searches; without a share there is nothing to start."""
        if self._share:
            self._thread = threading.Thread(target=self._run, name="gauge", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping.set()
        self._wake.set()

    def close(self) -> None:
        """Stop and wait."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def notice(self, store: LocalStore, vectors: Float32, found: Sequence[Found]) -> None:
        """Hear of searches over all documents in mode two_pass; takes microseconds. vectors: (n, dim), unit length."""
        if not self._share:
            return
        self._last_search = time.monotonic()
        for vector, each in zip(vectors, found, strict=True):
            if each.hits and random.random() < self._share and len(self._waiting) < WAITING:
                documents = frozenset(hit.document for hit in each.hits)
                self._waiting.append(
                    _Sample(
                        store.generation, store.index.build, store.index.n_rows, vector.copy(), documents,
                        each.candidates,
                    )
                )  # fmt: skip
                self._wake.set()

    def told(self) -> dict[str, Any]:
        """Return what was measured, as JSON: means over the newest searches, with 95 % intervals."""
        checked = list(self._checked)
        return {
            "share": self._share,
            "checked": len(checked),
            "waiting": len(self._waiting),
            "passed_over": self._n_passed_over,
            "pool_recall": _interval([pool for pool, _ in checked]),
            "recall": _interval([final for _, final in checked]),
            "cpu_s": round(self._cpu_s, 3),
        }

    def _run(self) -> None:
        stand_back()
        while not self._stopping.is_set():
            if self._waiting:
                self._check_some()
            else:
                self._wake.wait(self._gathering.due_s())
                self._wake.clear()
            self._gathering.save_if_due()
        self._gathering.save()

    def _check_some(self) -> None:
        samples = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        try:
            self._check(samples)
        except IndexFault as error:
            # The next ones may do better; a damaged file shows itself to searches too.
            structlog.get_logger().warning("the gauge couldn't read", kind=type(error).__name__)
            self._stopping.wait(1)

    def _check(self, samples: list[_Sample]) -> None:
        with self._use() as live:
            store = live.store
            now = (store.generation, store.index.build)
            first_pass = first_pass_in(store, self._settings)
            prefixes, vectors = store.index.snapshot()
        if now != self._of:  # another first pass: what was found out of the old one is of no use
            self._of = now
            self._checked.clear()
        current = [each for each in samples if (each.generation, each.build) == now]
        self._n_passed_over += len(samples) - len(current)
        if not current:
            return
        n_wanted = max(len(each.documents) for each in current)
        scan = ExactScan(np.stack([each.vector for each in current]), SLACK * n_wanted, one_thread=True)
        blocks = vectors.blocks(0, prefixes.n_rows)
        while not self._stopping.is_set():
            self._yield()
            began = time.thread_time()
            block = next(blocks, None)
            if block is None:
                break
            first_row, rows = block
            scan.add(first_row, rows, prefixes.is_live(np.arange(first_row, first_row + len(rows))))
            self._rest(began)
        if self._stopping.is_set():
            return
        began = time.thread_time()
        passages = store.catalog.passages_of_rows(
            store.generation, np.unique(scan.rows[scan.rows >= 0]).tolist()
        )
        document_of = {row: passage.document for row, passage in passages.items()}
        for sample, best in zip(current, scan.rows, strict=True):
            true = _best_passages(best, document_of, sample)
            pool = prefixes.search(sample.vector[None], sample.n_candidates).rows[0]
            if len(true):
                of_documents = np.array([document_of[row] for row in true.tolist()], np.int64)
                (in_pool,) = shares([pool], [true])
                (final,) = shares([np.array(list(sample.documents), np.int64)], [of_documents])
                self._checked.append((in_pool, final))
                self._gathering.add(first_pass, prefixes.n_live, in_pool, final)
        self._rest(began)

    def _yield(self) -> None:
        """Let searches go first, up to a while."""
        until = time.monotonic() + MOST_YIELDED_S
        while (now := time.monotonic()) < until and now - self._last_search < QUIET_S:
            if self._stopping.wait(QUIET_S):
                return

    def _rest(self, began: float) -> None:
        """Stand still for as long as what was done since `began` asks for."""
        cpu_s = time.thread_time() - began
        self._cpu_s += cpu_s
        self._stopping.wait(cpu_s * (1 / CORE_SHARE - 1))


def _best_passages(best: Rows, document_of: dict[int, int], sample: _Sample) -> Rows:
    """The best passage of each of the true best documents, as many as were found, as far as they are certain.

    What came after the search is left out. If `best` ends before there are enough documents, those it holds are the
    best all the same.
    """
    chosen: dict[int, int] = {}
    for row in best.tolist():
        if 0 <= row < sample.n_rows and row in document_of and len(chosen) < len(sample.documents):
            chosen.setdefault(document_of[row], row)
    return np.array(list(chosen.values()), np.int64)


def _interval(found: list[float]) -> dict[str, float] | None:
    return told_share(float(np.mean(found)), len(found)) if found else None
