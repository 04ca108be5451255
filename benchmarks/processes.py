"""What the kernel says of the memory of a process and of all that it started."""

import re
from pathlib import Path

PROCESSES = Path("/proc")


def family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for process in found:  # grows while it is gone through
        for thread in (PROCESSES / str(process) / "task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def memory_mib(pid: int) -> dict[str, float]:
    """Sums over the family: Rss counts a page that two processes share twice, Pss once; Anonymous is no file's."""
    texts = [(PROCESSES / str(each) / "smaps_rollup").read_text() for each in family(pid)]
    return {
        name: sum(int(kib) for text in texts for kib in re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE))
        / 1024
        for name in ("Rss", "Pss", "Anonymous")
    }


def resident_mib(pid: int) -> float:
    """Rss of one process alone."""
    [kib] = re.findall(r"^Rss:\s+(\d+)", (PROCESSES / str(pid) / "smaps_rollup").read_text(), re.MULTILINE)
    return int(kib) / 1024
