"""What every store has to be able to do to be measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]
Setting = dict[str, int]  # knobs of a search, as the store calls them

BATCH = 5_000  # vectors handed over at once; below every store's limit


class Peer(Protocol):
    """A store in a folder of its own. A row's number is its id; all vectors have unit length.

    A process builds and closes; others open and search. Importing a peer's module imports the store itself, so
    that memory is counted from there.
    """

    packages: Sequence[str]  # distributions whose versions are told
    told: str  # how it is built, in a few words
    settings: Sequence[Setting]  # what is measured, from fast to thorough

    def __init__(self, folder: Path, dim: int) -> None:
        """Touch nothing yet."""

    def build(self, vectors: NDArray[np.float16]) -> None:
        """Store and index all vectors (n, dim), on one thread, and leave everything on disk."""

    def open(self) -> None:
        """Get ready to search what was built."""

    def use(self, setting: Setting) -> None:
        """Search with this setting from now on."""

    def search(self, query: Float32, k: int) -> Rows:
        """Return the rows of the k nearest, best first. query: (dim,)."""

    def process_ids(self) -> list[int]:
        """Return the processes whose memory is the store's."""

    def close(self) -> None:
        """Let go of everything, processes included."""


def batches(vectors: NDArray[np.float16], size: int = BATCH) -> Iterator[tuple[Rows, Float32]]:
    """Yield (rows, float32 vectors of unit length): the corpus is a mapped file that need not fit in memory."""
    for first in range(0, len(vectors), size):
        block = vectors[first : first + size].astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        yield np.arange(first, first + len(block)), block


def all_of(vectors: NDArray[np.float16]) -> Float32:
    """Return the whole corpus as float32 of unit length, for stores that take it in one piece."""
    return np.concatenate([block for _, block in batches(vectors)])
