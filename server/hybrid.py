"""Hybrid searches: what was found by meaning, fused with what the question's words find."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from index.vectors import Float32
from server.catalog.fulltext import KeywordHits
from server.catalog.selections import RowSelection
from server.fusion import DEPTH, Fusion, Scored, fuse
from server.store import DocumentHit, Found, LocalStore


@dataclass(frozen=True)
class Hybrid:
    """That exact words count too, and how."""

    method: Fusion = Fusion.WEIGHTED
    weight: float | None = None  # what the words count, 0 to 1; None: as the method was tried best


@dataclass(frozen=True)
class WordMatch:
    """What words did for a hit of a hybrid search."""

    score: float | None  # BM25; None: it has none of the words, or isn't among the best
    rank: int | None  # among the documents by words, from 1
    meaning_rank: int | None  # among the documents by meaning, from 1
    fused: float  # what the hits are ordered by


@dataclass(frozen=True)
class WithWords:
    """A question's answer by meaning and words."""

    found: Found  # in the fused order; every hit's score is its cosine
    words: dict[int, WordMatch]  # by document
    took_s: float  # with the wait for the words, as far as the meaning was found sooner


NO_WORDS: dict[int, WordMatch] = {}


def begin_words(
    store: LocalStore, question: str, selection: RowSelection | None, at_once: bool
) -> Callable[[], KeywordHits]:
    """Return what finds the question's words.

    Args:
        selection: rows whose documents may be found; None: all.
        at_once: have them looked for in another thread while the model encodes. Where its vector is at hand both
            would only take the interpreter from each other: 8.5 ms instead of 5.8.
    """
    search = partial(store.catalog.fulltext.search, question, DEPTH, store.generation, selection)
    return store.catalog.fulltext.begin(search).result if at_once else search


def with_words(
    store: LocalStore,
    question: str,
    vector: Float32,
    found: Found,
    hybrid: Hybrid,
    look: Callable[[], KeywordHits],
    n: int | None = None,
) -> WithWords:
    """Fuse what was found by meaning with what the words find.

    Documents among the hits that the meaning missed cost a read of a full vector and of a text each.

    Args:
        vector: (dim,), the question's, unit length.
        found: by meaning, DEPTH documents or more where there are as many.
        look: what `begin_words` returned for the question.
        n: documents wanted; None: all that either found.
    """
    started = time.perf_counter()
    by_words = look()
    hits = {hit.document: hit for hit in found.hits}
    dense = Scored(np.array(list(hits), np.int64), np.array([hit.score for hit in hits.values()], np.float64))
    keyword = Scored(by_words.documents, by_words.scores)
    fused = fuse(dense, keyword, by_words.whole, hybrid.method, hybrid.weight)
    leading = fused.ids[:n].tolist()
    missed = [number for number in leading if number not in hits]
    hits |= _found_by_words(store, question, vector, missed)
    scores = dict(zip(by_words.documents.tolist(), by_words.scores.tolist(), strict=True))
    words = {
        number: WordMatch(scores.get(number), keyword_rank or None, dense_rank or None, score)
        for number, score, dense_rank, keyword_rank in zip(
            leading, fused.scores.tolist(), fused.dense_ranks.tolist(), fused.keyword_ranks.tolist(), strict=False
        )
    }  # fmt: skip
    ordered = [hits[number] for number in leading if number in hits]
    rows_read = found.rows_read + len(missed)
    found = replace(found, hits=ordered, rows_read=rows_read, bytes_read=rows_read * store.index.row_bytes)
    if len(by_words.documents):  # else the order is the meaning's, and as certain as before
        found = replace(found, certified=False, n_proved=0)
    return WithWords(found, words, time.perf_counter() - started)


def _found_by_words(
    store: LocalStore, question: str, vector: Float32, documents: Sequence[int]
) -> dict[int, DocumentHit]:
    """Return documents with the passage that has most of the words; without those whose vector is lost."""
    if not documents:
        return {}
    passages = store.catalog.fulltext.best_passages(question, store.generation, documents, marked=False)
    sound = {number: each for number, each in passages.items() if each.row not in store.damage.rows}
    if not sound:
        return {}
    cosines = store.vectors([each.row for each in sound.values()]) @ vector
    return {
        number: DocumentHit(number, each.start, each.end, each.row, cosine, None, None)
        for (number, each), cosine in zip(sound.items(), cosines.tolist(), strict=True)
    }
