"""What a client may do before the application hears of its request, and how it is told no.

uvicorn sets no bounds to a request's head, to the time it takes, and to the number of connections, and answers in plain
text what is no HTTP.
"""

import asyncio
import os
import resource
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.api.problems import problem_response
from server.errors import BusyError, HeadTooLongError, NotHttpError, ServiceError, SlowClientError
from server.metrics import Metrics
from server.settings import LimitSettings

MAX_HEAD_BYTES = 1 << 16
"""Besides what comes in one piece with the head's first byte, some 256 KiB at most."""
OTHER_HANDLES = 256
"""File handles that are kept for everything but connections: the server has some 35 open, and more while it rebuilds
and backs up."""


def handles_for(connections: int) -> int:
    """Raise this process's limit of file handles for so many connections; return how many there may be.

    Systemd and Debian give a process 1024 handles, and let it ask for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_HANDLES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else max(1, min(connections, soft - OTHER_HANDLES))


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(
        self,
        *uvicorns: Any,
        limits: LimitSettings,
        most: int,
        metrics: Metrics,
        **more_of_uvicorns: Any,
    ) -> None:
        """Of `most` connections at once."""
        super().__init__(*uvicorns, **more_of_uvicorns)
        self._most = most
        self._silence_s = limits.silence_s
        self._metrics = metrics
        self._is_in_head = False
        self._is_whole = True  # nothing more of a request is to come
        self._unread_bytes = 0  # of a head, or of what may stand behind a body, so far
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._refuse(
                BusyError(
                    f"as many connections are open as may be: {self._most}",
                    "Close those that aren't needed, or raise limits.connections.",
                )
            )
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLongError(f"the request's head has more than {MAX_HEAD_BYTES} bytes"))
        elif self._is_in_head and self._deadline is None:
            self._wait()

    # What the parser finds, in this order.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._is_whole = True, False

    def on_headers_complete(self) -> None:
        super().on_headers_complete()  # raises if the address is none
        self._is_in_head, self._unread_bytes = False, 0
        self._wait_no_more()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_whole, self._unread_bytes = True, 0
        self._wait_no_more()
        super().on_message_complete()

    # And when the application has answered.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # What is left of an answered body is read, so that the client reads the answer; not for ever.
        if not self._is_whole and self.cycle.response_complete:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answer what can't be parsed; uvicorn calls it."""
        self._refuse(NotHttpError("the request can't be read as HTTP/1.1"))

    def _wait(self) -> None:
        """Give the client `silence_s` from now on."""
        self._wait_no_more()
        self._deadline = self.loop.call_later(self._silence_s, self._give_up)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_in_head:
            self._refuse(
                SlowClientError(
                    f"the request's head wasn't there after {self._silence_s:g} seconds",
                    "Send it in one piece, or raise limits.silence_s.",
                )
            )
        else:  # nothing was asked, or it is answered
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer in our own shape, unless another answer is on its way, and close."""
        if self.transport.is_closing():
            return
        request_id = os.urandom(16).hex()
        answer = problem_response(error, request_id, "")
        if self._may_answer():
            lines = [
                f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode(),
                *(name + b": " + value for name, value in self.server_state.default_headers),
                *(name + b": " + value for name, value in answer.raw_headers),
                b"x-request-id: " + request_id.encode(),
                b"connection: close",
            ]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body))
        self.transport.close()
        self._metrics.refused(answer.code)
        structlog.get_logger().info(
            "refused", status=answer.status_code, request_id=request_id, code=answer.code
        )

    def _may_answer(self) -> bool:
        if self.cycle is None:  # uvicorn's type hint denies that
            return True  # type: ignore[unreachable]
        is_next = self._is_in_head or self._is_whole  # behind the request that was handed on last
        if self.cycle.response_complete:
            return is_next
        return not is_next and not self.cycle.response_started
