"""Filters on metadata: what they mean, against a plain oracle, and what is wrong with those that are refused."""

import json
import re
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.catalog import Catalog
from server.errors import FilterError
from server.filters import parse_filter
from server.records import DocumentWrite
from server.settings import LimitSettings


def canonical(value):
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def put(catalog, documents, first_row):
    """Store metadata by id, each with two passages."""
    writes = [
        DocumentWrite(
            name, "text", canonical(metadata), canonical(metadata).encode(), False, [(0, 2), (2, 4)]
        )
        for name, metadata in documents.items()
    ]
    catalog.store(1, writes, [], first_row, [0] * 2 * len(writes))


def found(catalog, raw):
    """The ids that a filter finds, made sure that documents, rows and count agree."""
    wanted = parse_filter(raw, limits=LimitSettings(filter_depth=16))
    ids = catalog.filtering.documents(wanted, 1000)
    rows = catalog.filtering.rows(1, wanted).rows.tolist()
    passages = catalog.passages_of_rows(1, rows)
    assert len(passages) == len(rows) == 2 * len(ids)
    assert rows == sorted(rows)
    owners = catalog.documents([passage.document for passage in passages.values()])
    assert sorted({document.id for document in owners.values()}, key=str.encode) == ids
    assert catalog.filtering.count(wanted) == len(ids)
    return ids


# What filters mean

CASES = {
    "one": {"x": 1},
    "float": {"x": 1.0},
    "text": {"x": "1"},
    "true": {"x": True},
    "null": {"x": None},
    "none": {},
    "list": {"x": [1, "tax"]},
    "empty": {"x": []},
    "object": {"x": {"y": 1, "z": [1, 2]}},
    "objects": {"x": [{"y": 1}, {"y": "deep"}]},
    "dotted": {"x.y": 7},
    "big": {"x": 2**53 + 1},
    "huge": {"x": 2**70},
    "day": {"x": "2024-05-01"},
    "ten": {"x": "2024-05-01T10:00:00Z"},
    "eight": {"x": "2024-05-01T10:00:00+02:00"},
    "taxes": {"x": "income taxes"},
}
DATES = {"day", "ten", "eight"}


