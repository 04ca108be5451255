"""From the event loop to threads and back: what encodes, searches or reads never runs on the loop.

Ingest has threads of its own, so that any number of waiting ingests leaves searches their threads. Of either only
so many may wait, since each keeps its body in memory; one more is refused, to come again later.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Annotated, Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from server.collection import Collection
from server.errors import BusyError
from server.metrics import Metrics
from server.queries import Answer, Query
from server.settings import Settings

INGEST_THREADS = 4
INBOX_THREADS = 2
READ_THREADS = 16

P = ParamSpec("P")
R = TypeVar("R")

_Call = tuple["asyncio.Future[Any]", Callable[[], Any]]


class Running:
    """The collection behind the routes, and the threads to call it in. Made inside the event loop."""

    def __init__(self, collection: Collection, settings: Settings, metrics: Metrics) -> None:
        self.collection = collection
        self.settings = settings
        self.metrics = metrics
        self._most_waiting = settings.limits.waiting_requests
        self._ingest = CapacityLimiter(INGEST_THREADS)
        self._n_ingests = 0  # running and waiting
        self._inbox = CapacityLimiter(INBOX_THREADS)
        self._n_accepting = 0  # the same, of short writes
        self._readers = Threads(READ_THREADS, "read", self._most_waiting)
        # Searches that wait for neither a model nor a disk. More would take the interpreter from each other at every
        # array operation: over a million vectors sixteen at once changed threads 900 times a search.
        self._scanners = Threads(os.cpu_count() or 1, "scan", self._most_waiting)

    async def ingest(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that writes; further ones wait here, holding no thread. Raises BusyError."""
        if self._n_ingests >= INGEST_THREADS + self._most_waiting:
            raise _busy(self._most_waiting, "writes")
        self._n_ingests += 1
        try:
            return await to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._ingest)
        finally:
            self._n_ingests -= 1

    async def accept(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that puts something into the inbox: short, never behind those that encode. Raises BusyError."""
        if self._n_accepting >= INBOX_THREADS + self._most_waiting:
            raise _busy(self._most_waiting, "writes")
        self._n_accepting += 1
        try:
            return await to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self._inbox)
        finally:
            self._n_accepting -= 1

    async def take_back(self, call: Callable[[], None]) -> None:
        """Run a call that takes back what `accept` began; it waits as long as it must, and is never refused."""
        await to_thread.run_sync(call, limiter=self._inbox)

    async def read(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that searches or reads. Raises BusyError."""
        return await self._readers.run(lambda: call(*args, **kwargs))

    async def search(self, queries: Sequence[Query]) -> tuple[list[Answer], float]:
        """Answer searches together; also returns the seconds it took, in its thread. Raises BusyError."""
        threads = self._readers if self.collection.waits(queries) else self._scanners
        return await threads.run(lambda: timed(self.collection.search, queries))

    def close(self) -> None:
        """Wait for the calls that read: what they read is closed next."""
        self._readers.close()
        self._scanners.close()


class Threads:
    """Threads for short calls: 30 µs there and back, where anyio takes 50 and asyncio's executor 45.

    They are started as they are needed, and the one that became free last is asked first: its caches are warm. All
    of that is decided on the event loop, so that no lock is needed.
    """

    def __init__(self, limit: int, name: str, most_waiting: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._name = name
        self._most_waiting = most_waiting
        self._threads: dict[threading.Thread, SimpleQueue[_Call | None]] = {}
        self._idle: list[SimpleQueue[_Call | None]] = []
        self._waiting: deque[_Call] = deque()

    async def run(self, call: Callable[[], R]) -> R:
        """Run a call in a thread, the next free one. Whoever stops waiting for it doesn't stop it. Raises BusyError."""
        answer: asyncio.Future[R] = self._loop.create_future()
        if self._idle:
            self._idle.pop().put((answer, call))
        elif len(self._threads) < self._limit:
            self._start().put((answer, call))
        elif len(self._waiting) < self._most_waiting:
            self._waiting.append((answer, call))
        else:
            raise _busy(self._most_waiting, "searches")
        return await answer

    def close(self) -> None:
        """Wait for what was begun and end the threads."""
        for calls in self._threads.values():
            calls.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> "SimpleQueue[_Call | None]":
        calls: SimpleQueue[_Call | None] = SimpleQueue()
        thread = threading.Thread(
            target=self._work, args=[calls], name=f"{self._name}-{len(self._threads)}", daemon=True
        )
        self._threads[thread] = calls
        thread.start()
        return calls

    def _work(self, calls: "SimpleQueue[_Call | None]") -> None:
        while (item := calls.get()) is not None:
            answer, call = item
            try:
                tell, result = answer.set_result, call()
            except BaseException as error:  # noqa: BLE001  whoever waits for the answer gets it
                tell, result = answer.set_exception, error
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                self._loop.call_soon_threadsafe(self._done, calls, answer, tell, result)
            del item, answer, call, tell, result  # a large answer isn't kept until the next call

    def _done(
        self,
        calls: "SimpleQueue[_Call | None]",
        answer: "asyncio.Future[Any]",
        tell: Callable[[Any], None],
        result: Any,
    ) -> None:
        if not answer.done():  # else whoever waited has been cancelled
            tell(result)
        if self._waiting:
            calls.put(self._waiting.popleft())
        else:
            self._idle.append(calls)


def timed(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
    """Return the call's result and the seconds it took: in its thread, without the way there and back."""
    started = time.perf_counter()
    result = call(*args, **kwargs)
    return result, time.perf_counter() - started


def _busy(n_waiting: int, what: str) -> BusyError:
    return BusyError(f"as many {what} are waiting for their turn as may: {n_waiting}")


async def running(request: Request) -> Running:
    """The app's one Running. Async only because FastAPI would send a plain function to a thread."""
    found: Running = request.app.state.running
    return found


Service = Annotated[Running, Depends(running)]
