"""How much may be under way at once: requests, and bodies in memory."""

import contextlib
from collections.abc import Iterator

from server.budget import RESERVE_BYTES
from server.errors import BusyError
from server.memory import LARGE_BYTES, room
from server.settings import LimitSettings

BODY_COPIES = 4
"""Memory that a body takes at most while it is worked on, in times its size: as it came, as texts and vectors, as they
are written to the disk, and what lies between them."""


class Traffic:
    """Counts what is under way. For one event loop."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._n_requests = 0
        self._large_bytes = 0  # of bodies of a megabyte and more

    @contextlib.contextmanager
    def counted(self, body_bytes: int) -> Iterator[None]:
        """Count a request during the block.

        Raises:
            BusyError: as many are under way as may be, or its body and the others' would not fit into the memory left.
        """
        if self._n_requests >= self._limits.concurrent_requests:
            raise BusyError(
                f"as many requests are under way as may be: {self._limits.concurrent_requests}",
                "Send it again after the seconds in the header Retry-After, or raise limits.concurrent_requests.",
            )
        # One that is longer than it may be is refused before it is read.
        large_bytes = min(body_bytes, self._limits.body_bytes) if body_bytes > LARGE_BYTES else 0
        if large_bytes:
            self._check_memory(large_bytes)
        self._n_requests += 1
        self._large_bytes += large_bytes
        try:
            yield
        finally:
            self._n_requests -= 1
            self._large_bytes -= large_bytes

    def _check_memory(self, large_bytes: int) -> None:
        left = room().free_bytes - RESERVE_BYTES
        needed = BODY_COPIES * (self._large_bytes + large_bytes)
        if needed > left:
            raise BusyError(
                f"the body has {large_bytes} bytes and {self._large_bytes} more are under way, which takes up to "
                f"{needed >> 20} MiB of memory; {max(0, left) >> 20} MiB are left for that",
                "Send it again after the seconds in the header Retry-After, in smaller parts, or give the server more "
                "memory.",
            )