@pytest.fixture(scope="module", params=["json", "indexed"])
def cases(request, tmp_path_factory):
    with Catalog(tmp_path_factory.mktemp("cases") / "catalog.sqlite3") as catalog:
        catalog.generations.begin(1, "{}", 4, "float16")
        put(catalog, CASES, 0)
        if request.param == "indexed":
            catalog.filtering.add_index("x")
            catalog.filtering.add_index("x.y")
        yield catalog


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, set(CASES)),
        ({"x": 1}, {"one", "float", "list"}),
        ({"x": {"$eq": 1.0}}, {"one", "float", "list"}),
        ({"x": "1"}, {"text"}),
        ({"x": True}, {"true"}),
        ({"x": False}, set()),
        ({"x": None}, {"null", "none", "dotted"}),
        ({"x": {"$ne": None}}, set(CASES) - {"null", "none", "dotted"}),
        ({"x": {"$exists": True}}, set(CASES) - {"none", "dotted"}),
        ({"x": {"$exists": False}}, {"none", "dotted"}),
        ({"x": {"$ne": 1}}, set(CASES) - {"one", "float", "list"}),
        ({"x": {"$in": []}}, set()),
        ({"x": {"$nin": []}}, set(CASES)),
        ({"x": {"$in": ["tax", True, None]}}, {"list", "true", "null", "none", "dotted"}),
        ({"x": {"$nin": ["tax", 1]}}, set(CASES) - {"one", "float", "list"}),
        ({"x": [1, "tax"]}, {"list"}),
        ({"x": ["tax", 1]}, set()),
        ({"x": {"$eq": []}}, {"empty"}),
        ({"x": {"z": [1, 2], "y": 1}}, {"object"}),
        ({"x": {"y": 1}}, {"objects"}),
        ({"x.y": 1}, {"object", "objects"}),
        ({"x.y": "deep"}, {"objects"}),
        ({"x.y": 7}, {"dotted"}),
        ({"x.z": 2}, {"object"}),
        ({r"x\.y": {"$exists": True}}, {"dotted"}),
        ({"x": {"$gt": 1}}, {"big", "huge"}),
        ({"x": {"$gte": 1, "$lt": 2}}, {"one", "float", "list"}),
        ({"x": {"$gt": 2**53}}, {"big", "huge"}),
        ({"x": 2**53 + 1}, {"big"}),
        ({"x": {"$lte": 2**53}}, {"one", "float", "list"}),
        ({"x": 2**70}, {"huge"}),
        ({"x": {"$gte": 2.0**70}}, {"huge"}),
        ({"x": {"$gt": "income"}}, {"taxes", "list"}),
        ({"x": {"$contains": "tax"}}, {"taxes", "list"}),
        ({"x": {"$contains": "come"}}, {"taxes"}),
        ({"x": {"$contains": 1}}, {"list"}),
        ({"x": {"$contains": True}}, set()),
        ({"x": {"$not_contains": "tax"}}, set(CASES) - {"taxes", "list"}),
        ({"x": {"$not": {"$gte": 1, "$lt": 2}}}, set(CASES) - {"one", "float", "list"}),
        ({"$not": {"x": 1}}, set(CASES) - {"one", "float", "list"}),
        ({"$or": [{"x": "1"}, {"x": True}]}, {"text", "true"}),
        ({"$and": [{"x": {"$gte": 1}}, {"x": {"$ne": "tax"}}]}, {"one", "float", "big", "huge"}),
        ({"x": {"$gte": 1}, "$or": [{"x": 1}, {"x": 2}]}, {"one", "float", "list"}),
        ({"x": {"$gte": "2024-05-01", "$lt": "2024-05-02"}}, DATES),
        ({"x": {"$lte": "2024-05-01"}}, {"day", "text"}),
        ({"x": {"$gt": "2024-05-01T09:00", "$lt": "2025-01-01"}}, {"ten"}),
        ({"x": {"$gte": "2024-05-01T10:00:00+02:00", "$lt": "2024-05-01T08:00:00.5"}}, {"eight"}),
        ({"x": {"$gte": "2024-05", "$lt": "2024-06"}}, DATES),
        ({"x": {"$gte": "2024-05-99", "$lt": "3"}}, set()),
        ({"x": "2024-05-01T08:00:00Z"}, set()),
        ({"$id": "one"}, {"one"}),
        ({"$id": {"$in": ["one", "nobody", "none"]}}, {"one", "none"}),
        ({"$id": {"$gte": "t", "$ne": "text"}}, {"taxes", "ten", "true"}),
        ({"$id": {"$nin": ["one"]}, "x": 1}, {"float", "list"}),
    ],
    ids=lambda given: " ".join(sorted(given)) if isinstance(given, set) else str(given),
)  # fmt: skip
def test_a_filter_finds_these(cases, raw, expected):
    assert set(found(cases, raw)) == expected


# The oracle: from the page's words, over json.loads


def split(path):
    keys, rest = [""], list(path)
    while rest:
        sign = rest.pop(0)
        if sign == "\\" and rest and rest[0] in ".$\\":
            keys[-1] += rest.pop(0)
        elif sign == ".":
            keys.append("")
        else:
            keys[-1] += sign
    return keys


def values_at(metadata, path):
    keys = split(path)
    here = [metadata]
    for key in keys:
        objects = [
            each
            for value in here
            for each in (value if isinstance(value, list) else [value])
            if isinstance(each, dict)
        ]
        here = [each[key] for each in objects if key in each]
    if len(keys) > 1 and ".".join(keys) in metadata:
        here.append(metadata[".".join(keys)])
    return here


def with_items(values):
    return values + [item for value in values if isinstance(value, list) for item in value]


def as_number(value):
    return value if isinstance(value, float) or -(2**63) <= value < 2**63 else float(value)


def kind(value):
    names = {bool: "boolean", int: "number", float: "number", str: "text", type(None): "null"}
    return names.get(type(value), "other")


def equal(stored, value):
    if kind(stored) != kind(value):
        return False
    if kind(value) == "number":
        return as_number(stored) == as_number(value)
    return canonical(stored) == canonical(value)


