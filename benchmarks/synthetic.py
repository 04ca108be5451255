"""Synthetic vectors that are as hard to search as real ones, in any number.

Independent random numbers are no stand-in: all of their neighbours are equally far, and no prefix helps. These
follow what was measured on 4 040 vectors of nomic-embed-text-v1.5 (`python -m benchmarks.synthetic --compare`):

- a common mean, and around it a spectrum that falls as rank^-0.71 · exp(-rank / 200);
- neighbours agree in the leading axes and differ in the trailing ones. So a vector is the sum of four steps, from
  the mean to a topic, a cluster, a family and itself, and each axis has its own share of each step;
- clusters and families of unequal size, spread unequally, each cluster with axes of its own that are wide or narrow;
- a random rotation at the end, so that no coordinate is special.

Every part comes from a seed of its own: the first rows of a large corpus are the rows of a smaller one.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

SEED = 7
BLOCK = 16_384  # rows made at once: 48 MiB of float32 at 768 dimensions
MEASURED_DIM = 768  # other dimensions get the same curve, stretched or pressed

# Measured on the nomic vectors: least squares over the logarithms of the first 700 eigenvalues.
EXPONENT, CUTOFF_RANK = 0.71, 200.0
# Of a unit vector's squared length, what all of them share; measured 0.517, of which unequal topics add their part.
MEAN_SQUARED = 0.50
# Squared difference to the 1st, 10th and 100th neighbour along the principal axes, as a share of what a random
# pair has there: the variance that is left within a family, a cluster, a topic.
RANKS = (1.5, 4.5, 18.0, 46.0, 93.0, 186.0, 372.0, 632.0)  # middles of the bands that were averaged
WITHIN_FAMILY = (0.047, 0.085, 0.205, 0.283, 0.349, 0.437, 0.567, 0.688)
WITHIN_CLUSTER = (0.106, 0.177, 0.407, 0.564, 0.672, 0.764, 0.840, 0.887)
WITHIN_TOPIC = (0.209, 0.322, 0.701, 0.838, 0.879, 0.891, 0.897, 0.908)

# Chosen so that 100 000 rows have neighbours as near as the real vectors' are (see `compare`). A neighbour is the
# nearest of several, so two members of one family taken at random lie farther apart than what was measured.
SELECTION = 1.2
N_TOPICS, N_CLUSTERS, FAMILY_SIZE = 256, 4096, 4
CLUSTER_WEIGHT_SIGMA = 1.0  # of the logarithm, as in the two below
AXIS_SIGMA = 0.5
FAMILY_SPREAD_SIGMA = 0.4

_MODEL, _FAMILIES, _ROWS, _QUERIES = range(4)  # what a seed is for


@dataclass(frozen=True)
class _Model:
    """What all blocks share."""

    mean: Float32  # (dim,) before the rotation, as all of these
    clusters: Float32  # (N_CLUSTERS, dim) their centres, around the mean
    cluster_ends: NDArray[np.float64]  # (N_CLUSTERS,) cumulative shares of the families
    family_scales: Float32  # (N_CLUSTERS, dim) standard deviation of a family's centre around its cluster's
    row_scale: Float32  # (dim,) standard deviation of a row around its family's centre
    rotation: Float32  # (dim, dim) orthogonal


def blocks(n: int, dim: int, seed: int = SEED) -> Iterator[tuple[int, Float32]]:
    """Yield (first row, float32 block (≤ BLOCK, dim) of unit length) until there are n rows."""
    model = _model(dim, seed)
    for number, first_row in enumerate(range(0, n, BLOCK)):
        rng = np.random.default_rng([seed, _ROWS, number])
        # Families lie scattered within their block. Those of 16 384 rows are enough for any search to miss.
        members = rng.integers(0, BLOCK // FAMILY_SIZE, BLOCK)
        yield first_row, _rows(model, seed, number, members, rng)[: n - first_row]


def queries(n_queries: int, n: int, dim: int, seed: int = SEED) -> Float32:
    """Return (n_queries, dim) float32 of unit length: more members of a corpus' families, none of them in it."""
    model = _model(dim, seed)
    rng = np.random.default_rng([seed, _QUERIES])
    # All of a few blocks' queries at once: a block's families are made anew for them.
    numbers = rng.permutation(max(1, n // BLOCK))[:16]
    parts = []
    for i, number in enumerate(numbers):
        n_here = len(range(i, n_queries, len(numbers)))
        members = rng.integers(0, BLOCK // FAMILY_SIZE, n_here)
        parts.append(_rows(model, seed, int(number), members, rng))
    return np.concatenate(parts)


def write(path: Path, n: int, dim: int, seed: int = SEED) -> None:
    """Write n rows as float16, block by block: to a NumPy file, or bare numbers where the name ends in .f16."""
    with path.open("wb") as file:
        if path.suffix == ".npy":
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f2", "fortran_order": False, "shape": (n, dim)}
            )
        for _, block in blocks(n, dim, seed):
            file.write(block.astype("<f2").tobytes())


def _model(dim: int, seed: int) -> _Model:
    rng = np.random.default_rng([seed, _MODEL])
    rank = np.arange(1, dim + 1) * (MEASURED_DIM / dim)
    variance = rank**-EXPONENT * np.exp(-rank / CUTOFF_RANK)
    variance *= (1 - MEAN_SQUARED) / variance.sum()

    def share(measured: tuple[float, ...]) -> NDArray[np.float64]:
        return np.minimum(1, SELECTION * np.interp(np.log(rank), np.log(RANKS), measured))

    def noise(n: int, of_variance: NDArray[np.float64]) -> Float32:
        scale = np.sqrt(variance * of_variance).astype(np.float32)
        return rng.standard_normal((n, dim), dtype=np.float32) * scale

    topics = noise(N_TOPICS, 1 - share(WITHIN_TOPIC))
    clusters = topics[rng.integers(0, N_TOPICS, N_CLUSTERS)]
    clusters = clusters + noise(N_CLUSTERS, share(WITHIN_TOPIC) - share(WITHIN_CLUSTER))
    weights = rng.lognormal(0, CLUSTER_WEIGHT_SIGMA, N_CLUSTERS)
    axes = rng.lognormal(0, AXIS_SIGMA, (N_CLUSTERS, dim)) / np.exp(AXIS_SIGMA**2)  # mean square 1
    direction = rng.standard_normal(dim)
    q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
    return _Model(
        mean=(direction / np.linalg.norm(direction) * np.sqrt(MEAN_SQUARED)).astype(np.float32),
        clusters=clusters,
        cluster_ends=np.cumsum(weights / weights.sum()),
        family_scales=(axes * np.sqrt(variance * (share(WITHIN_CLUSTER) - share(WITHIN_FAMILY)))).astype(
            np.float32
        ),
        row_scale=np.sqrt(variance * share(WITHIN_FAMILY)).astype(np.float32),
        rotation=(q * np.sign(np.diag(r))).astype(np.float32),  # uniform over all rotations (Mezzadri 2007)
    )


def _rows(
    model: _Model, seed: int, number: int, members: NDArray[np.int64], rng: np.random.Generator
) -> Float32:
    """Return a row for each of `members`, which names a family of block `number`."""
    families_rng = np.random.default_rng([seed, _FAMILIES, number])
    n_families, dim = BLOCK // FAMILY_SIZE, len(model.mean)
    cluster = np.searchsorted(model.cluster_ends[:-1], families_rng.random(n_families))
    families = families_rng.standard_normal((n_families, dim), dtype=np.float32)
    families *= model.family_scales[cluster]
    families += model.clusters[cluster]
    spread = families_rng.lognormal(-(FAMILY_SPREAD_SIGMA**2), FAMILY_SPREAD_SIGMA, n_families)
    rows = rng.standard_normal((len(members), dim), dtype=np.float32)
    rows *= model.row_scale
    rows *= spread[members, None].astype(np.float32)
    rows += families[members]
    rows += model.mean
    rows = rows @ model.rotation
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def compare(name: str, corpus: Float32, queries: Float32) -> str:
    """Return a line of figures that decide how hard a corpus is to search; both arrays (n, dim) of unit length."""
    n_queries = len(queries)
    scores = np.concatenate([queries @ corpus[i : i + BLOCK].T for i in range(0, len(corpus), BLOCK)], axis=1)
    nearest = -np.sort(-np.partition(scores, -100, axis=1)[:, -100:], axis=1)
    true = np.argpartition(-scores, 10, axis=1)[:, :10]
    mean = corpus.mean(axis=0)
    eigenvalues, _ = np.linalg.eigh(np.cov(corpus[:20_000].T))
    spectrum = eigenvalues[::-1] / eigenvalues.sum()
    told = [
        f"{name}: cosine of the 1st, 10th, 100th neighbour",
        *(f"{nearest[:, r].mean():.3f}" for r in (0, 9, 99)),
    ]
    told.append(f"(1st: deviation {nearest[:, 0].std():.3f}), random pair {np.median(scores):.3f},")
    told.append(f"mean's length {np.linalg.norm(mean):.3f}; variance in the first 32, 64, 128, 256 axes")
    told += [f"{spectrum[:n].sum():.2f}" for n in (32, 64, 128, 256)]
    told.append("; the true ten in a pool of 80 by prefixes of 32, 64, 128")
    _, principal = np.linalg.eigh(corpus[:20_000].T @ corpus[:20_000])
    for length in (32, 64, 128):
        basis = principal[:, ::-1][:, :length]
        short = corpus @ basis
        short /= np.linalg.norm(short, axis=1, keepdims=True)
        pool = np.argpartition(-(queries @ basis @ short.T), 80, axis=1)[:, :80]
        found = sum(len(np.intersect1d(true[i], pool[i])) for i in range(n_queries))
        told.append(f"{found / true.size:.4f}")
    return " ".join(told)


def main() -> None:
    """`python -m benchmarks.synthetic`: write a corpus and its queries, or compare with real vectors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description=main.__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="FILE.npy or FILE.f16")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=MEASURED_DIM)
    parser.add_argument("--compare", action="store_true", help="with the vectors in --data")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    if arguments.write:
        write(arguments.write, arguments.rows, arguments.dim)
        print(f"{arguments.rows} rows in {time.perf_counter() - started:.1f} s")
    if arguments.compare:
        folder = arguments.data / "vectors-nomic-768"
        if folder.is_dir():
            real = [np.load(folder / name).astype(np.float32) for name in ("corpus.npy", "queries.npy")]
            real = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in real]
            print(compare(f"nomic, {len(real[0])} rows", *real))
        made = np.concatenate([block for _, block in blocks(arguments.rows, arguments.dim)])
        asked = queries(500, arguments.rows, arguments.dim)
        print(compare(f"synthetic, {arguments.rows} rows", made, asked))
        print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
