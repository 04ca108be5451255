"""Pure numpy: check, normalise, truncate, score and order vectors.

Everything takes and returns 2-D batches; a single query is a batch of one.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from index.errors import PrefixError, VectorError

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]


def check_vectors(vectors: ArrayLike, dim: int) -> Float32:
    """Return vectors as a C-contiguous float32 batch, or say what is wrong with which one.

    Args:
        vectors: (n, dim), any real dtype. Not changed.
        dim: expected length of each vector.

    Raises:
        VectorError: not two-dimensional, another length, NaN or infinite, or of zero length. `position` is
            the first bad vector.
    """
    array: NDArray[Any]
    try:
        with np.errstate(over="ignore"):  # 1e300 becomes infinite in float32 and is refused below
            array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise VectorError(f"expected vectors of {dim} numbers: {error}") from error
    if array.ndim != 2:
        raise VectorError(f"expected a batch of vectors (2 dimensions), got {array.ndim} dimension(s)")
    if array.shape[1] != dim:
        raise VectorError(f"expected {dim} dimensions, got {array.shape[1]}", 0 if len(array) else None)
    finite = np.isfinite(array).all(axis=1)  # (n,)
    if not finite.all():
        position = int(np.argmin(finite))
        raise VectorError("the vector holds NaN, an infinity or a number beyond float32", position)
    nonzero = array.any(axis=1)  # (n,)
    if not nonzero.all():
        raise VectorError("the vector is all zeros and has no direction", int(np.argmin(nonzero)))
    return array


def normalise(vectors: Float32) -> Float32:
    """Return the vectors scaled to unit length; a zero vector stays zero.

    Args:
        vectors: (n, dim) float32, finite. Not changed.

    Returns:
        (n, dim) float32, C-contiguous. Scaled by the largest component first, so that neither 1e30 nor 1e-30
        overflows or vanishes when squared.
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)  # (n, 1)
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    norms = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]  # (n, 1), 0 or at least 1
    return np.ascontiguousarray(np.divide(scaled, norms, out=scaled, where=norms > 0))


def check_prefix_dim(prefix_dim: int, dim: int) -> None:
    """Raise PrefixError unless 1 <= prefix_dim <= dim."""
    if not 1 <= prefix_dim <= dim:
        raise PrefixError(f"a prefix of {prefix_dim} dimensions doesn't fit vectors of {dim}")


def prefixes(vectors: Float32, prefix_dim: int) -> Float32:
    """Truncate, then re-normalise (Kusupati et al. 2022, arXiv:2205.13147, section 3).

    A prefix that is not re-normalised is not a cosine: documents whose weight lies in the tail would lose
    against others for that reason alone.

    Args:
        vectors: (n, dim) float32, finite. Not changed.
        prefix_dim: 1..dim.

    Returns:
        (n, prefix_dim) float32, each of unit length, or zero where the prefix is zero.
    """
    check_prefix_dim(prefix_dim, vectors.shape[1])
    return normalise(vectors[:, :prefix_dim])


def score(vectors: Float32, query: Float32) -> Float32:
    """Return the inner product of each vector with one query, the same bits for the same vector anywhere.

    A matrix product rounds differently at the end of a batch than in its middle, so that duplicates would not
    tie; this doesn't.

    Args:
        vectors: (n, dim) float32. query: (dim,) float32.

    Returns:
        (n,) float32.
    """
    scores: Float32 = np.einsum("nd,d->n", np.ascontiguousarray(vectors), query)
    return scores


def order_by_score(scores: Float32, rows: Rows) -> NDArray[np.intp]:
    """Return the positions that sort one query's rows by score, best first, ties by row, -1 rows last.

    Args:
        scores: (m,) float32, higher is better.
        rows: (m,) int64; -1 marks an empty slot.
    """
    return np.lexsort((rows, -scores, rows < 0))
