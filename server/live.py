"""What serves: one generation of vectors, the encoder that made them, and the use cases over the two."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from index.vectors import Float32
from server.encoders.encoder import Encoder
from server.ingest import Ingest
from server.jobs import Jobs
from server.searches import Searches
from server.settings import IndexSettings, LimitSettings
from server.store import Found, LocalStore
from server.upkeep import Upkeep


class Live:
    """A store and its encoder, together until another generation takes over.

    Whoever works with it does so inside `used()`: then it isn't closed under them.
    """

    def __init__(
        self,
        store: LocalStore,
        encoder: Encoder | None,
        index: IndexSettings,
        limits: LimitSettings,
        jobs: Jobs,
        stopping: threading.Event,
        notice: Callable[[LocalStore, Float32, Sequence[Found]], None] = lambda store, vectors, found: None,
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.upkeep = Upkeep(store, index, jobs)
        self.ingest = Ingest(store, encoder, limits, stopping, self.upkeep.check_room)
        self.searches = Searches(store, encoder, index, notice)
        self._users = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keep it open during the block."""
        with self._changed:
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if not self._users:
                    self._changed.notify_all()

    def close(self, keep_encoder: bool = False) -> None:
        """Wait for those who work with it, then end upkeep and encoder and close the store.

        Args:
            keep_encoder: another one has it now.
        """
        self.upkeep.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._users)
        self.upkeep.close()
        if self.encoder is not None and not keep_encoder:
            self.encoder.close()
        self.store.close()
