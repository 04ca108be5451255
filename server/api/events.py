"""A job's progress as server-sent events: for a page, or `curl -N`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from server.jobs import Job

LOOK_S = 0.5  # between two looks at the job, and so between two events
HEARTBEAT_S = 15.0  # of silence, after which a comment keeps proxies from closing the connection

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # the second: nginx hands on what it gets


def events(job: Job, is_stopping: Callable[[], bool]) -> Response:
    """Answer with an event each time the job has changed; the answer ends with the job, or when the server stops."""
    return StreamingResponse(told_changes(job, is_stopping), headers=HEADERS, media_type="text/event-stream")


async def told_changes(
    job: Job, is_stopping: Callable[[], bool], look_s: float = LOOK_S, heartbeat_s: float = HEARTBEAT_S
) -> AsyncIterator[bytes]:
    """Yield the job as it is now and after every change, at most one in `look_s` seconds, and heartbeats."""
    last: Any = None
    silent_s = 0.0
    while not is_stopping():
        told = job.told()
        state = {**told, "progress": {name: told["progress"][name] for name in ("done", "total")}}
        if state != last:
            last, silent_s = state, 0.0
            yield b"event: job\ndata: " + to_json(told) + b"\n\n"
            if job.has_ended and told["status"] == job.status:
                return
        elif silent_s >= heartbeat_s:
            silent_s = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(look_s)
        silent_s += look_s
