"""Routes under /documents."""

import time
from typing import Annotated

from fastapi import APIRouter, Query, Response

from server.api.answers import answer
from server.api.bodies import NDJSON, Documents, Ids
from server.api.openapi import json_body
from server.api.routes import Route
from server.api.schemas import AddedOut, DeletedOut, DocumentOut, DocumentsIn, IdsIn, PageOut
from server.api.threads import Service
from server.records import Document

router = APIRouter(tags=["documents"], route_class=Route)

ONE_A_LINE = {"schema": {"type": "string", "description": "One document a line."}}


@router.post(
    "/documents",
    status_code=201,
    response_model=AddedOut,
    openapi_extra=json_body(DocumentsIn, **{NDJSON: ONE_A_LINE}),
)
async def add_documents(service: Service, documents: Documents) -> Response:
    """Store documents. All of a request is stored, or none. Answers when they survive a power loss."""
    started = time.perf_counter()
    added = await service.ingest(service.collection.add, documents)
    took_ms = (time.perf_counter() - started) * 1000
    return answer(AddedOut(**vars(added), took_ms=round(took_ms, 3)), 201)


@router.get("/documents", response_model=PageOut)
async def list_documents(
    service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str = ""
) -> Response:
    """A page of documents in the order of their ids."""
    documents = await service.read(service.collection.page, after, limit)
    next_after = documents[-1].id if len(documents) == limit else None
    return answer(PageOut(documents=[document_out(each) for each in documents], next=next_after))


@router.post("/documents/delete", response_model=DeletedOut, openapi_extra=json_body(IdsIn))
async def delete_documents(service: Service, body: Ids) -> Response:
    """Remove documents by id; ids that don't exist are listed, not refused."""
    found = await service.ingest(service.collection.delete, body.ids)
    gone = set(found)
    missing = [each for each in dict.fromkeys(body.ids) if each not in gone]
    return answer(DeletedOut(deleted=len(found), missing=missing))


@router.get("/documents/{id:path}", response_model=DocumentOut)
async def get_document(service: Service, id: str) -> Response:
    """One document."""
    return answer(document_out(await service.read(service.collection.get, id)))


@router.delete("/documents/{id:path}", response_model=DeletedOut)
async def delete_document(service: Service, id: str) -> Response:
    """Remove one document."""
    await service.ingest(service.collection.delete_one, id)
    return answer(DeletedOut(deleted=1, missing=[]))


def document_out(document: Document) -> DocumentOut:
    return DocumentOut(
        id=document.id, text=document.text, metadata=document.metadata, passages=document.passages
    )
