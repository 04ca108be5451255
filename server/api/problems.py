"""Every error as application/problem+json, the framework's own included."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from server.errors import ANSWERS, RETRY_AFTER_S, Answer, InputError, answer_for, problem

PROBLEM_JSON = "application/problem+json"
MAX_FINDINGS = 10  # of a body with thousands of wrong fields, the first few say enough

MALFORMED = Answer(400, "malformed_json", "The body isn't valid JSON", "Send UTF-8 JSON as RFC 8259 has it.")
UNKNOWN_FIELD = Answer(
    422, "unknown_field", "There is no such field",
    "Correct its spelling or leave it out; GET /openapi.json lists the fields.",
)  # fmt: skip
BY_STATUS = {
    400: MALFORMED,
    404: Answer(404, "unknown_path", "There is nothing at this path", "GET /openapi.json lists the paths."),
    405: Answer(
        405,
        "method_not_allowed",
        "The path doesn't take this method",
        "The header Allow says which it takes.",
    ),
}


class ProblemResponse(JSONResponse):
    """An error. It leaves its code in the request's state, for those who count and log requests."""

    media_type = PROBLEM_JSON

    def __init__(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(body, body["status"], headers)
        self.code: str = body["code"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope["state"]["code"] = self.code
        await super().__call__(scope, receive, send)


def add_error_handlers(app: FastAPI) -> None:
    """Make the app answer every error in our shape."""

    async def ours(request: Request, error: Exception) -> ProblemResponse:
        return problem_response(error, request.state.request_id, request.url.path)

    async def invalid(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, RequestValidationError)
        return _invalid(request, error.errors())

    async def framework(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, HTTPException)
        answer = BY_STATUS.get(error.status_code) or Answer(
            error.status_code, "http_error", error.detail, "Check the request."
        )
        detail = {
            400: "the body can't be read as JSON",
            404: f"there is nothing at {request.url.path}",
            405: f"{request.url.path} doesn't take {request.method}",
        }.get(error.status_code, error.detail)
        body = problem(answer, detail, request.state.request_id)
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the framework names those of one route, and a path may have several
            headers["Allow"] = ", ".join(sorted(_methods_at(app, request.url.path)))
        return answered(body, request.url.path, headers)

    for kind in ANSWERS:
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, framework)


def _methods_at(app: FastAPI, path: str) -> set[str]:
    """All methods that some route at this path takes."""
    routes = (each for each in iter_route_contexts(app.routes) if each.path_regex.match(path))
    return {method for route in routes for method in route.methods or ()}


def answered(body: dict[str, Any], path: str, headers: dict[str, str] | None = None) -> ProblemResponse:
    """The problem as an answer; under /v1 once more as `error`, which is all that OpenAI's clients read."""
    status = body["status"]
    if path.startswith("/v1/"):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        told = {"message": body["detail"], "type": kind, "param": body.get("where"), "code": body["code"]}
        body = {**body, "error": told}
    return ProblemResponse(body, headers)


def problem_response(error: Exception, request_id: str, path: str) -> ProblemResponse:
    """Answer one of our own errors."""
    answer = answer_for(error)
    assert answer is not None
    more = {"where": error.where} if isinstance(error, InputError) else {}
    body = problem(answer, str(error), request_id, getattr(error, "hint", None), **more)
    headers = {}
    if answer.status in RETRY_AFTER_S:
        headers["Retry-After"] = RETRY_AFTER_S[answer.status]
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return answered(body, path, headers)


def _invalid(request: Request, findings: Sequence[Any]) -> ProblemResponse:
    """Answer pydantic's findings: which field, where, why."""
    request_id = request.state.request_id
    first = findings[0]
    if first["type"] == "json_invalid":
        detail = f"the body can't be read as JSON: {_why(first)} ({place(first['loc'])})"
        return answered(problem(MALFORMED, detail, request_id), request.url.path)
    listed = [{"where": place(each["loc"]), "why": _why(each)} for each in findings[:MAX_FINDINGS]]
    answer = UNKNOWN_FIELD if first["type"] == "extra_forbidden" else ANSWERS[InputError]
    detail = f"{listed[0]['where']}: {listed[0]['why']}"
    if len(findings) > 1:
        detail += f" (and {len(findings) - 1} more)"
    body = problem(answer, detail, request_id, where=listed[0]["where"], errors=listed)
    return answered(body, request.url.path)


def place(loc: Sequence[Any]) -> str:
    """Spell a location as documents[2].vector; the leading "body" or "query" goes without saying."""
    parts = [str(part) if isinstance(part, str) else f"[{part}]" for part in loc]
    if parts and parts[0] in ("body", "query", "path"):
        parts = parts[1:]
    return ".".join(parts).replace(".[", "[") or "the body"


def _why(finding: dict[str, Any]) -> str:
    reason = str(finding["msg"]).removeprefix("Invalid JSON: ")
    return reason[:1].lower() + reason[1:]
