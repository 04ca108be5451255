"""Which first pass fits: from rows, dimensions, memory and the speed of this machine to a plan, with predictions.

The figures below were measured on 300 000 real texts (see benchmarks/README.md, peers and texts) on one core with
AVX-512; a machine's own speed enters as a factor. What they can't know is the corpus: a rebuild measures pool and
recall on it afterwards, and takes a longer code where the planned one falls short.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

from index.axes import Order
from index.errors import MemoryFullError
from index.first_pass.bounds import ALIGNMENT, TAIL_COLUMNS, bound_axes_count
from index.first_pass.codecs import ROWS_PER_LIST, TRAINING_ROWS, code_bytes
from index.first_pass.snapshot import scan_once
from index.first_pass.writer import PART_ROWS
from index.plan import LISTED, Codec, Kind, Plan, Wish

SMALL_ROWS = 32_768
"""Up to here every row keeps 8 bits a dimension, where the memory holds that: a scan takes 0.3 ms, nothing need be
trained, and a pool of 20 holds the true 10 as often as one of 40 does with 64-byte codes."""

USUAL_CODE_BYTES = 64

LISTS_ROWS = 500_000
"""From here on an inverted file pays: below, a flat scan of 64-byte codes takes about 1 ms, and probing few lists
loses neighbours that no rescoring brings back, since clusters of real texts overlap: on 300 000 of them 0.99 takes a
third of the lists and 0.8 ms, flat 1.0 ms."""

LISTS_TARGET = 0.995
"""Target recall above which lists aren't used: nearly all of them would have to be probed."""

PROBED_SHARE = 0.25
"""Lists that are probed, of all, before measurement on the corpus says otherwise."""

ROWS_A_LIST = 8192
"""Rows of a list, on average. Short lists would let fewer rows be compared, but each costs LIST_MS."""

MAX_LISTS = 1024
"""Lists at most: finding the nearest of more centres for every row costs more than it saves below a hundred million
rows."""

LIST_MS = 0.002  # to begin with a list

NS_A_ROW = {
    Codec.FLOAT32: (0.0, 0.037),
    Codec.FLOAT16: (0.0, 0.036),
    Codec.INT8: (0.0, 0.041),
    Codec.PQ4: (0.75, 0.028),
    Codec.RABITQ: (0.75, 0.12),
}
"""Nanoseconds of one core for each row compared, and for each byte of its code: 300 000 rows of 256 dimensions."""

SCAN_MS = 0.05  # of every search, before the first row
READ_MS = 0.003  # to read and score one row that is in the page cache

BLOCKS_BYTES = 24 << 20
"""Of a rebuild: blocks of 1 MiB as float32, as prefixes and as bounds, their scores for 256 queries, and pools."""

REFERENCE_SCAN_NS = 0.037
"""What `machine_factor` compares with: ns a byte of a float32 scan on the machine of the table."""

READS = {Codec.FLOAT32: 20, Codec.FLOAT16: 20, Codec.INT8: 20, Codec.RABITQ: 160}
"""Candidates of which 10 are the true ones 99 times of 100, for 256 dimensions in the corpus's order."""

PQ4_READS = {128: 20, 96: 30, 64: 40, 48: 80, 32: 160, 16: 640}  # the same, by bytes of code

WAVE_POOL = 80
"""Candidates of a search of k = 10, all of which are read unless reading ends early."""

WAVE_READS = {256: 23, 192: 36, 128: 62}
"""Candidates of 80 that are read on average where a slow disk makes reading end early, by dimensions of a codec that
keeps each for itself (8 bits or more). 300 000 real texts of 384 dimensions read 18, 34, 70; 1 M x 768 synthetic
vectors 27, 37, 54."""

PQ4_WAVE_READS = {128: 64, 96: 70, 64: 76}
"""The same for product codes, by bytes. The real texts read 48, 61, 72, the synthetic vectors 80, 80, 79: what these
codes get wrong is mostly too much for reading to end early."""


LEAST_TRAINING_ROWS = 4096
"""Rows that a plan is fitted to at least: 256 for each of a 4-bit code's values. Axes do with
a thousand."""


@dataclass(frozen=True)
class Machine:
    """What a plan has to live with."""

    speed_factor: float = 1.0  # time of a scan against the machine of the table
    read_ms: float = (
        READ_MS  # to read one full vector: from the page cache, or the disk where they don't fit there
    )
    reads_in_waves: bool = False  # whether the disk is so slow that reading a pool ends early


@dataclass(frozen=True)
class Proposal:
    """A plan and what is expected of it."""

    plan: Plan
    memory_bytes: int  # codes of all rows
    reads: int  # full vectors of a search: its candidates, or those of them that are read before reading ends
    search_ms: float


