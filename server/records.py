"""What goes into the catalog and comes out of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Generation:
    """One set of vectors: what made them, and how many rows are committed."""

    number: int
    fingerprint: str  # JSON
    dim: int
    vector_dtype: str
    n_rows: int


@dataclass(frozen=True)
class DocumentWrite:
    """A document to store, with the passages that its new rows belong to, in the order of the rows."""

    id: str
    text: str | None
    metadata: str  # JSON object, in canonical form
    content_hash: bytes
    own_vector: bool
    passages: Sequence[tuple[int, int]]  # [start, end) in characters


@dataclass(frozen=True)
class Filling:
    """A stored document that gets passages in another generation."""

    number: int
    content_hash: bytes  # what it was when its text was read
    passages: Sequence[tuple[int, int]]  # [start, end) in characters


@dataclass(frozen=True)
class Known:
    """What ingest compares a document with."""

    content_hash: bytes
    metadata: str


Removed = dict[int, NDArray[np.int64]]
"""Rows that died, by generation."""


@dataclass(frozen=True)
class Stored:
    """What one write did."""

    created: int
    updated: int
    removed: Removed  # rows of replaced passages


@dataclass(frozen=True)
class SavedJob:
    """A job as the catalog keeps it."""

    id: str
    type: str
    status: str
    done: int
    total: int
    wishes: str  # JSON object
    result: str | None = None  # JSON object
    error: str | None = None
    created_at: float = field(default_factory=time.time)  # seconds since 1970, UTC


@dataclass(frozen=True)
class InboxDocument:
    """A document that is safe but not encoded yet."""

    number: int  # in the order of arrival; what `add` is given doesn't count
    id: str
    text: str | None
    metadata: str  # JSON object, in canonical form
    vector: bytes | None  # little-endian float32, (dim,), any length other than zero


@dataclass(frozen=True)
class RecallPoint:
    """Recall as it was measured on some searches, added up."""

    source: str  # gauge or evaluation
    queries: str  # live, stored or given
    began_at: float  # seconds since 1970, UTC: when the first of the searches was made again
    ended_at: float  # the last of them
    searches: int
    k: int | None  # nearest that were to be found; None: as many as each search asked for
    in_pool: float  # the sum, over the searches, of the share of them among the candidates
    found: float  # likewise among the hits
    passages: int  # that there were, at the last of the searches
    first_pass: str  # JSON object, in canonical form


@dataclass(frozen=True)
class LiveRows:
    """Rows that have a passage, sorted: (n,) each."""

    rows: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    is_damaged: NDArray[np.bool_]  # found lost by an earlier start and not made again yet


@dataclass(frozen=True)
class PassageRow:
    """Where a row's passage stands."""

    row: int
    document: int
    start: int
    end: int


@dataclass(frozen=True)
class Document:
    """A document as stored."""

    number: int
    id: str
    text: str | None
    metadata: dict[str, Any]
    passages: int
