"""Upper bounds on exact scores, for every row: what turns an answer into a proved one.

Let A (dim, P) be axes of the corpus, Π the projection onto their span, q the unit query, d a stored row, and
d̂ = h · c its coordinates as decoded from whole-numbered codes c. Cauchy–Schwarz on what A leaves out gives

    q·d  =  Πq·Πd + (q−Πq)·(d−Πd)  ≤  Aᵀq·d̂ + |Aᵀq|·ρ + t_q·t_d

with ρ ≥ |Aᵀd − d̂|, the codes' residual, t_d ≥ |d − Πd| and t_q ≥ |q − Πq|. The first and the last term are one
inner product of *augmented* prefixes b = [Aᵀq, t_q/w, …] and â = [d̂, w·t_d, …]; the tail is spread over TAIL_COLUMNS
columns so that no column is larger than the others. The query is rounded to whole numbers too, b̂ = g · e, because
faiss multiplies bytes twice as fast as floats:

    b·â  ≤  g·h·(e·c) + |b − b̂|·|â|

is what the scan ranks by (`BoundPart.loose`), and for the rows that it returns b·â itself is computed (`tight`, in
float32: 2·γ_width). What has to be added for rounding (u = 2⁻²⁴, γ_n = n·u / (1 − n·u); Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 3.1: for any order of summation, fused or not):

- each computed coordinate of d is off by at most γ_dim·|d|, all of them by √P·γ_dim: as much as ρ may be too small;
- t_d² = |d|² − |Πd|², and |Πd|² ≥ (1 − defect)·|Aᵀd|², where |Aᵀd| is at least the length of the computed
  coordinates less what they may be off; squares are summed in float64, and the code of t_d is rounded up;
- A is orthonormal up to its `defect`, which moves the first term by at most twice that;
- the exact score that a bound is compared with is a float32 sum of dim products: γ_dim.

e·c is a sum of whole numbers below 2²⁴, exact in float32; everything else on the query's side is float64. Stored rows
are unit vectors rounded to float16 or float32, |d| ≤ 1.001.
"""

import math
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.axes import Axes, axes_of
from index.first_pass.merging import Candidates
from index.vectors import Float32, Rows

Float64 = NDArray[np.float64]

MAX_WIDTH = 256
"""Numbers in an augmented prefix at most: 252 coordinates and the tail's columns."""

TAIL_COLUMNS = 4
"""Columns that the tail's length is spread over, half of it in each: tails of 0.6 are then no longer than the largest
of 252 evenly turned coordinates, and one step fits all columns."""

ALIGNMENT = 16
"""faiss scans 8-bit codes of a multiple of this many numbers ten times faster than others."""

LARGEST = 127  # code

HEADROOM = 1.1
"""The largest code stands for this many times the largest coordinate of the sample. A row beyond it is clipped and
makes ρ, which is measured, larger; the bound holds all the same."""

LONGEST = 1.001
"""Length of a stored row at most: float16 moves a unit vector's length by less than 2⁻¹¹."""

UNIT = 2.0**-24  # float32's unit roundoff


def _gamma(n: int) -> float:
    return n * UNIT / (1 - n * UNIT)


def bound_axes_count(dim: int) -> int:
    """Return how many axes the bounds use: the width less the tail's columns, at most every dimension."""
    return min(MAX_WIDTH - TAIL_COLUMNS, dim)


