"""What a backup says of itself.

A backup is a tar file of four plain files, in this order:

    catalog.sqlite3      texts, metadata, passages, jobs, documents that wait to be encoded
    vectors-0001.f16     the committed rows of the current generation, or .f32
    manifest.json        what is described here
    SHA256SUMS           of the three, as `sha256sum -c` reads it

The first pass isn't in it: it is made anew from the vectors.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from server.errors import BackupDamagedError, FormatError

KIND = "twopass backup"
VERSION = 1

MANIFEST, CHECKSUMS = "manifest.json", "SHA256SUMS"
VECTORS = re.compile(r"vectors-\d{4,9}\.f(16|32)")


@dataclass(frozen=True)
class Member:
    """One file of a backup."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A backup as it describes itself."""

    created_at: str  # ISO 8601, UTC
    twopass: str  # the version that wrote it
    catalog_format: int
    documents: int
    passages: int
    pending: int  # documents accepted and not encoded yet
    generation: int
    rows: int  # of the vector file, tombstones included
    dim: int
    vector_dtype: str
    damaged: int  # vectors of passages that didn't agree with their checksum
    fingerprint: dict[str, Any]  # of the model that made the vectors
    members: tuple[Member, ...]

    def to_json(self) -> str:
        """Return it as it stands in the archive."""
        return json.dumps({"kind": KIND, "version": VERSION, **asdict(self)}, ensure_ascii=False, indent=1)

    def told(self) -> dict[str, Any]:
        """Return what people want to know of it, as JSON."""
        return {
            "created_at": self.created_at,
            "twopass": self.twopass,
            "documents": self.documents,
            "passages": self.passages,
            "pending": self.pending,
            "rows": self.rows,
            "dim": self.dim,
            "damaged": self.damaged,
            "model": str(self.fingerprint.get("model", "")),
        }


def parse_manifest(text: bytes, source: str) -> Manifest:
    """Read a manifest.

    Args:
        source: the archive, for the errors.

    Raises:
        BackupDamagedError: it is none.
        FormatError: it was written by a newer twopass.
    """
    try:
        told = json.loads(text)
        kind, version = told.pop("kind"), told.pop("version")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BackupDamagedError(f"{source}: {MANIFEST} can't be read") from error
    if kind != KIND:
        raise BackupDamagedError(f"{source} is no backup of twopass")
    if type(version) is not int:
        raise BackupDamagedError(f"{source}: {MANIFEST} doesn't say of which version it is")
    if version > VERSION:
        raise FormatError(
            f"{source} is a backup of version {version}; this twopass reads up to version {VERSION}"
        )
    try:
        return TypeAdapter(Manifest).validate_json(json.dumps(told), strict=True)
    except ValidationError as error:
        raise BackupDamagedError(f"{source}: {MANIFEST} doesn't say what it has to") from error
