"""What /stats and /info tell. Their parts are told as they are, by whoever has measured them."""

from typing import Any, Literal

from server.api.generations import GenerationOut
from server.described import Described


class StatsOut(Described):
    """Counts and sizes as they are now, and what is degraded."""

    documents: int
    """Stored now."""
    passages: int
    """Stored now."""
    pending: int
    """Documents that are accepted and not encoded yet."""
    rows: int
    """Vectors in the file."""
    tombstones: int
    """Those of them that belong to deleted or replaced documents."""
    generation: int
    """Number of the vector file."""
    generations: list[GenerationOut]
    """All of them, as GET /index/generations lists them."""
    first_pass: dict[str, Any]
    """kind, codec, order, prefix_dim, row_bytes (with lists also n_lists and n_probes), bytes wanted in memory,
    oversample in use, and evidence: what the last rebuild measured, empty below 1000 passages."""
    disk: dict[str, float] | None
    """Speed of the disk, measured at start: read_ms, serial_reads_per_s, parallel_reads_per_s; null where the vectors
    are less than 4 MiB."""
    wave_rows: int
    """Full vectors that a search reads at a time; 0: all candidates at once, as on a fast disk."""
    disk_bytes: dict[str, int]
    """Size of each file of the collection."""
    gauge: dict[str, Any]
    """Recall of live searches, made again exactly when the server has time: share of them that are (index.gauge_share),
    checked, at most the last 1000, waiting, passed_over, pool_recall and recall, each mean, low and high of a 95 %
    interval (null before the first), and cpu_s. Only vectors and found ids are kept meanwhile, of 64 searches at
    most."""
    damage: dict[str, Any]
    """rows damaged and not mended yet, documents that only their sender can mend, and up to 100 of their ids."""


class ShareOut(Described):
    mean: float
    """Over the searches."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""


class RecallPointOut(Described):
    """Some searches that were made again exactly, together. None of what was asked is kept."""

    source: Literal["gauge", "evaluation"]
    """What measured: the gauge, whose point grows for a day and until it has 20 searches, 30 days at most, or an
    evaluation."""
    queries: Literal["live", "stored", "given"]
    """What was searched for: what people asked for, stored passages, or what the request for an evaluation named."""
    began_at: str
    """When the first of the searches was made again, ISO 8601 in UTC."""
    ended_at: str
    """The last of them."""
    searches: int
    """How many."""
    k: int | None
    """Nearest that were to be found; null: as many as each search asked for."""
    pool_recall: ShareOut
    """Share of the true nearest among the candidates."""
    recall: ShareOut
    """Share of them among the hits."""
    passages: int
    """That there were, at the last of the searches."""
    first_pass: dict[str, Any]
    """Which one: generation, build, rows when it was made, kind, codec, order, prefix_dim, row_bytes (with lists also
    n_lists and n_probes), and oversample, unless a search asked for another. Another one begins another point."""


class RecallHistoryOut(Described):
    """The last 1000 points are kept."""

    points: list[RecallPointOut]
    """The oldest first."""


class InfoOut(Described):
    """What doesn't change while the server runs."""

    name: str
    """twopass."""
    version: str
    """Of twopass."""
    model: str
    """Its name; none where clients bring the vectors."""
    fingerprint: dict[str, Any] | None
    """Of the model: name, SHA-256 of its files, dimension, prompts, pooling, tokens it reads, precision; null without
    one."""
    dim: int
    """Of a full vector."""
    prefix_dim: int
    """Leading dimensions that the first pass compares at most."""
    vector_dtype: str
    """How full vectors are stored: float16 or float32."""
    oversample: float
    """The setting index.oversample."""
    min_candidates: int
    """The setting index.min_candidates."""
    modes: list[str]
    """Of POST /search."""
    limits: dict[str, int]
    """The settings under limits, and id_bytes."""
    warnings: list[str]
    """For example that the prefix length doesn't suit the model."""