def moment(text):
    """Milliseconds since 2000 of an ISO date, None for other texts; a day 30 of February is the 1st or 2nd of March."""
    pattern = r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?"
    match = re.fullmatch(pattern, text, re.ASCII)
    if not match:
        return None
    year, month, day, hour, minute, second = (int(each or 0) for each in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour <= 24 and minute <= 59 and second <= 59):
        return None
    time = datetime(year, month, 1) + timedelta(days=day - 1, hours=hour, minutes=minute, seconds=second)
    zone = match[8] or "Z"
    if zone != "Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
        time += offset if zone[0] == "-" else -offset
    return (time - datetime(2000, 1, 1)) / timedelta(milliseconds=1) + 1000 * float(match[7] or 0)


def beyond(stored, name, value):
    if kind(stored) != kind(value):
        return False
    a, b = (stored, value) if kind(value) == "text" else (as_number(stored), as_number(value))
    if kind(value) == "text" and None not in (moment(stored), moment(value)):
        a, b = moment(stored), moment(value)
    return {"$gt": a > b, "$gte": a >= b, "$lt": a < b, "$lte": a <= b}[name]


def passes(values, name, operand):
    """Whether the values of one field pass one operator."""
    if name == "$not":
        return not all(passes(values, inner, each) for inner, each in operand.items())
    if name in ("$ne", "$nin", "$not_contains"):
        return not passes(values, {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}[name], operand)
    if name == "$exists":
        return bool(values) is operand
    if name == "$contains":
        return any(
            (isinstance(value, str) and isinstance(operand, str) and operand in value)
            or (isinstance(value, list) and any(equal(item, operand) for item in value))
            for value in values
        )
    if name in ("$eq", "$in"):
        wanted = [operand] if name == "$eq" else operand
        is_missing = not values and None in wanted
        return is_missing or any(equal(value, each) for value in with_items(values) for each in wanted)
    return any(beyond(value, name, operand) for value in with_items(values))


def matches(identifier, metadata, raw):
    for key, value in raw.items():
        if key == "$and":
            is_match = all(matches(identifier, metadata, each) for each in value)
        elif key == "$or":
            is_match = any(matches(identifier, metadata, each) for each in value)
        elif key == "$not":
            is_match = not matches(identifier, metadata, value)
        else:
            values = [identifier] if key == "$id" else values_at(metadata, key)
            has_operators = isinstance(value, dict) and any(name.startswith("$") for name in value)
            operators = value if has_operators else {"$eq": value}
            is_match = all(passes(values, name, operand) for name, operand in operators.items())
        if not is_match:
            return False
    return True


KEYS = ["a", "b", "a.b", "", "é", "$d", 'q"t', "x'y", "a\\b", "li\nne", "[0]", "'); DROP TABLE documents; --"]
SCALARS = [
    None, True, False, 0, 1, 1.0, -1, 0.1, 0.30000000000000004, 1e300, 2**53, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63,
    2**70, "", "a", "b", "1", "true", "null", "tax", "taxes", "é", "\U0001f600", "now", "2024", "2024-05-01",
    "2024-05-01T00:00:00Z", "2024-05-01T02:00:00+02:00", "2024-05-01 10:30", "2024-05-01T10:30:00.25-01:30",
    "2024-02-31", "2024-13-01", "2024-05-01T25:00", "2024-05-01x", "' OR 1=1 --", '"]}', "\\", "%", "_", "*",
]  # fmt: skip
keys = st.sampled_from(KEYS)
scalars = (
    st.sampled_from(SCALARS) | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
)
scalars |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
leaves = st.sampled_from(SCALARS) | scalars
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
metadata = st.dictionaries(keys, values, max_size=4)


@st.composite
def paths(draw):
    parts = draw(st.lists(keys, min_size=1, max_size=3))
    escaped = [part.replace("\\", "\\\\") for part in parts]
    if draw(st.booleans()):
        escaped = [part.replace(".", "\\.") for part in escaped]
    path = ".".join(escaped)
    return "\\" + path if path.startswith("$") else path


