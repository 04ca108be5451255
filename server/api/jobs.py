"""Routes of work that runs beside requests: /index/rebuild, /index/compact and /jobs."""

from typing import Any

from fastapi import APIRouter, Response

from server.api.answers import answer
from server.api.bodies import Rebuild
from server.api.events import events
from server.api.openapi import json_body
from server.api.rights import for_readers
from server.api.routes import Route
from server.api.schemas import JobOut, JobsOut, RebuildIn, RebuildOut
from server.api.threads import Service
from server.collection import RebuildWishes
from server.errors import StoppingError
from server.jobs import Asked

router = APIRouter(tags=["jobs"], route_class=Route)

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events named job; the data of each is the job as GET /jobs/{id} tells it.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "properties": {"event": {"const": "job"}, "data": {"type": "string"}},
                    "required": ["event", "data"],
                }
            }
        },
    }
}


@router.post("/index/rebuild", response_model=RebuildOut, status_code=202, openapi_extra=json_body(RebuildIn))
async def rebuild(service: Service, body: Rebuild) -> Response:
    """Make the first pass anew from stored vectors, in the background; nothing is encoded."""
    if service.collection.is_stopping:
        raise StoppingError("the server is shutting down")
    wishes = RebuildWishes(body.order, body.codec, body.kind, body.prefix_dim)
    job = await service.read(service.collection.rebuild, wishes)
    return answer({"job": job.told()}, 202)


@router.post("/index/compact", response_model=RebuildOut, status_code=202)
async def compact(service: Service) -> Response:
    """Drop the vectors of deleted and replaced documents, and give their room back, in the background."""
    if service.collection.is_stopping:
        raise StoppingError("the server is shutting down")
    job = await service.read(service.collection.compacting.begin)
    return answer({"job": job.told()}, 202)


@router.get("/jobs", response_model=JobsOut)
@for_readers
async def jobs(service: Service) -> Response:
    """The jobs, the newest first: all that haven't ended, and the last that have."""
    return answer({"jobs": [job.told() for job in service.collection.jobs.all()]})


@router.get("/jobs/{id}", response_model=JobOut)
@for_readers
async def one_job(service: Service, id: str) -> Response:
    """One job: how far it is, and what came of it."""
    return answer(service.collection.jobs.get(id).told())


@router.get("/jobs/{id}/events", response_class=Response, responses=EVENTS)
@for_readers
async def job_events(service: Service, id: str) -> Response:
    """One job, told again after every change, twice a second at most, until it ends."""
    collection = service.collection
    return events(collection.jobs.get(id), lambda: collection.is_stopping)


@router.post("/jobs/{id}/cancel", response_model=JobOut)
async def cancel_job(service: Service, id: str) -> Response:
    """End a job. What it has done stays; documents that it hasn't stored yet are forgotten."""
    return await _asked(service, id, "cancel")


@router.post("/jobs/{id}/pause", response_model=JobOut)
async def pause_job(service: Service, id: str) -> Response:
    """Have a job stand still, over restarts too, until it is resumed. Others go on."""
    return await _asked(service, id, "pause")


@router.post("/jobs/{id}/resume", response_model=JobOut)
async def resume_job(service: Service, id: str) -> Response:
    """Have a paused job go on."""
    return await _asked(service, id, "resume")


async def _asked(service: Service, identifier: str, what: Asked) -> Response:
    job = await service.accept(service.collection.jobs.ask, identifier, what)
    return answer(job.told())
