"""Prints a lock file without what the slim image leaves out: the packages below, and what only they need.

    python3 docker/slim_lock.py requirements-run.lock >requirements-slim.lock

pip-compile has written below each package which others need it ("# via"). One goes when all of those go.
"""

import re
import sys
from pathlib import Path

LEFT_OUT = {"torch", "sentence-transformers", "onnx", "matplotlib", "markitdown", "setuptools"}
"""For exporting models, for plots, for PDF and office files, for building. A model that was exported elsewhere is
served without them."""

VIA = re.compile(r"^    #(?: via|  ) (\S+)", re.MULTILINE)


def slimmed(lock: str) -> str:
    """Return the lock without what is left out. Raises ValueError if it names no such package."""
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)
    packages = {entry.partition("==")[0]: entry for entry in entries if "==" in entry.partition("\n")[0]}
    if missing := LEFT_OUT - {"torch"} - set(packages):  # torch is never in it
        raise ValueError(f"the lock has no {', '.join(sorted(missing))}")
    needed_by = {name: set(VIA.findall(entry)) - {"-c"} for name, entry in packages.items()}
    gone = set(LEFT_OUT)
    while more := {name for name, users in needed_by.items() if name not in gone and users <= gone}:
        gone |= more
    return "".join(entry for name, entry in packages.items() if name not in gone)


if __name__ == "__main__":
    sys.stdout.write(slimmed(Path(sys.argv[1]).read_text()))
