"""An exported model, as the server sees it: texts are tokenised here, vectors come from a process of their own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.frames import Kind, pack_tokens, unpack_vectors
from server.encoders.model import Prepared
from server.encoders.tokens import TokenCounter
from server.encoders.worker_process import WorkerProcess


class OnnxModel:
    """The methods are those of the Model protocol; its inputs are token ids, int32 (n_tokens,)."""

    def __init__(self, process: WorkerProcess, fingerprint: Fingerprint, counter: TokenCounter) -> None:
        self._process = process
        self.fingerprint = fingerprint
        self.token_counter = counter
        self.lanes = process.lanes

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared[NDArray[np.int32]]:
        return Prepared(*self.token_counter.ids(texts, role, self.fingerprint.max_tokens))

    def embed(self, inputs: Sequence[NDArray[np.int32]], role: Role) -> NDArray[np.float32]:
        return unpack_vectors(self._process.encode(Kind.TOKENS, pack_tokens(inputs)))

    def rest(self) -> None:
        self._process.end()

    def close(self) -> None:
        self._process.end()
