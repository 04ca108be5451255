"""The recall curves of a certificate as a picture. The only importer of matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING

from index.durable import write_atomically
from server.models.curves import HITS
from server.models.verdict import TARGET

if TYPE_CHECKING:
    from server.models.certify import Certificate

# Of Okabe and Ito's palette, which people with any colour vision can tell apart; the markers differ as well.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#595959"
SIZE_INCHES = (8.0, 5.0)
DOTS_PER_INCH = 150
TITLE_CHARACTERS = 70  # of the model's name; a folder's may be longer than the picture is wide


def draw_recall(certificate: "Certificate", path: Path) -> None:
    """Write a PNG of recall by prefix length, in both orders.

    Raises:
        DiskFullError, StorageError: it can't be written.
    """
    recall = certificate.recall
    assert recall is not None  # the caller has looked
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    for name, points, colour, marker in (
        ("corpus's order", recall.corpus, BLUE, "o"),
        ("model's order", recall.model, VERMILION, "s"),
    ):
        lengths = [point.prefix_dim for point in points]
        axes.plot(
            lengths, [point.pooled for point in points], color=colour, marker=marker, linewidth=2,
            label=f"{name}, {recall.pool} candidates, scored again",
        )  # fmt: skip
        axes.plot(
            lengths, [point.alone for point in points], color=colour, marker=marker, linewidth=1.2,
            linestyle=(0, (4, 2)), markerfacecolor="white", label=f"{name}, the prefix alone",
        )  # fmt: skip
    lowest = min(point.alone for point in [*recall.corpus, *recall.model])
    axes.set_ylim(max(0.0, lowest - 0.05), 1.01)
    axes.axhline(TARGET, color=GREY, linewidth=1, linestyle=":")
    axes.annotate(
        f"{TARGET:g}", (1, TARGET), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
        color=GREY, va="center", fontsize=9,
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    lengths = [point.prefix_dim for point in recall.corpus]
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"prefix length (of {certificate.dim} dimensions)")
    axes.set_ylabel(f"recall@{HITS}: share of the true {HITS} nearest")
    axes.set_title(
        f"What prefixes find: {certificate.model[-TITLE_CHARACTERS:]}\n"
        f"{certificate.passages:,} passages of yours, {recall.questions} questions",
        fontsize=11,
        parse_math=False,  # a folder's name may hold a dollar sign
    )
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=9, frameon=True, framealpha=0.95)
    write_atomically(path, lambda beside: figure.savefig(beside, format="png"))