@dataclass(frozen=True)
class BoundCoder:
    """Turns rows and queries into augmented prefixes."""

    axes: Axes  # (dim, P)
    step: float  # h: what one unit of a coordinate's code stands for
    tail_weight: float  # w: tails are multiplied by it in rows and divided by it in queries

    @property
    def n_augmented(self) -> int:
        """Coordinates and one tail: the form of rows that aren't encoded yet."""
        return self.axes.n_axes + 1

    @property
    def width(self) -> int:
        """Numbers of a code."""
        return -(-(self.axes.n_axes + TAIL_COLUMNS) // ALIGNMENT) * ALIGNMENT

    @property
    def rounding(self) -> float:
        """What must be added to bounds: everything that float32 arithmetic can have moved."""
        dim, n_axes = self.axes.matrix.shape
        each = math.sqrt(n_axes) * _gamma(dim) + 2 * self.axes.defect + _gamma(dim)
        return LONGEST**2 * each + 4 * UNIT

    def augmented(self, stored: Float32) -> Float32:
        """Return [coordinates, tail], the tail rounded up: (n, P + 1) float32. stored: (n, dim) float32."""
        dim, n_axes = self.axes.matrix.shape
        coordinates = self.axes.coordinates(stored)
        whole = np.einsum("nd,nd->n", stored, stored, dtype=np.float64)
        kept = np.sqrt(np.einsum("nd,nd->n", coordinates, coordinates, dtype=np.float64))
        kept = np.maximum(kept - LONGEST * math.sqrt(n_axes) * _gamma(dim), 0)  # |Aᵀd| at least
        tail = np.sqrt(np.maximum(whole - kept**2 * (1 - self.axes.defect), 0))
        return np.concatenate([coordinates, np.nextafter(tail.astype(np.float32), np.inf)[:, None]], axis=1)

    def encode(self, stored: Float32) -> tuple[Float32, float, float]:
        """Encode rows, (n, dim) float32 as the vector file has them.

        Returns:
            Whole-numbered codes, (n, width) float32 in [-127, 127]; their largest residual ρ; the largest |â|.
        """
        augmented = self.augmented(stored)
        n_axes = self.axes.n_axes
        codes = np.zeros((len(stored), self.width), np.float32)
        np.rint(augmented[:, :n_axes] / np.float32(self.step), out=codes[:, :n_axes])
        tail_step = self.step / self.tail_weight * math.sqrt(TAIL_COLUMNS)
        tail_codes = np.ceil(augmented[:, n_axes].astype(np.float64) / tail_step)
        codes[:, n_axes : n_axes + TAIL_COLUMNS] = tail_codes[:, None]
        np.clip(codes, -LARGEST, LARGEST, out=codes)
        off = augmented - np.concatenate(
            [codes[:, :n_axes] * self.step, tail_codes[:, None] * tail_step], axis=1
        )
        # A tail beyond the largest code is told too short by this much; at most so much is its bound too low.
        off[:, n_axes] = np.maximum(augmented[:, n_axes] - np.minimum(tail_codes, LARGEST) * tail_step, 0)
        squares = np.einsum("nd,nd->n", off, off, dtype=np.float64)
        lengths = np.einsum("nd,nd->n", codes, codes, dtype=np.float64)
        residual = math.sqrt(float(squares.max(initial=0.0))) * (1 + 1e-6)
        return codes, residual, math.sqrt(float(lengths.max(initial=0.0))) * self.step * (1 + 1e-6)

    def query(self, query: Float32) -> "BoundQuery":
        """Return the query's side. query: (dim,) float32, unit length."""
        exact = query.astype(np.float64)
        coordinates = exact @ self.axes.matrix
        tail = float(np.linalg.norm(exact - self.axes.matrix @ coordinates))
        side = np.zeros(self.width)
        n_axes = self.axes.n_axes
        side[:n_axes] = coordinates
        side[n_axes : n_axes + TAIL_COLUMNS] = tail / self.tail_weight / math.sqrt(TAIL_COLUMNS)
        step = max(float(np.abs(side).max()) / LARGEST, 1e-12)
        codes = np.rint(side / step)
        return BoundQuery(
            side, np.append(coordinates, tail), codes.astype(np.float32)[None], self.step, step * self.step,
            float(np.linalg.norm(side - codes * step)),
        )  # fmt: skip


@dataclass(frozen=True)
class BoundQuery:
    """One query, ready to be compared with rows."""

    side: Float64  # (width,): b
    augmented: Float64  # (P + 1,): [Aᵀq, t_q]
    codes: Float32  # (1, width): e
    step: float  # h
    unit: float  # g·h: what one unit of e·c stands for
    residual: float  # |b − b̂|


def fit_coder(axes: Axes, sample: Float32) -> BoundCoder:
    """Turn the axes evenly and choose the steps of the codes from a sample of stored rows, (n, dim) float32.

    The turn is a fixed random rotation within the axes' span, which changes no bound but makes all coordinates about
    equally large, so that one step fits all: the residual ρ falls by half against falling variances.
    """
    turned = turn(axes)
    augmented = BoundCoder(turned, 1.0, 1.0).augmented(sample)
    step = max(float(np.abs(augmented[:, :-1]).max()) * HEADROOM / LARGEST, 1e-9)
    longest_tail = max(float(augmented[:, -1].max()) * HEADROOM, 1e-6) / math.sqrt(TAIL_COLUMNS)
    return BoundCoder(turned, step, min(1.0, LARGEST * step / longest_tail))


def turn(axes: Axes) -> Axes:
    """Return other axes of the same span, turned at random but always alike: coordinates become evenly large."""
    noise = np.random.default_rng(0).normal(size=(axes.n_axes, axes.n_axes))
    rotation, _ = np.linalg.qr(noise)
    return axes_of((axes.matrix.astype(np.float64) @ rotation).astype(np.float32))


def empty_bounds(width: int) -> Any:
    """Return an empty faiss index for codes."""
    quantizer = faiss.ScalarQuantizer.QT_8bit_direct_signed
    return faiss.IndexScalarQuantizer(width, quantizer, faiss.METRIC_INNER_PRODUCT)


@dataclass(frozen=True)
class BoundPart:
    """The augmented prefixes of a range of rows, memory-mapped."""

    first_row: int
    n_rows: int
    index: Any
    residual: float  # ρ, over these rows
    longest: float  # |â|, over these rows

    def loose(self, query: BoundQuery, n_rows: int, live: NDArray[np.uint8], rounding: float) -> Candidates:
        """Return the n_rows live rows with the highest loose bounds, and those bounds."""
        begin, end = self.first_row // 8, (self.first_row + self.n_rows + 7) // 8
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(live[begin:end]))
        sums, rows = self.index.search(query.codes, min(n_rows, self.n_rows), params=parameters)
        slack = query.residual * self.longest + self.residual + rounding
        bounds = round_up(sums.astype(np.float64) * query.unit + slack)
        return Candidates(np.where(rows >= 0, rows + self.first_row, -1), bounds)

    def tight(self, query: BoundQuery, rows: Rows, rounding: float) -> Float32:
        """Return upper bounds of rows of this part: (n,) float32. rows: (n,) int64, global."""
        codes = self.index.reconstruct_batch(rows - self.first_row)  # (n, width), whole numbers
        products = codes @ (query.side * query.step).astype(np.float32)
        slack = self.residual + rounding + 2 * LONGEST * _gamma(len(query.side))
        return round_up(products.astype(np.float64) + slack)


def tail_bounds(query: BoundQuery, augmented: Float32, rounding: float) -> Float32:
    """Return upper bounds for rows that aren't encoded yet: (n,) float32. augmented: (n, P + 1) float32."""
    return round_up(augmented.astype(np.float64) @ query.augmented + rounding)


def round_up(bounds: Float64) -> Float32:
    """Return bounds as float32 that are no lower."""
    rounded: Float32 = np.nextafter(bounds.astype(np.float32), np.float32(np.inf))
    return rounded
