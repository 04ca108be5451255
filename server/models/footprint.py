"""How much memory this process and those it started take."""

import os
from pathlib import Path

PROCESSES = Path("/proc")


def resident_bytes() -> int | None:
    """Resident memory of this process and of all below it; None where the system has no /proc."""
    pages: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for folder in PROCESSES.glob("[0-9]*"):
        try:
            # pid (name) state parent …; the name may hold spaces and brackets
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(folder.name))
    if not pages:
        return None
    mine = [os.getpid()]
    for process in mine:  # grows while it is gone through
        mine += children.get(process, [])
    return sum(pages.get(process, 0) for process in mine) * os.sysconf("SC_PAGE_SIZE")
