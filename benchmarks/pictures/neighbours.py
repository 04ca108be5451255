"""How the scores of true neighbours part from the others' with more dimensions."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures.material import K, Material, lengths
from benchmarks.pictures.svg import BLUE, GREY, VERMILION, explain, logarithmic, panels
from index.axes import Order
from index.vectors import Float32

NEXT = 100  # the neighbours behind the ten, to here
SHOWN = {"the true ten": BLUE, f"the next {NEXT - K}": VERMILION, "all others": GREY}


def draw(material: Material) -> Figure:
    """Draw medians, and between which scores eight of ten lie, by prefix length and order."""
    figure, both = panels("Scores of prefixes: the true neighbours part from the others", material.source, 2)
    for axes, order in zip(both, Order, strict=True):
        _panel(axes, material, order)
    both[0].set_ylabel("cosine of the prefixes")
    explain(figure, both[0], 3)
    return figure


def _panel(axes: Axes, material: Material, order: Order) -> None:
    places = lengths(material.dim)
    found = [_groups(material, order, length) for length in places]
    for group, (name, colour) in enumerate(SHOWN.items()):
        low, middle, high = np.array([np.percentile(each[group], (10, 50, 90)) for each in found]).T
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(places, middle, color=colour, marker="o", markersize=4, linewidth=2, label=name)
    logarithmic(axes, places)
    axes.set_title(f"{order.value}'s order")
    axes.set_xlabel("leading dimensions")


def _groups(material: Material, order: Order, length: int) -> tuple[Float32, Float32, Float32]:
    """Scores of the true ten, of those behind them, and of a sample of all others; each flat."""
    scores = material.prefix_scores(material.axes(order), length)
    ranked = np.take_along_axis(scores, material.ranking, axis=1)  # by true rank
    return ranked[:, :K].ravel(), ranked[:, K:NEXT].ravel(), ranked[:, NEXT::20].ravel()
