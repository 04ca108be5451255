"""From filters to rows: indexes of metadata, selections that are kept and follow writes, and paths that mean harm."""

import json
import sqlite3

import numpy as np
import pytest
from conftest import beside
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.catalog import Catalog, changes, filtering, matching
from server.catalog.selections import ENTRY_BYTES, RowSelection, SelectionCache, reselect, select
from server.errors import FilterError, StaleWriteError
from server.filters import parse_filter
from server.records import DocumentWrite

INDEX = "SEARCH metadata_values USING PRIMARY KEY"


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        catalog.generations.begin(1, "{}", 4, "float16")
        yield catalog


def put(catalog, documents, generation=1, n_passages=1):
    """Store metadata by id."""
    writes = [
        DocumentWrite(
            name,
            "text",
            json.dumps(metadata, ensure_ascii=False),
            name.encode(),
            False,
            [(0, 4)] * n_passages,
        )
        for name, metadata in documents.items()
    ]
    first_row = catalog.generations.get(generation).n_rows
    catalog.store(generation, writes, [], first_row, [0] * n_passages * len(writes))


def ids(catalog, raw, limit=1000, after=""):
    return catalog.filtering.documents(parse_filter(raw), limit, after)


def rows(catalog, raw, generation=1):
    return catalog.filtering.rows(generation, parse_filter(raw)).rows.tolist()


def values(catalog):
    """Everything in the table of indexed values, with the paths and ids spelled out."""
    with sqlite3.connect(catalog.path) as connection:
        found = connection.execute(
            "SELECT metadata_indexes.path, kind, member, value, id FROM metadata_values "
            "LEFT JOIN metadata_indexes ON metadata_values.path = metadata_indexes.number "
            "LEFT JOIN documents ON document = documents.number"
        ).fetchall()
    connection.close()
    return set(found)


# Selections


@given(
    st.sets(st.integers(0, 70)), st.sets(st.integers(0, 70)), st.sets(st.integers(0, 70)), st.integers(0, 40)
)
def test_a_selection_is_a_set_of_rows(first, out, into, n_more):
    selection = select(np.array([*first], np.int64), 30)
    assert selection.rows.tolist() == sorted(row for row in first if row < 30)
    again = reselect(selection, np.array([*out], np.int64), np.array([*into], np.int64), 30 + n_more)
    expected = sorted(row for row in ({row for row in first if row < 30} - out) | into if row < 30 + n_more)
    assert again.rows.tolist() == expected
    assert again.rows.dtype == np.int64
    assert (again.n_selected, again.n_rows) == (len(expected), 30 + n_more)
    bits = np.unpackbits(again.bitmap, bitorder="little")
    assert np.flatnonzero(bits).tolist() == expected
    assert len(again.bitmap) == (30 + n_more + 7) // 8


def test_the_cache_keeps_what_was_used_last_and_stays_within_its_bytes():
    cache = SelectionCache(max_bytes=3 * (ENTRY_BYTES + 1 + 100))
    selection = RowSelection(np.zeros(100, np.uint8), 800, 0)

    def use(key):
        with cache.entry(1, key) as entry:
            was_there = entry.selection is not None
            entry.selection = selection
        return was_there

    assert [use(key) for key in "abcaabd"] == [False, False, False, True, True, True, False]
    assert [use(key) for key in "abdc"] == [True, True, True, False]
    assert cache.n_bytes == 3 * (ENTRY_BYTES + 1 + 100)
    with pytest.raises(KeyError), cache.entry(1, "e"):
        raise KeyError
    assert cache.n_bytes <= 3 * (ENTRY_BYTES + 1 + 100)


