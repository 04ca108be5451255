"""What is counted and timed, for Prometheus. The only module, with readings.py, that knows its client library.

Every app has a registry of its own. Requests and searches are counted as they end, which takes microseconds; what the
collection knows anyway is read when somebody asks.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

from server import __version__
from server.collection import Collection
from server.errors import ANSWERS
from server.queries import Answer, Query
from server.readings import Readings

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STAGES = ("encode", "filter", "first_pass", "second_pass", "words", "fetch")
# Seconds. A stage takes 0.1 ms from memory and seconds from a cold slow disk; a request begins where its thread does.
STAGE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CANDIDATES = (10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 102_400, 1_024_000)
HITS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Others are counted together: a client can make up any number of them."""


class Metrics:
    """The counters of one app. Any thread may call any method."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        stage = Histogram(
            "twopass_search_stage_seconds",
            "Time of a search's stages; searches of one batch share them",
            ["stage"],
            registry=registry,
            buckets=STAGE_S,
        )
        self._encode, self._filter, self._first_pass, self._second_pass, self._words, self._fetch = map(
            stage.labels, STAGES
        )
        self._candidates = Histogram(
            "twopass_search_candidates",
            "Passages that the first pass handed to the second",
            registry=registry,
            buckets=CANDIDATES,
        )
        self._hits = Histogram("twopass_search_hits", "Hits of a search", registry=registry, buckets=HITS)
        self._rows_read = Counter("twopass_rows_read", "Full vectors read by searches", registry=registry)
        self._cold_reads = Counter(
            "twopass_cold_reads", "Those of them that were not in the page cache", registry=registry
        )
        self._requests = Histogram(
            "twopass_request_seconds",
            "Time of a request, from its head to the end of its answer",
            ["method", "route", "status"],
            registry=registry,
            buckets=REQUEST_S,
        )
        self._errors = Counter(
            "twopass_errors", "Answers that were errors, by code", ["code"], registry=registry
        )
        # From 0 on: of a series that begins with its first error Prometheus sees no growth, so no alert would come.
        for answer in ANSWERS.values():
            self._errors.labels(answer.code)
        ProcessCollector(registry=registry)

    def watch(self, collection: Collection) -> None:
        """Count a collection's searches from now on, whoever asks for them, and tell how it is."""
        self._registry.register(Readings(collection, __version__))
        collection.on_search(self.searched)

    def told(self) -> bytes:
        """Return everything, in Prometheus's text format; reads the collection's state, so not on the event loop."""
        return generate_latest(self._registry)

    def searched(self, queries: Sequence[Query], answers: Sequence[Answer]) -> None:
        """Hear of searches that were answered together. A stage that a search didn't need isn't counted."""
        for query, answer in zip(queries, answers, strict=True):
            found = answer.found
            if query.text is not None:
                self._encode.observe(answer.encode_s)
            if answer.n_allowed is not None:
                self._filter.observe(answer.filter_s)
            if found.first_pass_s:
                self._first_pass.observe(found.first_pass_s)
            if found.second_pass_s:
                self._second_pass.observe(found.second_pass_s)
            if query.hybrid is not None:
                self._words.observe(answer.words_s)
            self._fetch.observe(answer.fetch_s)
            self._candidates.observe(found.candidates)
            self._hits.observe(len(answer.hits))
            self._rows_read.inc(found.rows_read)
            if found.cold_reads > 0:  # -1: the system can't say
                self._cold_reads.inc(found.cold_reads)

    def answered(self, method: str, route: str | None, status: int, seconds: float, code: str | None) -> None:
        """Hear of a request that was answered. `route` is the template; None: no such path. `code` is an error's."""
        method = method if method in METHODS else "other"
        self._requests.labels(method, route or "none", status).observe(seconds)
        if code is not None:
            self._errors.labels(code).inc()

    def refused(self, code: str) -> None:
        """Hear of a connection that was told no before it had asked anything."""
        self._errors.labels(code).inc()
