"""Routes that tell how the server is: /stats, /info and the health routes."""

from typing import Any

from fastapi import APIRouter

from server import __version__
from server.api.threads import Service
from server.errors import StoppingError

router = APIRouter(tags=["status"])


@router.get("/stats")
async def stats(service: Service) -> dict[str, Any]:
    """Counts, sizes and what is degraded."""
    return await service.read(service.collection.stats)


@router.get("/info")
async def info(service: Service) -> dict[str, Any]:
    """What this server is: version, model, vectors, limits."""
    return {"name": "twopass", "version": __version__, **service.collection.info()}


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(service: Service) -> dict[str, str]:
    """Searches and ingest are taken. `degraded`: some stored vectors are damaged, see /stats."""
    if service.collection.is_stopping:
        raise StoppingError("the server is shutting down")
    return {"status": "degraded" if service.collection.is_degraded else "ok"}


@router.get("/health")
async def health(service: Service) -> dict[str, str]:
    """The same as /readyz."""
    return await readyz(service)
