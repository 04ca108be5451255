"""Documents that come as a stream of lines, of any length: read in pieces, never whole in memory."""

from collections.abc import AsyncIterator

from anyio import to_thread
from fastapi import Request

from server.api.bodies import from_lines
from server.api.requests import Body
from server.checking import NewDocument
from server.errors import TooLargeError

PIECE_BYTES = 1 << 20
"""Lines that are parsed and committed in one go. A megabyte of vectors in numbers takes 10 ms to parse."""


async def read_pieces(request: Request) -> AsyncIterator[list[NewDocument]]:
    """Yield the documents of NDJSON, piece by piece.

    Raises:
        TooLargeError: one line is longer than a body may be.
        RequestValidationError: as pydantic says it; `loc` names the line.
        ClientDisconnect: the client closed the connection before the end.
    """
    body: Body = request.state.body
    body.is_stream = True
    waiting = bytearray()  # lines that aren't parsed yet
    n_lines = 0
    async for part in request.stream():
        searched = len(waiting)
        waiting += part
        while end := _end_of_piece(waiting, searched):
            lines, searched = bytes(waiting[:end]), 0
            del waiting[:end]
            if documents := await to_thread.run_sync(_parsed, lines, n_lines + 1, body.limit_bytes):
                yield documents
            n_lines += lines.count(b"\n")
        if len(waiting) > max(PIECE_BYTES, body.limit_bytes):  # all of it one line
            raise _too_long(n_lines + 1, len(waiting), body.limit_bytes)
    if documents := await to_thread.run_sync(_parsed, bytes(waiting), n_lines + 1, body.limit_bytes):
        yield documents


def _end_of_piece(waiting: bytearray, searched: int) -> int:
    """Where the last whole line within PIECE_BYTES ends, else the first behind; 0 if it isn't time, or there is none.

    Up to `searched` there is none behind PIECE_BYTES.
    """
    if len(waiting) < PIECE_BYTES:
        return 0
    within = waiting.rfind(b"\n", 0, PIECE_BYTES)
    return 1 + (within if within >= 0 else waiting.find(b"\n", max(PIECE_BYTES, searched)))


def _parsed(lines: bytes, first: int, limit_bytes: int) -> list[NewDocument]:
    for number, line in enumerate(lines.split(b"\n"), first):
        if len(line) > limit_bytes:
            raise _too_long(number, len(line), limit_bytes)
    return from_lines(lines, first)


def _too_long(number: int, n_bytes: int, limit_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"line {number} has {n_bytes} bytes or more; the limit is {limit_bytes}",
        "Split the document, or raise limits.body_bytes.",
    )
