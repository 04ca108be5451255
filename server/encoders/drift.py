"""Whether an encoder still gives the vectors that are stored: what a remote model's name can't promise."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.encoders.encoder import Encoder

# Half precision, another batch or another machine stay above 0.999; 4-bit weights for 16-bit ones above 0.95; a
# different model of the same dimension is near 0.
SAME_MODEL = 0.9


def drift(encoder: Encoder, texts: Sequence[str], vectors: NDArray[np.float32]) -> float:
    """Least cosine between stored vectors and those that the encoder makes of the same passages now.

    Args:
        texts: passages, as they were encoded; a handful will do.
        vectors: float32 (n_texts, dim), unit length, as stored.

    Returns:
        1 where nothing has changed; below SAME_MODEL it is another model, or its prompts are others.

    Raises:
        EncoderError: as `encode_documents`.
    """
    now = encoder.encode_documents(texts)
    return float(np.einsum("nd,nd->n", now, vectors).min(initial=1.0))
