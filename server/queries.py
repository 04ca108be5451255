"""One search: what may be asked, and what is answered."""

from dataclasses import dataclass, field

from index.calibration import Reach
from index.two_pass import Mode
from index.vectors import Float32
from server.conditions import Filter
from server.hybrid import Hybrid, WordMatch
from server.records import Document
from server.store import DocumentHit, Found

DEEPER = 4
"""Documents looked at for each one wanted, where some will be passed over: members of a group, likenesses."""


@dataclass(frozen=True)
class Query:
    """One search; exactly one of text, vector and like."""

    text: str | None = None
    vector: Float32 | None = None  # (dim,), any length other than zero
    like: str | None = None  # the id of a document: others like it are wanted
    k: int = 10
    offset: int = 0  # hits passed over, before the k that are wanted
    mode: Mode = Mode.TWO_PASS
    oversample: float | None = None  # None: the setting, or more where the first pass was measured to need it
    target_recall: float | None = None  # None: the setting's; else the pool that was measured to reach this
    filter: Filter | None = None
    score_threshold: float | None = None
    group_by: str | None = None  # a path in the metadata, of whose values each is to be found once
    hybrid: Hybrid | None = None
    mmr: float | None = None  # diversity, from 0 (none) to 1
    with_vectors: bool = False
    explain: bool = False
    max_read: int | None = None  # full vectors that mode certified reads at most; None: the setting
    where: str = ""  # what stands before a field's name in an error: "searches[3]." in a batch

    @property
    def n_wanted(self) -> int:
        """Hits up to the last that is asked for."""
        return self.offset + self.k

    @property
    def n_looked_at(self) -> int:
        """Documents that the hits are chosen from."""
        n = self.n_wanted + (self.like is not None)
        return n if self.mmr is None and self.group_by is None else DEEPER * n

    @property
    def filter_key(self) -> str:
        """Equal for filters that let the same documents through."""
        return "" if self.filter is None else self.filter.key

    @property
    def takes_the_first(self) -> bool:
        """Whether the hits are the first documents found, with none passed over."""
        return (
            self.like is None and self.group_by is None and self.mmr is None and self.score_threshold is None
        )


@dataclass(frozen=True)
class Hit:
    """A document found, with its best passage."""

    document: Document
    at: DocumentHit
    rank: int  # from 1
    vector: Float32 | None  # (dim,), of the passage
    scores: dict[int, float] = field(default_factory=dict)  # by leading dimensions, where that was asked for
    words: WordMatch | None = None  # of a hybrid search


@dataclass(frozen=True)
class Answer:
    """What a search found and how. Times in seconds; a batch shares its encoding and its passes."""

    hits: list[Hit]
    found: Found
    certified: bool
    encode_s: float
    filter_s: float
    words_s: float
    fetch_s: float
    reach: Reach  # how far the first pass looked, and what was measured of that
    n_allowed: int | None  # passages that the filter lets through
    warnings: list[str]
