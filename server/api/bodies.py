"""Reading the body of POST /documents, which comes as JSON or as NDJSON, off the event loop."""

from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from server.api.schemas import DocumentIn, DocumentsIn
from server.errors import MediaTypeError
from server.ingest import NewDocument

NDJSON = "application/x-ndjson"


async def read_documents(request: Request) -> list[NewDocument]:
    """Parse the request's documents in a thread: a large body would hold up every search.

    Raises:
        MediaTypeError: neither JSON nor NDJSON.
        RequestValidationError: as pydantic says it; `loc` names the document.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("application/json", NDJSON):
        raise MediaTypeError(f"the body's content type is {media_type or 'not given'}")
    body = await request.body()
    parse = _from_lines if media_type == NDJSON else _from_json
    return await to_thread.run_sync(parse, body)


def _from_json(body: bytes) -> list[NewDocument]:
    try:
        return [_new(document) for document in DocumentsIn.model_validate_json(body).documents]
    except ValidationError as error:
        raise RequestValidationError(located(error, "body")) from error


def _from_lines(body: bytes) -> list[NewDocument]:
    documents = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            try:
                documents.append(_new(DocumentIn.model_validate_json(line)))
            except ValidationError as error:
                raise RequestValidationError(located(error, "body", f"line {number}")) from error
    return documents


def located(error: ValidationError, *before: str) -> list[dict[str, Any]]:
    """Pydantic's findings as FastAPI reports them, without the input (it may be somebody's text)."""
    return [
        {**found, "loc": (*before, *found["loc"])}
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _new(document: DocumentIn) -> NewDocument:
    return NewDocument(document.id, document.text, document.metadata, document.vector)


def json_body_schema() -> dict[str, Any]:
    """What OpenAPI should say of the body; FastAPI can't see it, because we read it ourselves."""
    documents = DocumentsIn.model_json_schema()
    documents["properties"]["documents"]["items"] = DocumentIn.model_json_schema()
    documents.pop("$defs", None)
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": documents},
                NDJSON: {"schema": {"type": "string", "description": "One document a line."}},
            },
        }
    }


Documents = Annotated[list[NewDocument], Depends(read_documents)]
