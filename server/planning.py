"""What a collection will take before it exists: the planner's predictions, and a trial run that measures them."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from index.evaluation import recall_at_k
from index.first_pass.bounds import ALIGNMENT, TAIL_COLUMNS, bound_axes_count
from index.plan import Codec, Kind, Wish
from index.planner import Machine, Proposal, machine_factor, propose, rebuild_bytes
from index.two_pass import Hits, Mode, Shape, TwoPassIndex, pool_size
from index.vectors import Float32, normalise
from server.settings import IndexSettings

K = 10  # hits of a search that names no number
N_QUERIES = 200  # of a trial; recall over 200 x 10 neighbours has a standard error of 0.002 at 0.99
BLOCK_ROWS = 8192  # rows of a trial made and stored at once
DTYPE_BYTES = {"float16": 2, "float32": 4}

OnProgress = Callable[[str, int, int], None]  # (stage, rows done, rows in all)


@dataclass(frozen=True)
class Question:
    """What is to be planned."""

    n_rows: int  # at least index.two_pass.MIN_ROWS: fewer are kept as they are
    dim: int
    memory_bytes: int
    vector_dtype: str = "float16"
    target_recall: float = 0.99

    @property
    def wish(self) -> Wish:
        """What a server with these settings, and the rest at their defaults, asks the planner for."""
        prefix_dim = IndexSettings().prefix_dim_for(self.dim)
        return Wish(prefix_dim, target_recall=self.target_recall, memory_bytes=self.memory_bytes)


@dataclass(frozen=True)
class Prediction:
    """One form of the first pass, and what it is expected to take."""

    plan: dict[str, Any]  # as in GET /stats
    fits: bool  # into the memory
    memory_bytes: int  # codes of all rows
    rebuild_bytes: (
        int  # memory that making it takes, at most; an older first pass that serves meanwhile comes on top
    )
    disk_bytes: dict[str, int]  # vectors, bounds, first_pass
    candidates: int  # that hold 10 of the true 10 in 99 of 100 places
    candidates_read: int  # what the server reads at its default settings: no fewer than 80
    search_ms: float  # for k = 10 on one core of this machine, vectors in the page cache, without HTTP


@dataclass(frozen=True)
class Forecast:
    """The planner's answer."""

    question: Question
    speed_factor: float  # time of a scan on this machine against that of the planner's tables
    best: Prediction
    others: list[Prediction]  # by falling memory


@dataclass(frozen=True)
class Trial:
    """A real index over made-up rows, and what was predicted for as many."""

    n_rows: int
    predicted: Prediction
    plan: dict[str, Any]
    memory_bytes: int
    disk_bytes: dict[str, int]
    candidates_read: int
    search_ms: float  # median
    recall: float  # share of the true 10 nearest among the 10 hits
    pool_recall: float  # the same among the candidates, as the rebuild measured it
    rebuild_s: float


def forecast(question: Question, machine: Machine | None = None) -> Forecast:
    """Plan, and predict what the plan and the other forms take. Measures this machine's speed for 0.2 s."""
    machine = machine or Machine(machine_factor())
    (best, *longer) = propose(question.n_rows, question.dim, question.wish, machine)
    others = {each.plan: each for each in longer}
    for codec in Codec:  # what the planner passed over, because of its memory or its time
        wish = replace(question.wish, codec=codec, memory_bytes=None)
        others |= {each.plan: each for each in propose(question.n_rows, question.dim, wish, machine)}
    others.pop(best.plan, None)
    return Forecast(
        question,
        machine.speed_factor,
        _prediction(best, question, machine),
        [
            _prediction(each, question, machine)
            for each in sorted(others.values(), key=lambda each: -each.memory_bytes)
        ],
    )


