"""Answering searches: encode the queries together, ask the store, shape what was found, fetch the documents."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from server.fusion import DEPTH
from server.hybrid import NO_WORDS, WordMatch, begin_words, with_words
from server.metadata import value_at
from server.queries import DEEPER, Answer, Hit, Query
from server.ranking import diverse, first_of_each
from server.settings import IndexSettings
from server.store import DocumentHit, Found, LocalStore

MOST_LOOKED_AT = 4096
"""Documents that a grouped search looks at before it says that there are no more groups."""

POOLED = 1.5
"""Candidates of a hybrid search for each document whose place by meaning counts: the leading ones have to be exact, and
they have the pool of a search without words."""

SCORED_AT = (64, 128, 256, 512)
"""Lengths at which `explain` tells a hit's score, beside the whole one."""


@dataclass(frozen=True)
class _Asked:
    """Searches that were checked."""

    vectors: Float32  # (n_queries, dim), unit length; anything where a text is yet to be encoded
    texts: list[str]
    positions: list[int]  # whose texts these are
    warnings: list[list[str]]  # of each search


@dataclass(frozen=True)
class _Selected:
    """What a filter lets through."""

    rows: RowSelection | None  # None: everything
    took_s: float


@dataclass(frozen=True)
class _Way:
    """How a query is searched for; those of one way are searched for together."""

    n_documents: int
    enough: int  # documents; fewer than n_documents will do where there are as many
    mode: Mode
    reach: Reach  # its oversample: candidates for each document that is enough
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
        asked = self._checked(queries)
        filters = {query.filter_key: query.filter for query in queries}
        selected = {key: self._selected(each) for key, each in filters.items()}
        begun = {
            at: begin_words(self.store, query.text, selected[query.filter_key].rows, self._is_new(query.text))
            for at, query in enumerate(queries)
            if query.hybrid is not None and query.text is not None
        }
        started = time.perf_counter()
        vectors = self._encoded(asked)
        encode_s = time.perf_counter() - started
        together: dict[_Way, list[int]] = {}
        for at, query in enumerate(queries):
            together.setdefault(self._way(query), []).append(at)
        answers: dict[int, Answer] = {}
        for way, members in together.items():
            selection = selected[way.filter_key].rows
            allowed = None if selection is None else selection.bitmap
            results = self._found(vectors[members], way, allowed)
            if way.mode is Mode.TWO_PASS and allowed is None:
                leading = [replace(each, hits=each.hits[: way.enough]) for each in results]
                self._notice(self.store, vectors[members], leading)
            for at, found in zip(members, results, strict=True):
                query, words, words_s = queries[at], NO_WORDS, 0.0
                if query.hybrid is not None and query.text is not None:
                    n = query.n_wanted if query.takes_the_first else None
                    both = with_words(self.store, query.text, vectors[at], found, query.hybrid, begun[at], n)
                    found, words, words_s = both.found, both.words, both.took_s
                answer = self._answer(query, vectors[at], found, way, allowed, words)
                answers[at] = replace(
                    answer,
                    encode_s=encode_s,
                    filter_s=selected[way.filter_key].took_s,
                    words_s=words_s,
                    n_allowed=None if selection is None else selection.n_selected,
                    warnings=asked.warnings[at] + answer.warnings,
                )
        return [answers[at] for at in range(len(queries))]

    def _way(self, query: Query) -> _Way:
        """Decide how far to look."""
        n = query.n_looked_at
        n_documents = n if query.hybrid is None else max(n, DEPTH)
        index = self.store.index
        if query.oversample is not None:
            reach = index.reach(query.oversample)
        elif query.target_recall is not None:
            reach = index.reach_for(query.target_recall, self.index.oversample)
        else:
            reach = index.reach(max(self.index.oversample, index.oversample))
        max_read = self.index.max_read if query.max_read is None else query.max_read
        # Who names a pool gets it read.
        read_all = query.oversample is not None
        return _Way(n_documents, n, query.mode, reach, max_read, read_all, query.filter_key)

    def _selected(self, wanted: Filter | None) -> "_Selected":
        started = time.perf_counter()
        if wanted is None:
            return _Selected(None, 0.0)
        rows = self.store.catalog.filtering.rows(self.store.generation, wanted)
        return _Selected(rows, time.perf_counter() - started)

    def _found(self, vectors: Float32, way: _Way, allowed: Any) -> list[Found]:
        oversample = way.reach.oversample
        if way.n_documents > way.enough:
            oversample = max(oversample * way.enough / way.n_documents, POOLED)
        return self.store.search(
            vectors, way.n_documents, way.mode, oversample, self.index.min_candidates, way.max_read, way.read_all,
            allowed, way.reach.n_probes, way.enough,
        )  # fmt: skip

    def _checked(self, queries: Sequence[Query]) -> "_Asked":
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
        return _Asked(vectors, texts, positions, warnings)

    def _is_new(self, text: str) -> bool:
        return self.encoder is not None and not self.encoder.query_is_known(text)

    def _encoded(self, asked: "_Asked") -> Float32:
        if asked.texts and self.encoder is not None:
            asked.vectors[asked.positions] = self.encoder.encode_queries(asked.texts)
        return asked.vectors

    def _vector_of(self, identifier: str) -> Float32:
        """The mean of a stored document's passages, (dim,), unit length."""
        rows = self.store.catalog.rows_of(self.store.generation, identifier)
        rows = [row for row in rows if row not in self.store.damage.rows]
        if not rows:
            raise NotFoundError(f"there is no document with the id {identifier!r} that searches know")
        mean: Float32 = self.store.vectors(rows).mean(axis=0, keepdims=True)
        unit: Float32 = normalise(mean)[0]
        return unit

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
            n_documents = way.n_documents * DEEPER
            way = replace(way, n_documents=n_documents, enough=n_documents)
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
        return Answer(hits, found, certified, 0.0, 0.0, 0.0, fetch_s, reach, None, warnings)

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
    if query.hybrid is not None:
        return (
            "an order by meaning and words can't be proved: set hybrid to false, or leave mode certified out"
        )
    return (
        f"{found.n_proved} of {query.n_wanted} hits are proved; {found.rows_read} full vectors were read, and others "
        "could still be better than the rest: raise max_read, or use mode exact"
    )
