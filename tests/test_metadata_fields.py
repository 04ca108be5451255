"""The fields of metadata, out of a sample."""

import json

import pytest

from server.catalog import Catalog
from server.catalog.metadata_fields import MAX_FIELDS, SAMPLE, fields_of, sampled
from server.records import DocumentWrite


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        catalog.generations.begin(1, "{}", 4, "float16")
        yield catalog


def put(catalog, metadata):
    writes = [
        DocumentWrite(str(n), "text", json.dumps(each), bytes([n % 256]), False, [])
        for n, each in enumerate(metadata)
    ]
    catalog.store(1, writes, [], 0, [])


def told(*metadata):
    _, fields = fields_of(metadata)
    return {field.path: field.told() for field in fields}


def test_the_sample_is_spread_over_the_whole_collection_and_over_what_was_deleted(catalog):
    put(catalog, [{"n": n} for n in range(5 * SAMPLE)])
    catalog.delete([str(n) for n in range(SAMPLE, 4 * SAMPLE)])
    with catalog._database.reading() as connection:
        numbers = [each["n"] for each in sampled(connection)]
    assert numbers == sorted(set(numbers)) and len(numbers) <= SAMPLE
    assert numbers[0] == 0 and numbers[-1] >= 5 * SAMPLE - 10
    assert sum(n < SAMPLE for n in numbers) > SAMPLE / 6
    assert sum(n >= 4 * SAMPLE for n in numbers) > SAMPLE / 6


def test_of_a_small_collection_every_document_is_looked_at(catalog):
    assert catalog.filtering.fields() == (0, [])
    put(catalog, [{"n": n} for n in range(10)])
    catalog.delete(["0", "5", "9"])
    n_documents, (field,) = catalog.filtering.fields()
    assert (n_documents, field.n_documents) == (7, 7)
    assert sorted(value["value"] for value in field.told()["values"]) == [1, 2, 3, 4, 6, 7, 8]


def test_frequent_values_come_first_and_types_are_those_of_filters():
    fields = told(
        {"a": "x", "b": 1}, {"a": "y", "b": True}, {"a": "y", "b": 1.0}, {"a": ["y", "y", "2024-01-01"]}
    )
    assert fields["a"] == {
        "path": "a", "types": ["date", "text"], "documents": 4, "range": None,
        "values": [
            {"value": "y", "documents": 3}, {"value": "2024-01-01", "documents": 1}, {"value": "x", "documents": 1}
        ],
    }  # fmt: skip
    assert fields["b"]["types"] == ["boolean", "number"]
    assert [(type(each["value"]), each["documents"]) for each in fields["b"]["values"]] == [
        (int, 2),
        (bool, 1),
    ]


def test_keys_are_spelled_as_filters_have_them():
    assert list(told({"a.b": 1, "$c": {"\\": 2}, "d": [{"e": 3}, {"e": 4}], "": 5})) == [
        "\\$c.\\\\", "a\\.b", "d.e",
    ]  # fmt: skip


def test_metadata_that_use_values_as_keys_have_an_end():
    assert len(told(*({f"key {n}": n} for n in range(MAX_FIELDS + 50)))) == MAX_FIELDS
