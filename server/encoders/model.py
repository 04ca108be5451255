"""What an encoder needs of the model inside it, whatever runs the model."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.tokens import TokenCounter


class Model(Protocol):
    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def token_counter(self) -> TokenCounter: ...

    def embed(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        """Encode one batch, padded to its longest text; called by one thread only.

        Returns:
            float32 (n_texts, dim), not necessarily of unit length.
        """
        ...