def test_a_filter_that_was_used_before_is_answered_from_memory_until_something_changes(catalog):
    put(catalog, {"a": {"x": 1}, "b": {"x": 2}})
    wanted = parse_filter({"x": 1})
    first = catalog.filtering.rows(1, wanted)
    assert first.rows.tolist() == [0]
    assert catalog.filtering.rows(1, parse_filter({"x": 1})) is first
    catalog.generations.set_encoder(1, "{}", "{}")  # a write that changes no document
    assert catalog.filtering.rows(1, wanted) is first
    put(catalog, {"c": {"x": 1}})
    catalog.delete(["a"])
    second = catalog.filtering.rows(1, wanted)
    assert second.rows.tolist() == [2]
    catalog.generations.set_encoder(1, "{}", "{}")
    assert catalog.filtering.rows(1, wanted) is second


def test_after_a_write_only_the_documents_that_changed_are_looked_at(catalog):
    put(catalog, {f"d{n}": {"x": n % 2} for n in range(50)})
    wanted = parse_filter({"x": 1})
    catalog.filtering.rows(1, wanted)
    # What the others hold is made unreadable, behind the catalog's back.
    with sqlite3.connect(catalog.path) as connection:
        connection.execute("UPDATE documents SET metadata = 'no JSON'")
    connection.close()
    put(catalog, {"d1": {"x": 0}, "d2": {"x": 1}, "new": {"x": 1}})
    catalog.delete(["d3"])
    assert catalog.filtering.rows(1, wanted).rows.tolist() == [*range(5, 50, 2), 51, 52]


def test_what_changed_too_long_ago_is_made_anew(catalog, monkeypatch):
    put(catalog, {"a": {"x": 1}})
    monkeypatch.setattr(changes, "KEPT", 3)
    wanted = parse_filter({"x": 1})
    assert catalog.filtering.rows(1, wanted).n_selected == 1
    for n in range(5):
        put(catalog, {f"d{n}": {"x": 1}})
    assert catalog.filtering.rows(1, wanted).rows.tolist() == [0, 1, 2, 3, 4, 5]


writes = st.one_of(
    st.tuples(st.just("put"), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2), min_size=1)),
    st.tuples(st.just("delete"), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3)),
    st.tuples(st.just("metadata"), st.tuples(st.sampled_from("abcdef"), st.integers(0, 2))),
    st.tuples(st.just("fail"), st.sampled_from("abcdef")),
    st.tuples(st.just("move"), st.sampled_from("abcdef")),
    st.tuples(st.just("look"), st.none()),
)


PUT_AND_LOOK = [("put", {"a": 0, "b": 1}), ("look", None)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(writes, max_size=14))
@example([*PUT_AND_LOOK, ("put", {"a": 1, "c": 1})])
@example([*PUT_AND_LOOK, ("delete", ["a"])])
@example([*PUT_AND_LOOK, ("metadata", ("a", 1))])
@example([*PUT_AND_LOOK, ("fail", "a")])
@example([*PUT_AND_LOOK, ("move", "a"), ("move", "b")])
def test_kept_selections_and_indexes_follow_every_kind_of_write(tmp_path_factory, plan):
    wanted = [parse_filter(raw) for raw in ({"x": 1}, {"x": {"$ne": 1}}, {"y.z": 1}, {"tags": "t1"})]
    with Catalog(tmp_path_factory.mktemp("writes") / "catalog.sqlite3") as catalog:
        catalog.generations.begin(1, "{}", 4, "float16")
        catalog.filtering.add_index("x")
        catalog.filtering.add_index("tags")
        stored: dict[str, int] = {}

        def metadata(x):
            return {"x": x, "y": [{"z": x}], "tags": [f"t{x}", "all"]}

        for what, how in plan:
            if what == "put":
                put(catalog, {name: metadata(x) for name, x in how.items()}, n_passages=2)
                stored |= how
            elif what == "delete":
                catalog.delete(how)
                stored = {name: x for name, x in stored.items() if name not in how}
            elif what == "metadata" and how[0] in stored:
                name, stored[how[0]] = how
                n_rows = catalog.generations.get(1).n_rows
                catalog.store(1, [], [(name, name.encode(), json.dumps(metadata(how[1])))], n_rows, [])
            elif what == "fail" and how in stored:
                write = DocumentWrite(how, "text", json.dumps(metadata(7)), b"", False, [(0, 4)])
                n_rows = catalog.generations.get(1).n_rows
                with pytest.raises(StaleWriteError):
                    catalog.store(1, [write], [], n_rows, [0], from_inbox=[99])
            elif what == "move" and how in stored:
                [row, _] = catalog.filtering.rows(1, parse_filter({"$id": how})).rows.tolist()
                n_rows = catalog.generations.get(1).n_rows
                catalog.move_rows(1, np.array([row]), n_rows, [0])
            elif what == "look":
                for each in wanted:
                    catalog.filtering.rows(1, each)
        with Catalog(catalog.path, read_only=True) as other:
            for each in wanted:
                kept = catalog.filtering.rows(1, each)
                fresh = other.filtering.rows(1, each)
                assert kept.rows.tolist() == fresh.rows.tolist()
                assert kept.n_rows == fresh.n_rows
        for each, expected in zip(wanted, ([1], [0, 2], [1], [1]), strict=True):
            names = sorted(name for name, x in stored.items() if x in expected)
            assert catalog.filtering.documents(each, 99) == names
        expected = {("x", 3, 0, x, name) for name, x in stored.items()}
        expected |= {("tags", 4, 1, tag, name) for name, x in stored.items() for tag in (f"t{x}", "all")}
        expected |= {("tags", 7, 0, 0, name) for name in stored}
        assert values(catalog) == expected


