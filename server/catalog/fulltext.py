"""The documents' words: which documents have those of a question, by BM25, and in which passage they stand.

SQLite's FTS5 over whole documents, kept in step by triggers (see schema.py) in the transaction that writes a document.
It holds no text of its own and knows no generation: a new model, a rebuild or a repair doesn't touch it.
"""

import math
import os
import sqlite3
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.catalog.database import Database
from server.catalog.keyword_search import KeywordSearch
from server.catalog.selections import RowSelection
from server.catalog.words import TOKENIZER, spaced, terms

COMMON = 1_000
"""A term that stands in more documents is counted once in COUNTED_ANEW_S only: 100 000 take 4 ms."""

COUNTED_ANEW_S = 60.0

MAX_COUNTS = 10_000  # terms whose counts are kept; then all are forgotten

MERGED_PAGES = 100  # of the index in one transaction, some 100 ms; others write between two

LISTED = 5_000
"""Selected rows whose documents are looked up one by one, 2 µs each; of more, all rows are read, 0.4 µs each."""

# The + keeps SQLite from going through all passages of the generation, 25 ms of 300 000, where some documents are asked
# for.
PASSAGES = """
SELECT document, row, start, "end", substr(text, start + 1, "end" - start)
FROM passages JOIN documents ON document = number
WHERE text IS NOT NULL AND +generation = ? AND document IN ({}) ORDER BY start
"""

MARK, END_MARK = "\ufdd0", "\ufdd1"  # characters that no text should have; where one does, it becomes a space


@dataclass(frozen=True)
class KeywordHits:
    """The documents with words of a question, best first, ties by number."""

    documents: NDArray[np.int64]  # (n,), distinct
    scores: NDArray[np.float64]  # (n,), BM25, above 0
    n_terms: int  # of the question
    n_left_out: int  # of these, that count in no score, as too many documents have them
    whole: float  # score of a document of ordinary length that has every term once; 0: no term is known


@dataclass(frozen=True)
class KeywordPassage:
    """The passage of a document that has most of a question's words."""

    row: int
    start: int  # characters of the document's text, [start, end)
    end: int
    marks: tuple[tuple[int, int], ...]  # where the words stand in it, likewise


