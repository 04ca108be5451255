"""Routes of metadata: /metadata/fields and /metadata/indexes."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field

from server.api.answers import answer
from server.api.bodies import read_json
from server.api.openapi import json_body
from server.api.rights import for_readers
from server.api.routes import Route
from server.api.schemas import RebuildOut
from server.api.threads import Service
from server.described import Described

router = APIRouter(tags=["documents"], route_class=Route)


class FieldValueOut(Described):
    value: str | float | bool
    """As a filter compares with it."""
    documents: int
    """Of those looked at, that have it."""


class FieldOut(Described):
    path: str
    """As a filter names it."""
    types: list[Literal["boolean", "date", "number", "text"]]
    """Of a list, those of its items."""
    documents: int
    """Of those looked at, that have it."""
    values: list[FieldValueOut]
    """The most frequent, 20 at most; no texts of more than 100 characters."""
    range: tuple[float, float] | tuple[str, str] | None
    """Least and most, where all are numbers or all are dates."""


class FieldsOut(Described):
    sampled: int
    """Documents looked at: 1000, spread over the collection, or all."""
    fields: list[FieldOut]
    """The most common first; at most 200."""


class MetadataIndexIn(Described):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"path": "author.name"}]},
    )

    path: str = Field(min_length=1)
    """A field as a filter names it: year, or author.name."""


class MetadataIndexOut(Described):
    path: str
    """The field, as a filter names it."""
    built: bool
    """Filters use it as soon as it is built."""
    declared: bool
    """Whether index.metadata_indexes of the settings names it."""


class MetadataIndexesOut(Described):
    indexes: list[MetadataIndexOut]
    """Those that there are now."""


async def read_metadata_index(request: Request) -> MetadataIndexIn:
    """Read the body of POST /metadata/indexes. Raises as read_json does."""
    return await read_json(request, MetadataIndexIn)


NewIndex = Annotated[MetadataIndexIn, Depends(read_metadata_index)]


@router.get("/metadata/fields", response_model=FieldsOut)
@for_readers
async def fields(service: Service) -> Response:
    """What a filter can ask for: the fields of the metadata, with their types and most frequent values."""
    sampled, found = await service.read(service.collection.catalog.filtering.fields)
    return answer({"sampled": sampled, "fields": [each.told() for each in found]})


@router.get("/metadata/indexes", response_model=MetadataIndexesOut)
@for_readers
async def metadata_indexes(service: Service) -> Response:
    """The fields of the metadata whose values are kept in order, so that filters find them quickly."""
    return answer({"indexes": await service.read(service.collection.metadata_indexes.told)})


@router.post(
    "/metadata/indexes", response_model=RebuildOut, status_code=202, openapi_extra=json_body(MetadataIndexIn)
)
async def add_metadata_index(service: Service, body: NewIndex) -> Response:
    """Keep a field's values in order from now on; those that are stored are put in in the background."""
    job = await service.accept(service.collection.metadata_indexes.add, body.path)
    return answer({"job": job.told()}, 202)


@router.delete("/metadata/indexes/{path:path}", response_model=MetadataIndexesOut)
async def drop_metadata_index(service: Service, path: str) -> Response:
    """Forget an index. Filters find the same without it, from every document's metadata."""
    await service.ingest(service.collection.metadata_indexes.drop, path)
    return await metadata_indexes(service)