def test_a_generation_that_is_being_filled_has_rows_of_its_own(catalog):
    put(catalog, {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 1}})
    catalog.generations.prepare(2, "{}", 8, "float16", "{}", "{}")
    assert (rows(catalog, {"x": 1}), rows(catalog, {"x": 1}, 2)) == ([0, 2], [])
    [(c, _, content_hash)] = catalog.missing(2, 2, 1)
    catalog.fill(2, [(c, content_hash, [(0, 2), (2, 4)])], 0, [0, 0])
    assert (rows(catalog, {"x": 1}), rows(catalog, {"x": 1}, 2)) == ([0, 2], [0, 1])
    catalog.delete(["c"])
    assert (rows(catalog, {"x": 1}), rows(catalog, {"x": 1}, 2)) == ([0], [])
    assert rows(catalog, {"x": 1}, 99) == []


def test_a_selection_holds_every_write_that_was_answered_before(catalog):
    n_stored, found = [0], []
    wanted = parse_filter({"x": 1})

    def look(is_over):
        while not is_over.is_set():
            least = n_stored[0]
            found.append((catalog.filtering.rows(1, wanted).n_selected, least))

    with beside(look, look, look):
        for n in range(60):
            put(catalog, {f"d{n}": {"x": 1}})
            n_stored[0] = n + 1
    assert [each for each in found if each[0] < each[1]] == []
    assert catalog.filtering.rows(1, wanted).n_selected == 60


def test_a_catalog_opened_to_read_sees_what_another_writes(catalog):
    put(catalog, {"a": {"x": 1}})
    with Catalog(catalog.path, read_only=True) as other:
        assert rows(other, {"x": 1}) == [0]
        put(catalog, {"b": {"x": 1}})
        assert rows(other, {"x": 1}) == [0, 1]


# Pages


@pytest.mark.parametrize("few", [100, 2])
def test_pages_of_ids_come_in_order_whether_indexed_or_not(catalog, monkeypatch, few):
    monkeypatch.setattr(matching, "FEW", few)
    names = [f"d{n:02}" for n in range(20)] + ["Z", "é", "ä", "\U0001f600", "z"]
    put(catalog, {name: {"x": at % 2} for at, name in enumerate(names)})
    expected = sorted(names[::2], key=str.encode)
    for _ in range(2):
        pages, after = [], ""
        while page := ids(catalog, {"x": 0}, 3, after):
            assert len(page) <= 3
            pages += page
            after = page[-1]
        assert pages == expected
        catalog.filtering.add_index("x")