def _prediction(proposal: Proposal, question: Question, machine: Machine) -> Prediction:
    settings = IndexSettings()
    needed = max(settings.oversample, proposal.reads / K)
    candidates_read = pool_size(K, needed, settings.min_candidates, question.n_rows)
    bounds_bytes = -(-(bound_axes_count(question.dim) + TAIL_COLUMNS) // ALIGNMENT) * ALIGNMENT
    return Prediction(
        plan=proposal.plan.told(),
        fits=proposal.memory_bytes <= question.memory_bytes,
        memory_bytes=proposal.memory_bytes,
        rebuild_bytes=rebuild_bytes(proposal.plan, question.n_rows, question.dim),
        disk_bytes={
            "vectors": question.n_rows * question.dim * DTYPE_BYTES[question.vector_dtype],
            "bounds": question.n_rows * bounds_bytes,
            "first_pass": proposal.memory_bytes,
        },
        candidates=proposal.reads,
        candidates_read=candidates_read,
        search_ms=proposal.search_ms + (candidates_read - proposal.reads) * machine.read_ms,
    )


def trial(
    planned: Forecast, max_rows: int, on_progress: OnProgress = lambda stage, done, total: None
) -> Trial:
    """Build the planned form over made-up rows in a temporary folder, and measure it.

    The memory is cut down with the rows, so that a row gets as many bytes as planned.

    Raises:
        DiskFullError, StorageError: the temporary folder can't hold it.
    """
    n_rows = min(planned.question.n_rows, max_rows)
    plan = planned.best.plan
    question = replace(planned.question, n_rows=n_rows, memory_bytes=n_rows * plan["row_bytes"])
    wish = replace(question.wish, codec=Codec(plan["codec"]), kind=Kind(plan["kind"]))
    machine = Machine(planned.speed_factor)
    predicted = _prediction(propose(n_rows, question.dim, wish, machine)[0], question, machine)
    with tempfile.TemporaryDirectory(prefix="twopass-plan-") as name:
        shape = Shape(1, question.dim, wish.prefix_dim, question.vector_dtype)
        index = TwoPassIndex(Path(name), shape, 0, np.zeros(0, np.bool_))
        made = made_up(n_rows + N_QUERIES, question.dim)
        first = next(made)
        queries = first[:N_QUERIES]
        for block in itertools.chain([first[N_QUERIES:]], made):
            on_progress("making vectors", index.n_rows, n_rows)
            index.publish(index.append(block, index.n_rows), np.zeros(0, np.int64))
        report = index.rebuild(wish, on_progress=on_progress)
        assert report is not None  # there are rows enough, and nobody stopped it
        settings = IndexSettings()
        oversample = max(settings.oversample, index.oversample)
        n_candidates = pool_size(K, oversample, settings.min_candidates, n_rows)
        on_progress("searching", n_rows, n_rows)
        true = index.search(queries, n_candidates, Mode.EXACT, K)
        times, found = [], []
        for query in queries:
            started = time.perf_counter()
            hits: Hits = index.search(query[None], n_candidates, n_hits=K)
            times.append(time.perf_counter() - started)
            found.append(hits.rows[0, :K])
        recall = report.evidence["calibration"]["pool_recall"]
        return Trial(
            n_rows=n_rows,
            predicted=predicted,
            plan=report.plan.told(),
            memory_bytes=index.prefix_bytes,
            disk_bytes=_disk_bytes(Path(name)),
            candidates_read=n_candidates,
            search_ms=float(np.median(times)) * 1e3,
            recall=recall_at_k(np.array(found), true.rows[:, :K]),
            pool_recall=max(share for times_k, share in recall.items() if float(times_k) * K <= n_candidates),
            rebuild_s=report.evidence["seconds"],
        )


def _disk_bytes(folder: Path) -> dict[str, int]:
    sizes = {"vectors": 0, "bounds": 0, "first_pass": 0}
    for path in folder.iterdir():
        is_vectors = path.name.startswith("vectors-")
        kind = "vectors" if is_vectors else "bounds" if path.suffix == ".bounds" else "first_pass"
        sizes[kind] += path.stat().st_size
    return sizes


def told(planned: Forecast, measured: Trial | None) -> dict[str, Any]:
    """Return it as JSON."""
    return {**asdict(planned), "verified": None if measured is None else asdict(measured)}


def made_up(n_rows: int, dim: int, seed: int = 0) -> Iterator[Float32]:
    """Yield blocks of n_rows unit vectors in all, (≤ BLOCK_ROWS, dim) float32, to try an index on; for nothing else.

    As texts' vectors do, they share a mean, lie in clusters, and vary along some directions much more than along
    others, by a power law; a random rotation hides which. Real texts are easier or harder.
    """
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    spread = np.arange(1, dim + 1) ** -0.35  # standard deviations: variances fall as rank^-0.7
    spread /= np.linalg.norm(spread)
    mean = np.zeros(dim)
    mean[0] = 1.0
    centres = mean + rng.standard_normal((max(1, n_rows // 100), dim)) * spread * 0.7
    turned, scaled = rotation.astype(np.float32), (spread * 0.7).astype(np.float32)
    for start in range(0, n_rows, BLOCK_ROWS):
        n_here = min(BLOCK_ROWS, n_rows - start)
        block = centres[rng.integers(0, len(centres), n_here)].astype(np.float32)
        block += rng.standard_normal((n_here, dim), dtype=np.float32) * scaled
        yield normalise(block @ turned)
