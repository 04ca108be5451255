"""Figures as SVG that is read in light and in dark, with no script and nothing from elsewhere."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Of Okabe and Ito's palette, which people with any colour vision can tell apart. Each colour has one for a dark page.
BLUE, VERMILION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6e7781"
INK, PAPER, GRID = "#1f2328", "#ffffff", "#d8dee4"
IN_THE_DARK = {
    BLUE: "#56b4e9",
    VERMILION: "#e69f00",
    GREEN: "#3fd0a4",
    GREY: "#9198a1",
    INK: "#e6edf3",
    PAPER: "#0d1117",
    GRID: "#30363d",
}
STYLE = {
    "svg.fonttype": "none",  # letters stay letters: small, searched and read aloud
    "svg.hashsalt": "twopass",  # the same figure is the same file
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.edgecolor": GRID,
    "legend.facecolor": PAPER,
    "legend.fontsize": 9,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
}


def panels(title: str, source: str, n: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with n panels beside each other, its title, and what it was drawn from."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.6), layout="constrained")
        axes = figure.subplots(1, n, sharex=True, sharey=True, squeeze=False)[0]
    figure.suptitle(f"{title}\n{source}", fontsize=10, color=INK)
    return figure, list(axes)


def logarithmic(axes: Axes, places: Sequence[int]) -> None:
    """Make the x axis logarithmic, with a number at each place."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def explain(figure: Figure, axes: Axes, columns: int) -> None:
    """Say below the panels what the lines and marks of one of them are; those of the others are the same."""
    with rc_context(STYLE):
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, labelcolor=INK)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; return the path."""
    written = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    head, tag, rest = written.getvalue().partition("<svg ")
    attributes, end, body = rest.partition(">")
    path.write_text(f"{head}{tag}{attributes}{end}\n{_dark_style()}{body}")
    return path


def _dark_style() -> str:
    """matplotlib writes colours into each element's style, so only !important changes them."""
    rules = [
        f'  [style*="{what}: {light}"] {{ {what}: {dark} !important }}'
        for light, dark in IN_THE_DARK.items()
        for what in ("fill", "stroke")
    ]
    lines = "\n".join(rules)
    return f"<style>@media (prefers-color-scheme: dark) {{\n{lines}\n}}</style>"
