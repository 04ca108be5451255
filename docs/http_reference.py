"""docs/http-reference.md, made from the server's OpenAPI: `make docs` writes it, a test holds it up to date.

essentials-openapi, which makes Markdown too, prints each schema as JSON: eight thousand lines of it here.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from server.api.rights import Rights
from server.app import create_app, open_collection
from server.auth import Keys, Right
from server.settings import EncoderSettings, Settings

PAGE = Path(__file__).parent / "http-reference.md"
PLACE = "#/components/schemas/"

HEAD = """# HTTP reference

Every route, field and type, as `GET /openapi.json` describes them to programs. What they mean together, filters,
examples and errors are in [HTTP](http.md). `make docs` writes this page; don't edit it.

**Key** says which [key](http.md#keys) a route asks for where there is one: the admin's, the readers' (the admin's will
do), or none. Any route may answer with an [error](http.md#errors) instead.
"""

KEYS = {Right.ADMIN: "the admin's", Right.READ: "the readers'", Right.NONE: "none"}
WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}

Schema = dict[str, Any]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """Return the page for this version of the server. Opens an empty collection in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="twopass-docs-") as folder:
        settings = Settings(data_dir=Path(folder), encoder=EncoderSettings(model="none", dim=8))
        with open_collection(settings) as collection:
            app = create_app(settings, collection, Keys())
    rights = Rights(app.routes)
    return reference(app.openapi(), lambda method, path: KEYS[rights.needed(method, path)])


def reference(openapi: Schema, key_of: Callable[[str, str], str]) -> str:
    """Return Markdown: routes by tag, then types in the order in which routes first name them."""
    types: Schema = openapi["components"]["schemas"]
    routes = [
        (f"{method.upper()} {path}", route, key_of(method.upper(), path))
        for path, methods in openapi["paths"].items()
        for method, route in methods.items()
    ]
    blocks = [HEAD, *_index(routes)]
    for tag in dict.fromkeys(route["tags"][0] for _, route, _ in routes):
        blocks.append(f"## {tag}\n")
        for name, route, key in routes:
            if route["tags"][0] == tag:
                blocks += _route(name, route, key, types)
    blocks.append("## Types\n")
    asked = _named_below([route.get("requestBody", {}) for _, route, _ in routes], types)
    for name in _named_below([route for _, route, _ in routes], types):
        if "properties" in types[name]:
            blocks += _type(name, types[name], name in asked, types)
    return "\n".join(blocks)


def _index(routes: list[tuple[str, Schema, str]]) -> Iterator[str]:
    yield "| route | does | key |\n|---|---|---|"
    for name, route, key in routes:
        yield f"| [`{name}`](#{anchor(name)}) | {_first_sentence(route['description'])} | {key} |"
    yield ""


def _route(name: str, route: Schema, key: str, types: Schema) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{_line(route['description'])} Key: {key}.\n"
    asked = [
        each for each in route.get("parameters", ()) if each["in"] == "query"
    ]  # the path names the others
    if asked:
        yield "| parameter | type | default | meaning |\n|---|---|---|---|"
        for each in asked:
            columns = [f"`{each['name']}`", _kind(each["schema"], types), _default(each["schema"])]
            yield f"| {' | '.join(columns)} | {_line(each.get('description', ''))} |"
        yield ""
    content = route.get("requestBody", {}).get("content", {})
    for media_type, body in content.items():
        said = _line(body["schema"].get("description", "")) or _kind(body["schema"], types)
        yield f"Body, `{media_type}`: {said}\n"
        for example in _examples(body["schema"], types):
            yield f"```json\n{example}\n```\n"
    for status, answer in sorted(route["responses"].items()):
        if status != "default":
            yield f"{status}: {_answer(answer, types)}\n"


def _answer(answer: Schema, types: Schema) -> str:
    said = "" if answer["description"] == "Successful Response" else _line(answer["description"])
    kinds = [
        _kind(body["schema"], types) if "json" in media_type and body.get("schema") else f"`{media_type}`"
        for media_type, body in answer.get("content", {}).items()
    ]
    return " ".join([*kinds, *([said] if said else [])])


def _type(name: str, schema: Schema, is_asked: bool, types: Schema) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in schema:
        yield f"{_line(schema['description'])}\n"
    names = ["field", "type", *(["default"] if is_asked else []), "meaning"]
    yield f"| {' | '.join(names)} |\n{'|---' * len(names)}|"
    for field, value in schema["properties"].items():
        default = "required" if field in schema.get("required", ()) else _default(value)
        columns = [
            f"`{field}`",
            _kind(value, types),
            *([default] if is_asked else []),
            _meaning(value, types),
        ]
        yield f"| {' | '.join(columns)} |"
    yield ""


def _meaning(value: Schema, types: Schema) -> str:
    """A field's description; where it has none, its type's."""
    if "description" in value:
        return _line(value["description"])
    return _line(types[_name(value)].get("description", "")) if "$ref" in value else ""


def _kind(schema: Schema, types: Schema) -> str:
    """Say a type in words, with its limits; types of more than one field are links."""
    if "$ref" in schema:
        name = _name(schema)
        return f"[`{name}`](#{anchor(name)})" if "properties" in types[name] else _kind(types[name], types)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each, types) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        parts = schema.get("prefixItems")
        if parts:
            return f"[{', '.join(_kind(each, types) for each in parts)}]"
        return f"list of {_kind(schema['items'], types)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {_kind(values, types)}" if isinstance(values, dict) else "object"
    if schema.get("contentEncoding") == "base64":
        return "base64"
    return WORDS[kind] + _limits(schema) if kind else "anything"


def _limits(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return "" if high is None else f", at most {high}"
    return f", at least {low}" if high is None else f", {low} to {high}"


def _default(schema: Schema) -> str:
    value = schema.get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def _examples(schema: Schema, types: Schema) -> Iterator[str]:
    if "$ref" in schema:
        asked = types[_name(schema)]
        for example in asked.get("examples", ()):  # pydantic sorts its keys
            ordered = {field: example[field] for field in asked["properties"] if field in example}
            yield json.dumps(ordered, ensure_ascii=False)


def _named_below(parts: list[Schema], types: Schema) -> list[str]:
    """The types that something names, and those that they name, in that order, each once."""
    found: dict[str, None] = {}
    waiting = [name for part in parts for name in _names(part)]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = None
            waiting = [*_names(types[name]), *waiting]
    return list(found)


def _names(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if str(part.get("$ref", "")).startswith(PLACE):
            yield _name(part)
        for each in part.values():
            yield from _names(each)
    elif isinstance(part, list):
        for each in part:
            yield from _names(each)


def _name(schema: Schema) -> str:
    return str(schema["$ref"].removeprefix(PLACE))


def anchor(heading: str) -> str:
    """Return what GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.]) ", _line(text), maxsplit=1)[0].rstrip(".")


if __name__ == "__main__":
    main()
