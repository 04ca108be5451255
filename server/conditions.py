"""What a checked filter is made of: conditions on metadata, and paths to where they look."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from server.checks import check_utf8
from server.errors import FilterError, InputError

MAX_KEYS = 16  # of one path; SQLite joins 64 tables at most, and each key takes two
ESCAPED = re.compile(r"\\([.$\\])|(\.)")

Comparison = Literal[">", ">=", "<", "<="]


@dataclass(frozen=True)
class Path:
    """Where a filter looks: the keys from the top, in one way or in two."""

    text: str  # in one spelling, that reads back as the same path
    places: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class OneOf:
    """A value, or an item of a list, equals one of these. `path` None: the document's id."""

    path: Path | None
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Beyond:
    """A value, or an item of a list, lies beyond this one. `path` None: the document's id."""

    path: Path | None
    comparison: Comparison
    value: float | str


@dataclass(frozen=True)
class Contains:
    """A text has this part, or a list this item."""

    path: Path
    value: float | str | bool


@dataclass(frozen=True)
class Exists:
    """The field is there."""

    path: Path


@dataclass(frozen=True)
class AllOf:
    """All of these hold."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one of these holds."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Not:
    """This doesn't hold."""

    part: "Condition"


Condition = OneOf | Beyond | Contains | Exists | AllOf | AnyOf | Not


@dataclass(frozen=True)
class Filter:
    """A checked filter."""

    condition: Condition | None  # None: every document
    key: str  # the filter as JSON in one spelling: equal keys are equal filters


def parse_path(text: str, where: str) -> Path:
    """Check a path of keys.

    Raises:
        FilterError: it begins with a dollar sign, has too many keys, or isn't text.
    """
    check_text(text, where)
    if text.startswith("$"):
        raise FilterError(
            f"{text!r} begins with a dollar sign, as operators do", where, r"Write \$ for a key that does."
        )
    keys = [""]
    end = 0
    for match in ESCAPED.finditer(text):
        keys[-1] += text[end : match.start()] + (match[1] or "")
        if match[2]:
            keys.append("")
        end = match.end()
    keys[-1] += text[end:]
    if len(keys) > MAX_KEYS:
        raise FilterError(f"a path has at most {MAX_KEYS} keys, this one {len(keys)}", where)
    spelled = ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in keys)
    if spelled.startswith("$"):
        spelled = "\\" + spelled
    places = (tuple(keys),) if len(keys) == 1 else (tuple(keys), (".".join(keys),))
    return Path(spelled, places)


def check_text(text: str, where: str) -> None:
    """Raise FilterError if this can't be compared with what is stored."""
    try:
        check_utf8(text, where)
    except InputError as error:
        raise FilterError(str(error), where) from error
    if "\0" in text:
        raise FilterError(
            "a NUL character stands in the text", where, "Leave it out; nothing compares with it."
        )
