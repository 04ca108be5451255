"""Filters as SQL: over the metadata's JSON, or over the table of indexed values.

A condition is an expression over `number` and `metadata`, a document's, that is 0 or 1 and never NULL. Whatever came
from outside is bound, paths too. What the conditions mean stands in server/filters.py.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.catalog.metadata_values import Bind, Kind, moment, walk
from server.conditions import AllOf, AnyOf, Beyond, Condition, Contains, Exists, Not, OneOf, Path

Test = Callable[[str, str], str]
"""From the SQL of a value and of its JSON type to the SQL of a test, in parentheses."""

WIDTH = 30  # conditions side by side; SQLite nests each OR in the one before, and 1000 at most
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')  # keys whose JSON is the key itself; a path finds no others
EITHER = (
    "IN (0, 1)"  # the column `member`: spelled out, so that what comes behind it in the key is sought too
)
DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Compiler:
    """Turns conditions into SQL; what `bind` has bound goes with it."""

    def __init__(self, indexed: Mapping[str, int] | None = None, number: str = "number") -> None:
        """Compile for one statement.

        Args:
            indexed: the paths that have their values in metadata_values, and the numbers that they have there.
            number: the SQL of the document's number; `+number` keeps SQLite from looking the documents up by it.
        """
        self.bind = Bind()
        self.reads_metadata = False  # whether what was compiled needs `metadata`
        self._indexed = indexed or {}
        self._number = number

    def sql(self, condition: Condition | None) -> str:
        """Return a condition's SQL."""
        match condition:
            case None:
                return "1"
            case AllOf(parts):
                return _joined("AND", [self.sql(part) for part in parts])
            case AnyOf(parts):
                return _joined("OR", [self.sql(part) for part in parts])
            case Not(part):
                return f"NOT {self.sql(part)}"
            case OneOf(None, values):
                return self._of_id(f"IN {self._list(values)}")
            case Beyond(None, comparison, value):
                return self._of_id(f"{comparison} {self.bind(value)}")
            case Exists(path):
                return self._exists(path)
            case OneOf(path, values) if path is not None:
                return self._one_of(path, values)
            case Beyond(path, comparison, value) if path is not None:
                return self._beyond(path, comparison, value)
            case Contains(path, value):
                return self._contains(path, value)
        raise ValueError(f"{condition!r} is no condition")

    def _of_id(self, test: str) -> str:
        return f"{self._number} IN (SELECT number FROM documents WHERE id {test})"

    def _exists(self, path: Path) -> str:
        if path.text in self._indexed:
            return f"{self._number} IN (SELECT document FROM metadata_values WHERE path = {self._indexed[path.text]})"
        return self._found(path, lambda _, kind: f"({kind} IS NOT NULL)", None)

    def _one_of(self, path: Path, values: tuple[Any, ...]) -> str:
        parts = []
        if path.text in self._indexed and not any(isinstance(each, list | dict) for each in values):
            parts.append(self._held(path, self._held_equals(values)))
        elif test := self._equals(values):
            parts.append(self._found(path, test, test))
        if None in values:
            parts.append(f"NOT {self._exists(path)}")
        return _joined("OR", parts)

    def _beyond(self, path: Path, comparison: str, value: float | str) -> str:
        operand = self._numeral(value) if not isinstance(value, str) else self.bind(value)
        day = moment(operand)
        is_dated = isinstance(value, str) and bool(DATED.match(value))
        if path.text in self._indexed:
            if not isinstance(value, str):
                kinds = {f"kind = {Kind.NUMBER}": operand}
            elif not is_dated:
                kinds = {f"kind IN ({Kind.TEXT}, {Kind.DATE})": operand}
            else:
                kinds = {
                    f"kind = {Kind.MOMENT}": day,
                    f"kind = {Kind.TEXT}": operand,
                    f"{day} IS NULL AND kind = {Kind.DATE}": operand,
                }
            tests = [
                f"{kind} AND member {EITHER} AND value {comparison} {end}" for kind, end in kinds.items()
            ]
            return self._held(path, tests)

        def test(stored: str, kind: str) -> str:
            if not isinstance(value, str):
                return f"({kind} IN ('integer', 'real') AND {stored} {comparison} {operand})"
            if not is_dated:
                return f"({kind} = 'text' AND {stored} {comparison} {operand})"
            as_moments = f"{moment(stored)} {comparison} {day}"
            return f"({kind} = 'text' AND coalesce({as_moments}, {stored} {comparison} {operand}))"

        return self._found(path, test, test)

    def _contains(self, path: Path, value: float | str | bool) -> str:
        part = self.bind(value) if isinstance(value, str) else ""
        if path.text in self._indexed:
            tests = self._held_equals((value,), "= 1")
            if part:
                tests.append(f"kind IN ({Kind.TEXT}, {Kind.DATE}) AND member = 0 AND instr(value, {part})")
            return self._held(path, tests)
        has_part: Test | None = (
            (lambda stored, kind: f"({kind} = 'text' AND instr({stored}, {part}))") if part else None
        )
        return self._found(path, has_part, self._equals((value,)))

    # Over the JSON

    def _equals(self, values: tuple[Any, ...]) -> Test | None:
        """Test whether a value equals one of these; None if there are none."""
        switches = [_as_json(each) for each in values if each is None or isinstance(each, bool)]
        numbers = [each for each in values if _is_number(each)]
        texts = [each for each in values if isinstance(each, str)]
        others = [_as_json(each) for each in values if isinstance(each, list | dict)]
        lists = [("'integer', 'real'", numbers), ("'text'", texts), ("'array', 'object'", others)]
        marks = [(kinds, self._list(each)) for kinds, each in lists if each]

        def test(stored: str, kind: str) -> str:
            tests = [f"{kind} IN ({kinds}) AND {stored} IN {mark}" for kinds, mark in marks]
            tests += [f"{kind} = '{each}'" for each in switches]
            return f"({' OR '.join(tests)})"

        return test if values else None

    def _found(self, path: Path, own: Test | None, member: Test | None) -> str:
        """Say whether a value passes the test `own`, or an item of one that is a list the test `member`."""
        self.reads_metadata = True
        tests = []
        for keys in path.places:
            if not all(PLAIN.fullmatch(key) for key in keys):
                tests.append(self._walked(keys, own, member))
                continue
            *above, place = [self.bind(_json_path(keys[: n + 1])) for n in range(len(keys))]
            kind = f"json_type(metadata, {place})"
            if own:
                tests.append(own(f"json_extract(metadata, {place})", kind))
            if member:
                items = f"SELECT 1 FROM json_each(metadata, {place}) AS item WHERE {member('item.value', 'item.type')}"
                tests.append(f"({kind} = 'array' AND EXISTS ({items}))")
            if above:
                kinds = ", ".join(f"json_type(metadata, {each})" for each in above)
                tests.append(f"('array' IN ({kinds}) AND {self._walked(keys, own, member)})")
        return f"(({' OR '.join(tests)}) IS TRUE)"

    def _walked(self, keys: tuple[str, ...], own: Test | None, member: Test | None) -> str:
        found = []
        for test, is_member in ((own, False), (member, True)):
            if test:
                source, kept, value = walk(self.bind, keys, is_member)
                found.append(
                    f"EXISTS (SELECT 1 FROM {source} WHERE {kept} AND {test(f'{value}.value', f'{value}.type')})"
                )
        return f"({' OR '.join(found)})"

    # Over the indexed values

    def _held(self, path: Path, tests: Sequence[str]) -> str:
        """Say whether an indexed value passes one of the tests, which are over `kind`, `member` and `value`."""
        if not tests:
            return "0"
        select = f"SELECT document FROM metadata_values WHERE path = {self._indexed[path.text]} AND"
        return f"{self._number} IN ({' UNION ALL '.join(f'{select} {test}' for test in tests)})"

    def _held_equals(self, values: tuple[Any, ...], member: str = EITHER) -> list[str]:
        kinds = [
            (f"= {Kind.NUMBER}", [each for each in values if _is_number(each)]),
            (f"IN ({Kind.TEXT}, {Kind.DATE})", [each for each in values if isinstance(each, str)]),
            (f"= {Kind.BOOLEAN}", [int(each) for each in values if isinstance(each, bool)]),
            (f"= {Kind.NULL}", [0 for each in values if each is None]),
        ]
        return [
            f"kind {kind} AND member {member} AND value IN {self._list(alike)}"
            for kind, alike in kinds
            if alike
        ]

    # Bound values

    def _list(self, values: Sequence[Any]) -> str:
        # As JSON, so that SQLite reads a number here as it reads the stored ones.
        return f"(SELECT value FROM json_each({self.bind(_as_json(values))}))"

    def _numeral(self, value: float) -> str:
        return f"json_extract({self.bind(_as_json(value))}, '$')"


def _joined(word: str, parts: list[str]) -> str:
    """Join conditions; many of them in groups, so that none nests too deep."""
    if not parts:
        return "0"
    while len(parts) > WIDTH:
        parts = [_joined(word, parts[start : start + WIDTH]) for start in range(0, len(parts), WIDTH)]
    return parts[0] if len(parts) == 1 else f"({f' {word} '.join(parts)})"


def _json_path(keys: Sequence[str]) -> str:
    return "$" + "".join(f'."{key}"' for key in keys)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
