"""Answering searches: encode the queries together, ask the store, fetch the documents found."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.two_pass import Mode
from index.vectors import Float32
from server.checks import check_utf8, unit_vector
from server.encoders.encoder import Encoder
from server.errors import InputError, NoEncoderError
from server.records import Document
from server.settings import IndexSettings
from server.store import DocumentHit, Found, LocalStore


@dataclass(frozen=True)
class Query:
    """One search; exactly one of text and vector."""

    text: str | None = None
    vector: Float32 | None = None  # (dim,), any length other than zero
    k: int = 10
    mode: Mode = Mode.TWO_PASS
    oversample: float | None = None  # None: the setting, or more where the first pass was measured to need it
    score_threshold: float | None = None
    with_vectors: bool = False
    max_read: int | None = None  # full vectors that mode certified reads at most; None: the setting
    where: str = ""  # what stands before a field's name in an error: "searches[3]." in a batch


@dataclass(frozen=True)
class Hit:
    """A document found, with its best passage."""

    document: Document
    at: DocumentHit
    rank: int  # from 1
    vector: Float32 | None  # (dim,), of the passage


@dataclass(frozen=True)
class Answer:
    """What a search found and how. Times in seconds; a batch shares its encoding and its passes."""

    hits: list[Hit]
    found: Found
    certified: bool
    encode_s: float
    fetch_s: float
    warnings: list[str]


class Searches:
    """Answers searches over a store. Any number of threads at once."""

    def __init__(self, store: LocalStore, encoder: Encoder | None, index: IndexSettings) -> None:
        self.store = store
        self.encoder = encoder
        self.index = index

    def search(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer searches, encoding their texts together.

        Raises InputError (`where` names the field, and in a batch the search) or EncoderError.
        """
        started = time.perf_counter()
        vectors, warnings = self._query_vectors(queries)
        encode_s = time.perf_counter() - started
        found: dict[int, Found] = {}
        alike: dict[tuple[int, Mode, float, int, bool], list[int]] = {}
        enough = max(self.index.oversample, self.store.index.oversample)
        for at, query in enumerate(queries):
            oversample = enough if query.oversample is None else query.oversample
            max_read = self.index.max_read if query.max_read is None else query.max_read
            read_all = query.oversample is not None  # who names a pool gets it read
            alike.setdefault((query.k, query.mode, oversample, max_read, read_all), []).append(at)
        for (k, mode, oversample, max_read, read_all), members in alike.items():
            results = self.store.search(
                vectors[members], k, mode, oversample, self.index.min_candidates, max_read, read_all
            )
            found.update(zip(members, results, strict=True))
        return [self._answer(query, found[at], encode_s, warnings[at]) for at, query in enumerate(queries)]

    def _query_vectors(self, queries: Sequence[Query]) -> tuple[Float32, list[list[str]]]:
        vectors = np.empty((len(queries), self.store.shape.dim), np.float32)
        warnings: list[list[str]] = [[] for _ in queries]
        texts: list[str] = []
        positions: list[int] = []
        for at, query in enumerate(queries):
            where = query.where
            if (query.text is None) == (query.vector is None):
                raise InputError("a search needs either query or vector", f"{where}query")
            if query.vector is not None:
                vectors[at] = unit_vector(query.vector, self.store.shape.dim, f"{where}vector")
            elif query.text is not None:
                check_utf8(query.text, f"{where}query")
                if not query.text.strip():
                    raise InputError("the query is empty", f"{where}query", "Say what to search for.")
                if self.encoder is None:
                    raise NoEncoderError("this server has no model to encode a query", f"{where}query")
                if not self.encoder.query_fits(query.text):
                    warnings[at].append(
                        f"the query is longer than the {self.encoder.fingerprint.max_tokens} tokens that the "
                        "model reads; its end was not used"
                    )
                texts.append(query.text)
                positions.append(at)
        if texts and self.encoder is not None:
            vectors[positions] = self.encoder.encode_queries(texts)
        return vectors, warnings

    def _answer(self, query: Query, found: Found, encode_s: float, warnings: list[str]) -> Answer:
        started = time.perf_counter()
        least = -np.inf if query.score_threshold is None else query.score_threshold
        at = [hit for hit in found.hits if hit.score >= least]
        documents = self.store.documents([hit.document for hit in at])
        vectors: Sequence[Float32 | None] = [None] * len(at)
        if query.with_vectors:
            vectors = list(self.store.vectors([hit.row for hit in at]))
        hits = [
            Hit(documents[hit.document], hit, rank, vector)
            for rank, (hit, vector) in enumerate(zip(at, vectors, strict=True), 1)
            if hit.document in documents
        ]
        fetch_s = time.perf_counter() - started
        # A document whose vector is lost could have been the better one.
        certified = found.certified and not self.store.damage.rows
        if query.mode is Mode.CERTIFIED and not found.certified:
            warnings = [*warnings, _why_not_proved(query, found)]
        return Answer(hits, found, certified, encode_s, fetch_s, warnings)


def _why_not_proved(query: Query, found: Found) -> str:
    return (
        f"{found.n_proved} of {query.k} hits are proved; {found.rows_read} full vectors were read, and others could "
        "still be better than the rest: raise max_read, or use mode exact"
    )
