"""Routes under /documents."""

import time
from typing import Annotated

from fastapi import APIRouter, Query

from server.api.bodies import Documents, json_body_schema
from server.api.schemas import AddedOut, DeletedOut, DocumentOut, IdsIn, PageOut
from server.api.threads import Service
from server.records import Document

router = APIRouter(tags=["documents"])


@router.post("/documents", status_code=201, openapi_extra=json_body_schema())
async def add_documents(service: Service, documents: Documents) -> AddedOut:
    """Store documents. All of a request is stored, or none. Answers when they survive a power loss."""
    started = time.perf_counter()
    added = await service.ingest(service.collection.add, documents)
    took_ms = (time.perf_counter() - started) * 1000
    return AddedOut(**vars(added), took_ms=round(took_ms, 3))


@router.get("/documents")
async def list_documents(
    service: Service, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str = ""
) -> PageOut:
    """A page of documents in the order of their ids."""
    documents = await service.read(service.collection.page, after, limit)
    next_after = documents[-1].id if len(documents) == limit else None
    return PageOut(documents=[document_out(each) for each in documents], next=next_after)


@router.post("/documents/delete")
async def delete_documents(service: Service, body: IdsIn) -> DeletedOut:
    """Remove documents by id; ids that don't exist are listed, not refused."""
    found = await service.ingest(service.collection.delete, body.ids)
    gone = set(found)
    return DeletedOut(
        deleted=len(found), missing=[each for each in dict.fromkeys(body.ids) if each not in gone]
    )


@router.get("/documents/{id:path}")
async def get_document(service: Service, id: str) -> DocumentOut:
    """One document."""
    return document_out(await service.read(service.collection.get, id))


@router.delete("/documents/{id:path}")
async def delete_document(service: Service, id: str) -> DeletedOut:
    """Remove one document."""
    await service.ingest(service.collection.delete_one, id)
    return DeletedOut(deleted=1)


def document_out(document: Document) -> DocumentOut:
    return DocumentOut(
        id=document.id, text=document.text, metadata=document.metadata, passages=document.passages
    )
