"""What the rest of the server knows about encoders."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.encoders.fingerprint import Fingerprint, Role


def never() -> bool:
    return False


class Encoder(Protocol):
    """Turns texts into unit vectors. Any thread may call any method; each blocks until it is done."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def max_tokens(self) -> int:
        """Tokens that are read of a text: `fingerprint.max_tokens`, or fewer where a remote program cuts earlier."""
        ...

    def count_tokens(self, texts: Sequence[str], role: Role) -> NDArray[np.int64]:
        """int64 (n_texts,): tokens of each text with its prompt and special tokens; of a remote model, about."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode questions with the model's query prompt. They overtake documents that wait.

        The model reads the first `fingerprint.max_tokens` tokens of a longer text: ask `query_fits`, and tell
        the user.

        Returns:
            float32 (n_texts, dim), unit length, in the order of `texts`.

        Raises:
            TextNotEncodable: a text holds half a surrogate pair, or the model has no vector for it.
            EncodingFailed, EncoderUnavailable: see there.
        """
        ...

    def query_is_known(self, text: str) -> bool:
        """Whether `encode_queries` has this question's vector at hand, from a short time ago."""
        ...

    def query_fits(self, text: str) -> bool:
        """Whether the model reads all of this question. Takes microseconds; doesn't wait for the model."""
        ...

    def encode_documents(self, texts: Sequence[str], stop: Callable[[], bool] = never) -> NDArray[np.float32]:
        """Encode passages, as `split` made them, with the model's document prompt.

        `stop` is asked, in the calling thread, before each batch of about `batch_tokens` tokens.

        Returns:
            float32 (n_texts, dim), unit length, in the order of `texts`.

        Raises:
            TextNotEncodable: as in `encode_queries`, or one is longer than the model reads: nothing is cut.
            EncodingStopped: `stop` returned true.
            EncodingFailed, EncoderUnavailable: see there.
        """
        ...

    def split(self, text: str) -> list[tuple[int, int]]:
        """The passages of a text as [start, end) in code points, in order; at least one.

        They begin and end at characters that are not whitespace; a text of whitespace alone has the one passage
        (0, 0).

        Each fits `encode_documents`, and every character that is not whitespace lies in one or, where
        neighbours overlap, in two.

        Raises:
            TextNotEncodable: the text holds half a surrogate pair.
        """
        ...

    @property
    def n_waiting(self) -> int:
        """Batches that wait for the model; 0 where a program elsewhere encodes, since each batch is sent at once."""
        ...

    @property
    def is_down(self) -> bool:
        """Whether a program elsewhere encodes, and didn't answer when it was last asked."""
        ...

    def wait_until_back(self, stop: threading.Event) -> None:
        """After RemoteEncoderDown: wait until the program answers again, or `stop` is set. Models of ours: at once."""
        ...

    def close(self) -> None:
        """End it; calls that wait, and all later ones, raise EncoderUnavailable. May be called twice."""
        ...
