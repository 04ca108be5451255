"""The page people search on, at /, and the API's own at /docs: files of this machine, and of no other."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from server.api.rights import for_anyone

WEB = Path(__file__).parent.parent / "web"

STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Nothing inline, and nothing from elsewhere: text of documents that looks like markup stays text."""

PAGE_POLICY = f"{STRICT}; img-src 'self'"
DOCS_POLICY = f"{STRICT}; img-src 'self' data:"  # Swagger UI's icons

HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked for each time by its ETag: an upgrade shows at once
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Files(StaticFiles):
    """The files of one folder, under one Content-Security-Policy."""

    def __init__(self, folder: Path, policy: str) -> None:
        super().__init__(directory=folder)
        self._headers = {**HEADERS, "Content-Security-Policy": policy}

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 where the browser has it already. Raises HTTPException."""
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response


def add_pages(app: FastAPI) -> None:
    """Have the app serve both pages and what they load. A browser that opens them sends no key."""
    page, docs = for_anyone(Files(WEB, PAGE_POLICY)), Files(WEB, DOCS_POLICY)
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    @for_anyone
    async def search_page(request: Request) -> Response:
        return await page.get_response("index.html", request.scope)

    @router.api_route("/docs", methods=["GET", "HEAD"])
    @for_anyone
    async def api_page(request: Request) -> Response:
        return await docs.get_response("docs.html", request.scope)

    app.include_router(router)
    app.mount("/web", page)
    app.mount("/docs", for_anyone(Files(_swagger_ui(), DOCS_POLICY)))


def _swagger_ui() -> Path:
    """The folder of Swagger UI's own files; they are the data of a package, whose code isn't needed."""
    found = find_spec("fastapi_offline")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "static"
