"""An exported model in the server's own process.

That takes 20 MiB and a quarter of a millisecond a query less than one beside it, which has a Python of its own and is
handed everything.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.encoders.cores import Lanes
from server.encoders.errors import ModelDamaged, first_line
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.onnx_runner import LARGE_FOR_S, OnnxRunner
from server.encoders.token_model import TokenModel
from server.encoders.tokens import TokenCounter
from server.memory import give_back


class OnnxModel(TokenModel):
    """The methods are those of the Model protocol.

    What large batches left behind is given back a second after the last text, or by a small batch before.
    """

    def __init__(
        self, runner: OnnxRunner, fingerprint: Fingerprint, counter: TokenCounter, lanes: Lanes
    ) -> None:
        super().__init__(fingerprint, counter, lanes, LARGE_FOR_S)
        self._runner: OnnxRunner | None = runner

    def embed(self, inputs: Sequence[NDArray[np.int32]], role: Role) -> NDArray[np.float32]:
        assert self._runner is not None  # nobody calls after close
        return self._runner.embed(inputs)

    def rest(self) -> None:
        if self._runner is not None and self._runner.patience_s is not None:
            self._runner.rest()

    def close(self) -> None:
        self._runner = None
        give_back()


def open_runner(folder: Path, threads: int, pad_id: int) -> OnnxRunner:
    """Load an exported model here. Raises ModelDamaged."""
    try:
        return OnnxRunner(folder, threads, pad_id)
    except Exception as error:  # a foreign runtime over foreign files
        raise ModelDamaged(f"the model can't be loaded: {first_line(error)}") from error
