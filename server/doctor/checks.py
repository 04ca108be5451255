"""What one check says."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How something is."""

    OK = "ok"
    WARN = "warn"  # it works, and will not go on doing so, or could be better
    FAIL = "fail"  # something doesn't work, or is about to stop


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str  # for programs; doesn't change
    status: Health
    found: str  # with the numbers
    advice: str = ""  # what to do; empty where there is nothing to do


def mib(n_bytes: float) -> str:
    """Spell a size: in MiB, below ten with one digit after the point."""
    n = n_bytes / (1 << 20)
    return f"{n:,.1f} MiB" if n < 9.95 else f"{n:,.0f} MiB"
