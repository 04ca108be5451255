"""What goes over the wire. Unknown fields are errors, so that a misspelt option never passes silently."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from index.axes import Order
from index.plan import Codec, Kind
from index.two_pass import Mode
from server.api.vectors import Vector
from server.described import Described
from server.fusion import Fusion
from server.settings import MAX_DIM, MAX_READ_LIMIT


class _In(Described):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class DocumentIn(_In):
    id: str | None = None
    """1 to 512 bytes of UTF-8; made by the server when absent. A document that has it is replaced."""
    text: str | None = None
    """At most limits.text_bytes (8 MiB); split into passages where the model can't read it in one go. Either this or
    vector, or both: then the text is one passage under that vector."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """A JSON object, returned with the document; at most limits.metadata_bytes of JSON (64 KiB)."""
    vector: Vector | None = None
    """All dimensions (dim in GET /info), any length other than zero; used as it is (normalised) instead of encoding the
    text. Numbers, or base64 of little-endian float32. Needed where the server has no model."""


class DocumentsIn(_In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "documents": [
                        {"id": "otter", "text": "Sea otters hold hands.", "metadata": {"topic": "animals"}},
                        {"id": "kettle", "text": "A kettle switches itself off."},
                    ]
                }
            ]
        }
    )

    documents: list[DocumentIn]
    """At most limits.documents_per_request (10 000), in limits.body_bytes (32 MiB); no id twice."""


class AddedOut(Described):
    ids: list[str]
    """Of all documents, in the order of the request."""
    created: int
    """Documents whose id was new."""
    updated: int
    """Documents that replaced another, or only its metadata."""
    unchanged: int
    """Documents that were there already, as they came."""
    passages: int
    """Passages that were encoded, or taken over as vectors."""
    warnings: list[str]
    """For people."""
    took_ms: float
    """Milliseconds, from when the body had been read."""


class DocumentOut(Described):
    id: str
    """Its own."""
    text: str | None
    """null where only a vector was sent."""
    metadata: dict[str, Any]
    """As it was sent; {} where there was none."""
    passages: int
    """How many it has; 0 while it isn't stored yet."""


class OneDocumentOut(DocumentOut):
    pending: bool
    """Whether it, or a newer version of it, waits to be encoded: searches don't find that yet."""


class DocumentVectorOut(DocumentOut):
    vector: str | None
    """Base64 of little-endian float32; null where there is none to tell."""


class PageOut(Described):
    documents: list[DocumentVectorOut] | list[DocumentOut]
    """In the order of their ids; the first form where vectors were asked for."""
    next: str | None
    """Give it as `after` to get the next page; null on the last."""


class IdsIn(_In):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ids": ["kettle"]}, {"filter": {"topic": "animals"}}]}
    )

    ids: list[str] | None = None
    """Either these, at most limits.documents_per_request, or filter."""
    filter: dict[str, Any] | None = None
    """Every document that matches, a thousand at a time; as in POST /search. An empty one is refused."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "IdsIn":
        if (self.ids is None) == (self.filter is None):
            raise PydanticCustomError("one_of", "either ids or filter has to be given")
        return self


class CopyIn(_In):
    """A document that a client has."""

    id: str
    """What it is stored under, if it is."""
    hash: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """SHA-256, in hexadecimal, of the word text, a zero byte and the text in UTF-8; null: whatever its content."""


class CopiesIn(_In):
    documents: list[CopyIn]
    """At most limits.documents_per_request."""


class ComparedOut(Described):
    same: int
    """Documents that are here as the client has them, or wait to be encoded."""
    missing: list[str]
    """Ids under which there is nothing, or a vector that its client has to send again, as it is damaged."""
    different: list[str]
    """Ids of documents with another text, or with a vector that a client brought."""


class DeletedOut(Described):
    deleted: int
    """How many documents."""
    missing: list[str] = Field(default=[])
    """Ids under which there was nothing."""


class HybridIn(_In):
    fusion: Fusion = Fusion.WEIGHTED
    """weighted: by the cosine's place in its list and the share of the question that the words cover. rrf: by ranks."""
    weight: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """What the words count, from 0 (nothing) to 1 (all); null: 0.6 for weighted, 0.5 for rrf."""


Include = Literal["text", "passage", "metadata", "vector", "explain"]


