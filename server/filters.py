r"""Filters on metadata, as Chroma, Pinecone, LangChain and MongoDB write them: from JSON to checked conditions.

    {"year": {"$gte": 2020}, "tags": {"$in": ["tax"]}, "$or": [{"author.name": "Ada"}, {"draft": {"$ne": true}}]}

What stands side by side must all hold. `{}` is no filter at all; empty ones further in are refused.

| | holds for a document … |
|---|---|
| path `a.b` | what stands under `a` and in it under `b`, in each object where `a` is a list; or under the key `a.b` |
| `\.` `\$` `\\` | a dot or dollar sign that belongs to the key, a backslash |
| `"x": v`, `$eq` | a value, or an item of a list, equals v. Lists and objects: written alike, keys in any order |
| `$ne` `$nin` `$not` `$not_contains` | for which the opposite doesn't hold: also one without the field |
| `$in` | any of them by `$eq`; `[]` holds for none |
| `$gt` `$gte` `$lt` `$lte` | a number, or an item, beyond a number; a text beyond a text, by code points |
| dates | of two ISO 8601 texts (`2024-05-01`, `…T10:00`, `…T10:00:00.5+02:00`) these four compare the moments, to the |
| | millisecond; without an offset it is UTC, without a time midnight. All others, and `$eq`, compare the text |
| `$exists` | the field is there, or not; null is there |
| `$contains` | a text with this part, or a list with this item |
| null | `$eq` and `$in`: the value is null, or the field isn't there |
| `$id` | the document's own id, by `$eq $ne $in $nin $gt $gte $lt $lte` |
| types | 1, 1.0 are equal; 1, "1", true are not. Whole numbers beyond 64 bits compare as floats |

Where they differ this follows MongoDB and Chroma (since 0.5.12); Pinecone's `$ne` passes over documents without the
field. A NUL in stored texts ends them here, as SQLite's JSON functions have it.
"""

import difflib
import json
from typing import Any

from server.checks import check_utf8
from server.conditions import (
    AllOf,
    AnyOf,
    Beyond,
    Comparison,
    Condition,
    Contains,
    Exists,
    Filter,
    Not,
    OneOf,
    Path,
    check_text,
    parse_path,
)
from server.errors import FilterError, InputError
from server.settings import LimitSettings

RANGES: dict[str, Comparison] = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
NEGATED = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}
FIELD_OPERATORS = (*NEGATED, "$eq", "$in", *RANGES, "$exists", "$contains", "$not")
JOINING = ("$and", "$or", "$not")
ID = "$id"


def parse_filter(raw: object, where: str = "filter", limits: LimitSettings | None = None) -> Filter:
    """Check a filter as it came out of JSON.

    Args:
        where: the field that it stands in, for errors.
        limits: None: the defaults.

    Raises:
        FilterError: what is wrong; its `where` is the place, as filter.tags.$in[2].
    """
    condition = None if raw == {} else _Reading(limits or LimitSettings()).filter(raw, where, 0)
    return Filter(condition, _json(raw, where))


