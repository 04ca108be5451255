"""Answering searches: encode the queries together, ask the store, shape what was found, fetch the documents."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from index.calibration import Reach
from index.two_pass import Mode
from index.vectors import Float32, normalise
from server.catalog.selections import RowSelection
from server.checks import check_utf8, unit_vector
from server.conditions import Filter
from server.encoders.encoder import Encoder
from server.errors import InputError, NoEncoderError, NotFoundError
from server.fusion import DEPTH, Fusion, Scored, fuse
from server.metadata import value_at
from server.ranking import diverse, first_of_each
from server.records import Document
from server.settings import IndexSettings
from server.store import DocumentHit, Found, LocalStore

DEEPER = 4
"""Documents looked at for each one wanted, where some will be passed over: members of a group, likenesses."""

MOST_LOOKED_AT = 4096
"""Documents that a grouped search looks at before it says that there are no more groups."""

SCORED_AT = (64, 128, 256, 512)
"""Lengths at which `explain` tells a hit's score, beside the whole one."""


@dataclass(frozen=True)
class Hybrid:
    """That exact words count too, and how."""

    method: Fusion = Fusion.RRF
    weight: float | None = None  # what the words count, 0 to 1; None: as the method was tried best


@dataclass(frozen=True)
class WordMatch:
    """What words did for a hit of a hybrid search."""

    score: float | None  # BM25; None: it has none of the words, or isn't among the best
    rank: int | None  # among the documents by words, from 1
    meaning_rank: int | None  # among the documents by meaning, from 1
    fused: float  # what the hits are ordered by


@dataclass(frozen=True)
class Query:
    """One search; exactly one of text, vector and like."""

    text: str | None = None
    vector: Float32 | None = None  # (dim,), any length other than zero
    like: str | None = None  # the id of a document: others like it are wanted
    k: int = 10
    offset: int = 0  # hits passed over, before the k that are wanted
    mode: Mode = Mode.TWO_PASS
    oversample: float | None = None  # None: the setting, or more where the first pass was measured to need it
    target_recall: float | None = None  # None: the setting's; else the pool that was measured to reach this
    filter: Filter | None = None
    score_threshold: float | None = None
    group_by: str | None = None  # a path in the metadata, of whose values each is to be found once
    hybrid: Hybrid | None = None
    mmr: float | None = None  # diversity, from 0 (none) to 1
    with_vectors: bool = False
    explain: bool = False
    max_read: int | None = None  # full vectors that mode certified reads at most; None: the setting
    where: str = ""  # what stands before a field's name in an error: "searches[3]." in a batch

    @property
    def n_wanted(self) -> int:
        """Hits up to the last that is asked for."""
        return self.offset + self.k


@dataclass(frozen=True)
class Hit:
    """A document found, with its best passage."""

    document: Document
    at: DocumentHit
    rank: int  # from 1
    vector: Float32 | None  # (dim,), of the passage
    scores: dict[int, float] = field(default_factory=dict)  # by leading dimensions, where that was asked for
    words: WordMatch | None = None  # of a hybrid search


@dataclass(frozen=True)
class Answer:
    """What a search found and how. Times in seconds; a batch shares its encoding and its passes."""

    hits: list[Hit]
    found: Found
    certified: bool
    encode_s: float
    filter_s: float
    fetch_s: float
    reach: Reach  # how far the first pass looked, and what was measured of that
    n_allowed: int | None  # passages that the filter lets through
    warnings: list[str]


@dataclass(frozen=True)
class _Way:
    """How a query is searched for; those of one way are searched for together."""

    n_documents: int
    mode: Mode
    reach: Reach
    max_read: int
    read_all: bool
    filter_key: str


