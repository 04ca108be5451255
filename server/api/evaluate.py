"""The route of measured recall: /evaluate."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field

from server.api.answers import answer
from server.api.bodies import read_json
from server.api.openapi import json_body
from server.api.routes import Route
from server.api.schemas import RebuildOut
from server.api.threads import Service
from server.api.vectors import Vector
from server.described import Described
from server.evaluating import Wanted

router = APIRouter(tags=["jobs"], route_class=Route)

MOST_QUERIES, MOST_HITS = 500, 100  # together some 60 MB of candidates


class EvaluateIn(Described):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"sample": 200, "k": 10}, {"quality": True}]},
    )

    sample: int = Field(default=200, ge=10, le=MOST_QUERIES)
    """Stored passages that are searched for, each left out of its own answers; with quality, documents."""
    k: int = Field(default=10, ge=1, le=MOST_HITS)
    """Nearest neighbours that are to be found."""
    queries: list[str] = Field(default_factory=list, max_length=MOST_QUERIES)
    """Searched for instead of stored passages: texts. They aren't kept."""
    vectors: list[Vector] = Field(default_factory=list, max_length=MOST_QUERIES)
    """Likewise, as vectors of all dimensions; both together count."""
    quality: bool = False
    """Instead of recall: whether documents are found by their own titles and first sentences."""


async def read_evaluate(request: Request) -> EvaluateIn:
    """Read the body of POST /evaluate. Raises as read_json does."""
    return await read_json(request, EvaluateIn)


@router.post("/evaluate", response_model=RebuildOut, status_code=202, openapi_extra=json_body(EvaluateIn))
async def evaluate(service: Service, body: Annotated[EvaluateIn, Depends(read_evaluate)]) -> Response:
    """Measure recall over prefix lengths, candidates, orders and codecs, or quality, in the background."""
    wanted = Wanted(body.sample, body.k, body.queries, body.vectors, body.quality)
    job = await service.read(service.collection.evaluating.begin, wanted)
    return answer({"job": job.told()}, 202)