class SearchIn(_In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "how do animals rest?", "k": 3, "filter": {"topic": "animals"}, "hybrid": False},
                {"like": "otter", "k": 5, "mode": "certified", "include": ["metadata", "explain"]},
            ]
        }
    )

    query: str | None = None
    """What to search for, in words; at most limits.query_bytes (64 KiB). One of this, vector and like."""
    vector: Vector | None = None
    """A query vector of full dimension and any length but zero; numbers, or base64 of little-endian float32."""
    like: str | None = None
    """The id of a document: others like it are wanted, by the mean of its passages. Instead of query and vector."""
    k: int = Field(default=10, ge=1)
    """Distinct documents wanted; at most limits.k of the settings (1000)."""
    mode: Mode = Mode.TWO_PASS
    """two_pass: candidates by prefix, order by full vectors. prefix: first pass only. certified: reads full vectors in
    the order of upper bounds on their scores, until no unread one can be among the k best. exact: scans everything."""
    oversample: float | None = Field(default=None, ge=1, le=1000, allow_inf_nan=False)
    """Candidates per hit asked for; when absent the setting index.oversample, or what the stored vectors were measured
    to need where that is more."""
    target_recall: float | None = Field(default=None, ge=0.5, le=1, allow_inf_nan=False)
    """Share of the true nearest that are to be among the candidates: instead of oversample, the cheapest is taken, with
    as many lists of an inverted file, that was measured on the stored vectors to reach this."""
    offset: int = Field(default=0, ge=0)
    """Hits passed over, for the next page; offset and k together are at most limits.k."""
    filter: dict[str, Any] | None = None
    """Conditions on the metadata, as {"year": {"$gte": 2020}, "tags": {"$in": ["tax"]}}: only documents that match are
    found, and k of them where there are k."""
    group_by: str | None = None
    """A field of the metadata: of the documents that share its value, or lack it, only the best is returned."""
    hybrid: bool | HybridIn | None = None
    """true: exact words count too, besides the meaning: the two orders are fused. Needs query; a part of it in
    quotation marks is a phrase. null: true for a query in mode two_pass without group_by and mmr, unless the setting
    index.hybrid is asked; else false."""
    mmr: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Diversity of the hits: 0 is none, 1 looks at nothing else. Maximal marginal relevance over the full vectors of
    four times as many documents."""
    max_read: int | None = Field(default=None, ge=1, le=MAX_READ_LIMIT)
    """Full vectors that mode certified reads at most; the setting index.max_read when absent."""
    score_threshold: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    """Leave out hits whose score is lower."""
    include: tuple[Include, ...] = ("text", "metadata")  # not a list: pydantic copies that each time, 5 µs
    """text: the whole document's. passage: only the best passage's, which text has too. vector: the best passage's.
    explain: of each hit and of the search, how it was found."""


class SearchesIn(_In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"searches": [{"query": "how do animals rest?"}, {"like": "otter", "k": 3}]}]
        }
    )

    searches: list[SearchIn] = Field(min_length=1)
    """At most limits.searches_per_batch (100). One wrong search fails them all."""


class PassageOut(Described):
    start: int
    """Characters into the document's text."""
    end: int
    """Behind its last character."""
    text: str | None
    """null where the document has no text, or `include` has neither text nor passage."""


class WordsOut(Described):
    score: float | None
    """BM25 of the document; null where it has none of the words, or isn't among the best 100 by words."""
    rank: int | None
    """Place by words, from 1."""
    meaning_rank: int | None
    """Place by meaning, from 1."""
    fused: float
    """What the hits are ordered by; comparable within one search only."""


class HitExplanation(Described):
    prefix_score: float | None
    """Cosine of the prefixes, as exactly as their codes tell it; in mode certified the upper bound on the score; null
    in mode exact."""
    prefix_rank: int | None
    """Place among the first pass's passages, from 1; in mode certified by upper bound; null in mode exact."""
    rank: int
    """Place among the hits, from 1."""
    scores: dict[str, float]
    """Cosine of the leading 64, 128, 256, 512 and of all dimensions of the full vectors, each re-normalised."""
    words: WordsOut | None = None
    """Of a hybrid search: what the words did."""


class HitOut(Described):
    id: str
    """The document's."""
    score: float
    """Cosine of the full vectors in [-1, 1]; in mode prefix, of the prefixes."""
    text: str | None = None
    """If included, whole; null where the document has none."""
    metadata: dict[str, Any] | None = None
    """If included."""
    passage: PassageOut
    """The best of the document."""
    vector: list[float] | None = None
    """If included: the best passage's full vector as stored, of unit length."""
    explain: HitExplanation | None = None
    """If included: how this hit was found."""


class SearchExplanation(Described):
    """What this search read, and what that proves."""

    rows_read: int
    """Full vectors read from the file."""
    bytes_read: int
    """Of those vectors."""
    cold_reads: int | None
    """Those of the rows that weren't in the page cache; null where the system can't say."""
    proved: int
    """Leading hits that are certainly the best of all, in order; before a score_threshold."""
    oversample: float
    """Candidates for each document looked for."""
    lists: int | None
    """Lists of an inverted file compared, where target_recall chose them; null: as planned, or there are none."""
    measured_recall: float | None
    """Share of the true 10 nearest among as many candidates, measured when the first pass was made; null where it
    wasn't, as below 1000 passages."""
    allowed: int | None
    """Passages that the filter lets through; null without one."""


