"""The step that some models want before their vectors may be cut short: nomic-embed-text-v1.5, for one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.model import Model, Prepared

STEP = "layernorm"


class LayerNormed:
    """A model with a layer norm without weights behind it; the methods are those of the Model protocol.

    Each vector's mean over its dimensions is taken away. To divide by the deviation too would only scale it, and it
    is scaled to unit length in the end.
    """

    def __init__(self, model: Model[Any]) -> None:
        self._model = model
        own = model.fingerprint
        pooling = own.pooling.removesuffix("+normalize") + f"+{STEP}+normalize"
        self.fingerprint: Fingerprint = replace(own, pooling=pooling)
        self.token_counter = model.token_counter
        self.lanes = model.lanes
        self.patience_s = model.patience_s
        self.rest = model.rest
        self.close = model.close

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared[Any]:
        return self._model.prepare(texts, role)

    def embed(self, inputs: Sequence[Any], role: Role) -> NDArray[np.float32]:
        vectors = self._model.embed(inputs, role)
        centred: NDArray[np.float32] = vectors - vectors.mean(axis=1, keepdims=True)
        return centred
