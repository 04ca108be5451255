"""An exported model in a process beside the server, which can end when nobody asks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.frames import Kind, pack_tokens, unpack_vectors
from server.encoders.token_model import TokenModel
from server.encoders.tokens import TokenCounter
from server.encoders.worker_process import WorkerProcess


class OnnxModelApart(TokenModel):
    """The methods are those of the Model protocol.

    The process ends when no text came for `patience_s`, and the next starts it again. If it dies, for want of memory
    say, it is started again and the batch is tried once more.
    """

    def __init__(
        self, process: WorkerProcess, fingerprint: Fingerprint, counter: TokenCounter, patience_s: float
    ) -> None:
        super().__init__(fingerprint, counter, process.lanes, patience_s)
        self._process = process

    def embed(self, inputs: Sequence[NDArray[np.int32]], role: Role) -> NDArray[np.float32]:
        return unpack_vectors(self._process.encode(Kind.TOKENS, pack_tokens(inputs)))

    def rest(self) -> None:
        self._process.end()

    def close(self) -> None:
        self._process.end()
