"""From paths to the files to read, and what is passed over on the way.

How ids are made: a file's id is its full path, links resolved, relative to `base`, which is the root of the
file system unless the caller names a folder. So the id doesn't depend on where the command runs, nor on
whether the file was given itself or found in a folder, and two folders that both hold a README.md give two
documents, today and in every later run. (Ids that began with the name of the folder given would let ~/b/docs
silently replace ~/a/docs.) To share ids between machines, or to move the files, name a base.

Separators are `/` everywhere. A path beyond the 512 bytes that an id may have keeps its beginning and ends in
a hash of the whole.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from server.converting.kinds import CONVERTED, TEXTS
from server.folders.ignoring import Rules, rules_for
from server.incoming import OnSkip, Skipped, short_id

SUFFIXES = TEXTS | CONVERTED | {".jsonl"}
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Source:
    """One file to read, or standard input where `path` is None; its documents' ids begin with `id`."""

    path: Path | None
    id: str


@dataclass
class Found:
    """The files below some paths, in order, and what was passed over beside them."""

    sources: list[Source] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # those given
    unlisted: list[Path] = field(
        default_factory=list
    )  # folders that can't be read: who knows what is in them
    other_kinds: Counter[str] = field(default_factory=Counter)  # files by suffix
    hidden: int = 0  # files and folders whose names begin with a dot
    left_out: int = 0  # files and folders by patterns
    links: int = 0  # to folders, and to files outside the folder
    attached: Counter[str] = field(default_factory=Counter)  # of other kinds, on mails read; by suffix

    @property
    def passed_over(self) -> int:
        """How many files, folders and attachments weren't looked at."""
        return self.other_kinds.total() + self.hidden + self.left_out + self.links + self.attached.total()


def find_sources(
    paths: Iterable[str | Path], on_skip: OnSkip, base: Path | None = None, rules: Rules | None = None
) -> Found:
    """List the files to read, sorted by path within each folder, each file once.

    In a folder, what is hidden, what `rules` leave out, kinds other than SUFFIXES and links to folders or out of the
    folder are passed over. A file that is given itself is read whatever its name.
    """
    found = Found()
    finding = _Finding(found, on_skip, base.resolve() if base else None, rules or rules_for())
    for given in paths:
        if str(given) == STANDARD_INPUT:
            finding.take(None, "stdin")
        elif Path(given).is_dir():
            finding.walk(Path(given).resolve())
        else:
            finding.take_file(Path(given))
    return found


def identifier(path: Path, base: Path | None) -> str:
    """Return the id of a file, from its real path. Raises ValueError if it isn't below the base."""
    return short_id(path.relative_to(base or path.anchor).as_posix())


class _Finding:
    """One search for files."""

    def __init__(self, found: Found, on_skip: OnSkip, base: Path | None, rules: Rules) -> None:
        self._found = found
        self._on_skip = on_skip
        self._base = base
        self._rules = rules
        self._seen: set[str] = set()

    def take(self, path: Path | None, identifier: str) -> None:
        if identifier not in self._seen:
            self._seen.add(identifier)
            self._found.sources.append(Source(path, identifier))

    def take_file(self, path: Path, root: Path | None = None) -> None:
        """Take a file, or what a link leads to; inside a folder only if that is in the folder too."""
        try:
            real = path.resolve(strict=True)
            if root and not real.is_relative_to(root):
                self._found.links += 1
                return
            self._take_real(real)
        except OSError as error:
            self._on_skip(Skipped(printable(path), why(error)))
        except RuntimeError:
            self._on_skip(Skipped(printable(path), "is a link that leads back to itself"))

    def _take_real(self, path: Path) -> None:
        try:
            name = identifier(path, self._base)
            str(path).encode()
        except UnicodeEncodeError:
            self._on_skip(Skipped(printable(path), "its name is not UTF-8; rename it"))
        except ValueError:
            self._on_skip(Skipped(str(path), f"is not below the base folder {self._base}"))
        else:
            self.take(path, name)

    def walk(self, root: Path) -> None:
        """Take a folder's files: those in it first, then those of its folders, all by name."""
        self._found.folders.append(root)
        waiting = [(root, self._rules)]
        while waiting:
            here, rules = waiting.pop()
            try:
                with os.scandir(here) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                self._found.unlisted.append(here)
                self._on_skip(Skipped(printable(here), why(error)))
                continue
            rules = rules.within(str(here), [entry.name for entry in entries], self._bad_pattern)
            folders = list(self._take_entries(entries, rules, root))
            waiting += [(folder, rules) for folder in reversed(folders)]

    def _take_entries(self, entries: list["os.DirEntry[str]"], rules: Rules, root: Path) -> Iterator[Path]:
        """Take a folder's files, and yield its folders."""
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # a Path for each would take longer
            if entry.name.startswith("."):
                self._found.hidden += 1
            elif rules.leave_out(entry.path, is_folder):
                self._found.left_out += 1
            elif is_folder:
                yield Path(entry.path)
            elif entry.is_symlink() and _leads_to_folder(entry):
                self._found.links += 1
            elif suffix not in SUFFIXES:
                self._found.other_kinds[suffix or "no suffix"] += 1
            elif entry.is_symlink():
                self.take_file(Path(entry.path), root)
            else:
                self._take_real(Path(entry.path))

    def _bad_pattern(self, path: Path, reason: str) -> None:
        self._on_skip(Skipped(printable(path), reason))


def why(error: OSError) -> str:
    """Say why a file or folder can't be read."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    if isinstance(error, PermissionError):
        return "may not be read: permission denied"
    return f"can't be read: {(error.strerror or str(error)).lower()}"


def printable(path: Path) -> str:
    """Return a path as it can be written anywhere: one that isn't UTF-8 with escapes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return ascii(str(path))
    return str(path)


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
