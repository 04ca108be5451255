"""Routes under /documents."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from index.vectors import Float32
from server.api.answers import answer
from server.api.bodies import NDJSON, Copies, Ids, media_type_of, read_documents
from server.api.openapi import json_body
from server.api.rights import for_readers
from server.api.routes import Route
from server.api.schemas import (
    AcceptedOut,
    AddedOut,
    ComparedOut,
    CopiesIn,
    DeletedOut,
    DocumentOut,
    DocumentsIn,
    DocumentVectorOut,
    IdsIn,
    OneDocumentOut,
    PageOut,
)
from server.api.streams import read_pieces
from server.api.threads import Service
from server.api.vectors import encoded
from server.checking import NewDocument
from server.filters import parse_filter
from server.receiving import Accepted
from server.records import Document

router = APIRouter(tags=["documents"], route_class=Route)

ONE_A_LINE = {
    "schema": {
        "type": "string",
        "description": "One document a line, any number of them: what is more than the limits of one request becomes a "
        "job, unless wait=true, and limits.body_bytes is that of a line then.",
    }
}
WAIT = {
    "name": "wait",
    "in": "query",
    "description": "false: answer 202 as soon as the documents survive a power loss, and encode them later. true: "
    "answer 201 when they are encoded. Left out: true, but false for more than a million characters to encode.",
    "schema": {"type": "boolean"},
}
MUCH_TEXT = 1_000_000
"""Characters to be encoded, in one request: more are half a minute's work for two cores, and minutes for a small board.
Few clients wait so long, and one that gives up sends all of it again."""


@dataclass(frozen=True)
class Sending:
    """A request with documents, whose body isn't read yet."""

    request: Request
    wait: bool | None  # None: unless it takes long


async def read_sending(request: Request) -> Sending:
    """Look whether the client waits. Raises RequestValidationError."""
    wait = request.query_params.get("wait")
    if wait not in (None, "true", "false"):
        found = {"type": "bool_parsing", "loc": ("query", "wait"), "msg": "Input should be true or false"}
        raise RequestValidationError([found])
    return Sending(request, None if wait is None else wait == "true")


@router.post(
    "/documents",
    status_code=201,
    response_model=AddedOut,
    responses={202: {"model": AcceptedOut, "description": "Safe, and encoded later."}},
    openapi_extra={**json_body(DocumentsIn, **{NDJSON: ONE_A_LINE}), "parameters": [WAIT]},
)
async def add_documents(service: Service, sending: Annotated[Sending, Depends(read_sending)]) -> Response:
    """Store documents. All of a request is stored, or none. Answers when they survive a power loss."""
    documents, rest = await read_first(sending, service.settings.limits.documents_per_request)
    if rest is not None:
        return accepted(await receive(service, documents, rest))
    if sending.wait is False or (sending.wait is None and is_much(documents)):
        return accepted(await service.accept(service.collection.accept, documents))
    started = time.perf_counter()
    added = await service.ingest(service.collection.add, documents)
    took_ms = (time.perf_counter() - started) * 1000
    if isinstance(added, Accepted):  # the program that encodes is down
        return accepted(added)
    return answer(AddedOut(**vars(added), took_ms=round(took_ms, 3)), 201)


async def read_first(
    sending: Sending, most: int
) -> tuple[list[NewDocument], AsyncIterator[list[NewDocument]] | None]:
    """Read a request's documents: all of them; or the first of many lines, and what yields the others.

    Args:
        most: documents that one request may bring.

    Raises:
        As read_documents and read_pieces do.
    """
    request = sending.request
    if sending.wait or media_type_of(request) != NDJSON:
        return await read_documents(request), None
    pieces, documents = read_pieces(request), list[NewDocument]()
    if sending.wait is False:
        return documents, pieces
    async for piece in pieces:
        documents += piece
        if len(documents) > most or is_much(documents) or request.state.body.is_long:
            return documents, pieces
    return documents, None


