"""Bringing a server in step with files: what is new or changed is read and sent, what is gone is deleted there.

Interrupted at any moment, the next run goes on: a file is in the ledger when it was read, and each run asks the server
which of the documents in the ledger it has. What leaves is noted there before it is deleted.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from server.client import Client
from server.converting.converter import Converter, NotReadNow
from server.folders.finding import Found, Source, identifier, printable
from server.folders.ledger import Copy, Entry, Ledger
from server.incoming import Document, OnSkip, Skipped, text_hash
from server.progress import OnDone
from server.readers import count_documents, read_file, read_stdin, reason
from server.uploading import IngestReport, ingest, patiently

READING = 2
"""The way in which files become documents; raise it when they are to be read anew."""

SETTLED_S = 1.0
"""A file that changed within this time is still being written, or may be again under the same time stamp."""

COMPARED_AT_ONCE = 5000  # documents; half a megabyte of ids and hashes
DELETED_AT_ONCE = 1000  # documents
MAX_NOTED = (
    100_000  # documents of one file; a longer list is read again each time, as it fits no ledger in memory
)

T = TypeVar("T")


@dataclass
class Plan:
    """What is to be done, as far as this machine knows."""

    found: Found
    entries: dict[str, Entry]  # files that were read before, by id
    same: list[Entry] = field(default_factory=list)  # those that look as they did
    copies: list[Copy] = field(default_factory=list)  # their documents
    changed: list[Source] = field(default_factory=list)  # to be read
    put_off: bool = False  # whether others have changed so recently that they are left for later

    @property
    def total(self) -> int | None:
        """About how many documents this is; None where standard input is among it."""
        n_new = count_documents(self.changed)
        return None if n_new is None else len(self.copies) + n_new


@dataclass(frozen=True)
class Syncing:
    """Brings one server in step with files."""

    client: Client
    ledger: Ledger
    converter: Converter
    base: Path | None = None
    wait: bool = True  # until documents are encoded; False: the server does that later
    delete: bool = False  # documents of files that are gone
    pause: Callable[[float], None] = time.sleep

    def plan(self, found: Found, settled_s: float = 0.0) -> Plan:
        """Sort files by whether they look as they did when they were read. Reads none of them.

        Args:
            settled_s: leave alone what has changed within this time.

        Raises:
            LedgerError.
        """
        plan = Plan(found, self.ledger.entries())
        for source in found.sources:
            entry = plan.entries.get(source.id)
            stamp = _stamp(source.path) if source.path else ""
            if entry and stamp and (entry.stamp, entry.path) == (stamp, str(source.path)):
                plan.same.append(entry)
            elif settled_s and source.path and not _is_settled(source.path, settled_s):
                plan.put_off = True
            else:
                plan.changed.append(source)
        plan.copies = list(self.ledger.copies(plan.same))
        return plan

    def run(
        self,
        plan: Plan,
        report: IngestReport,
        on_skip: OnSkip,
        on_done: OnDone,
        verify: bool = True,
    ) -> None:
        """Do what was planned; `report` is up to date at every moment, also when this raises.

        Args:
            on_skip: called with what isn't sent and why; also with what an earlier run found out about files that have
                not changed since.
            verify: ask the server whether it has the documents of those; False: only do what has changed.

        Raises:
            UnreachableError, RefusedError: as `uploading.ingest` does.
            LedgerError.
        """
        limits = patiently(self.client.info, self.pause, reached=False).get("limits", {})
        changed = {source.id for source in plan.changed}
        if verify:
            again = self._not_there(plan, report, on_done)
            changed |= again
            for skipped in self.ledger.skips([entry for entry in plan.same if entry.id not in again]):
                on_skip(skipped)
        sources = [source for source in plan.found.sources if source.id in changed]
        if sources:
            documents = self._documents(sources, plan, limits.get("text_bytes"), on_skip, on_done)
            ingest(self.client, documents, report, on_done, self.pause, self.wait)
        if self.delete:
            self.ledger.remove(self._gone(plan, on_skip))
        self._delete_leaving(report)

    def _not_there(self, plan: Plan, report: IngestReport, on_done: OnDone) -> set[str]:
        """Count what the server has; return the ids of the files that it lacks a document of."""
        lacking: set[int] = set()
        for copies in _parts(plan.copies, COMPARED_AT_ONCE):
            hashes = {copy.id: copy.hash for copy in copies}
            answer = patiently(partial(self.client.compare, hashes), self.pause)
            wanting = {*answer["missing"], *answer["different"]}
            lacking |= {copy.file for copy in copies if copy.id in wanting}
        n_there = sum(copy.file not in lacking for copy in plan.copies)
        report.unchanged += n_there
        on_done(n_there)
        again = {entry.id for entry in plan.same if entry.number in lacking}
        n_again = count_documents([source for source in plan.found.sources if source.id in again]) or 0
        on_done(0, n_again - (len(plan.copies) - n_there))
        return again

    def _documents(
        self, sources: Sequence[Source], plan: Plan, text_bytes: int | None, on_skip: OnSkip, on_done: OnDone
    ) -> Iterator[Document]:
        """Yield the documents of files, and note in the ledger what was read."""
        for source in sources:
            if source.path is None:
                yield from read_stdin(sys.stdin.buffer, on_skip)
                continue
            stamp = _stamp(source.path)
            n_guessed = count_documents([source]) or 0
            hashes: dict[str, str | None] = {}
            skips: list[Skipped] = []
            n_read = 0
            is_whole = True
            others = plan.found.attached
            read = read_file(source.path, source.id, skips.append, self.converter, others, text_bytes)
            try:
                for document in read:
                    n_read += 1
                    if len(hashes) <= MAX_NOTED:
                        hashes[document["id"]] = text_hash(document)
                    yield document
            except (OSError, NotReadNow) as error:
                skips.append(Skipped(str(source.path), reason(error)))
                is_whole = False
                hashes = self._before(plan.entries.get(source.id)) | hashes
            for skipped in skips:
                on_skip(skipped)
            on_done(len(skips), n_read + len(skips) - n_guessed)
            if len(hashes) <= MAX_NOTED and (hashes or is_whole):
                is_sure = is_whole and _stamp(source.path) == stamp and _is_settled(source.path, SETTLED_S)
                entry = Entry(0, source.id, str(source.path), stamp if is_sure else "")
                is_list = source.path.suffix.lower() == ".jsonl"
                self.ledger.put(entry, hashes, skips, keep_foreign=is_list and not self.delete)

    def _before(self, entry: Entry | None) -> dict[str, str | None]:
        """Return the documents that a file had when it was last read: what can't be read of it now may be in them."""
        return {copy.id: copy.hash for copy in self.ledger.copies([entry])} if entry else {}

    def _gone(self, plan: Plan, on_skip: OnSkip) -> list[Entry]:
        """Return the files that the ledger has in the folders given and that are there no more."""
        here = {source.id for source in plan.found.sources}
        missing = [entry for entry in plan.entries.values() if entry.id not in here and self._is_ours(entry)]
        gone: list[Entry] = []
        for folder in plan.found.folders:
            inside = [entry for entry in missing if Path(entry.path).is_relative_to(folder)]
            if inside and _is_empty(folder):
                on_skip(
                    Skipped(
                        printable(folder),
                        f"is empty, and {len(inside)} files came from it. Is its disk mounted? Their documents stay; "
                        "put any file there to have them deleted",
                    )
                )
                continue
            gone += [
                entry
                for entry in inside
                if not any(Path(entry.path).is_relative_to(folder) for folder in plan.found.unlisted)
            ]
        return gone

    def _is_ours(self, entry: Entry) -> bool:
        """Say whether this run would have given the file the id that it has: another base makes other documents."""
        try:
            return identifier(Path(entry.path), self.base) == entry.id
        except ValueError:
            return False

    def _delete_leaving(self, report: IngestReport) -> None:
        """Delete what no file has any more; what others have changed on the server since, stays."""
        n_changed = 0
        for copies in _parts(self.ledger.leaving(), DELETED_AT_ONCE):
            hashes = {copy.id: copy.hash for copy in copies}
            answer = patiently(partial(self.client.compare, hashes), self.pause)
            not_ours = {*answer["missing"], *answer["different"]}
            n_changed += len(answer["different"])
            ours = [identifier for identifier in hashes if identifier not in not_ours]
            if ours:
                report.deleted += patiently(partial(self.client.delete, ours), self.pause)
            self.ledger.left(hashes)
        if n_changed:
            report.warnings.append(
                f"{n_changed} documents of files that are gone or have changed stay: somebody else has changed them "
                "on the server."
            )


def _stamp(path: Path) -> str:
    """Return what a file looks like from outside; "" if that can't be seen."""
    try:
        seen = path.stat()
    except OSError:
        return ""
    return f"{READING} {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"


def _is_settled(path: Path, settled_s: float) -> bool:
    """Say whether a file hasn't changed lately. One that changes in the future has: somebody's clock is wrong."""
    try:
        age_s = time.time() - path.stat().st_mtime
    except OSError:
        return True
    return not 0 <= age_s < settled_s


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _parts(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while part := list(islice(rest, size)):
        yield part
