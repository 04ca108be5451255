"""What goes over the wire. Unknown fields are errors, so that a misspelt option never passes silently."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema
from pydantic_core import core_schema

from index.two_pass import Mode
from index.vectors import Float32


def _packed(numbers: list[float]) -> Float32:
    """Turn each vector into an array as soon as it is read: a batch of Python floats takes six times the memory."""
    with np.errstate(over="ignore"):  # 1e300 becomes infinite, which the service refuses
        return np.array(numbers, np.float32)


Vector = Annotated[
    Float32,
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(
            _packed, handler.generate_schema(list[Annotated[float, Field(strict=True)]])
        )
    ),
]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class _Out(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class DocumentIn(_In):
    id: str | None = None
    """1 to 512 bytes of UTF-8; made by the server when absent. A document that has it is replaced."""
    text: str | None = None
    """Any length; split into passages where the model can't read it in one go."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """A JSON object, returned with the document."""
    vector: Vector | None = None
    """All dimensions, any length other than zero; used as it is (normalised) instead of encoding the text."""


class DocumentsIn(_In):
    documents: list[DocumentIn]


class AddedOut(_Out):
    ids: list[str]
    created: int
    updated: int
    unchanged: int
    passages: int
    """Passages that were encoded, or taken over as vectors."""
    warnings: list[str]
    took_ms: float


class DocumentOut(_Out):
    id: str
    text: str | None
    metadata: dict[str, Any]
    passages: int


class PageOut(_Out):
    documents: list[DocumentOut]
    next: str | None
    """Give it as `after` to get the next page; null on the last."""


class IdsIn(_In):
    ids: list[str]


class DeletedOut(_Out):
    deleted: int
    missing: list[str] = []
    """Ids under which there was nothing."""


Include = Literal["text", "metadata", "vector", "explain"]


class SearchIn(_In):
    query: str | None = None
    """What to search for, in words. Either this or vector."""
    vector: Vector | None = None
    """A query vector of full dimension."""
    k: int = Field(default=10, ge=1, strict=True)
    """Distinct documents wanted; at most limits.k of the settings."""
    mode: Mode = Mode.TWO_PASS
    """two_pass: candidates by prefix, order by full vectors. prefix: first pass only. exact: scans everything."""
    oversample: float | None = Field(default=None, ge=1, le=1000, allow_inf_nan=False)
    """Candidates per hit asked for; the setting index.oversample when absent."""
    score_threshold: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    """Leave out hits whose score is lower."""
    include: list[Include] = ["text", "metadata"]


class SearchesIn(_In):
    searches: list[SearchIn] = Field(min_length=1)


class PassageOut(_Out):
    start: int
    """Characters into the document's text."""
    end: int
    text: str | None
    """null where the document has no text, or `include` leaves texts out."""


class HitExplanation(_Out):
    prefix_score: float | None
    """Cosine of the prefixes; null in mode exact."""
    prefix_rank: int | None
    """Place among the first pass's passages, from 1."""
    rank: int
    """Place among the hits, from 1."""


class HitOut(_Out):
    id: str
    score: float
    """Cosine of the full vectors in [-1, 1]; in mode prefix, of the prefixes."""
    text: str | None = None
    metadata: dict[str, Any] | None = None
    passage: PassageOut
    vector: list[float] | None = None
    """The best passage's full vector."""
    explain: HitExplanation | None = None


class SearchExplanation(_Out):
    """Of all searches in a batch that were made together."""

    rows_read: int
    """Full vectors read from the file."""
    bytes_read: int


class SearchOut(_Out):
    hits: list[HitOut]
    candidates: int
    """Passages that were ranked."""
    certified: bool
    """true: no other document can have a higher score (mode exact)."""
    timings_ms: dict[str, float]
    """encode, first_pass, second_pass, fetch, total."""
    explain: SearchExplanation | None = None
    warnings: list[str]


class SearchesOut(_Out):
    results: list[SearchOut]


class Problem(_Out):
    """Every error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    """Stable, for programs."""
    hint: str
    """What to do about it."""
    request_id: str
    where: str | None = None
    """The field that is wrong, where it is one."""
