"""How many texts go to the program that encodes in one request: learnt from what it takes and how long it takes."""

import threading

import numpy as np
from numpy.typing import NDArray

START_TEXTS = 32  # what text-embeddings-inference takes by default
MOST_TEXTS, MOST_TOKENS = 512, 65_536  # OpenAI: 2048 and 300 000
# A request between these keeps a search that comes in behind it waiting less than a second.
QUICK_S, SLOW_S = 0.25, 1.0


class BatchSize:
    """The size of the next batch. Any thread may call any method."""

    def __init__(self, tokens: int) -> None:
        self._lock = threading.Lock()  # guards all below
        self._texts = START_TEXTS
        self._tokens = tokens
        self._most_texts = MOST_TEXTS

    def take(self, lengths: NDArray[np.int64]) -> int:
        """How many of the texts of these lengths, longest first, go together: at least one."""
        with self._lock:
            return max(1, min(self._texts, self._tokens // max(1, int(lengths[0])), len(lengths)))

    def answered(self, n_texts: int, longest: int, seconds: float) -> None:
        """Learn from a batch that was answered: larger ones next if it was quick, smaller ones if it was slow."""
        with self._lock:
            if seconds > SLOW_S:
                self._tokens = max(1, min(self._tokens, n_texts * longest) // 2)
            elif seconds < QUICK_S:
                if 2 * n_texts > self._texts:  # it was full, so that more is untried
                    self._texts = min(2 * self._texts, self._most_texts)
                if 2 * n_texts * longest > self._tokens:
                    self._tokens = min(2 * self._tokens, MOST_TOKENS)

    def too_many(self, n_texts: int, is_timeout: bool) -> None:
        """Learn from a batch that was refused, for good; after a timeout, begin again with one text."""
        with self._lock:
            if is_timeout:
                self._texts = 1
            else:
                self._most_texts = min(self._most_texts, max(1, n_texts // 2))
                self._texts = min(self._texts, self._most_texts)
