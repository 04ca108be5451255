"""What an encoder needs of the model inside it, whatever runs the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.encoders.cores import ONE_LANE, Lanes
from server.encoders.fingerprint import Fingerprint, Role

if TYPE_CHECKING:  # tokenizers is imported with the model, not before
    from server.encoders.tokens import TokenCounter

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Prepared(Generic[T]):
    """Texts as the model takes them, in the callers' order.

    `lengths` is int64 (n_texts,): the tokens of each text, prompt and special tokens included. It may be more than
    the model reads; of such a text the input holds what the model reads.
    """

    inputs: Sequence[T]
    lengths: NDArray[np.int64]


class Model(Protocol[T]):
    """A model whose inputs are of type T: token ids, or the texts themselves (then see TextModel)."""

    @property
    def fingerprint(self) -> Fingerprint:
        """May be asked at any time, and never waits."""
        ...

    @property
    def token_counter(self) -> "TokenCounter": ...

    @property
    def lanes(self) -> Lanes:
        """How many threads may call `embed` at once, and how many of them with documents."""
        ...

    @property
    def patience_s(self) -> float:
        """Seconds without texts after which `rest` is worth while; 0: it never is."""
        ...

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared[T]:
        """Make the inputs of `embed`, each text tokenised once. Any thread; doesn't wait for the model."""
        ...

    def embed(self, inputs: Sequence[T], role: Role) -> NDArray[np.float32]:
        """Encode one batch, padded to its longest text; called by threads as `lanes` allows only.

        Returns:
            float32 (n_texts, dim), not necessarily of unit length.

        Raises:
            EncoderUnavailable: whatever runs the model is gone, and did not come back.
            Exception: any other says that this batch can't be encoded.
        """
        ...

    def rest(self) -> None:
        """Give memory back until the next `embed`; called after a time without texts, while no `embed` runs."""
        ...

    def close(self) -> None:
        """End it; no call runs or follows. May be called twice."""
        ...


class TextModel:
    """The part of the Model protocol that is the same for models that take the texts themselves.

    A model that derives from it has `fingerprint`, `token_counter` and `embed(texts, role)` of its own.
    """

    token_counter: "TokenCounter"
    lanes = ONE_LANE
    patience_s: float = 0

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared[str]:
        return Prepared(texts, self.token_counter.count(texts, role))

    def rest(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """Nothing to end."""
