"""One question to the full-text index, scored by BM25 in one pass or two.

BM25 over all documents that have one of the words would take 1.3 µs for each of them: 0.1 s for an ordinary question
to 300 000 short texts, 0.36 s at worst. So there are two passes here as well. The first takes the rarest words, as
many as stand in SCORED documents, and besides what has the next one together with one of the two that follow. The
second scores the best of those with all words, as far as these stand in no more than SCANNED documents. Where all of
them stand in no more than SCORED documents, one pass is enough, and the order is BM25's own.
"""

import json
import sqlite3
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

SCORED = 2_000
"""Documents that the first pass scores, twice: 3 ms each. One with two of the words counts twice, here and below."""

MOST_SCORED = 20_000
"""Documents that the first pass looks at where a selection leaves most of them out, or where there is but one word."""

SCANNED = 100_000
"""Documents that the second pass goes through: 10 ms."""

SECOND_PASS = 400
"""Documents that reach the second pass from each part of the first; or as many as are asked for."""

FEW = 2_000
"""A selection of so few documents is told to SQLite as a list, and scored in one pass."""

# The + keeps SQLite from asking the index for one document after another, and an order by `rank` instead of the score
# would have all of them scored before the list is looked at.
_AMONG = """
SELECT rowid AS number, -bm25(fulltext) AS score FROM fulltext
WHERE fulltext MATCH ? AND +rowid IN (SELECT value FROM json_each(?)) ORDER BY score DESC, number LIMIT ?
"""
# Only the newest, however many there are: of words that so many documents have, and of no others.
_NEWEST = """
SELECT number, score FROM (
    SELECT rowid AS number, CASE WHEN {} THEN -bm25(fulltext) END AS score FROM fulltext
    WHERE fulltext MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?
) WHERE score IS NOT NULL ORDER BY score DESC, number LIMIT ?
"""

Scored = list[tuple[int, float]]
"""Numbers of documents with their scores, best first, ties by number."""


class KeywordSearch:
    """A question's terms, rarest first, and what the answer is restricted to."""

    def __init__(self, connection: sqlite3.Connection, terms: list[str], counts: list[int]) -> None:
        """Begin one.

        Args:
            terms: at least one, as `words.terms` makes them, each of which some document has.
            counts: how many, ascending.
        """
        self._connection = connection
        self._terms = terms
        self._counts = counts
        self._listed: NDArray[np.int64] | None = None  # the only documents that count
        self._marked: bytes | None = None  # or those whose bits are set
        self._behind = 2**63 - 1  # a number above those of all selected documents
        self._share = 1.0  # of the documents below that, that are selected
        self.scoring = terms[: max(1, self._within(SCANNED))]  # what the scores are made of

    def restrict(self, bitmap: NDArray[np.uint8], n_selected: int) -> None:
        """Leave out documents that aren't selected: document n is bit n % 8 of byte n // 8."""
        if n_selected <= FEW:
            self._listed = np.flatnonzero(np.unpackbits(bitmap, bitorder="little"))
        else:
            self._marked = bitmap.tobytes()
            self._behind = 8 * len(bitmap)
            self._share = n_selected / self._behind

    def run(self, limit: int) -> Scored:
        """Return the best documents, up to `limit`."""
        if self._listed is not None:
            return self._among(self._listed.tolist(), limit)
        if self._marked is None:
            return self._passes(limit)
        marked = self._marked
        self._connection.create_function(
            "is_selected", 1, lambda number: marked[number >> 3] >> (number & 7) & 1
        )
        try:
            return self._passes(limit)
        finally:
            self._connection.create_function("is_selected", 1, None)

    def _passes(self, limit: int) -> Scored:
        n_scored = int(min(SCORED / self._share, MOST_SCORED)) if len(self._terms) > 1 else MOST_SCORED
        n_rare = self._within(n_scored)
        depth = max(limit, SECOND_PASS)
        if n_rare == len(self._terms):
            return self._newest(" OR ".join(self._terms), n_scored, limit)
        rare, others = self._terms[:n_rare], self._terms[n_rare:]
        found = self._newest(" OR ".join(rare), n_scored, depth) if rare else []
        candidates = {number for number, _ in found}
        if len(others) > 1:
            together = f"{others[0]} AND ({' OR '.join(others[1:3])})"
            candidates |= {number for number, _ in self._newest(together, n_scored, depth)}
        if len(candidates) < limit:
            candidates |= {number for number, _ in self._newest(others[0], n_scored, depth)}
        return self._among(sorted(candidates), limit)

    def _within(self, limit: int) -> int:
        """Return how many terms, the rarest, stand in no more than `limit` documents together."""
        return sum(total <= limit for total in accumulate(self._counts))

    def _newest(self, expression: str, n_scored: int, limit: int) -> Scored:
        """Return the best of the newest documents that match."""
        statement = _NEWEST.format("1" if self._marked is None else "is_selected(rowid)")
        return self._connection.execute(statement, (expression, self._behind, n_scored, limit)).fetchall()

    def _among(self, documents: list[int], limit: int) -> Scored:
        """Return the best of these documents, by all terms that count."""
        expression = " OR ".join(self.scoring)
        return self._connection.execute(_AMONG, (expression, json.dumps(documents), limit)).fetchall()
