"""Around every request: its id, the key, one log line, and an answer even to what nobody foresaw."""

import re
import time
import traceback
import uuid

import structlog
from anyio import to_thread
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.problems import PROBLEM_JSON, problem_response
from server.auth import OPEN_PATHS, check_key
from server.errors import ANSWERS, ServiceError, TooLargeError, UnauthorizedError, problem
from server.memory import LARGE_BYTES, give_back

ACCEPTABLE_ID = re.compile(rb"[!-~]{1,128}")


class Requests:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, api_key: SecretStr, body_limit_bytes: int) -> None:
        self.app = app
        self.api_key = api_key
        self.body_limit_bytes = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if ACCEPTABLE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = received_bytes = 0

        async def receive_counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            check_key(self.api_key, scope["path"], headers.get(b"authorization", b""))
            self._check_size(headers.get(b"content-length", b""))
            await self.app(scope, receive_counted, send_with_id)
        except (UnauthorizedError, TooLargeError) as error:
            await problem_response(error, request_id)(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001  the last stop: without it there is no answer
            _log_unforeseen(error, request_id)
            if not status:
                body = problem(ANSWERS[ServiceError], "something went wrong inside twopass", request_id)
                response = JSONResponse(body, 500, media_type=PROBLEM_JSON)
                await response(scope, receive, send_with_id)
        log = structlog.get_logger()
        tell = log.debug if scope["path"] in OPEN_PATHS else log.info  # probes come every few seconds
        tell(
            "request",
            method=scope["method"],
            route=getattr(scope.get("route"), "path", None),  # the template: paths hold people's file names
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 1),
            request_id=request_id,
        )
        if received_bytes > LARGE_BYTES:
            await to_thread.run_sync(give_back)

    def _check_size(self, content_length: bytes) -> None:
        """Refuse a body that says it is too large; one that doesn't say is counted as it comes."""
        if content_length.isdigit() and int(content_length) > self.body_limit_bytes:
            raise TooLargeError(
                f"the body has {int(content_length)} bytes; the limit is {self.body_limit_bytes}",
                "Split it into several requests, or raise limits.body_bytes.",
            )


def _log_unforeseen(error: BaseException, request_id: str) -> None:
    """Where it happened and what kind it was; an error's own text can quote a document."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    structlog.get_logger().error(
        "unforeseen error", kind=type(error).__qualname__, request_id=request_id, frames=frames
    )
