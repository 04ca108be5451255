"""Reading bodies: bytes to checked models in one step, large ones off the event loop.

FastAPI would read JSON into Python objects first and check those: six times as long for a vector.
"""

import contextlib
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from server.api.schemas import CopiesIn, DocumentIn, DocumentsIn, IdsIn, RebuildIn, SearchesIn, SearchIn
from server.checking import NewDocument
from server.errors import MediaTypeError

NDJSON = "application/x-ndjson"

IS_JSON = re.compile(r"application/(?:.+\+)?json")

LARGE_BYTES = 1 << 16
"""Smaller bodies are parsed on the event loop, where 64 KiB take 0.2 ms; a thread would add its way there and back."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


async def read_documents(request: Request) -> list[NewDocument]:
    """Read the documents of a request that comes as JSON or as NDJSON.

    Raises:
        MediaTypeError: neither JSON nor NDJSON.
        RequestValidationError: as pydantic says it; `loc` names the document.
    """
    media_type = media_type_of(request)
    if media_type not in ("application/json", NDJSON):
        raise MediaTypeError(f"the body's content type is {media_type or 'not given'}")
    return await _parsed(request, from_lines if media_type == NDJSON else _from_json)


async def read_search(request: Request) -> SearchIn:
    """Read the body of POST /search. Raises as read_json does."""
    return await read_json(request, SearchIn)


async def read_searches(request: Request) -> SearchesIn:
    """Read the body of POST /search/batch. Raises as read_json does."""
    return await read_json(request, SearchesIn)


async def read_ids(request: Request) -> IdsIn:
    """Read the body of POST /documents/delete. Raises as read_json does."""
    return await read_json(request, IdsIn)


async def read_copies(request: Request) -> CopiesIn:
    """Read the body of POST /documents/compare. Raises as read_json does."""
    return await read_json(request, CopiesIn)


async def read_rebuild(request: Request) -> RebuildIn:
    """Read the body of POST /index/rebuild. Raises as read_json does."""
    return await read_json(request, RebuildIn)


async def read_json(request: Request, model: type[M]) -> M:
    """Read a body that has to be JSON.

    Raises:
        MediaTypeError: it isn't.
        RequestValidationError: as pydantic says it.
    """
    media_type = media_type_of(request)
    if not IS_JSON.fullmatch(media_type):
        raise MediaTypeError(f"the body's content type is {media_type or 'not given'}")
    return await _parsed(request, lambda body: checked(model, body))


def checked(model: type[M], body: bytes) -> M:
    """Parse and check JSON.

    Raises:
        RequestValidationError: as pydantic says it.
    """
    if not body:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required"}])
    try:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            if (content := _with_half_pairs(body, error)) is None:
                raise
            return model.model_validate(content, strict=False)  # strictly, "exact" is no Mode
    except ValidationError as error:
        raise RequestValidationError(located(error, "body")) from error


def _with_half_pairs(body: bytes, error: ValidationError) -> Any:
    """What is JSON but for half a surrogate pair, as \\ud83d: Python takes it, and the service says where it is."""
    if located(error)[0]["type"] == "json_invalid":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(body)
    return None


def _from_json(body: bytes) -> list[NewDocument]:
    try:
        return [_new(document) for document in DocumentsIn.model_validate_json(body).documents]
    except ValidationError as error:
        raise RequestValidationError(located(error, "body")) from error


def from_lines(body: bytes, first: int = 1) -> list[NewDocument]:
    """Parse NDJSON whose lines are counted from `first`. Raises RequestValidationError, with the line's number."""
    documents = []
    for number, line in enumerate(body.split(b"\n"), first):
        if line.strip():
            try:
                documents.append(_new(DocumentIn.model_validate_json(line), f"line {number}"))
            except ValidationError as error:
                raise RequestValidationError(located(error, "body", f"line {number}")) from error
    return documents


async def _parsed(request: Request, parse: Callable[[bytes], T]) -> T:
    body = await request.body()
    if len(body) < LARGE_BYTES:
        return parse(body)
    return await to_thread.run_sync(parse, body)


def media_type_of(request: Request) -> str:
    """Return what the body is; "" where nothing says it.

    Raises:
        MediaTypeError: it is compressed: a limit on what comes would be none on what that unpacks to.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise MediaTypeError(
            f"the body is encoded as {coding[:50]}", "Send it as it is, without the header Content-Encoding."
        )
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def located(error: ValidationError, *before: str) -> list[dict[str, Any]]:
    """Pydantic's findings as FastAPI reports them, without the input (it may be somebody's text)."""
    return [
        {**found, "loc": (*before, *found["loc"])}
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _new(document: DocumentIn, where: str = "") -> NewDocument:
    return NewDocument(document.id, document.text, document.metadata, document.vector, where)


Documents = Annotated[list[NewDocument], Depends(read_documents)]
Search = Annotated[SearchIn, Depends(read_search)]
SearchList = Annotated[SearchesIn, Depends(read_searches)]
Ids = Annotated[IdsIn, Depends(read_ids)]
Copies = Annotated[CopiesIn, Depends(read_copies)]
Rebuild = Annotated[RebuildIn, Depends(read_rebuild)]
