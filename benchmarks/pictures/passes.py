"""Ranks after the first pass beside ranks after the second."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures.material import K, Material
from benchmarks.pictures.svg import BLUE, GREY, VERMILION, explain, logarithmic, panels
from index.axes import Order

POOL = 80  # candidates for ten hits, by default
DRAWN_RANKS, DRAWN_QUERIES = 20, 50  # enough to see, and a small file


def draw(material: Material) -> Figure:
    """Draw where the nearest neighbours stood after the first pass, for a short and for the usual prefix."""
    title = f"The first pass has to bring the true ten into the pool of {POOL}; the second puts them in order"
    figure, both = panels(title, material.source, 2)
    usual = min(256, material.dim * 2 // 3)
    for axes, length in zip(both, (usual // 4, usual), strict=True):
        _panel(axes, material, length)
    both[0].set_ylabel("rank after the second pass")
    both[0].set_ylim(DRAWN_RANKS + 1, 0)
    both[0].set_yticks([1, 5, K, 15, DRAWN_RANKS])
    explain(figure, both[0], 3)
    return figure


def _panel(axes: Axes, material: Material, length: int) -> None:
    pools = material.pools(material.axes(Order.CORPUS), length, len(material.stored))
    first_ranks = np.argsort(pools, axis=1) + 1  # (n_queries, n), by row
    by_true_rank = np.take_along_axis(first_ranks, material.ranking[:, :DRAWN_RANKS], axis=1)
    share = (by_true_rank[:, :K] <= POOL).mean()
    places = {
        (int(first), second + 1)
        for ranks in by_true_rank[:DRAWN_QUERIES]
        for second, first in enumerate(ranks)
    }
    groups = (
        ("found: read, and among the ten", BLUE, "o", [at for at in places if at[1] <= K and at[0] <= POOL]),
        ("missed: never read", VERMILION, "X", [at for at in places if at[1] <= K and at[0] > POOL]),
        ("not among the ten", GREY, ".", [at for at in places if at[1] > K]),
    )
    for name, colour, marker, group in groups:
        x, y = zip(*sorted(group), strict=True) if group else ((), ())
        axes.scatter(x, y, s=16, color=colour, marker=marker, linewidth=0, label=name)
    axes.axvline(POOL, color=GREY, linestyle="--", linewidth=1)
    axes.axhline(K + 0.5, color=GREY, linestyle="--", linewidth=1)
    logarithmic(axes, [each for each in (1, 10, POOL, 1000) if each <= len(material.stored)])
    axes.set_title(f"{length} dimensions: {100 * share:.2f} % in the pool")
    axes.set_xlabel("rank after the first pass")
