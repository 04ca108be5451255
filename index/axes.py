"""The order of dimensions: the model's own, or the corpus's principal axes. Pure numpy.

A Matryoshka model puts the dimensions that matter first for text in general. A rotation onto the corpus's own
principal axes puts them first for this corpus and changes no inner product of full vectors, so it touches
prefixes and queries only: stored vectors stay as the model made them.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from index.vectors import Float32, normalise


class Order(StrEnum):
    """Which dimensions come first."""

    MODEL = "model"  # as the model made them
    CORPUS = "corpus"  # the corpus's principal axes, by falling variance


@dataclass(frozen=True)
class Axes:
    """The first directions of an order: what a vector is truncated to."""

    matrix: Float32  # (dim, n_axes), orthonormal columns up to `defect`
    defect: float  # Frobenius norm of matrixᵀ·matrix − I: how far from orthonormal float32 left the columns
    columns: NDArray[np.intp] | None = None  # (n_axes,), where each axis is one of the model's dimensions

    @property
    def n_axes(self) -> int:
        return int(self.matrix.shape[1])

    def coordinates(self, vectors: Float32) -> Float32:
        """Return the vectors' parts along the axes, not re-normalised: (n, n_axes) float32."""
        return vectors @ self.matrix if self.columns is None else vectors[:, self.columns]

    def prefixes(self, vectors: Float32, prefix_dim: int) -> Float32:
        """Truncate to the first prefix_dim axes, then re-normalise. vectors: (n, dim); (n, prefix_dim) float32."""
        return normalise(self.first(prefix_dim).coordinates(vectors))

    def first(self, n_axes: int) -> "Axes":
        """Return the leading n_axes axes."""
        return self if n_axes == self.n_axes else self.chosen(np.arange(n_axes))

    def chosen(self, which: NDArray[np.intp]) -> "Axes":
        """Return some of the axes, in the order of `which`."""
        columns = None if self.columns is None else self.columns[which]
        return Axes(np.ascontiguousarray(self.matrix[:, which]), self.defect, columns)


def corpus_axes(sample: Float32, n_axes: int) -> Axes:
    """Fit the principal axes of a sample.

    They are the eigenvectors of the uncentred second moment, by falling eigenvalue: of all orthogonal maps this
    one keeps the most of the vectors' squared length in the leading coordinates (Jolliffe, Principal Component
    Analysis, 2002, section 2.1). Uncentred, because subtracting a mean would change inner products.

    Args:
        sample: (n, dim) float32, unit length. Fewer rows than n_axes leave the last axes arbitrary, still
            orthonormal.
        n_axes: 1..dim.

    Returns:
        The axes; each one's largest component is positive, so that the same sample gives the same axes.
    """
    moment = (sample.T @ sample).astype(np.float64)  # (dim, dim)
    _, vectors = np.linalg.eigh(moment)  # ascending
    chosen = vectors[:, ::-1][:, :n_axes]
    signs = np.sign(np.take_along_axis(chosen, np.abs(chosen).argmax(axis=0)[None], axis=0))
    return axes_of(np.ascontiguousarray(chosen * signs, np.float32))


def model_axes(dim: int, n_axes: int) -> Axes:
    """Return the model's own first dimensions as axes."""
    return Axes(np.eye(dim, n_axes, dtype=np.float32), 0.0, np.arange(n_axes))


def axes_of(matrix: Float32) -> Axes:
    """Wrap a matrix of orthonormal columns, (dim, n_axes) float32, measuring what rounding left."""
    exact = matrix.astype(np.float64)
    defect = float(np.linalg.norm(exact.T @ exact - np.eye(matrix.shape[1])))
    is_selection = matrix.size > 0 and defect == 0 and bool((np.sort(matrix, axis=0)[-1] == 1).all())
    return Axes(matrix, defect, matrix.argmax(axis=0) if is_selection else None)


def balanced(coordinates: Float32, n_groups: int) -> NDArray[np.intp]:
    """Return an order of columns in which each of n_groups runs of neighbours carries a similar variance.

    A product quantiser spends the same bits on every run; principal axes in their own order would give the
    first runs nearly all there is to say. Columns are dealt to the groups by falling variance, forwards, then
    backwards, and so on: a plain form of the eigenvalue allocation of Ge et al. 2013, "Optimized Product
    Quantization" (section 3.3). Measured on 4 040 vectors of nomic-embed-text-v1.5, 256 axes in 64 bytes, true
    top 10 in a pool of 20: 0.892 in falling order, 0.961 dealt, 0.955 after a random rotation; in 32 bytes (192
    axes) 0.828, 0.892, 0.838.

    Args:
        coordinates: (n, n_axes) float32, a sample; n_axes a multiple of n_groups.

    Returns:
        (n_axes,) column numbers.
    """
    falling = np.argsort(-np.einsum("nd,nd->d", coordinates, coordinates), kind="stable")
    deal = falling.reshape(-1, n_groups)  # (columns in a group, n_groups)
    deal[1::2] = deal[1::2, ::-1]
    return np.ascontiguousarray(deal.T).reshape(-1)
