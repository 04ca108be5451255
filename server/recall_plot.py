"""The measured recall of a collection as a picture."""

from pathlib import Path
from typing import Any

from index.durable import write_atomically
from server.models.plot import BLUE, DOTS_PER_INCH, GREY, SIZE_INCHES, VERMILION

# The rest of Okabe and Ito's palette that is dark enough for lines on white; the markers differ as well.
LOOKS = {
    "float32": (BLUE, "o"),
    "int8": (VERMILION, "s"),
    "pq4": ("#009E73", "^"),
    "rabitq": ("#CC79A7", "D"),
}
LOWEST = 0.5  # recall; below, a form is of no use, and the differences above would be lost


def draw_recall(result: dict[str, Any], oversample: str, path: Path) -> None:
    """Write a PNG of recall by prefix length, a line for each codec and order; a star is the index as it serves.

    Args:
        result: of POST /evaluate. oversample: one of its own, as "8".

    Raises:
        DiskFullError, StorageError: it can't be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    curve, serving, k = result["curve"], result["serving"], result["k"]
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    lowest = 1.0
    for order, style in (("corpus", "-"), ("model", (0, (4, 2)))):
        for codec, (colour, marker) in LOOKS.items():
            forms = [each for each in curve["forms"] if (each["order"], each["codec"]) == (order, codec)]
            if forms:
                recalls = [each["recall"][oversample] for each in forms]
                lowest = min(lowest, *recalls)
                axes.plot(
                    [each["prefix_dim"] for each in forms], recalls, color=colour, marker=marker, markersize=5,
                    linestyle=style, linewidth=2 if order == "corpus" else 1.2, label=f"{codec}, {order}'s order",
                )  # fmt: skip
    plan = serving["first_pass"]
    axes.plot(
        [plan["prefix_dim"]], [serving["pool_recall"]["mean"]], color=GREY, marker="*", markersize=14, linestyle="",
        label=f"as it serves: {plan['codec']}, {plan['order']}'s order, {serving['candidates']} candidates",
    )  # fmt: skip
    axes.set_ylim(max(LOWEST, min(lowest, serving["pool_recall"]["mean"]) - 0.02), 1.005)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted({each["prefix_dim"] for each in curve["forms"]})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("prefix length, in dimensions")
    axes.set_ylabel(f"recall@{k} with {int(oversample) * k} candidates")
    axes.set_title(
        f"{curve['passages']:,} of {result['passages']:,} passages, {result['queries']} queries", fontsize=11
    )
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.95)
    write_atomically(path, lambda beside: figure.savefig(beside, format="png"))