class _Reading:
    """One filter being read; counts what stands in it."""

    def __init__(self, limits: LimitSettings) -> None:
        self.limits = limits
        self.n_conditions = 0
        self.n_values = 0

    def filter(self, raw: object, where: str, depth: int) -> Condition:
        """Read {field: …, "$or": […]}."""
        self._check_depth(depth, where)
        if not isinstance(raw, dict):
            raise FilterError(
                f"a filter is an object, not {_named(raw)}", where, 'As in {"year": {"$gte": 2020}}.'
            )
        if not raw:
            raise FilterError("an empty filter stands here", where, "Leave it out, or put a condition in.")
        return _all_of([self._entry(key, value, f"{where}.{key}", depth) for key, value in raw.items()])

    def _entry(self, key: object, value: object, where: str, depth: int) -> Condition:
        if not isinstance(key, str):
            raise FilterError(f"a key is a text, not {_named(key)}", where)
        if key in ("$and", "$or"):
            return self._joined(key, value, where, depth)
        if key == "$not":
            return Not(self.filter(value, where, depth + 1))
        if key in FIELD_OPERATORS:
            raise FilterError(f"{key} stands inside a field", where, f'As in {{"year": {{"{key}": …}}}}.')
        if key.startswith("$") and key != ID:
            raise _unknown(key, (*JOINING, ID, *FIELD_OPERATORS), where)
        path = None if key == ID else parse_path(key, where)
        if not isinstance(value, dict) or not value or not any(str(each).startswith("$") for each in value):
            if value == {}:
                raise FilterError(
                    "there is no operator", where, 'For an empty object write {"$eq": {}}; else leave it out.'
                )
            return self._operator(path, "$eq", value, where, depth)
        return self._operators(path, value, where, depth)

    def _joined(self, key: str, value: object, where: str, depth: int) -> Condition:
        if not isinstance(value, list) or not value:
            raise FilterError(f"{key} takes a list of at least one filter, not {_named(value)}", where)
        parts = tuple(self.filter(each, f"{where}[{at}]", depth + 1) for at, each in enumerate(value))
        return AllOf(parts) if key == "$and" else AnyOf(parts)

    def _operators(self, path: Path | None, value: dict[str, Any], where: str, depth: int) -> Condition:
        for name in value:
            if not str(name).startswith("$"):
                raise FilterError(
                    f"{name!r} stands beside operators", where,
                    "Write paths with a dot, as author.name, and operators alone.",
                )  # fmt: skip
        return _all_of(
            [self._operator(path, name, operand, f"{where}.{name}", depth) for name, operand in value.items()]
        )

    def _operator(self, path: Path | None, name: str, operand: Any, where: str, depth: int) -> Condition:
        if name in NEGATED:
            return Not(self._operator(path, NEGATED[name], operand, where, depth))
        self._count(len(operand) if isinstance(operand, list) else 1, where)
        if name == "$eq":
            return OneOf(path, (self._value(path, operand, where),))
        if name == "$in":
            if not isinstance(operand, list):
                raise FilterError(f"a list of values belongs here, not {_named(operand)}", where)
            return OneOf(
                path, tuple(self._value(path, each, f"{where}[{at}]") for at, each in enumerate(operand))
            )
        if name in RANGES:
            if isinstance(operand, bool) or not isinstance(operand, int | float | str):
                raise FilterError(f"{name} compares numbers or texts, not {_named(operand)}", where)
            return Beyond(path, RANGES[name], self._value(path, operand, where))
        if path is None:
            takes = ["$eq", "$in", *RANGES, "$ne", "$nin"]
            raise FilterError(f"{ID} takes {', '.join(takes)}, not {name}", where)
        if name == "$exists":
            if not isinstance(operand, bool):
                raise FilterError(f"$exists takes true or false, not {_named(operand)}", where)
            return Exists(path) if operand else Not(Exists(path))
        if name == "$contains":
            if not isinstance(operand, str | int | float):
                raise FilterError(f"a text, number or boolean belongs here, not {_named(operand)}", where)
            return Contains(path, self._value(path, operand, where))
        if name == "$not":
            if not isinstance(operand, dict) or not operand:
                raise FilterError(
                    f"$not takes operators, not {_named(operand)}", where, "For a value write $ne."
                )
            self._check_depth(depth + 1, where)
            return Not(self._operators(path, operand, where, depth + 1))
        raise _unknown(name, FIELD_OPERATORS, where)

    def _value(self, path: Path | None, value: Any, where: str) -> Any:
        if path is None and not isinstance(value, str):
            raise FilterError(f"an id is a text, not {_named(value)}", where)
        if isinstance(value, str):
            check_text(value, where)
        elif isinstance(value, dict | list):
            _json(value, where)
        elif value is not None and not isinstance(value, int | float):
            raise FilterError(f"{_named(value)} is no JSON", where)
        elif value is not None and not abs(value) < float("inf"):  # so is NaN
            raise FilterError(f"{value} is no number that can be compared", where)
        elif isinstance(value, int) and abs(value) > 2**1023:
            raise FilterError("this number has more than 308 digits", where)
        return value

    def _count(self, n_values: int, where: str) -> None:
        self.n_conditions += 1
        self.n_values += n_values
        for n, most, what in (
            (self.n_conditions, self.limits.filter_conditions, "conditions"),
            (self.n_values, self.limits.filter_values, "values"),
        ):
            if n > most:
                raise FilterError(
                    f"more than {most} {what} in one filter",
                    where,
                    f"Send less, or raise limits.filter_{what}.",
                )

    def _check_depth(self, depth: int, where: str) -> None:
        if depth > self.limits.filter_depth:
            raise FilterError(
                f"$and, $or and $not stand more than {self.limits.filter_depth} deep in each other", where,
                "Write it flatter, or raise limits.filter_depth.",
            )  # fmt: skip


def _all_of(parts: list[Condition]) -> Condition:
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _json(value: object, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        check_utf8(text, where)
    except (ValueError, TypeError, RecursionError, InputError) as error:
        raise FilterError(f"this isn't plain JSON: {error}", where) from error
    return text


def _unknown(name: str, known: tuple[str, ...], where: str) -> FilterError:
    nearest = max(known, key=lambda each: difflib.SequenceMatcher(None, name.lower(), each).ratio())
    hint = rf"For a key that begins with a dollar sign write \{name}."
    return FilterError(f"there is no operator {name}; the nearest is {nearest}", where, hint)


def _named(value: object) -> str:
    """What JSON calls this."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty object"
    return names.get(type(value), type(value).__name__)
