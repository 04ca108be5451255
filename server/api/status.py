"""Routes that tell how the server is: /stats, /info, /doctor, /metrics, the health routes. And /openapi.json."""

import re
from datetime import datetime
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from server import __version__
from server.api.answers import answer
from server.api.rights import for_anyone, for_readers
from server.api.routes import Route
from server.api.schemas import DoctorOut
from server.api.status_schemas import InfoOut, RecallHistoryOut, StatsOut
from server.api.threads import Running, Service
from server.catalog.recall_table import KEPT
from server.doctor import Report, examine, served
from server.errors import StoppingError
from server.metrics import MEDIA_TYPE

router = APIRouter(tags=["status"], route_class=Route)


def _written_out(moment: object) -> object:
    """Refuse bare numbers, which pydantic takes for seconds."""
    if isinstance(moment, str) and not re.match(r"\d{4}-", moment):
        raise PydanticCustomError("datetime_parsing", "Input should be a date and time as in ISO 8601")
    return moment


@router.get("/stats", response_model=StatsOut)
@for_readers
async def stats(service: Service) -> Response:
    """Counts, sizes and what is degraded."""
    return answer(await service.read(service.collection.stats))


@router.get("/stats/recall", response_model=RecallHistoryOut)
@for_readers
async def recall(
    service: Service,
    since: Annotated[
        datetime | None,
        BeforeValidator(_written_out),
        Query(
            description="Only points with a search from then on: as ISO 8601, UTC where it doesn't say otherwise."
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=KEPT, description="Points at most, the newest.")] = 100,
) -> Response:
    """Recall as it was measured over time, the oldest first. A restart forgets none of it."""
    return answer({"points": await service.read(service.collection.recall.points, limit, since)})


@router.get("/info", response_model=InfoOut)
@for_readers
async def info(service: Service) -> Response:
    """What this server is: version, model, vectors, limits."""
    return answer({"name": "twopass", "version": __version__, **service.collection.info()})


@router.get("/metrics", response_class=PlainTextResponse)
@for_readers
async def metrics(service: Service) -> Response:
    """Counts, sizes and times, for Prometheus. Answered however many searches wait."""
    return Response(await to_thread.run_sync(service.metrics.told), media_type=MEDIA_TYPE)


@router.get("/doctor", response_model=DoctorOut)
@for_readers
async def doctor(service: Service) -> Response:
    """What is well and what isn't, with advice: the machine, the data, and whether the two suit each other."""
    report = await service.read(examined, service)
    return answer(report.told())


@router.get("/livez", response_model=dict[str, str])
@for_anyone
async def livez() -> Response:
    """The process answers."""
    return answer({"status": "ok"})


@router.get("/readyz", response_model=dict[str, str])
@for_anyone
async def readyz(service: Service) -> Response:
    """Searches and ingest are taken. `degraded`: some stored vectors are damaged, see /stats."""
    if service.collection.is_stopping:
        raise StoppingError("the server is shutting down")
    return answer({"status": "degraded" if service.collection.is_degraded else "ok"})


@router.get("/health", response_model=dict[str, str])
@for_anyone
async def health(service: Service) -> Response:
    """The same as /readyz."""
    return await readyz(service)


@router.get("/openapi.json", include_in_schema=False)
@for_anyone
async def openapi(request: Request) -> Response:
    """The API as OpenAPI describes it."""
    return answer(request.app.openapi())


def examined(service: Running) -> Report:
    return examine(served(service.collection, service.settings))
