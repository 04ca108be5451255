"""An exported model, as the server sees it: texts are tokenised here, whichever process runs ONNX Runtime."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.encoders.cores import Lanes
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.model import Prepared
from server.encoders.tokens import TokenCounter


class TokenModel:
    """The part of the Model protocol that is the same wherever the model runs; inputs are int32 (n_tokens,)."""

    def __init__(
        self, fingerprint: Fingerprint, counter: TokenCounter, lanes: Lanes, patience_s: float
    ) -> None:
        self.fingerprint = fingerprint
        self.token_counter = counter
        self.lanes = lanes
        self.patience_s = patience_s

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared[NDArray[np.int32]]:
        return Prepared(*self.token_counter.ids(texts, role, self.fingerprint.max_tokens))