# Indexes


@pytest.mark.parametrize(
    ("raw", "sought"),
    [
        ({"year": 2020}, "(path=? AND kind=? AND member=? AND value=?)"),
        ({"year": {"$gte": 2020}}, "(path=? AND kind=? AND member=? AND value>?)"),
        ({"year": {"$lt": "2020-05-01"}}, "(path=? AND kind=? AND member=? AND value<?)"),
        ({"year": {"$in": [2019, "2020", None, True]}}, "(path=? AND kind=? AND member=? AND value=?)"),
        ({"tags": {"$in": ["t1"]}}, "(path=? AND kind=? AND member=? AND value=?)"),
        ({"tags": {"$contains": "t1"}}, "(path=? AND kind=? AND member=? AND value=?)"),
        ({"author.name": "Ada"}, "(path=? AND kind=? AND member=? AND value=?)"),
        ({"year": {"$exists": True}}, "(path=?)"),
    ],
    ids=str,
)
def test_a_filter_on_an_indexed_path_seeks_in_the_index_and_reads_no_metadata(catalog, raw, sought):
    put(catalog, {f"d{n}": {"year": n, "tags": [f"t{n}"], "author": {"name": "Ada"}} for n in range(9)})
    before = catalog.filtering.explain(1, parse_filter(raw))
    assert "SCAN documents USING COVERING INDEX documents_metadata" in before
    for path in ("year", "tags", "author.name"):
        catalog.filtering.add_index(path)
    plan = catalog.filtering.explain(1, parse_filter(raw))
    assert f"{INDEX} {sought}" in plan
    assert [line for line in plan if "documents" in line] == []
    assert [line for line in plan if "metadata_values" in line and not line.startswith(INDEX)] == []


def test_beside_an_index_only_the_metadata_of_its_matches_is_read(catalog):
    put(catalog, {f"d{n}": {"year": n, "open": True} for n in range(9)})
    catalog.filtering.add_index("year")
    plan = catalog.filtering.explain(1, parse_filter({"year": 3, "open": True}))
    assert "SEARCH documents USING COVERING INDEX documents_metadata (number=?)" in plan
    assert f"{INDEX} (path=? AND kind=? AND member=? AND value=?)" in plan
    assert ids(catalog, {"year": 3, "open": True}) == ["d3"]


def test_an_index_is_one_whichever_way_its_path_is_spelled(catalog):
    put(catalog, {"a": {"x$": 1}})
    catalog.filtering.add_index(r"x\$")
    catalog.filtering.add_index("x$")
    assert catalog.filtering.indexes() == [filtering.MetadataIndex("x$", True)]
    assert any(line.startswith(INDEX) for line in catalog.filtering.explain(1, parse_filter({r"x\$": 1})))
    assert catalog.filtering.drop_index(r"x\$") is True
    assert catalog.filtering.drop_index("x$") is False
    assert (catalog.filtering.indexes(), values(catalog)) == ([], set())


@pytest.mark.parametrize("path", ["$x", "$id", "a\0b", "\ud800", ".".join("a" * 17)])
def test_an_index_on_what_can_be_no_path_is_refused(catalog, path):
    with pytest.raises(FilterError):
        catalog.filtering.add_index(path)
    assert catalog.filtering.indexes() == []