def machine_factor(seconds: float = 0.2) -> float:
    """Measure this machine's scan against the table's, for at most about `seconds`."""
    vectors = np.ones((32_768, 256), np.float32)
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while not times or time.perf_counter() < deadline:
        started = time.perf_counter()
        scan_once(vectors[:1], vectors)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e9 / vectors.nbytes / REFERENCE_SCAN_NS


def propose(n_rows: int, dim: int, wish: Wish, machine: Machine) -> list[Proposal]:
    """Return plans that fit, the best first; those behind it have longer codes, for a corpus that needs them.

    Args:
        n_rows: rows to plan for.

    Where nothing fits the wish's memory, or can be made within it, the one plan returned is the smallest there is.
    """
    longest = min(wish.prefix_dim, dim)
    plans = _plans(n_rows, longest, wish, machine)
    proposals = [_proposal(plan, n_rows, dim, machine) for plan in plans]
    fitting = [
        each
        for each in proposals
        if wish.has_room(each.plan, n_rows) and _can_be_made(each.plan, n_rows, dim, wish)
    ]
    if not fitting:
        return [min(proposals, key=lambda each: each.memory_bytes)]
    # Shorter codes than the usual one save a little time where pools stay small, and lose more where they don't:
    # 32 bytes needed 160 candidates on real texts and 480 on synthetic ones. They are for tight memory.
    usual = [each for each in fitting if each.plan.code_bytes >= USUAL_CODE_BYTES]
    best = min(usual or fitting, key=lambda each: each.search_ms)
    chosen = [best]
    for each in sorted(fitting, key=lambda each: (each.plan.code_bytes, each.search_ms)):
        # Codes half as long again would be another fill of all rows for little.
        if each.plan.code_bytes >= 2 * chosen[-1].plan.code_bytes and each.plan.codec is not Codec.RABITQ:
            chosen.append(each)
    return chosen


def leanest(n_rows: int, dim: int, wish: Wish) -> Plan:
    """Return the plan with the fewest bytes a row that a wish leaves open."""
    plans = _plans(n_rows, min(wish.prefix_dim, dim), wish, Machine())
    return min(plans, key=lambda plan: plan.row_bytes)


def _plans(n_rows: int, longest: int, wish: Wish, machine: Machine) -> list[Plan]:
    order = wish.order or Order.CORPUS
    codecs = [wish.codec] if wish.codec else _codecs(n_rows, longest, wish)
    if wish.codec is Codec.PQ4 and longest < 2:
        # A product code needs two dimensions.
        codecs = [Codec.RABITQ if wish.kind is Kind.IVF else Codec.INT8]
    plans = []
    for codec in codecs:
        if codec is Codec.PQ4:
            plans += [Plan(codec, order, n_dims, size) for size, n_dims in _pq_shapes(longest)]
        else:
            # On a slow disk the reads count: 192 dimensions of 8 bits need 36 where 128 bytes of product code need 64.
            # On a fast one the scan does, and product codes beat them.
            shorter = WAVE_READS if codec is Codec.INT8 and machine.reads_in_waves else ()
            for n_dims in (longest, *(each for each in shorter if each < longest)):
                plans.append(Plan(codec, order, n_dims, code_bytes(codec, n_dims)))
    return [_with_lists(plan, n_rows, wish) for plan in plans]


def _codecs(n_rows: int, longest: int, wish: Wish) -> list[Codec]:
    if wish.kind is Kind.IVF:
        return list(LISTED)
    usual = Plan(Codec.INT8, Order.CORPUS, longest, code_bytes(Codec.INT8, longest))
    if n_rows <= SMALL_ROWS and wish.has_room(usual, n_rows):
        return [Codec.INT8]
    return [Codec.INT8, Codec.PQ4, Codec.RABITQ]


