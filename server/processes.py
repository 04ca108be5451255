"""The processes of this server, as the kernel counts their memory."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PROCESSES = Path("/proc")
ROLES = {b"server.encoders.worker": "encoder", b"server.encoders.exporting": "export"}
"""What a child process is for, by the module that it runs."""


@dataclass(frozen=True)
class Resident:
    """Memory that is in RAM now."""

    anonymous_bytes: int
    file_bytes: int  # of mapped files; the kernel drops them where others need the room


def process_memory() -> dict[str, Resident]:
    """Return the memory of this process, as `server`, and of its children by their role; nothing without a /proc."""
    found: dict[str, Resident] = {}
    for folder in PROCESSES.glob("[0-9]*"):
        # A process may end at any moment: its files are gone then, or say nothing of memory.
        with contextlib.suppress(OSError, KeyError):
            if (role := _role(folder)) is not None:
                resident, before = _resident(folder), found.get(role, Resident(0, 0))
                found[role] = Resident(
                    before.anonymous_bytes + resident.anonymous_bytes, before.file_bytes + resident.file_bytes
                )
    return found


def _role(folder: Path) -> str | None:
    """What a process is for; None: it isn't ours. Raises OSError if it has ended."""
    if folder.name == str(os.getpid()):
        return "server"
    # The parent is the second word behind the program's name, which stands in brackets and may hold any character.
    parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[1]
    if int(parent) != os.getpid():
        return None
    words = (folder / "cmdline").read_bytes().split(b"\0")
    return next((ROLES[word] for word in words if word in ROLES), "other")


def _resident(folder: Path) -> Resident:
    """Raises OSError or KeyError if the process has ended."""
    lines = [line.split() for line in (folder / "status").read_text().splitlines()]
    n_bytes = {words[0]: int(words[1]) * 1024 for words in lines if words and words[0].startswith("Rss")}
    return Resident(n_bytes["RssAnon:"], n_bytes["RssFile:"] + n_bytes["RssShmem:"])
