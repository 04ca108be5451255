"""Recall as it was measured over time, kept with the collection: a restart forgets none of it.

Whoever measures adds to it. What can't be written is lost and logged: that must hurt nobody who searches.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from index.curve import wilson
from index.errors import IndexFault
from index.plan import Plan
from server.catalog.recall_table import RecallTable
from server.catalog.stored_json import read_json
from server.errors import ServiceError
from server.records import RecallPoint
from server.settings import IndexSettings
from server.store import LocalStore

SAVE_S = 300
"""Between two writes of what the gauge measures: all that a kill can take, and 6 MB a day at most for an SD card."""


class RecallHistory:
    """The points of one collection. Any thread may call any method."""

    def __init__(self, table: RecallTable) -> None:
        self._table = table

    def add(self, point: RecallPoint) -> None:
        """Keep a point, durably; without room for it, or with a catalog that can't be written, it is lost."""
        try:
            self._table.add(point)
        except (IndexFault, ServiceError) as error:
            structlog.get_logger().warning(
                "what was measured of recall can't be kept",
                kind=type(error).__name__,
                searches=point.searches,
            )

    def points(self, limit: int, since: datetime | None = None) -> list[dict[str, Any]]:
        """Return the newest points as JSON, the oldest of them first: those that measured something from `since` on."""
        if since is None:
            return [told_point(each) for each in self._table.newest(limit)]
        is_aware = since.tzinfo is not None
        from_s = (since if is_aware else since.replace(tzinfo=UTC)).timestamp()
        return [told_point(each) for each in self._table.newest(limit, from_s)]


class Gathering:
    """What the gauge has measured and isn't in the history yet. For one thread."""

    def __init__(self, history: RecallHistory) -> None:
        self._history = history
        self._point: RecallPoint | None = None
        self._due = 0.0  # on the monotonic clock: the first search is saved at once

    def add(self, first_pass: str, passages: int, in_pool: float, found: float) -> None:
        """Add one search; of another first pass than those before it, it begins a point of its own."""
        if self._point is not None and self._point.first_pass != first_pass:
            self.save()
        now = time.time()
        new = RecallPoint("gauge", "live", now, now, 1, None, in_pool, found, passages, first_pass)
        self._point = new if self._point is None else total([self._point, new])

    def due_s(self) -> float | None:
        """Return the seconds until it is to be saved; None: there is nothing."""
        return None if self._point is None else max(0.0, self._due - time.monotonic())

    def save_if_due(self) -> None:
        """Hand it to the history, if the last time was long ago."""
        if self.due_s() == 0:
            self.save()

    def save(self) -> None:
        """Hand it to the history now."""
        if self._point is not None:
            self._history.add(self._point)
            self._point = None
            self._due = time.monotonic() + SAVE_S


def first_pass_in(store: LocalStore, settings: IndexSettings) -> str:
    """Return what told_first_pass says of the first pass that serves."""
    index = store.index
    oversample = max(settings.oversample, index.oversample)
    return told_first_pass(store.generation, index.build, index.plan, index.evidence, oversample)


def told_first_pass(
    generation: int, build: int, plan: Plan, evidence: dict[str, Any], oversample: float
) -> str:
    """Return what tells one first pass from another, as JSON: points of the same one can be added up.

    Args:
        evidence: what was measured when it was made; of a backup that was restored, builds are counted anew.
        oversample: candidates for each hit, unless a search asks for others.
    """
    told = {"generation": generation, "build": build, "rows": evidence.get("rows", 0), **plan.told()}
    return json.dumps({**told, "oversample": float(oversample)}, sort_keys=True)


def total(points: Sequence[RecallPoint]) -> RecallPoint:
    """Add up points of one first pass, the oldest first; at least one."""
    return replace(
        points[-1],
        began_at=points[0].began_at,
        searches=sum(each.searches for each in points),
        in_pool=sum(each.in_pool for each in points),
        found=sum(each.found for each in points),
    )


def told_point(point: RecallPoint) -> dict[str, Any]:
    """Return a point as JSON."""
    return {
        "source": point.source,
        "queries": point.queries,
        "began_at": _told_time(point.began_at),
        "ended_at": _told_time(point.ended_at),
        "searches": point.searches,
        "k": point.k,
        "pool_recall": told_share(point.in_pool / point.searches, point.searches),
        "recall": told_share(point.found / point.searches, point.searches),
        "passages": point.passages,
        "first_pass": read_json(point.first_pass, "a first pass of the past"),
    }


def told_share(share: float, n: int) -> dict[str, float]:
    """Return a mean over n searches with its 95 % interval, as JSON."""
    low, high = wilson(share, n)
    return {"mean": round(share, 5), "low": round(low, 5), "high": round(high, 5)}


def _told_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
