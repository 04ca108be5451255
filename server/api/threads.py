"""From the event loop to threads and back: what encodes, searches or reads never runs on the loop.

Ingest has threads of its own, so that any number of waiting ingests leaves searches their threads.
"""

from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from server.collection import Collection
from server.settings import Settings

INGEST_THREADS = 4
READ_THREADS = 16

P = ParamSpec("P")
R = TypeVar("R")


class Running:
    """The collection behind the routes, and the threads to call it in. Made inside the event loop."""

    def __init__(self, collection: Collection, settings: Settings) -> None:
        self.collection = collection
        self.settings = settings
        self._ingest = CapacityLimiter(INGEST_THREADS)
        self._read = CapacityLimiter(READ_THREADS)

    async def ingest(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that writes; further ones wait here, holding no thread."""
        return await to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._ingest)

    async def read(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that searches or reads."""
        return await to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._read)


def running(request: Request) -> Running:
    """The app's one Running."""
    found: Running = request.app.state.running
    return found


Service = Annotated[Running, Depends(running)]