def test_documents_that_change_while_an_index_is_built_are_in_it_once(catalog, monkeypatch):
    monkeypatch.setattr(filtering, "BUILT_AT_ONCE", 3)
    put(catalog, {f"d{n}": {"x": n} for n in range(10)})
    told = []

    def meanwhile(n_done):
        told.append(n_done)
        if n_done == 3:
            put(catalog, {"d1": {"x": 100}, "d8": {"x": 101}, "new": {"x": 102}})
            catalog.delete(["d2", "d9"])
            assert ids(catalog, {"x": {"$gte": 100}}) == ["d1", "d8", "new"]

    catalog.filtering.add_index("x", meanwhile)
    assert told == [3, 6, 9, 10]
    expected = {f"d{n}": n for n in (0, 3, 4, 5, 6, 7)} | {"d1": 100, "d8": 101, "new": 102}
    assert values(catalog) == {("x", 3, 0, value, name) for name, value in expected.items()}
    assert ids(catalog, {"x": {"$gte": 100}}) == ["d1", "d8", "new"]


def test_an_index_whose_building_was_broken_off_is_not_used_until_it_is_built(catalog, monkeypatch):
    monkeypatch.setattr(filtering, "BUILT_AT_ONCE", 3)
    put(catalog, {f"d{n}": {"x": 1} for n in range(5)})

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.filtering.add_index("x", stop)
    assert catalog.filtering.indexes() == [filtering.MetadataIndex("x", False)]
    assert len(values(catalog)) == 3
    assert catalog.filtering.count(parse_filter({"x": 1})) == 5
    catalog.filtering.add_index("x")
    assert catalog.filtering.indexes() == [filtering.MetadataIndex("x", True)]
    assert len(values(catalog)) == 5


def test_an_index_that_is_dropped_while_it_is_built_stays_dropped(catalog, monkeypatch):
    monkeypatch.setattr(filtering, "BUILT_AT_ONCE", 3)
    monkeypatch.setattr(filtering, "DROPPED_AT_ONCE", 2)
    put(catalog, {f"d{n}": {"x": [1, 2]} for n in range(5)})
    catalog.filtering.add_index("x", lambda _: catalog.filtering.drop_index("x"))
    assert (catalog.filtering.indexes(), values(catalog)) == ([], set())


# Paths and values that mean harm

HOSTILE = [
    "x') OR 1=1 --", "'; DROP TABLE documents; --", '"', '$."x"', "x\"].y", "[0]", "#-1", "x[#-1]", "?1", ":name",
    "\\", "\\\\", "\n", "\x01", "%s", "{}", "{0}", "metadata", "number", "*", "", " ", "é", "\U0001f600", "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("is_indexed", [False, True], ids=["json", "indexed"])
def test_hostile_keys_and_values_are_data(catalog, is_indexed):
    put(catalog, {f"k{n}": {key: HOSTILE[n - 1]} for n, key in enumerate(HOSTILE)} | {"other": {"x": "y"}})
    put(catalog, {f"n{n}": {"in": {key: [HOSTILE[n - 1]]}} for n, key in enumerate(HOSTILE)})

    def schema():
        with sqlite3.connect(catalog.path) as connection:
            found = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
        connection.close()
        return found

    before = schema()
    for n, key in enumerate(HOSTILE):
        literal = key.replace("\\", "\\\\").replace(".", "\\.")
        path = f"\\{literal}" if literal.startswith("$") else literal
        if is_indexed:
            catalog.filtering.add_index(path)
        value = HOSTILE[n - 1]
        assert ids(catalog, {path: value}) == [f"k{n}"], key
        assert ids(catalog, {path: {"$in": [value, "nothing"]}}) == [f"k{n}"], key
        assert ids(catalog, {path: {"$gte": value, "$lte": value}}) == [f"k{n}"], key
        assert ids(catalog, {path: {"$contains": value}}) == [f"k{n}"], key
        assert ids(catalog, {path: {"$ne": value}, "$id": {"$gte": "k", "$lt": "l"}}) == sorted(
            f"k{other}" for other in range(len(HOSTILE)) if other != n
        ), key
        assert ids(catalog, {f"in.{literal}": value}) == [f"n{n}"], key
        assert ids(catalog, {"$id": key}) == []
    assert schema() == before
    assert catalog.counts() == (2 * len(HOSTILE) + 1, 2 * len(HOSTILE) + 1)
    assert catalog.problems() == []
