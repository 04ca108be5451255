"""Which files of a folder are left out: patterns as .gitignore has them.

A pattern given with the command counts most, then the file of patterns that is nearest to what it speaks of, in one
folder .twopassignore before .gitignore, in one file the last that matches. As in Git, what lies in a folder that is
left out can't be taken back in.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pathspec import GitIgnoreSpec

OWN, GITS = ".twopassignore", ".gitignore"
MAX_PATTERNS_BYTES = 1 << 20

OnBadPattern = Callable[[Path, str], None]
"""Called with a file of patterns and what is wrong with it."""


class PatternError(Exception):
    """A pattern can't be read; the text says which and why."""


@dataclass(frozen=True)
class Rules:
    """The patterns that hold in one folder; the later a set of them, the more it counts.

    `given` are those that came with the command, which hold from the folder on that it was given.
    """

    given: GitIgnoreSpec
    names: tuple[str, ...] = (GITS, OWN)
    levels: tuple[tuple[str, GitIgnoreSpec], ...] = ()  # each with the folder that it is relative to
    root: str = ""

    def within(self, folder: str, present: Sequence[str], on_bad: OnBadPattern) -> "Rules":
        """Return the rules inside a folder, of whose entries `present` are the names."""
        rules = self if self.root else replace(self, root=folder)
        for name in self.names:
            if name in present:
                path = Path(folder, name)
                try:
                    lines = _lines(path)
                except OSError as error:
                    on_bad(path, f"its patterns can't be read: {(error.strerror or str(error)).lower()}")
                    continue
                spec = _spec(lines, partial(on_bad, path))
                rules = replace(rules, levels=(*rules.levels, (folder, spec)))
        return rules

    def leave_out(self, path: str, is_folder: bool) -> bool:
        """Say whether a file or folder is left out."""
        for base, spec in ((self.root, self.given), *reversed(self.levels)):
            if spec.patterns:
                within = path[len(base) :].lstrip(os.sep) + ("/" if is_folder else "")
                if (verdict := spec.check_file(within).include) is not None:
                    return verdict
        return False


def rules_for(patterns: Sequence[str] = (), gits: bool = True) -> Rules:
    """Return the rules outside any folder: patterns given, and which files of patterns are to be read.

    Raises:
        PatternError.
    """
    try:
        given = GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise PatternError(str(error)) from error
    return Rules(given, (GITS, OWN) if gits else (OWN,))


def _lines(path: Path) -> list[str]:
    """Return a file's lines, in the bytes that file names have. Raises OSError."""
    if not path.is_file():
        raise OSError("it is no regular file")
    with path.open("rb") as file:
        return os.fsdecode(file.read(MAX_PATTERNS_BYTES)).splitlines()


def _spec(lines: Sequence[str], on_bad: Callable[[str], None]) -> GitIgnoreSpec:
    """Return the patterns of a file; a bad one is told and, as Git does, passed over."""
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:
        good = []
        for number, line in enumerate(lines, 1):
            try:
                GitIgnoreSpec.from_lines([line])
                good.append(line)
            except ValueError as error:
                on_bad(f"its line {number} is no pattern: {error}")
        return GitIgnoreSpec.from_lines(good)
