"""Routes of work that runs beside requests: /index/rebuild and /jobs."""

from typing import Any

from fastapi import APIRouter, Response

from server.api.answers import answer
from server.api.bodies import Rebuild
from server.api.openapi import json_body
from server.api.routes import Route
from server.api.schemas import JobOut, JobsOut, RebuildIn, RebuildOut
from server.api.threads import Service
from server.collection import RebuildWishes
from server.errors import StoppingError

router = APIRouter(tags=["jobs"], route_class=Route)


@router.post("/index/rebuild", response_model=RebuildOut, status_code=202, openapi_extra=json_body(RebuildIn))
async def rebuild(service: Service, body: Rebuild) -> Response:
    """Make the first pass anew from stored vectors, in the background; nothing is encoded."""
    if service.collection.is_stopping:
        raise StoppingError("the server is shutting down")
    wishes = RebuildWishes(body.order, body.codec, body.kind, body.prefix_dim)
    job = await service.read(service.collection.rebuild, wishes)
    return answer({"job": job.told()}, 202)


@router.get("/jobs", response_model=JobsOut)
async def jobs(service: Service) -> Response:
    """The jobs since start, the newest first."""
    told: list[dict[str, Any]] = [job.told() for job in service.collection.jobs.all()]
    return answer({"jobs": told})


@router.get("/jobs/{id}", response_model=JobOut)
async def one_job(service: Service, id: str) -> Response:
    """One job: how far it is, and what came of it."""
    return answer(service.collection.jobs.get(id).told())
