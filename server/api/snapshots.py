"""Routes of backups: /snapshots."""

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from server.api.answers import answer
from server.api.routes import Route
from server.api.schemas import RebuildOut
from server.api.threads import Service
from server.described import Described

router = APIRouter(tags=["backup"], route_class=Route)

TAR = "application/x-tar"


class SnapshotOut(Described):
    name: str
    """Of the file."""
    bytes: int
    """Of the file."""
    error: str | None
    """Why it can't be read; the fields below are missing then."""
    created_at: str | None = None
    """ISO 8601, UTC."""
    twopass: str | None = None
    """The version that wrote it."""
    documents: int | None = None
    """In it."""
    passages: int | None = None
    """In it."""
    pending: int | None = None
    """Documents in it that are accepted and not encoded yet."""
    rows: int | None = None
    """Vectors in it, those of deleted documents too."""
    dim: int | None = None
    """Of a vector."""
    damaged: int | None = None
    """Stored vectors that were damaged when it was made."""
    model: str | None = None
    """That made the vectors."""


class SnapshotsOut(Described):
    snapshots: list[SnapshotOut]
    """The oldest first."""


@router.post("/snapshots", response_model=RebuildOut, status_code=202)
async def back_up(service: Service) -> Response:
    """Make a backup of texts, metadata and vectors as they are now, in the background."""
    job = await service.read(service.collection.snapshots.begin)
    return answer({"job": job.told()}, 202)


@router.get("/snapshots", response_model=SnapshotsOut)
async def snapshots(service: Service) -> Response:
    """The backups that lie on the server, the oldest first."""
    return answer({"snapshots": await service.read(service.collection.snapshots.all)})


@router.get(
    "/snapshots/{name}",
    response_class=FileResponse,
    responses={200: {"content": {TAR: {}}, "description": "A tar file."}},
)
async def download(service: Service, name: str) -> Response:
    """One backup, as a tar file."""
    path = await service.read(service.collection.snapshots.path, name)
    return FileResponse(path, media_type=TAR, filename=path.name)


@router.delete("/snapshots/{name}", response_model=SnapshotsOut)
async def delete(service: Service, name: str) -> Response:
    """Delete a backup; answers with those that are left."""
    await service.accept(service.collection.snapshots.delete, name)
    return await snapshots(service)
