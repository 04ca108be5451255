"""Prefixes as faiss keeps them: train, encode, search, for each codec of a plan."""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.first_pass.merging import Candidates
from index.plan import Codec, Plan
from index.vectors import Float32, Rows

INT8_SPREAD = 6.0
"""Components of a unit vector of P dimensions, turned at random, are normal with deviation 1/√P. 8-bit codes reach
this many deviations; what lies further out is clipped."""

PQ_ITERATIONS = 10
"""Of k-means for sixteen centroids in two or three dimensions; faiss's 25 take 5 s instead of 2 and find no more."""

TRAINING_ROWS = 16_384
"""Rows that a quantiser is trained on. Sixteen centroids a sub-vector need no more; lists of an inverted file
take ROWS_PER_LIST each instead."""

ROWS_PER_LIST = 50
"""Rows of the sample for each list of an inverted file: faiss warns below 39."""

SCAN_BLOCK = 64
"""Rows that the fast scan compares in one go: 0.68 ms for 300 000 x 64 bytes, by faiss's default of 32 0.75."""

LISTS_ITERATIONS = 10  # of k-means; the faiss default is 10 for inverted files


def use_one_thread() -> None:
    """Have faiss work in the calling thread alone from now on; the setting is per thread.

    Left alone it takes every core, and where those are taken its threads wait for each other: 48 against 0.2 ms for
    4 040 x 512 bytes on two busy cores.
    """
    faiss.omp_set_num_threads(1)


def code_bytes(codec: Codec, prefix_dim: int) -> int:
    """Return the bytes of one row's code; for PQ4 the default, two dimensions to a 4-bit code."""
    return {
        Codec.FLOAT32: 4 * prefix_dim,
        Codec.FLOAT16: 2 * prefix_dim,
        Codec.INT8: prefix_dim,
        Codec.PQ4: prefix_dim // 4,
        Codec.RABITQ: (prefix_dim + 7) // 8 + 8,
    }[codec]


def train(plan: Plan, sample: Float32) -> Any:
    """Make an empty faiss index for a plan.

    Args:
        sample: (n, plan.prefix_dim) float32, unit length; FLOAT32, FLOAT16 and INT8 don't look at it.
    """
    dim, metric = plan.prefix_dim, faiss.METRIC_INNER_PRODUCT
    if plan.codec is Codec.FLOAT32:
        return faiss.IndexFlatIP(dim)
    if plan.codec is Codec.FLOAT16:
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric)
    if plan.codec is Codec.INT8:
        # Whole numbers on both sides: 1.0 ms a scan of 100 000 x 256 where faiss's trained 8-bit codes against a
        # float query take 2.0 and float32 takes 3.8 (one thread, AVX-512).
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit_direct_signed, metric)
    # An inverted file even for one list: faiss's flat fast-scan indexes refuse an IDSelector, this doesn't, and
    # it scans as fast (0.26 against 0.24 ms for 100 000 x 64 bytes).
    centres = _train_lists(sample, plan.n_lists)
    if plan.codec is Codec.PQ4:
        index = faiss.IndexIVFPQFastScan(
            centres, dim, plan.n_lists, 2 * plan.code_bytes, 4, metric, SCAN_BLOCK
        )
        index.by_residual = False  # one table of distances a query instead of one for each list
        index.pq.cp.max_points_per_centroid = TRAINING_ROWS // 16
        index.pq.cp.niter = PQ_ITERATIONS
    else:
        index = faiss.IndexIVFRaBitQFastScan(centres, dim, plan.n_lists, metric)
    index.own_fields = True
    centres.this.disown()
    index.train(sample[:TRAINING_ROWS])
    return index


def _train_lists(sample: Float32, n_lists: int) -> Any:
    """Place the lists' centres; faiss leaves a quantiser that holds them already as it is."""
    centres = faiss.IndexFlatIP(sample.shape[1])
    if n_lists == 1:
        centres.add(np.zeros((1, sample.shape[1]), np.float32))
        return centres
    means = faiss.Kmeans(
        sample.shape[1], n_lists, niter=LISTS_ITERATIONS, spherical=True, seed=0,
        max_points_per_centroid=ROWS_PER_LIST,
    )  # fmt: skip
    means.train(sample)
    centres.add(means.centroids)
    return centres