class SearchOut(Described):
    hits: list[HitOut]
    """Best first; fewer than k only where there are fewer documents, or fewer above the threshold."""
    candidates: int
    """Passages that were ranked."""
    certified: bool
    """true: the hits are what mode exact would find, proved. Always so in mode exact; in mode certified unless max_read
    was reached; in mode two_pass where it happened to read everything. Never where words counted, nor while stored
    vectors are damaged."""
    timings_ms: dict[str, float]
    """encode, filter, first_pass, second_pass, words (what a hybrid search takes for them), fetch, and total, the whole
    search without HTTP; searches of one batch share them. Also in the header Server-Timing."""
    explain: SearchExplanation | None = None
    """If included: what this search read, and what that proves."""
    warnings: list[str]
    """For people: that a query is longer than the model reads, or how many hits are proved."""


class SearchesOut(Described):
    results: list[SearchOut]
    """An answer for each search, in their order."""


class RebuildIn(_In):
    """What the new first pass shall be; what is absent is as the settings say."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"codec": "int8", "order": "corpus"}, {}]})

    prefix_dim: int | None = Field(default=None, ge=1, le=MAX_DIM)
    """Leading dimensions at most; no more than the vectors have."""
    order: Order | None = None
    """Which dimensions come first: the model's own, or the principal axes of the stored vectors (corpus)."""
    codec: Codec | None = None
    """How prefixes are kept in memory."""
    kind: Kind | None = None
    """flat: every row is compared. ivf: those in the lists nearest to the query; with codec pq4 or rabitq."""

    @field_validator("kind")
    @classmethod
    def _lists_need_their_codec(cls, kind: Kind | None, info: ValidationInfo) -> Kind | None:
        codec = info.data.get("codec")
        if kind is Kind.IVF and codec not in (None, Codec.PQ4, Codec.RABITQ):
            raise PydanticCustomError(
                "no_lists", "Kind ivf needs codec pq4 or rabitq, not {codec}", {"codec": codec.value}
            )
        return kind


class ProgressOut(Described):
    done: int
    """Units that are done."""
    total: int
    """Units in all, as far as is known."""
    unit: str
    """What is counted: documents, rows or bytes."""
    rate: float | None
    """Units a second over the last minute; null unless it is running."""
    eta_s: float | None
    """Seconds left at that rate."""


class JobOut(Described):
    id: str
    """For GET /jobs/{id}."""
    type: str
    """ingest, reembed, rebuild, compact, evaluate, index_metadata or backup."""
    status: Literal["waiting", "running", "paused", "done", "failed", "cancelled"]
    """The last three are ends."""
    stage: str
    """What it does, or what it waits for; of a rebuild: sampling, training, filling, measuring."""
    progress: ProgressOut
    """How far it is."""
    wishes: dict[str, Any]
    """What was asked for."""
    created_at: str
    """ISO 8601, UTC."""
    error: str | None
    """Why it failed, or what it needs."""
    result: dict[str, Any] | None
    """Of an ingest: how many documents were created, updated, unchanged, overtaken by newer ones, and failed, with the
    ids and reasons of the first 100; and passages. Of a re-embedding: generation, before, seconds. Of a compaction:
    rows_before, rows, freed_bytes, seconds. Of a backup: as GET /snapshots tells of it. Of a rebuild: plan and
    evidence, as under first_pass in GET /stats. Of an evaluation: what was measured. null before the end, and where
    there was nothing to do, as of a rebuild below 1000 passages."""


class JobsOut(Described):
    jobs: list[JobOut]
    """The newest first."""


class RebuildOut(Described):
    job: JobOut
    """What was begun."""


class CheckOut(Described):
    name: str
    """memory, disk_space, disk_latency, page_size, cpu, model, recall, damage or settings."""
    status: Literal["ok", "warn", "fail"]
    """warn: it works, and could be better or will stop."""
    found: str
    """In words, with the numbers."""
    advice: str
    """What to do; empty where there is nothing to do."""


class DoctorOut(Described):
    ok: bool
    """Whether nothing has failed; warnings don't count."""
    checks: list[CheckOut]
    """What was looked at."""


class AcceptedOut(Described):
    """Documents that survive a power loss from now on; searches find them once the job has stored them."""

    job: JobOut
    """Of type ingest."""
    ids: list[str] | None
    """Of all documents, in the order of the request; null for a stream of lines."""
    warnings: list[str]
    """For people."""


class Problem(Described):
    """Every error, as application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    """Of the answer."""
    detail: str
    """What happened, with the numbers."""
    code: str
    """Stable, for programs."""
    hint: str
    """What to do about it."""
    request_id: str
    """In the log and in the header X-Request-Id too."""
    where: str | None = None
    """The field that is wrong, where it is one."""
    error: dict[str, str | None] | None = None
    """Under /v1 only, for OpenAI's clients: message, type, param and code."""