numbers_and_texts = leaves.filter(
    lambda each: isinstance(each, int | float | str) and not isinstance(each, bool)
)
simple = (
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), values, min_size=1, max_size=2)
    | st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(values, max_size=4), min_size=1, max_size=2)
    | st.dictionaries(
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers_and_texts, min_size=1, max_size=2
    )
    | st.fixed_dictionaries({"$exists": st.booleans()})
    | st.dictionaries(
        st.sampled_from(["$contains", "$not_contains"]),
        leaves.filter(lambda each: each is not None),
        min_size=1,
    )
)
operators = simple | st.fixed_dictionaries({"$not": simple | st.fixed_dictionaries({"$not": simple})})
plain = values.filter(
    lambda each: not isinstance(each, dict) or (each and not any(k.startswith("$") for k in each))
)
fields = st.dictionaries(paths(), operators | plain, min_size=1, max_size=2)
ids = st.sampled_from([f"d{n}" for n in range(8)] + ["' OR 1=1 --", ""])
by_id = st.fixed_dictionaries({"$id": ids}) | st.fixed_dictionaries(
    {"$id": st.fixed_dictionaries({"$in": st.lists(ids, max_size=3)}) | st.fixed_dictionaries({"$gt": ids})}
)
filters = st.recursive(
    fields | by_id,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def two_catalogs(tmp_path_factory):
    """One without indexes, and one with them on most paths; both keep what earlier examples left cached."""
    with (
        Catalog(tmp_path_factory.mktemp("plain") / "catalog.sqlite3") as plain,
        Catalog(tmp_path_factory.mktemp("indexed") / "catalog.sqlite3") as indexed,
    ):
        for catalog in (plain, indexed):
            catalog.generations.begin(1, "{}", 4, "float16")
        for key in KEYS:
            path = key.replace("\\", "\\\\")
            for each in (path, f"a.{path}", f"{path}.b"):
                indexed.filtering.add_index("\\" + each if each.startswith("$") else each)
        yield plain, indexed


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(metadata, min_size=1, max_size=8), st.lists(filters, min_size=3, max_size=6))
def test_every_filter_finds_what_the_oracle_finds(two_catalogs, contents, wanted):
    documents = {f"d{n}": each for n, each in enumerate(contents)}
    for catalog in two_catalogs:
        catalog.delete([f"d{n}" for n in range(8)])
        put(catalog, documents, catalog.generations.current().n_rows)
        stored = {each.id: each.metadata for each in catalog.page("", 100)}
        assert stored.keys() == documents.keys()
        for raw in wanted:
            expected = [name for name, each in stored.items() if matches(name, each, raw)]
            assert found(catalog, raw) == expected


# What is refused

TOO_DEEP: dict = {"x": 1}
TOO_DEEP_INSIDE: dict = {"$gt": 1}
for _ in range(9):
    TOO_DEEP = {"$not": TOO_DEEP}
    TOO_DEEP_INSIDE = {"$not": TOO_DEEP_INSIDE}


