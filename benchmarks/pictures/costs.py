"""What recall costs: full vectors read for it, by prefix length and order."""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.pictures.material import K, Material
from benchmarks.pictures.svg import BLUE, GREEN, GREY, VERMILION, explain, logarithmic, panels
from index.axes import Order
from index.evaluation import recall_at_k

READS = (10, 20, 40, 80, 160, 320, 640)
LENGTHS = {32: VERMILION, 64: GREEN, 128: BLUE, 256: GREY}
DEFAULT_READS = 80
LOWEST = 0.6


def draw(material: Material) -> Figure:
    """Draw recall@10 of pools that are scored again in full, by their size."""
    figure, (axes,) = panels(f"Recall@{K}, and how many full vectors are read for it", material.source)
    reads = [each for each in READS if each <= len(material.stored)]
    for order, style in ((Order.CORPUS, "-"), (Order.MODEL, (0, (4, 2)))):
        of_order = material.axes(order)
        for length, colour in LENGTHS.items():
            if length < material.dim:
                pools = material.pools(of_order, length, reads[-1])
                recall = [recall_at_k(pools[:, :n], material.ranking[:, :K]) for n in reads]
                axes.plot(
                    reads, recall, color=colour, linestyle=style, marker="o" if style == "-" else "s",
                    markersize=4, linewidth=2 if style == "-" else 1.2,
                    label=f"{length} dimensions, {order.value}'s order",
                )  # fmt: skip
    axes.axvline(DEFAULT_READS, color=GREY, linestyle=":", linewidth=1)
    axes.set_ylim(max(LOWEST, min(np.min(line.get_ydata()) for line in axes.lines[:-1]) - 0.02), 1.005)
    logarithmic(axes, reads)
    axes.set_xlabel(f"full vectors read, of {material.dim * 2:,} bytes each")
    axes.set_ylabel(f"recall@{K}")
    explain(figure, axes, 2)
    return figure
