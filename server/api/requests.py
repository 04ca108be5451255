"""Around every request: its id, the key, one log line, and an answer even to what nobody foresaw."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Mapping

import structlog
from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.problems import answered, problem_response
from server.api.rights import Rights
from server.api.sites import Sites
from server.api.traffic import Traffic
from server.auth import Keys, Right
from server.errors import (
    ANSWERS,
    BusyError,
    ForeignSiteError,
    ReadOnlyKeyError,
    ServiceError,
    SlowClientError,
    TooLargeError,
    UnauthorizedError,
    problem,
)
from server.logs import frames_of
from server.memory import LARGE_BYTES, give_back
from server.metrics import Metrics
from server.settings import LimitSettings

HUNG_UP = 499
"""In the log, as nginx has it: the client closed the connection before it had sent its whole request."""

METRICS = "/metrics"  # asked every few seconds by a machine, as health routes are: logged at level debug only

ACCEPTABLE_ID = re.compile(rb"[!-~]{1,128}")


class Requests:
    """ASGI middleware."""

    def __init__(
        self, app: ASGIApp, keys: Keys, sites: Sites, rights: Rights, limits: LimitSettings, metrics: Metrics
    ) -> None:
        self.app = app
        self.keys = keys
        self.sites = sites
        self.rights = rights
        self.limits = limits
        self.traffic = Traffic(limits)
        self.metrics = metrics
        self._log = structlog.get_logger().bind()  # bound once: each time takes 5 µs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if ACCEPTABLE_ID.fullmatch(given) else os.urandom(16).hex()
        body = Body(receive, headers, self.limits)
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, body=body)
        needed = self.rights.needed(scope["method"], scope["path"])
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self.keys.check(key_in(headers), needed)
            if needed is not Right.NONE and not self.keys.asked_for:
                self.sites.check(headers)
            # What asks for no key isn't counted: a probe must not fail because many search.
            is_counted = needed is not Right.NONE
            with self.traffic.counted(body.n_bytes) if is_counted else contextlib.nullcontext():
                await self.app(scope, body.receive, send_with_id)
        except (
            UnauthorizedError,
            ReadOnlyKeyError,
            ForeignSiteError,
            BusyError,
            TooLargeError,
            SlowClientError,
        ) as error:
            await problem_response(error, request_id, scope["path"])(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or HUNG_UP
        except Exception as error:  # noqa: BLE001  the last stop: without it there is no answer
            _log_unforeseen(error, request_id)
            if not status:
                content = problem(ANSWERS[ServiceError], "something went wrong inside twopass", request_id)
                await answered(content, scope["path"])(scope, receive, send_with_id)
        seconds = time.perf_counter() - started
        route = getattr(scope.get("route"), "path", None)  # the template: paths hold people's file names
        code = state.get("code")
        self.metrics.answered(scope["method"], route, status, seconds, code)
        is_quiet = needed is Right.NONE or scope["path"] == METRICS
        tell = self._log.debug if is_quiet else self._log.info
        tell(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            request_id=request_id,
            **({} if code is None else {"code": code}),
        )
        if body.n_bytes > LARGE_BYTES:
            await to_thread.run_sync(give_back)


def key_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key that a request brings; None: none. An `api-key` counts before an `Authorization`.

    So a proxy in front may ask for passwords of its own, which browsers send as `Authorization: Basic …`.
    """
    if b"api-key" in headers:
        return headers[b"api-key"].strip()
    if b"authorization" not in headers:
        return None
    scheme, _, key = headers[b"authorization"].partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


class Body:
    """Counts a request's body against the limit: by what its header says, or as it comes.

    A route that takes a stream of any length sets `is_stream` before it reads, and keeps no more of it than it may.
    """

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], limits: LimitSettings) -> None:
        self._receive = receive
        self._silence_s = limits.silence_s
        self._is_whole = False
        self.limit_bytes = limits.body_bytes
        said = headers.get(b"content-length", b"")
        self.n_bytes = int(said) if said.isdigit() and b"transfer-encoding" not in headers else 0
        self._is_counted = (
            not self.n_bytes
        )  # else the HTTP server sees to it that it is as long as the header says
        self.is_stream = False

    @property
    def is_long(self) -> bool:
        """Whether it is longer than a body may be that is no stream, as far as is known."""
        return self.n_bytes > self.limit_bytes

    def check_size(self) -> None:
        """Raise TooLargeError if there is too much of it."""
        if self.is_long and not self.is_stream:
            raise TooLargeError(
                f"the body has {self.n_bytes} bytes or more; the limit is {self.limit_bytes}",
                "Split it into several requests, or raise limits.body_bytes.",
            )

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            TooLargeError: there is too much of it; before the first part if the header says so.
            SlowClientError: the client has sent nothing for too long.
        """
        if not self._is_counted:
            self.check_size()
        message = await self._next()
        self._is_whole = not message.get("more_body", False)
        if self._is_counted:
            self.n_bytes += len(message.get("body", b""))
            self.check_size()
        return message

    async def _next(self) -> Message:
        if self._is_whole:  # what is waited for now is that the client hangs up
            return await self._receive()
        try:
            async with asyncio.timeout(self._silence_s):
                return await self._receive()
        except TimeoutError as error:
            raise SlowClientError(f"nothing more of the body came for {self._silence_s:g} seconds") from error


def _log_unforeseen(error: BaseException, request_id: str) -> None:
    """Where it happened and what kind it was; an error's own text can quote a document."""
    structlog.get_logger().error(
        "unforeseen error",
        kind=type(error).__qualname__,
        request_id=request_id,
        frames=frames_of(error.__traceback__),
    )