@pytest.mark.parametrize(
    ("raw", "where", "message"),
    [
        ([], "filter", "a filter is an object, not an empty list"),
        ("year", "filter", "a filter is an object, not a text"),
        (None, "filter", "a filter is an object, not null"),
        ({"year": {"$gtt": 1}}, "filter.year.$gtt", "there is no operator $gtt; the nearest is $gt"),
        ({"year": {"$neq": 1}}, "filter.year.$neq", "there is no operator $neq; the nearest is $ne"),
        ({"$any": []}, "filter.$any", "there is no operator $any; the nearest is $and"),
        ({"$gte": 5}, "filter.$gte", "$gte stands inside a field"),
        ({"$and": []}, "filter.$and", "$and takes a list of at least one filter, not an empty list"),
        ({"$or": {"x": 1}}, "filter.$or", "$or takes a list of at least one filter, not an object"),
        ({"$or": [{"x": 1}, {}]}, "filter.$or[1]", "an empty filter stands here"),
        ({"$not": {}}, "filter.$not", "an empty filter stands here"),
        ({"year": {}}, "filter.year", "there is no operator"),
        ({"year": {"$gt": 1, "x": 2}}, "filter.year", "'x' stands beside operators"),
        ({"tags": {"$in": "tax"}}, "filter.tags.$in", "a list of values belongs here, not a text"),
        ({"tags": {"$nin": None}}, "filter.tags.$nin", "a list of values belongs here, not null"),
        (
            {"$or": [{"tags": {"$in": ["a", float("nan")]}}]},
            "filter.$or[0].tags.$in[1]",
            "nan is no number that can be compared",
        ),
        ({"x": float("-inf")}, "filter.x", "-inf is no number that can be compared"),
        ({"x": 10**400}, "filter.x", "this number has more than 308 digits"),
        ({"x": {"$gt": None}}, "filter.x.$gt", "$gt compares numbers or texts, not null"),
        ({"x": {"$lt": True}}, "filter.x.$lt", "$lt compares numbers or texts, not a boolean"),
        ({"x": {"$lt": [1]}}, "filter.x.$lt", "$lt compares numbers or texts, not a list"),
        ({"x": {"$exists": 1}}, "filter.x.$exists", "$exists takes true or false, not a number"),
        ({"x": {"$contains": ["a"]}}, "filter.x.$contains", "a text, number or boolean belongs here, not a list"),
        ({"x": {"$not": 5}}, "filter.x.$not", "$not takes operators, not a number"),
        ({"x": "\ud800"}, "filter.x", "character 0 is half of a surrogate pair, which is no text"),
        ({"\udc00": 1}, "filter.\udc00", "character 0 is half of a surrogate pair, which is no text"),
        ({"x": {"$eq": ["a\ud800"]}}, "filter.x.$eq", "this isn't plain JSON: character 3 is half of a surrogate"),
        ({"x": "a\0b"}, "filter.x", "a NUL character stands in the text"),
        ({"x": {1, 2}}, "filter.x", "set is no JSON"),
        ({5: 1}, "filter.5", "a key is a text, not a number"),
        ({"x": {5: 1, "$eq": 1}}, "filter.x", "5 stands beside operators"),
        ({"$id": 5}, "filter.$id", "an id is a text, not a number"),
        (
            {"$id": {"$exists": True}},
            "filter.$id.$exists",
            "$id takes $eq, $in, $gt, $gte, $lt, $lte, $ne, $nin, not $exists",
        ),
        ({".".join("a" * 17): 1}, f"filter.{'.'.join('a' * 17)}", "a path has at most 16 keys, this one 17"),
        (TOO_DEEP, "filter" + ".$not" * 9, "$and, $or and $not stand more than 8 deep in each other"),
        (
            {"x": TOO_DEEP_INSIDE},
            "filter.x" + ".$not" * 9,
            "$and, $or and $not stand more than 8 deep in each other",
        ),
        ({"x": {"$in": list(range(1001))}}, "filter.x.$in", "more than 1000 values in one filter"),
        ({f"k{n}": 1 for n in range(101)}, "filter.k100", "more than 100 conditions in one filter"),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else "",
)  # fmt: skip
def test_a_filter_that_cannot_be_understood_is_refused_with_its_place(raw, where, message):
    with pytest.raises(FilterError) as raised:
        parse_filter(raw)
    assert raised.value.where == where
    assert str(raised.value).startswith(message)


def test_limits_are_settings(cases):
    raw = {"$or": [{"x": {"$in": [1, 2, 3]}}]}
    wide = LimitSettings(filter_depth=1, filter_conditions=1, filter_values=3)
    assert parse_filter(raw, limits=wide).key == canonical(raw)
    for name, too_few in (("filter_values", 2), ("filter_conditions", 1), ("filter_depth", 1)):
        raw = {"$or": [{"x": {"$in": [1, 2, 3]}}, {"$not": {"y": 1}}]}
        with pytest.raises(FilterError) as raised:
            parse_filter(raw, limits=LimitSettings(**{name: too_few}))
        assert str(too_few) in str(raised.value) and f"limits.{name}" in raised.value.hint


def test_the_deepest_and_the_widest_filter_allowed_can_be_answered(cases):
    limits = LimitSettings(filter_depth=16, filter_conditions=1000, filter_values=1_000_000)
    wide = {"x.y": {"$gt": "2024-01-01"}}
    for depth in range(7):
        wide = {"$not": {"$and" if depth % 2 else "$or": [{"x": 5}, wide, {"z.y": 1}]}}
    wide = {"$or": [wide, *({f"k{n}": {"$lt": "2024-01-01"}} for n in range(980))]}
    expected = [name for name, each in CASES.items() if matches(name, each, wide)]
    assert cases.filtering.documents(parse_filter(wide, limits=limits), 100) == sorted(expected)
    many = parse_filter({"x": {"$in": [*range(100_000), "tax"]}}, limits=limits)
    assert set(cases.filtering.documents(many, 100)) == {"one", "float", "list"}
