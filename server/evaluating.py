"""Recall measured on the collection's own vectors, as a job: of the index as it serves, and of what it could be."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from index.curve import (
    OVERSAMPLES,
    Curve,
    Queries,
    Serving,
    draw_rows,
    measure_forms,
    serving,
    stored_queries,
    true_rows,
)
from index.two_pass import pool_size
from index.vectors import Float32
from server.checks import check_utf8, unit_vector
from server.errors import ConflictError, InputError, NoEncoderError
from server.job_threads import JobThreads
from server.jobs import Job, Jobs
from server.live import Live
from server.quality import measure_quality
from server.recall_history import RecallHistory, first_pass_in, told_share
from server.records import RecallPoint
from server.settings import IndexSettings

ROWS_TRIED = 100_000
"""Rows on which other forms are tried, at most. More would take longer and not other codes: recall falls slowly with
the number of rows."""

FEWEST = 20  # passages; below, ten neighbours are half of all there is

Use = Callable[[], AbstractContextManager[Live]]

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    sample: int = 200  # stored passages searched for, each left out of its own answers
    k: int = 10
    texts: list[str] = field(default_factory=list)  # searched for instead of stored passages
    vectors: list[Float32] = field(default_factory=list)  # likewise; each (dim,), any length
    quality: bool = False  # instead: known items

    def told(self) -> dict[str, Any]:
        """Return it as JSON, without anybody's words."""
        given = len(self.texts) + len(self.vectors)
        return {"sample": self.sample, "k": self.k, "queries": given, "quality": self.quality}


class Evaluating:
    """Runs one evaluation at a time, in a thread of its own that stands back behind searches."""

    def __init__(self, jobs: Jobs, use: Use, settings: IndexSettings, history: RecallHistory) -> None:
        """`use` lends what serves now."""
        self._use = use
        self._settings = settings
        self._history = history
        self._threads = JobThreads(jobs, "an evaluation")

    def begin(self, wanted: Wanted) -> Job:
        """Begin to measure; returns as soon as the queries are checked and encoded.

        Raises:
            ConflictError: an evaluation is under way, or there are too few passages.
            InputError, EncoderError: a query can't be used.
            StoppingError: the server is shutting down.
        """
        with self._use() as live:
            if live.store.index.n_live < FEWEST:
                raise ConflictError(
                    f"there are {live.store.index.n_live} passages, too few to measure anything; it takes {FEWEST}",
                    "Store more documents first.",
                )
            if wanted.quality and live.encoder is None:
                raise NoEncoderError("this server has no model to encode questions", "quality")
            given = _given(live, wanted)
        job = Job("evaluate", wishes=wanted.told())
        return self._threads.begin(job, lambda stop: self._measure(job, wanted, given, stop))

    def stop(self) -> None:
        """Ask what is under way to end."""
        self._threads.stop()

    def close(self) -> None:
        """Stop and wait."""
        self._threads.close()

    def _measure(self, job: Job, wanted: Wanted, given: Float32 | None, stop: Stop) -> dict[str, Any] | None:
        """Return the job's result; None if it was stopped."""
        started = time.perf_counter()
        with self._use() as live:
            if wanted.quality:
                quality = measure_quality(live, self._settings, wanted.sample, stop, job.progress)
                told = quality and {"quality": quality}
            else:
                told = self._measure_recall(live, job, wanted, given, stop)
        return told and told | {"seconds": round(time.perf_counter() - started, 1)}

    def _measure_recall(
        self, live: Live, job: Job, wanted: Wanted, given: Float32 | None, stop: Stop
    ) -> dict[str, Any] | None:
        began_at = time.time()
        index = live.store.index
        first_pass = first_pass_in(live.store, self._settings)
        prefixes, vectors = index.snapshot()
        rows = draw_rows(prefixes, ROWS_TRIED)
        if given is None:
            queries = stored_queries(vectors, rows, wanted.sample)
        else:
            queries = Queries(given, np.full(len(given), -1, np.int64))
        true = true_rows(vectors.blocks(0, prefixes.n_rows), prefixes, queries, wanted.k, stop, job.progress)
        if true is None:
            return None
        oversample = max(self._settings.oversample, index.oversample)
        n_candidates = pool_size(wanted.k, oversample, self._settings.min_candidates, prefixes.n_live)
        found = serving(index, queries, wanted.k, n_candidates, true, stop)
        is_as_it_was = index.snapshot()[0] is prefixes
        if found is None:
            return None
        curve = measure_forms(vectors, rows, queries, wanted.k, stop, job.progress)
        if curve is None:
            return None
        n = len(queries.rows)
        if is_as_it_was:
            self._history.add(
                RecallPoint(
                    source="evaluation", queries="stored" if given is None else "given", began_at=began_at,
                    ended_at=time.time(), searches=n, k=wanted.k, in_pool=found.pool_recall * n, found=found.recall * n,
                    passages=prefixes.n_live, first_pass=first_pass,
                )
            )  # fmt: skip
        return {
            "k": wanted.k,
            "queries": n,
            "from": "stored passages" if given is None else "the request",
            "passages": prefixes.n_live,
            "serving": {
                "first_pass": prefixes.plan.told(),
                "oversample": oversample,
                "candidates": n_candidates,
                **_told_serving(found, index.row_bytes),
            },
            "curve": _told_curve(curve, wanted.k, index.row_bytes),
            "warnings": []
            if is_as_it_was
            else [
                "documents came or went meanwhile: the recall as it serves may be off by those, and isn't kept in the "
                "history of recall"
            ],
        }


def _given(live: Live, wanted: Wanted) -> Float32 | None:
    """The request's own queries, (n, dim) of unit length; None without any."""
    dim = live.store.shape.dim
    vectors = [unit_vector(each, dim, f"vectors[{at}]") for at, each in enumerate(wanted.vectors)]
    for at, text in enumerate(wanted.texts):
        check_utf8(text, f"queries[{at}]")
        if not text.strip():
            raise InputError("the query is empty", f"queries[{at}]")
    if wanted.texts:
        if live.encoder is None:
            raise NoEncoderError("this server has no model to encode a query", "queries[0]")
        vectors += list(live.encoder.encode_queries(wanted.texts))
    return np.stack(vectors) if vectors else None


def _told_serving(found: Serving, row_bytes: int) -> dict[str, Any]:
    n = len(found.took_s)
    p50, p90 = np.percentile(found.took_s * 1e3, [50, 90])
    return {
        "pool_recall": told_share(found.pool_recall, n),
        "recall": told_share(found.recall, n),
        "p50_ms": round(float(p50), 3),
        "p90_ms": round(float(p90), 3),
        "rows_read": round(found.rows_read, 1),
        "bytes_read": round(found.rows_read * row_bytes),
    }


def _told_curve(curve: Curve, k: int, row_bytes: int) -> dict[str, Any]:
    return {
        "passages": curve.n_rows,
        "memory_bytes": curve.memory_bytes,
        "bytes_read": {str(each): min(each * k, curve.n_rows) * row_bytes for each in OVERSAMPLES},
        "forms": [
            {
                "order": form.order.value,
                "codec": form.codec.value,
                "prefix_dim": form.prefix_dim,
                "row_bytes": form.row_bytes,
                "scan_ms": round(form.scan_ms, 3),
                "recall": {
                    str(each): round(share, 5) for each, share in zip(OVERSAMPLES, form.recall, strict=True)
                },
            }
            for form in curve.forms
        ],
    }
