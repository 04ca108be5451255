"""The metadata of documents as values: their SQL, and that of the table of indexed values."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from server.conditions import Path

DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"


class Bind:
    """Keeps values out of the SQL: called with one, it returns the mark that stands for it there."""

    def __init__(self) -> None:
        self.values: list[Any] = []  # as sqlite3 takes them beside the SQL

    def __call__(self, value: Any) -> str:
        self.values.append(value)
        return f"?{len(self.values)}"


class Kind(IntEnum):
    """What an indexed value is; only values of one kind compare."""

    NULL = 1  # value: 0
    BOOLEAN = 2  # 0 or 1
    NUMBER = 3
    TEXT = 4  # one that is no date
    DATE = 5  # the text of a date
    MOMENT = 6  # the same as a Julian day
    OTHER = 7  # a list or an object: 0


def walk(bind: Bind, keys: tuple[str, ...], is_member: bool) -> tuple[str, str, str]:
    """Return the SQL of every value under `keys`, through the objects of lists, or of the items of those values.

    Slower than json_extract, two to three times, but it knows lists on the way, and keys that no path can spell.

    Returns:
        What stands behind FROM and WHERE, over `metadata`, and the name of the table with `value` and `type`.
    """
    sources, kept = ["json_each(metadata) AS key0"], []
    for n, key in enumerate(keys):
        if n:
            above = f"key{n - 1}"
            sources.append(
                f"json_each(CASE {above}.type WHEN 'array' THEN {above}.value "
                f"WHEN 'object' THEN json_array(json({above}.value)) ELSE '[]' END) AS object{n}"
            )
            sources.append(
                f"json_each(CASE object{n}.type WHEN 'object' THEN object{n}.value ELSE '{{}}' END) AS key{n}"
            )
        kept.append(f"key{n}.key = {bind(key)}")
    value = f"key{len(keys) - 1}"
    if is_member:
        sources.append(f"json_each(CASE {value}.type WHEN 'array' THEN {value}.value ELSE '[]' END) AS item")
        value = "item"
    return ", ".join(sources), " AND ".join(kept), value


def index_entries(path: Path, number: int, documents: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield statements, with what is bound in them, that put values into metadata_values.

    Run again for documents whose metadata hasn't changed, they change nothing.

    Args:
        number: the index of the path.
        documents: a SELECT of the documents' numbers.
    """
    insert = "INSERT OR IGNORE INTO metadata_values (path, kind, member, value, document)"
    for keys in path.places:
        for is_member in (False, True):
            bind = Bind()
            source, kept, at = walk(bind, keys, is_member)
            text = f"CASE WHEN {moment(f'{at}.value')} IS NULL THEN {Kind.TEXT} ELSE {Kind.DATE} END"
            yield (
                f"{insert} SELECT {number}, CASE {at}.type WHEN 'text' THEN {text} "
                f"WHEN 'integer' THEN {Kind.NUMBER} WHEN 'real' THEN {Kind.NUMBER} WHEN 'null' THEN {Kind.NULL} "
                f"WHEN 'true' THEN {Kind.BOOLEAN} WHEN 'false' THEN {Kind.BOOLEAN} ELSE {Kind.OTHER} END, "
                f"{int(is_member)}, CASE WHEN {at}.type IN ('null', 'array', 'object') THEN 0 ELSE {at}.value END, "
                f"number FROM documents INDEXED BY documents_metadata, {source} "
                f"WHERE number IN ({documents}) AND {kept}",
                bind.values,
            )
    yield (
        f"{insert} SELECT path, {Kind.MOMENT}, member, julianday(value), document "
        "FROM metadata_values INDEXED BY metadata_values_by_document "
        f"WHERE document IN ({documents}) AND path = {number} AND kind = {Kind.DATE}",
        [],
    )


def moment(text: str) -> str:
    """Return the SQL of the Julian day that a text says, NULL if it is no date."""
    # Without the pattern, 'now' and '12:00' would be dates too.
    return f"CASE WHEN {text} GLOB '{DATE}' THEN julianday({text}) END"
