"""What a first pass is made of: the owner's wish, and the plan that was chosen for it."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from index.axes import Order
from index.errors import PlanError


class Codec(StrEnum):
    """How prefixes are kept in memory. Bytes are those of one row at prefix length P."""

    FLOAT32 = "float32"  # 4·P
    FLOAT16 = "float16"  # 2·P
    INT8 = "int8"  # P
    PQ4 = "pq4"  # product quantiser of 4-bit codes, fast scan: code_bytes, and 8 for the row number
    RABITQ = "rabitq"  # one bit a dimension (Gao & Long 2024): P/8 + 8, and 8 for the row number


class Kind(StrEnum):
    """How rows are laid out."""

    FLAT = "flat"  # every row is compared
    IVF = "ivf"  # rows lie in lists by their nearest centre; a search compares the lists nearest to the query


LISTED = (Codec.PQ4, Codec.RABITQ)
"""Codecs that can have lists. Their codes live in memory, each with its row's number; the others' are mapped."""


@dataclass(frozen=True)
class Wish:
    """What the owner asks for; None leaves the choice to the planner."""

    prefix_dim: int  # dimensions at most
    order: Order | None = None
    codec: Codec | None = None
    kind: Kind | None = None
    target_recall: float = 0.99  # share of the true 10 nearest among the candidates
    memory_bytes: int | None = None  # for codes; None: no limit
    resident_bytes: int | None = (
        None  # the same where codes aren't mapped from a file (LISTED); None: memory_bytes
    )
    working_bytes: int | None = None  # that making it may take besides, for a while; None: no limit
    with_bounds: bool = True  # keep upper bounds on disk, for mode certified

    def __post_init__(self) -> None:
        """Raise PlanError for lists of a codec that has none."""
        if self.kind is Kind.IVF and self.codec not in (None, *LISTED):
            raise PlanError(
                f"kind ivf needs codec {' or '.join(each.value for each in LISTED)}, not {self.codec.value}"
            )

    def told(self) -> dict[str, Any]:
        """Return it as JSON, for comparison with a later wish; without the memory, which may differ at each start."""
        return {name: value for name, value in asdict(self).items() if not name.endswith("_bytes")}

    def has_room(self, plan: "Plan", n_rows: int) -> bool:
        """Return whether a plan's codes fit the memory."""
        limits = [self.memory_bytes, self.resident_bytes if plan.is_resident else None]
        return all(limit is None or n_rows * plan.row_bytes <= limit for limit in limits)


@dataclass(frozen=True)
class Plan:
    """One way to make and search a first pass."""

    codec: Codec
    order: Order
    prefix_dim: int
    code_bytes: int  # of one row, row number not counted
    n_lists: int = 1
    n_probes: int = 1

    @property
    def kind(self) -> Kind:
        return Kind.FLAT if self.n_lists == 1 else Kind.IVF

    @property
    def is_plain(self) -> bool:
        """Whether this is the form that needs no training: whole prefixes in the model's order."""
        return self.codec is Codec.FLOAT32 and self.order is Order.MODEL and self.n_lists == 1

    @property
    def is_resident(self) -> bool:
        """Whether codes live in the process's own memory; the others are mapped, and the kernel may drop them."""
        return self.codec in LISTED

    def told(self) -> dict[str, Any]:
        """Return it as JSON, for people."""
        lists = {"n_lists": self.n_lists, "n_probes": self.n_probes} if self.n_lists > 1 else {}
        return {
            "kind": self.kind.value,
            "codec": self.codec.value,
            "order": self.order.value,
            "prefix_dim": self.prefix_dim,
            "row_bytes": self.row_bytes,
            **lists,
        }

    @property
    def row_bytes(self) -> int:
        """Bytes of memory for one row."""
        return self.code_bytes + (8 if self.is_resident else 0)


def plain(prefix_dim: int) -> Plan:
    """Return the owner's plain form."""
    return Plan(Codec.FLOAT32, Order.MODEL, prefix_dim, 4 * prefix_dim)
