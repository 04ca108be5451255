"""What one search sees of the first pass."""

from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.axes import Axes
from index.first_pass.bounds import BoundCoder, BoundPart, tail_bounds
from index.first_pass.codecs import Part
from index.first_pass.merging import Candidates, merge
from index.plan import Plan
from index.vectors import Float32, Rows, order_by_score


@dataclass(frozen=True)
class Bounded:
    """Rows by falling upper bound of their exact scores."""

    rows: Rows  # (n,) int64
    bounds: Float32  # (n,)
    behind: float  # what no live row that is left out scores more than; -inf where none is left out


@dataclass(frozen=True)
class PrefixSnapshot:
    """Sealed parts, tail, and which rows are live. Never changes."""

    plan: Plan
    axes: Axes
    coder: BoundCoder | None  # None: no bounds are kept, nothing can be proved but by reading
    parts: tuple[Part, ...]
    bound_parts: tuple[BoundPart, ...]  # over the same rows as `parts`, or none
    whole_parts: frozenset[int]  # positions of parts all of whose rows are live
    tail: Float32  # (n_tail, prefix_dim) unit prefixes of the newest rows
    tail_augmented: Float32  # (n_tail, P + 1), see bounds.py; (n_tail, 0) without a coder
    live: NDArray[np.uint8]  # bitmap, least significant bit first: row r is bit r % 8 of byte r // 8
    n_rows: int
    n_live: int

    def search(self, queries: Float32, n_candidates: int, n_probes: int | None = None) -> Candidates:
        """Return the live rows with the highest prefix cosine, as exactly as the codec tells it.

        Args:
            queries: (n_queries, dim) float32, unit length.
            n_candidates: at least 1; more than there are live rows leaves empty slots.
            n_probes: lists of an inverted file that are compared; None: as planned.
        """
        # One thread a search: on a shared two-core machine faiss's own threads took 8.1 ms where one takes
        # 3.2 (100 000 x 256), and searches run side by side anyway. The setting is per calling thread.
        faiss.omp_set_num_threads(1)
        n_probes = self.plan.n_probes if n_probes is None else n_probes
        prefixes = np.ascontiguousarray(self.axes.prefixes(queries, self.plan.prefix_dim))
        found = [
            part.search(prefixes, n_candidates, self.live, position in self.whole_parts, n_probes)
            for position, part in enumerate(self.parts)
        ]
        if len(self.tail):
            first_row = self.n_rows - len(self.tail)
            selector = faiss.IDSelectorBitmap(self.live[first_row // 8 :])
            scores, rows = search_array(prefixes, self.tail, n_candidates, selector)
            found.append(Candidates(np.where(rows >= 0, rows + first_row, -1), scores))
        return merge(found, len(queries), n_candidates)

    def restricted(self, allowed: NDArray[np.uint8]) -> "PrefixSnapshot":
        """Return the same with only those rows live that `allowed`, a bitmap like `live`, holds too.

        Rows behind the end of `allowed` aren't live then. Takes 30 µs for a million rows.
        """
        n_bytes = min(len(allowed), len(self.live))
        live = np.zeros_like(self.live)
        np.bitwise_and(self.live[:n_bytes], allowed[:n_bytes], out=live[:n_bytes])
        return replace(self, live=live, whole_parts=frozenset(), n_live=int(np.bitwise_count(live).sum()))

    def live_rows(self) -> Rows:
        """Return the rows that searches may find, sorted: (n_live,) int64."""
        return np.flatnonzero(np.unpackbits(self.live, count=self.n_rows, bitorder="little"))

    def upper_bounds(self, query: Float32, n_rows: int) -> Bounded:
        """Return the live rows whose exact scores could be highest, n_rows of the sealed ones and all of the tail's.

        Args:
            query: (dim,) float32, unit length.
        """
        if self.coder is None:
            raise ValueError("this first pass keeps no bounds")
        faiss.omp_set_num_threads(1)
        side, rounding = self.coder.query(query), self.coder.rounding
        loose = merge([part.loose(side, n_rows, self.live, rounding) for part in self.bound_parts], 1, n_rows)
        is_cut = loose.rows[0, -1] >= 0  # else these are all live rows that are sealed
        sealed = np.sort(loose.rows[0][loose.rows[0] >= 0])
        rows, bounds = [sealed], []
        for part in self.bound_parts:
            mine = sealed[slice(*np.searchsorted(sealed, [part.first_row, part.first_row + part.n_rows]))]
            bounds.append(part.tight(side, mine, rounding))
        if len(self.tail):
            first_row = self.n_rows - len(self.tail)
            newest = first_row + np.flatnonzero(self.is_live(np.arange(first_row, self.n_rows)))
            rows.append(newest)
            bounds.append(tail_bounds(side, self.tail_augmented[newest - first_row], rounding))
        all_rows, all_bounds = np.concatenate(rows), np.concatenate([*bounds, np.zeros(0, np.float32)])
        order = order_by_score(all_bounds, all_rows)
        behind = float(loose.scores[0, -1]) if is_cut else -np.inf
        return Bounded(all_rows[order], all_bounds[order], behind)

    def is_live(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows searches may find. rows: (n,) int64, each below n_rows."""
        return (self.live[rows // 8] >> (rows % 8) & 1).astype(np.bool_)

    @property
    def ram_bytes(self) -> int:
        """Bytes that the first pass wants in memory: codes, newest prefixes and the live bitmap."""
        n_sealed = self.n_rows - len(self.tail)
        tail_bytes = self.tail.nbytes + self.tail_augmented.nbytes
        return n_sealed * self.plan.row_bytes + tail_bytes + self.live.nbytes


def scan_once(queries: Float32, vectors: Float32) -> None:
    """Compare queries with vectors as a float32 first pass does: for measuring how fast that is here."""
    faiss.omp_set_num_threads(1)
    search_array(queries, vectors, 10, faiss.IDSelectorAll())


def search_array(
    queries: Float32, vectors: Float32, n_candidates: int, selector: Any
) -> tuple[Float32, Rows]:
    """faiss's flat inner-product scan over an array of ours: (n_queries, n_candidates) scores and rows."""
    scores = np.empty((len(queries), n_candidates), np.float32)
    rows = np.empty((len(queries), n_candidates), np.int64)
    pointer = faiss.swig_ptr
    faiss.knn_inner_product(
        pointer(queries), pointer(vectors), vectors.shape[1], len(queries), len(vectors), n_candidates,
        pointer(scores), pointer(rows), selector,
    )  # fmt: skip
    return scores, rows
