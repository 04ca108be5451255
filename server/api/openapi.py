"""What OpenAPI says of bodies; FastAPI can't see them, because we read them ourselves."""

from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.api.rights import Rights
from server.auth import Right

KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <key>`"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}
PLACE = "#/components/schemas/{model}"


def json_body(model: type[BaseModel], **other_types: dict[str, Any]) -> dict[str, Any]:
    """Describe a required JSON body, for a route's `openapi_extra`. describe_models must be told of the model."""
    schema = {"$ref": PLACE.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}, **other_types}
    return {"requestBody": {"required": True, "content": content}}


def describe_models(app: FastAPI, *models: type[BaseModel]) -> None:
    """Add models to those that the app's OpenAPI describes; nothing is described before somebody asks."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        whole = generate()
        _, described = models_json_schema([(model, "validation") for model in models], ref_template=PLACE)
        whole["components"]["schemas"] |= described["$defs"]
        return whole

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual says to


def describe_keys(app: FastAPI, rights: Rights) -> None:
    """Add which operations ask for a key, and the two ways to send it: the page /docs asks for it then."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        whole = generate()
        whole["components"]["securitySchemes"] = KEYS
        for path, operations in whole["paths"].items():
            for method, operation in operations.items():
                if rights.needed(method.upper(), path) is not Right.NONE:
                    operation["security"] = [{name: []} for name in KEYS]
        return whole

    app.openapi = openapi  # type: ignore[method-assign]
