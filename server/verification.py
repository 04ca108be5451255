"""`twopass verify`: checks catalog, vectors and first pass against each other, changing nothing."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from index.durable import named_disk_errors
from index.two_pass import damaged_rows, stale_prefix_files, vector_path
from server.catalog import Catalog
from server.checking import content_hash
from server.errors import ANSWERS, CatalogDamagedError, NotFoundError
from server.records import Generation
from server.store import CATALOG_NAME, check_no_vectors, shape_of

MEND = "Run `twopass serve --check all`: vectors are encoded again from their texts."
PUT_BACK = "Put back a backup: twopass restore FILE --replace."
BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    code: str
    detail: str
    hint: str


@dataclass
class VerifyReport:
    """What was checked, and what was found wrong."""

    problems: list[Finding] = field(default_factory=list)
    documents: int = 0
    rows: int = 0  # vectors checked: those of a passage
    checked_bytes: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(data_dir: Path, on_progress: Callable[[int, int], None]) -> VerifyReport:
    """Check everything under a data directory. A server may be running on it.

    Args:
        on_progress: told (rows checked, rows in all) now and then.

    Raises:
        NotFoundError: there is no collection.
        StorageError, FormatError: it can't be read.
    """
    started = time.perf_counter()
    report = VerifyReport()
    folder = data_dir / "collections" / "default"
    with named_disk_errors(folder):
        is_there = (folder / CATALOG_NAME).exists()
    try:
        if not is_there:
            check_no_vectors(folder)
            raise NotFoundError(
                f"there is no collection in {data_dir}", "Check --data-dir or TWOPASS_DATA_DIR."
            )
        with Catalog(folder / CATALOG_NAME, read_only=True) as catalog:
            _verify(catalog, folder, report, on_progress)
    except CatalogDamagedError as error:
        hint = ANSWERS[CatalogDamagedError].hint
        report.problems.append(Finding("catalog_damaged", str(error), hint))
    report.seconds = time.perf_counter() - started
    return report


def _verify(
    catalog: Catalog, folder: Path, report: VerifyReport, on_progress: Callable[[int, int], None]
) -> None:
    for problem in catalog.problems():
        report.problems.append(Finding("catalog_inconsistent", problem, PUT_BACK))
    report.documents, _ = catalog.counts()
    for identifier, text, metadata, stored_hash in catalog.contents():
        if not _is_text(text, stored_hash):
            detail = f"the text of document {identifier!r} is not the one that was stored"
            report.problems.append(Finding("text_damaged", detail, "Ingest this document again."))
        if not _is_object(metadata):
            detail = f"the metadata of document {identifier!r} can't be read"
            report.problems.append(Finding("metadata_damaged", detail, "Ingest this document again."))
    generation = catalog.generations.current()
    if generation is None:
        check_no_vectors(folder)
        return
    _verify_vectors(catalog, generation, folder, report, on_progress)


def _is_text(text: bytes | None, stored_hash: bytes | None) -> bool:
    """Whether it is what was stored; of what came with a vector only whether it is text at all."""
    try:
        decoded = None if text is None else text.decode()
    except UnicodeDecodeError:
        return False
    return stored_hash is None or content_hash(decoded, None) == stored_hash


def _is_object(metadata: bytes) -> bool:
    try:
        return isinstance(json.loads(metadata), dict)
    except ValueError:
        return False


def _verify_vectors(
    catalog: Catalog,
    generation: Generation,
    folder: Path,
    report: VerifyReport,
    on_progress: Callable[[int, int], None],
) -> None:
    shape = shape_of(generation, generation.dim)
    found = catalog.live_rows(generation.number)
    rows, checksums = found.rows, found.checksums
    report.rows = len(rows)
    bad = []
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        bad.append(damaged_rows(folder, shape, rows[part], checksums[part]))
        on_progress(min(start + BLOCK_ROWS, len(rows)), len(rows))
    damaged = np.concatenate(bad) if bad else rows[:0]
    report.checked_bytes = len(rows) * generation.dim * (2 if generation.vector_dtype == "float16" else 4)
    if len(damaged):
        lost = catalog.own_vector_ids(generation.number, damaged.tolist())
        path = vector_path(folder, shape)
        detail = f"{len(damaged)} of {len(rows)} vectors in {path} are missing or damaged"
        report.problems.append(Finding("vectors_damaged", detail, MEND))
        for identifier in sorted(lost):
            detail = f"the vector of document {identifier!r} came from a client and is damaged"
            report.problems.append(Finding("client_vector_damaged", detail, "Send this document again."))
    good = np.setdiff1d(rows, damaged, assume_unique=True)
    for path in stale_prefix_files(folder, shape, good):
        hint = "Delete the file; it is derived, and the next start makes it anew."
        report.problems.append(Finding("first_pass_stale", f"{path} doesn't agree with the vectors", hint))