def int8_scale(prefix_dim: int) -> float:
    """Return what components of unit prefixes are multiplied by before they are rounded to [-127, 127]."""
    return float(127 * max(1.0, prefix_dim**0.5 / INT8_SPREAD))


def empty_like(index: Any) -> Any:
    """Return an empty index that was trained as this one was."""
    copy = faiss.clone_index(index)
    copy.reset()
    return copy


def add(index: Any, codec: Codec, prefixes: Float32) -> None:
    """Encode prefixes, (n, prefix_dim) float32 of unit length or zero, behind those that are there."""
    if codec is Codec.INT8:
        prefixes = np.clip(np.rint(prefixes * int8_scale(prefixes.shape[1])), -127, 127)
    index.add(prefixes)


@dataclass(frozen=True)
class Part:
    """A range of rows in one faiss index that no longer changes."""

    first_row: int
    n_rows: int
    index: Any  # mapped from a file where its codec allows it, else in memory
    plan: Plan

    def search(
        self, queries: Float32, n_candidates: int, live: NDArray[np.uint8], all_live: bool, n_probes: int
    ) -> Candidates:
        """Return the best live rows by (approximate) prefix cosine, in global row numbers.

        Args:
            queries: (n_queries, prefix_dim) float32, unit length, C-contiguous.
            live: bitmap of all rows of the generation; all_live: every row of this part is.
            n_probes: lists that are compared; of no account to a flat plan.
        """
        parameters = self._parameters(live, all_live, n_probes)
        if self.plan.codec is Codec.INT8:
            # faiss would cut the query's fractions off.
            units = np.maximum(np.abs(queries).max(axis=1, keepdims=True), 1e-12) / 127
            scores, rows = _scan(self.index, np.rint(queries / units), n_candidates, parameters)
            scores *= units / int8_scale(self.plan.prefix_dim)
        elif bool(queries.any(axis=1).all()):
            scores, rows = _scan(self.index, queries, n_candidates, parameters)
        else:
            # To a query of zeros all rows are alike, and faiss's fast scan would find none.
            has_direction = np.abs(queries).max(axis=1) > 0
            scores, rows = _scan(
                self.index, np.where(has_direction[:, None], queries, np.float32(1)), n_candidates, parameters
            )
            scores[~has_direction] = 0
        if self.first_row:
            rows[rows >= 0] += self.first_row
        return Candidates(rows, scores)

    def _parameters(self, live: NDArray[np.uint8], all_live: bool, n_probes: int) -> Any:
        """Return faiss's parameters; None, which costs nothing, where every row is compared."""
        if all_live and self.plan.n_lists == 1:
            return None
        # The bitmap starts at a byte of its own because parts begin at multiples of 8.
        begin, end = self.first_row // 8, (self.first_row + self.n_rows + 7) // 8
        selector = None if all_live else faiss.IDSelectorBitmap(live[begin:end])
        if self.plan.is_resident:
            return faiss.SearchParametersIVF(sel=selector, nprobe=min(n_probes, self.plan.n_lists))
        return faiss.SearchParameters(sel=selector)

    def reconstruct(self, rows: Rows) -> Float32:
        """Return stored prefixes of a FLOAT32 part, (n, prefix_dim). rows: (n,) int64, inside the part."""
        stored: Float32 = self.index.reconstruct_batch(rows - self.first_row)
        return stored


def _scan(index: Any, queries: Float32, n_candidates: int, parameters: Any) -> tuple[Float32, Rows]:
    """Return (n_queries, n_candidates) scores and rows of a faiss index.

    What faiss's own `search` calls, without its Python in front of it: that takes 0.03 of 0.75 ms.

    Args:
        queries: (n_queries, index.d) float32, C-contiguous.
    """
    scores = np.empty((len(queries), n_candidates), np.float32)
    rows = np.empty((len(queries), n_candidates), np.int64)
    pointer = faiss.swig_ptr
    index.search_c(len(queries), pointer(queries), n_candidates, pointer(scores), pointer(rows), parameters)
    return scores, rows