class FullText:
    """The index of words. Any thread asks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()  # over the two below
        self._counts: dict[str, tuple[float, int]] = {}  # of common terms: when counted, how many documents
        self._bitmaps: weakref.WeakKeyDictionary[RowSelection, tuple[NDArray[np.uint8], int]] = (
            weakref.WeakKeyDictionary()
        )
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "words")

    def begin(self, search: Callable[[], KeywordHits]) -> Future[KeywordHits]:
        """Have a search of this index made in a thread beside the caller's."""
        return self._threads.submit(search)

    def search(
        self, question: str, limit: int, generation: int = 0, selection: RowSelection | None = None
    ) -> KeywordHits:
        """Return up to `limit` documents that have a word of the question, or a phrase that it has in quotation marks.

        Args:
            question: any text; nothing in it is syntax but quotation marks, in pairs.
            generation, selection: only documents of these rows.
        """
        wanted = terms(question)
        found: list[tuple[int, float]] = []
        n_left_out = 0
        whole = 0.0
        with self._database.reading() as connection:
            counts = self._count(connection, wanted)
            known = sorted((term for term in wanted if counts[term]), key=counts.__getitem__)
            if known:
                search = KeywordSearch(connection, known, [counts[term] for term in known])
                if selection is not None:
                    search.restrict(*self._documents(connection, generation, selection))
                found = search.run(limit)
                n_left_out = len(known) - len(search.scoring)
                unknown = [term for term in wanted if not counts[term]]
                (n_documents,) = connection.execute("SELECT max(number) FROM documents").fetchone()
                whole = sum(_weight(n_documents, counts[term]) for term in (*search.scoring, *unknown))
        return KeywordHits(
            np.array([number for number, _ in found], np.int64),
            np.array([score for _, score in found], np.float64),
            len(wanted),
            n_left_out,
            whole,
        )

    def best_passages(
        self, question: str, generation: int, documents: Sequence[int], marked: bool = True
    ) -> dict[int, KeywordPassage]:
        """Return each document's passage that has most of the question's words, rare ones counting more.

        Of equal passages the first. A phrase counts where it stands whole in a passage. Documents without a text or
        without a passage in this generation are left out. The texts are read and taken apart: 0.1 ms for each KB, and
        0.5 ms a document; not so those of one passage where no marks are wanted.
        """
        wanted = terms(question)
        with self._database.reading() as connection:
            counts = self._count(connection, wanted)
            (n_documents,) = connection.execute("SELECT max(number) FROM documents").fetchone()
        weights = {
            term: math.log(1 + n_documents / count) if (count := counts[term]) else 0.0 for term in wanted
        }
        passages: dict[int, list[tuple[int, int, int, str]]] = defaultdict(list)
        for document, *passage in self._database.select_in(
            PASSAGES,
            (generation,),
            list(documents),
        ):
            passages[document].append((passage[0], passage[1], passage[2], passage[3]))
        best: dict[int, KeywordPassage] = {}
        for document, spans in passages.items():
            at, marks = 0, list[tuple[int, int]]()
            if marked or len(spans) > 1:
                at, marks = _most_words([text for *_, text in spans], weights)
            row, start, end, _ = spans[at]
            moved = tuple((start + first, start + last) for first, last in marks)
            best[document] = KeywordPassage(row, start, end, moved)
        return best

    def rebuild(self) -> None:
        """Make the index anew from the texts, in one transaction: 30 µs a short text; nothing else is written then."""
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO fulltext (fulltext) VALUES ('rebuild')")

    def tidy(self, stop: Callable[[], bool]) -> None:
        """Drop what deleted documents have left, part by part, until nothing is left of it or `stop` says so.

        SQLite leaves words of theirs, and a note that they are gone, until it happens to merge the parts that have
        them: of 20 000 documents of which 6 000 were left, the index was 29 MB and is 6 MB behind this.
        """
        pages = -MERGED_PAGES  # below zero: begin with all parts; then go on with those

        def merge(connection: sqlite3.Connection) -> bool:
            nonlocal pages
            before = connection.total_changes
            connection.execute("INSERT INTO fulltext (fulltext, rank) VALUES ('merge', ?)", (pages,))
            pages = MERGED_PAGES
            return connection.total_changes - before > 1  # else there was nothing left to do

        self._database.in_steps(merge, stop)

    def close(self) -> None:
        """Wait for the searches that were begun."""
        self._threads.shutdown()

    def problems(self, connection: sqlite3.Connection) -> list[str]:
        """Return what is wrong with it, as far as can be told without reading the texts; empty if nothing."""
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'fulltext'").fetchone():
            return []  # an older format, opened to be read only
        (missing,) = connection.execute(
            "SELECT count(*) FROM documents WHERE text IS NOT NULL "
            "AND number NOT IN (SELECT id FROM fulltext_docsize)"
        ).fetchone()
        (left,) = connection.execute(
            "SELECT count(*) FROM fulltext_docsize "
            "WHERE id NOT IN (SELECT number FROM documents WHERE text IS NOT NULL)"
        ).fetchone()
        found = []
        if missing:
            found.append(f"{missing} documents are missing from the full-text index")
        if left:
            found.append(f"the full-text index has {left} documents that are gone")
        return found

    def _count(self, connection: sqlite3.Connection, wanted: Sequence[str]) -> dict[str, int]:
        """Return in how many documents each term stands; of common ones, stood within the last minute."""
        counts: dict[str, int] = {}
        now = time.monotonic()
        for term in wanted:
            with self._lock:
                counted_at, count = self._counts.get(term, (-math.inf, 0))
            if now - counted_at > COUNTED_ANEW_S:
                (count,) = connection.execute(
                    "SELECT count(*) FROM fulltext WHERE fulltext MATCH ?", (term,)
                ).fetchone()
                if count > COMMON:
                    with self._lock:
                        if len(self._counts) >= MAX_COUNTS:
                            self._counts.clear()
                        self._counts[term] = now, count
            counts[term] = count
        return counts

    def _documents(
        self, connection: sqlite3.Connection, generation: int, selection: RowSelection
    ) -> tuple[NDArray[np.uint8], int]:
        """Return the documents of selected rows as a bitmap by number, and how many; kept as long as the selection."""
        with self._lock:
            kept = self._bitmaps.get(selection)
        if kept is None:
            rows = selection.rows
            if len(rows) <= LISTED:
                statement = (
                    "SELECT document FROM passages "
                    "WHERE generation = ? AND row IN (SELECT value FROM json_each(?))"
                )
                found = connection.execute(statement, (generation, str(rows.tolist())))
                documents = np.fromiter((document for (document,) in found), np.int64)
            else:
                found = connection.execute(
                    "SELECT row, document FROM passages WHERE generation = ?", (generation,)
                )
                every = np.fromiter(found, np.dtype((np.int64, 2)))  # (n_passages, 2)
                documents = every[np.isin(every[:, 0], rows, assume_unique=True), 1]
            bits = np.zeros(documents.max(initial=-1) + 1, np.bool_)
            bits[documents] = True
            kept = np.packbits(bits, bitorder="little"), int(np.count_nonzero(bits))
            with self._lock:
                self._bitmaps[selection] = kept
        return kept


def _weight(n_documents: int, count: int) -> float:
    """Return what FTS5's BM25 gives a document of ordinary length for a term that it has once."""
    return max(math.log((n_documents - count + 0.5) / (count + 0.5)), 1e-6) if count < n_documents else 1e-6


def _most_words(texts: Sequence[str], weights: dict[str, float]) -> tuple[int, list[tuple[int, int]]]:
    """Return which text has the words that weigh most together, and where they stand in it."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    try:
        memory.execute(f"CREATE VIRTUAL TABLE passages USING fts5 (text, tokenize = '{TOKENIZER}')")
        plain = (text.replace(MARK, " ").replace(END_MARK, " ") for text in texts)
        memory.executemany(
            "INSERT INTO passages (rowid, text) VALUES (?, ?)",
            ((at, spaced(text)) for at, text in enumerate(plain)),
        )
        totals: dict[int, float] = defaultdict(float)
        for term, weight in weights.items():
            for (at,) in memory.execute("SELECT rowid FROM passages WHERE passages MATCH ?", (term,)):
                totals[at] += weight
        if not totals:
            return 0, []
        best = min(totals, key=lambda at: (-totals[at], at))
        (marked,) = memory.execute(
            "SELECT highlight(passages, 0, ?, ?) FROM passages WHERE passages MATCH ? AND rowid = ?",
            (MARK, END_MARK, " OR ".join(weights), best),
        ).fetchone()
    finally:
        memory.close()
    return best, _marks(marked, texts[best])


def _marks(marked: str, text: str) -> list[tuple[int, int]]:
    """Return where the marks stand in the text, which has none of them and none of the spaces that were put in."""
    found: list[tuple[int, int]] = []
    first = at = 0
    for character in marked:
        if character == MARK:
            first = at
        elif character == END_MARK:
            found.append((first, at))
        elif at < len(text) and (character == text[at] or text[at] in (MARK, END_MARK)):
            at += 1
    return found
