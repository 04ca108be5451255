"""Which fields the metadata of documents have, with their types and frequent values: out of a sample."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from server.catalog.stored_json import read_json

SAMPLE = 1_000
"""Documents looked at, spread evenly over the numbers: 5 ms with metadata of 200 bytes."""

MAX_FIELDS = 200  # different paths that are counted; metadata that use values as keys have no end of them
MAX_DISTINCT = 1_000  # values of one field that are counted, the first ones
MAX_TOLD = 20  # of those, told
MAX_CHARACTERS = 100  # of a text; a longer one is no value that anybody chooses from a list

DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}", re.ASCII
)  # as a filter takes a text for a date, but for days that don't exist

Scalar = str | int | float | bool


@dataclass
class Field:
    """One path, as filters have it."""

    path: str
    n_documents: int = 0  # of the sample, that have it
    types: set[str] = field(default_factory=set)  # text, date, number, boolean; of a list those of its items
    # Documents, by value; whether it is a boolean stands beside it, because Python takes 1 and True for one key.
    values: Counter[tuple[bool, Scalar]] = field(default_factory=Counter)
    least: float | str | None = None  # of numbers, or of dates
    most: float | str | None = None

    def add(self, values: Iterable[Scalar]) -> None:
        """Count the values of one document."""
        self.n_documents += 1
        for key in dict.fromkeys((isinstance(value, bool), value) for value in values):
            self._count(key)

    def _count(self, key: tuple[bool, Scalar]) -> None:
        value = key[1]
        kind = type_of(value)
        self.types.add(kind)
        if kind in ("number", "date") and self.types == {kind}:
            self.least = value if self.least is None else min(self.least, value)
            self.most = value if self.most is None else max(self.most, value)
        is_short = not isinstance(value, str) or len(value) <= MAX_CHARACTERS
        if is_short and (key in self.values or len(self.values) < MAX_DISTINCT):
            self.values[key] += 1

    def told(self) -> dict[str, Any]:
        """Return it as JSON, the most frequent values first."""
        is_range = len(self.types) == 1 and self.least is not None
        frequent = sorted(self.values.items(), key=lambda each: (-each[1], str(each[0][1])))[:MAX_TOLD]
        return {
            "path": self.path,
            "types": sorted(self.types),
            "documents": self.n_documents,
            "values": [{"value": value, "documents": n} for (_, value), n in frequent],
            "range": [self.least, self.most] if is_range else None,
        }


def sampled(connection: sqlite3.Connection, n: int = SAMPLE) -> Iterator[dict[str, Any]]:
    """Yield the metadata of up to n documents."""
    first, last = connection.execute("SELECT min(number), max(number) FROM documents").fetchone()
    if first is None:
        return
    step = max(1, (last - first + 1) / n)
    number = first - 1
    for at in range(n):
        found = connection.execute(
            "SELECT number, metadata FROM documents INDEXED BY documents_metadata WHERE number >= ? "
            "ORDER BY number LIMIT 1",
            (max(number + 1, int(first + at * step)),),
        ).fetchone()
        if found is None:
            return
        number = found[0]
        yield read_json(found[1], "a document's metadata")


def fields_of(metadata: Iterable[dict[str, Any]]) -> tuple[int, list[Field]]:
    """Return how many documents there were and their fields, the most common first."""
    fields: dict[str, Field] = {}
    n_documents = 0
    for each in metadata:
        n_documents += 1
        found: dict[str, list[Scalar]] = {}
        for path, value in _leaves(each, ""):
            found.setdefault(path, []).append(value)
        for path, values in found.items():
            if path in fields or len(fields) < MAX_FIELDS:
                fields.setdefault(path, Field(path)).add(values)
    return n_documents, sorted(fields.values(), key=lambda each: (-each.n_documents, each.path))


def type_of(value: Scalar) -> str:
    """Return what filters take a value for."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "date" if DATE.match(value) else "text"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Scalar]]:
    """Yield the values of an object, with their paths; those of lists under the path of the list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            spelled = _spelled(key)
            yield from _leaves(inner, f"{path}.{spelled}" if path else spelled)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    elif isinstance(value, str | int | float) and path:
        yield path, value


def _spelled(key: str) -> str:
    spelled = key.replace("\\", "\\\\").replace(".", "\\.")
    return f"\\{spelled}" if spelled.startswith("$") else spelled