class Searches:
    """Answers searches over a store. Any number of threads at once."""

    def __init__(
        self,
        store: LocalStore,
        encoder: Encoder | None,
        index: IndexSettings,
        notice: Callable[[LocalStore, Float32, Sequence[Found]], None] = lambda store, vectors, found: None,
    ) -> None:
        """`notice` is told of every search by both passes over all documents: its vectors, and what was found."""
        self._notice = notice
        self.store = store
        self.encoder = encoder
        self.index = index

    def search(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer searches, encoding their texts together.

        Raises InputError (`where` names the field, and in a batch the search), NotFoundError or EncoderError.
        """
        started = time.perf_counter()
        vectors, warnings = self._query_vectors(queries)
        encode_s = time.perf_counter() - started
        together: dict[_Way, list[int]] = {}
        for at, query in enumerate(queries):
            together.setdefault(self._way(query), []).append(at)
        answers: dict[int, Answer] = {}
        for way, members in together.items():
            started = time.perf_counter()
            wanted = queries[members[0]].filter
            selection = None
            if wanted is not None:
                selection = self.store.catalog.filtering.rows(self.store.generation, wanted)
            filter_s = time.perf_counter() - started
            allowed = None if selection is None else selection.bitmap
            results = self._found(vectors[members], way, allowed)
            if way.mode is Mode.TWO_PASS and allowed is None:
                self._notice(self.store, vectors[members], results)
            for at, found in zip(members, results, strict=True):
                words: dict[int, WordMatch] = {}
                if (hybrid := queries[at].hybrid) is not None:
                    found, words = self._with_words(queries[at], hybrid, vectors[at], found, selection)
                answer = self._answer(queries[at], vectors[at], found, way, allowed, words)
                answers[at] = replace(
                    answer,
                    encode_s=encode_s,
                    filter_s=filter_s,
                    n_allowed=None if selection is None else selection.n_selected,
                    warnings=warnings[at] + answer.warnings,
                )
        return [answers[at] for at in range(len(queries))]

    def _way(self, query: Query) -> _Way:
        """Decide how far to look."""
        n = query.n_wanted + (query.like is not None)
        if query.mmr is not None or query.group_by is not None:
            n *= DEEPER
        if query.hybrid is not None:
            n = max(n, DEPTH)
        index = self.store.index
        if query.oversample is not None:
            reach = index.reach(query.oversample)
        elif query.target_recall is not None:
            reach = index.reach_for(query.target_recall, self.index.oversample)
        else:
            reach = index.reach(max(self.index.oversample, index.oversample))
        max_read = self.index.max_read if query.max_read is None else query.max_read
        # Who names a pool gets it read.
        filter_key = "" if query.filter is None else query.filter.key
        return _Way(n, query.mode, reach, max_read, query.oversample is not None, filter_key)

    def _found(self, vectors: Float32, way: _Way, allowed: Any) -> list[Found]:
        return self.store.search(
            vectors, way.n_documents, way.mode, way.reach.oversample, self.index.min_candidates, way.max_read,
            way.read_all, allowed, way.reach.n_probes,
        )  # fmt: skip

    def _query_vectors(self, queries: Sequence[Query]) -> tuple[Float32, list[list[str]]]:
        vectors = np.empty((len(queries), self.store.shape.dim), np.float32)
        warnings: list[list[str]] = [[] for _ in queries]
        texts: list[str] = []
        positions: list[int] = []
        for at, query in enumerate(queries):
            where = query.where
            if query.hybrid is not None and query.text is None:
                raise InputError(
                    "a hybrid search needs words", f"{where}query", "Give query, or leave hybrid out."
                )
            if (query.text is not None) + (query.vector is not None) + (query.like is not None) != 1:
                raise InputError("a search needs one of query, vector and like", f"{where}query")
            if query.vector is not None:
                vectors[at] = unit_vector(query.vector, self.store.shape.dim, f"{where}vector")
            elif query.like is not None:
                vectors[at] = self._vector_of(query.like)
            elif query.text is not None:
                check_utf8(query.text, f"{where}query")
                if not query.text.strip():
                    raise InputError("the query is empty", f"{where}query", "Say what to search for.")
                if self.encoder is None:
                    raise NoEncoderError("this server has no model to encode a query", f"{where}query")
                if not self.encoder.query_fits(query.text):
                    warnings[at].append(
                        f"the query is longer than the {self.encoder.max_tokens} tokens that the "
                        "model reads; its end was not used"
                    )
                texts.append(query.text)
                positions.append(at)
        if texts and self.encoder is not None:
            vectors[positions] = self.encoder.encode_queries(texts)
        return vectors, warnings

    def _vector_of(self, identifier: str) -> Float32:
        """The mean of a stored document's passages, (dim,), unit length."""
        rows = self.store.catalog.rows_of(self.store.generation, identifier)
        rows = [row for row in rows if row not in self.store.damage.rows]
        if not rows:
            raise NotFoundError(f"there is no document with the id {identifier!r} that searches know")
        mean: Float32 = self.store.vectors(rows).mean(axis=0, keepdims=True)
        unit: Float32 = normalise(mean)[0]
        return unit

    def _with_words(
        self, query: Query, hybrid: Hybrid, vector: Float32, found: Found, selection: RowSelection | None
    ) -> tuple[Found, dict[int, WordMatch]]:
        """Fuse what was found by meaning with what the words find; every hit's score stays its cosine."""
        generation, fulltext = self.store.generation, self.store.catalog.fulltext
        question = query.text or ""
        by_words = fulltext.search(question, DEPTH, generation, selection)
        hits = {hit.document: hit for hit in found.hits}
        more = [number for number in by_words.documents.tolist() if number not in hits]
        passages = fulltext.best_passages(question, generation, more) if more else {}
        rows = [each.row for each in passages.values() if each.row not in self.store.damage.rows]
        cosines = dict(zip(rows, (self.store.vectors(rows) @ vector).tolist(), strict=True)) if rows else {}
        for number, each in passages.items():
            if each.row in cosines:
                hits[number] = DocumentHit(
                    number, each.start, each.end, each.row, cosines[each.row], None, None
                )
        dense = Scored(np.array(list(hits), np.int64), np.array([hit.score for hit in hits.values()]))
        fused = fuse(dense, Scored(by_words.documents, by_words.scores), hybrid.method, hybrid.weight)
        bm25 = dict(zip(by_words.documents.tolist(), by_words.scores.tolist(), strict=True))
        words = {
            number: WordMatch(bm25.get(number), keyword_rank or None, dense_rank or None, score)
            for number, score, dense_rank, keyword_rank in zip(
                fused.ids.tolist(), fused.scores.tolist(), fused.dense_ranks.tolist(), fused.keyword_ranks.tolist(),
                strict=True,
            )
        }  # fmt: skip
        ordered = [hits[number] for number in fused.ids.tolist() if number in hits]
        return replace(found, hits=ordered, certified=False, n_proved=0), words

    def _answer(
        self,
        query: Query,
        vector: Float32,
        found: Found,
        way: _Way,
        allowed: Any,
        words: dict[int, WordMatch],
    ) -> Answer:
        started = time.perf_counter()
        shaped = self._shaped(query, found)
        can_deepen = query.group_by is not None and query.hybrid is None
        while len(shaped) < query.n_wanted and can_deepen and self._is_more(found, way):
            way = replace(way, n_documents=way.n_documents * DEEPER)
            (found,) = self._found(vector[None], way, allowed)
            shaped = self._shaped(query, found)
        at = shaped[query.offset : query.n_wanted]
        documents = self.store.documents([hit.document for hit in at])
        vectors: Sequence[Float32 | None] = [None] * len(at)
        if (query.with_vectors or query.explain) and at:
            vectors = list(self.store.vectors([hit.row for hit in at]))
        hits = [
            Hit(
                documents[hit.document], hit, rank, own if query.with_vectors else None,
                scores_by_length(own, vector) if query.explain and own is not None else {},
                words.get(hit.document),
            )
            for rank, (hit, own) in enumerate(zip(at, vectors, strict=True), query.offset + 1)
            if hit.document in documents
        ]  # fmt: skip
        is_plain = query.group_by is None and query.mmr is None and query.like is None
        # A document whose vector is lost could have been the better one.
        certified = is_plain and found.certified and not self.store.damage.rows
        warnings = []
        if query.mode is Mode.CERTIFIED and not found.certified:
            warnings.append(_why_not_proved(query, found))
        reach = way.reach if query.mode is Mode.TWO_PASS else replace(way.reach, recall=None)
        target = query.target_recall
        if target is not None and reach.recall is not None and reach.recall < target:
            warnings.append(
                f"target_recall {target} isn't reached: the most that was measured is {reach.recall:.4f}"
            )
        fetch_s = time.perf_counter() - started
        return Answer(hits, found, certified, 0.0, 0.0, fetch_s, reach, None, warnings)

    def _shaped(self, query: Query, found: Found) -> list[DocumentHit]:
        """The hits in the order of the answer: without those below the threshold, grouped, made diverse."""
        least = -math.inf if query.score_threshold is None else query.score_threshold
        hits = [hit for hit in found.hits if hit.score >= least]
        if query.like is None and query.group_by is None and query.mmr is None:
            return hits
        documents = self.store.documents([hit.document for hit in hits])
        hits = [hit for hit in hits if hit.document in documents and documents[hit.document].id != query.like]
        if query.group_by is not None:
            groups = [value_at(documents[hit.document].metadata, query.group_by) for hit in hits]
            hits = [hits[place] for place in first_of_each(groups, len(hits))]
        if query.mmr is not None and hits:
            vectors = self.store.vectors([hit.row for hit in hits])
            places = diverse([hit.score for hit in hits], vectors, query.n_wanted, query.mmr)
            hits = [hits[place] for place in places]
        return hits

    def _is_more(self, found: Found, way: _Way) -> bool:
        """Whether looking deeper could find other documents."""
        return len(found.hits) == way.n_documents and way.n_documents < MOST_LOOKED_AT


def scores_by_length(stored: Float32, query: Float32) -> dict[int, float]:
    """Return the cosine of the leading dimensions, re-normalised, of a stored vector and a query, both (dim,)."""
    return dict(_cosines(stored, query))


def _cosines(stored: Float32, query: Float32) -> Iterator[tuple[int, float]]:
    for length in (*(each for each in SCORED_AT if each < len(stored)), len(stored)):
        product = float(np.linalg.norm(stored[:length]) * np.linalg.norm(query[:length]))
        yield length, float(stored[:length] @ query[:length]) / product if product else 0.0


def _why_not_proved(query: Query, found: Found) -> str:
    return (
        f"{found.n_proved} of {query.n_wanted} hits are proved; {found.rows_read} full vectors were read, and others "
        "could still be better than the rest: raise max_read, or use mode exact"
    )
