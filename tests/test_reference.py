"""docs/http-reference.md is what the server's OpenAPI says, and says something of everything."""

import json
import re

import pytest

from docs import http_reference
from docs.http_reference import anchor, reference
from server.api import embedding_schemas, evaluate, generations, metadata, schemas


@pytest.fixture(scope="module")
def page():
    return http_reference.page()


def test_the_committed_reference_is_that_of_this_server(page):
    assert http_reference.PAGE.read_text() == page, "the API has changed: run `make docs`"


def test_every_parameter_and_field_has_a_meaning(page):
    assert re.findall(r"^\| .*\| *\|$", page, re.MULTILINE) == []


def test_a_route_tells_its_key_its_parameters_and_its_answers(page):
    part = page.partition("### GET /documents\n")[2].partition("\n### ")[0]
    assert "Key: the readers'." in part
    assert "| `limit` | whole number, 1 to 1000 | `100` | Documents of a page. |" in part
    assert "200: [`PageOut`](#pageout)" in part
    part = page.partition("### POST /documents\n")[2].partition("\n### ")[0]
    assert "Key: the admin's." in part and "Body, `application/x-ndjson`: One document a line," in part
    assert "201: [`AddedOut`](#addedout)" in part and "202: [`AcceptedOut`](#acceptedout)" in part


def test_types_are_told_in_words_with_limits_and_defaults(page):
    part = page.partition("### SearchIn\n")[2].partition("\n### ")[0]
    rows = {
        row.split(" | ")[0].strip("| `"): row.split(" | ")[1:3]
        for row in part.splitlines()
        if row[:3] == "| `"
    }
    assert rows["k"] == ["whole number, at least 1", "`10`"]
    assert rows["oversample"] == ["number, 1 to 1000 or null", ""]
    assert rows["mode"] == ["`two_pass`, `prefix`, `certified`, `exact`", '`"two_pass"`']
    assert rows["vector"] == ["list of number or base64 or null", ""]
    assert "| `documents` | list of [`DocumentIn`](#documentin) | required |" in page


def test_names_with_pipes_and_line_breaks_do_not_break_a_table():
    of_route = {"tags": ["t"], "description": "Does a | b.\nMore.", "responses": {}}
    text = reference({"paths": {"/x": {"get": of_route}}, "components": {"schemas": {}}}, lambda *_: "none")
    assert f"| [`GET /x`](#{anchor('GET /x')}) | Does a \\| b | none |" in text


@pytest.mark.parametrize(
    "model",
    [
        schemas.DocumentsIn, schemas.IdsIn, schemas.SearchIn, schemas.SearchesIn, schemas.RebuildIn,
        evaluate.EvaluateIn, generations.ReembedIn, metadata.MetadataIndexIn, embedding_schemas.EmbeddingsIn,
    ],
)  # fmt: skip
def test_the_examples_of_a_body_are_bodies(model):
    examples = model.model_json_schema()["examples"]
    assert examples
    for example in examples:
        assert model.model_validate_json(json.dumps(example)).model_fields_set == set(example)
