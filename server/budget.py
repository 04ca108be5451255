"""What the first pass may take of memory, by the settings or by what the machine, or the container, leaves."""

from dataclasses import dataclass

from index.axes import Order
from index.plan import Codec, Kind, Wish
from index.two_pass import TwoPassIndex
from server.memory import Room
from server.settings import IndexSettings

RESERVE_BYTES = 32 << 20
"""Left alone whatever is planned: requests on their way, SQLite's caches, and what is counted too low."""

MAPPED_PART, RESIDENT_PART = 2, 4
"""Of the memory, what codes take at most unless the settings say: a half where they are mapped. A quarter where they
are the process's own, since a rebuild holds the old ones and the new ones, and some 130 MiB besides."""

COPIES = 3
"""Of codes that are the process's own: those in use, those being made, and as much again for the rows to come."""


@dataclass(frozen=True)
class Budget:
    """Bytes for codes: where they are mapped from files, and where they are the process's own."""

    mapped_bytes: int
    resident_bytes: int


def budget_of(settings: IndexSettings, room: Room, held_bytes: int) -> Budget:
    """Return what the settings say, or what is left when the model is loaded.

    Args:
        held_bytes: of `room`, what codes take now.
    """
    if settings.memory_budget:
        return Budget(int(settings.memory_budget), int(settings.memory_budget))
    left = max(0, room.free_bytes + held_bytes - RESERVE_BYTES)
    return Budget(
        min(room.limit_bytes // MAPPED_PART, left), min(room.limit_bytes // RESIDENT_PART, left // COPIES)
    )


def held_bytes(index: TwoPassIndex) -> int:
    """Return what an index holds in codes that aren't mapped."""
    return index.n_rows * index.plan.row_bytes if index.plan.is_resident else 0


def wish_of(settings: IndexSettings, prefix_dim: int, budget: Budget) -> Wish:
    """Return what the settings ask of a first pass."""
    return Wish(
        prefix_dim=prefix_dim,
        order=None if settings.order == "auto" else Order(settings.order),
        codec=None if settings.codec == "auto" else Codec(settings.codec),
        kind=None if settings.kind == "auto" else Kind(settings.kind),
        target_recall=settings.target_recall,
        memory_bytes=budget.mapped_bytes,
        resident_bytes=budget.resident_bytes,
        with_bounds=settings.bounds == "keep",
    )