def _pq_shapes(longest: int) -> list[tuple[int, int]]:
    """Return (bytes of code, dimensions): a 4-bit code for every one, two, or up to four dimensions."""
    shapes = []
    for size, n_dims in ((128, 256), (96, 192), (64, 256), (48, 192), (32, 192), (16, 128)):
        if n_dims <= longest:
            shapes.append((size, n_dims))
    if longest < 192:  # else nothing longer would follow (16, 128)
        even = longest // 2 * 2
        shapes += [(even // 2, even)] if even else []
    return shapes


def _with_lists(plan: Plan, n_rows: int, wish: Wish) -> Plan:
    is_large = n_rows >= LISTS_ROWS and wish.target_recall <= LISTS_TARGET
    wants_lists = wish.kind is Kind.IVF or (wish.kind is None and is_large)
    if not plan.is_resident or not wants_lists:
        return plan
    n_lists = int(np.clip(n_rows // ROWS_A_LIST, 16, MAX_LISTS))
    return replace(plan, n_lists=n_lists, n_probes=max(1, round(n_lists * PROBED_SHARE)))


def _proposal(plan: Plan, n_rows: int, dim: int, machine: Machine) -> Proposal:
    reads = PQ4_READS.get(plan.code_bytes, 40) if plan.codec is Codec.PQ4 else READS[plan.codec]
    if machine.reads_in_waves:
        reads = _wave_reads(plan, reads, dim)
    return Proposal(plan, n_rows * plan.row_bytes, reads, search_ms(plan, n_rows, reads, machine))


def _wave_reads(plan: Plan, n_candidates: int, dim: int) -> int:
    """Return how many candidates are read before reading ends, for vectors of dim dimensions."""
    pool = max(n_candidates, WAVE_POOL)
    if plan.codec is Codec.PQ4:
        return PQ4_WAVE_READS.get(plan.code_bytes, pool)
    if plan.codec is Codec.RABITQ:
        return pool
    if plan.prefix_dim == dim:  # nothing is cut off: prefixes rank almost as vectors do
        return min(WAVE_READS.values())
    longest = max((each for each in WAVE_READS if each <= plan.prefix_dim), default=None)
    return pool if longest is None else WAVE_READS[longest]


def search_ms(plan: Plan, n_rows: int, reads: float, machine: Machine) -> float:
    """Return what a search is expected to take with a first pass over n_rows and so many full vectors read."""
    compared = n_rows * plan.n_probes / plan.n_lists
    each, byte = NS_A_ROW[plan.codec]
    scan_ms = compared * (each + byte * plan.code_bytes) * 1e-6
    if plan.n_lists > 1:
        scan_ms += plan.n_probes * LIST_MS
    return SCAN_MS + scan_ms * machine.speed_factor + reads * machine.read_ms


def training_within(proposals: list[Proposal], n_rows: int, dim: int, wish: Wish) -> int:
    """Return how many rows to fit to, so that each of the plans can be made within the wish's memory.

    Raises:
        MemoryFullError: they can't, however few.
    """
    usual = max(training_rows(each.plan) for each in proposals)
    if wish.working_bytes is None:
        return usual
    least = max(least_training_rows(each.plan) for each in proposals)
    needed = max(rebuild_bytes(each.plan, n_rows, dim, least) for each in proposals)
    if needed > wish.working_bytes:
        raise MemoryFullError(
            f"making a first pass over {n_rows:,} passages takes up to {needed / 2**20:,.0f} MiB of memory, and "
            f"{wish.working_bytes / 2**20:,.0f} MiB are left"
        )
    more = (wish.working_bytes - needed) // max(sample_row_bytes(each.plan, dim) for each in proposals)
    return min(usual, least + more)


def _can_be_made(plan: Plan, n_rows: int, dim: int, wish: Wish) -> bool:
    if wish.working_bytes is None:
        return True
    return rebuild_bytes(plan, n_rows, dim, least_training_rows(plan)) <= wish.working_bytes


def sample_row_bytes(plan: Plan, dim: int) -> int:
    """Return what a row of the sample takes: itself and its prefix as float32, both twice."""
    return 4 * (2 * dim + 2 * plan.prefix_dim)


def training_rows(plan: Plan) -> int:
    """Return how many rows a plan is fitted to and trained on, where memory allows."""
    return max(TRAINING_ROWS, plan.n_lists * ROWS_PER_LIST)


def least_training_rows(plan: Plan) -> int:
    """Return how many rows will do where memory is short."""
    return max(LEAST_TRAINING_ROWS, plan.n_lists * ROWS_PER_LIST)


def rebuild_bytes(plan: Plan, n_rows: int, dim: int, n_training: int | None = None) -> int:
    """Return the memory that making a first pass takes at most, beside the one in place and the libraries.

    Args:
        n_training: rows to fit to; None: as many as are usual.

    It holds the sample and its prefixes, both twice while they are turned and scaled; codes and bounds of one part, in
    buffers that double as they grow; of codes that aren't mapped those of all rows; and blocks of the vector file as
    they go by. A second plan that is tried takes no more: the first one's codes wait on the disk.
    """
    n_sample = training_rows(plan) if n_training is None else n_training
    sample_bytes = min(n_sample, n_rows) * sample_row_bytes(plan, dim)
    width = bound_axes_count(dim) + TAIL_COLUMNS + ALIGNMENT
    part_bytes = 2 * min(n_rows, PART_ROWS) * (width + (0 if plan.is_resident else plan.code_bytes))
    return sample_bytes + part_bytes + (n_rows * plan.row_bytes if plan.is_resident else 0) + BLOCKS_BYTES