def is_much(documents: Sequence[NewDocument]) -> bool:
    return sum(len(each.text or "") for each in documents if each.vector is None) > MUCH_TEXT


async def receive(
    service: Service, first: list[NewDocument], rest: AsyncIterator[list[NewDocument]]
) -> Accepted:
    """Put the documents of a stream into the inbox: all of them, or none."""
    receiving = service.collection.receive()
    try:
        if first:
            await service.accept(receiving.add, first)
        async for documents in rest:
            await service.accept(receiving.add, documents)
        return await service.accept(receiving.accept)
    except Exception:  # the client's disconnect too; what a kill leaves is dropped at the next start
        await service.take_back(receiving.drop)
        raise


def accepted(documents: Accepted) -> Response:
    content = {"job": documents.job.told(), "ids": documents.ids, "warnings": documents.warnings}
    return answer(content, 202)


@router.get("/documents", response_model=PageOut)
@for_readers
async def list_documents(
    service: Service,
    limit: Annotated[int, Query(ge=1, le=1000, description="Documents of a page.")] = 100,
    after: Annotated[
        str, Query(description="An id; the page begins behind it. Ids are sorted by their bytes.")
    ] = "",
    vectors: Annotated[
        Literal["none", "brought", "all"],
        Query(description="brought: those that clients brought. all: of every document with one passage."),
    ] = "none",
) -> Response:
    """A page of documents in the order of their ids; with the vectors that clients brought, or all, if asked."""
    documents = await service.read(service.collection.page, after, limit)
    next_after = documents[-1].id if len(documents) == limit else None
    if vectors == "none":
        return answer(PageOut(documents=[document_out(each) for each in documents], next=next_after))
    found = await service.read(service.collection.page_vectors, documents, vectors == "brought")
    return answer(PageOut(documents=with_vectors(documents, found), next=next_after))


@router.post("/documents/compare", response_model=ComparedOut, openapi_extra=json_body(CopiesIn))
@for_readers
async def compare_documents(service: Service, body: Copies) -> Response:
    """Which of a client's documents are here with the same text, so that it needn't send those again."""
    found = await service.read(service.collection.compare, {each.id: each.hash for each in body.documents})
    return answer(ComparedOut(**vars(found)))


@router.post("/documents/delete", response_model=DeletedOut, openapi_extra=json_body(IdsIn))
async def delete_documents(service: Service, body: Ids) -> Response:
    """Remove documents by id, or all that match a filter; ids that don't exist are listed, not refused."""
    if body.ids is None:
        wanted = parse_filter(body.filter, limits=service.settings.limits)
        n_deleted = await service.ingest(service.collection.delete_matching, wanted)
        return answer(DeletedOut(deleted=n_deleted, missing=[]))
    found = await service.ingest(service.collection.delete, body.ids)
    gone = set(found)
    missing = [each for each in dict.fromkeys(body.ids) if each not in gone]
    return answer(DeletedOut(deleted=len(found), missing=missing))


@router.get("/documents/{id:path}", response_model=OneDocumentOut)
@for_readers
async def get_document(service: Service, id: str) -> Response:
    """One document, as it is stored; or, if it isn't yet, as it waits to be encoded."""
    document, is_pending = await service.read(service.collection.get, id)
    return answer(OneDocumentOut(**vars(document_out(document)), pending=is_pending))


@router.delete("/documents/{id:path}", response_model=DeletedOut)
async def delete_document(service: Service, id: str) -> Response:
    """Remove one document."""
    await service.ingest(service.collection.delete_one, id)
    return answer(DeletedOut(deleted=1, missing=[]))


def with_vectors(documents: list[Document], vectors: dict[int, Float32]) -> list[DocumentVectorOut]:
    return [
        DocumentVectorOut(
            **vars(document_out(each)),
            vector=encoded(vectors[each.number]) if each.number in vectors else None,
        )
        for each in documents
    ]


def document_out(document: Document) -> DocumentOut:
    return DocumentOut(
        id=document.id, text=document.text, metadata=document.metadata, passages=document.passages
    )
