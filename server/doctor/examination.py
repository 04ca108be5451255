"""All checks, one after another."""

from dataclasses import asdict, dataclass
from typing import Any

from server.doctor.checks import Check, Health
from server.doctor.collection import check_damage, check_model, check_recall, check_settings
from server.doctor.machine import (
    check_cpu,
    check_disk_latency,
    check_disk_space,
    check_memory,
    check_page_size,
)
from server.doctor.subject import Subject

CHECKS = (
    check_memory, check_disk_space, check_disk_latency, check_page_size, check_cpu,
    check_model, check_recall, check_damage, check_settings,
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What was found."""

    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing has failed; warnings don't count."""
        return all(check.status is not Health.FAIL for check in self.checks)

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"ok": self.ok, "checks": [asdict(each) for each in self.checks]}


def examine(subject: Subject) -> Report:
    """Make every check. Measures processor and disk for half a second; changes nothing."""
    return Report([check(subject) for check in CHECKS])
