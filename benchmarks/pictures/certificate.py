"""Bounds beside scores: how an answer is proved."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures.material import K, Material
from benchmarks.pictures.svg import BLUE, GREEN, GREY, VERMILION, explain, logarithmic, panels
from index.axes import Order
from index.first_pass.bounds import BoundPart, bound_axes_count, empty_bounds, fit_coder
from index.vectors import Float32, Rows, score

TRIED = 101  # queries among which the typical one is looked for
DRAWN = 110  # rows, more and more thinly behind the first ones


@dataclass(frozen=True)
class Proof:
    """One query's rows, by falling bound."""

    bounds: Float32  # (n,) upper bounds, as the server keeps them
    scores: Float32  # (n,) exact
    shares: Float32  # (n,) what the kept axes contribute
    tenth: float  # the K-th best exact score
    n_read: int  # rows until no bound reaches it


def draw(material: Material) -> Figure:
    """Draw a typical query's proof along the corpus's axes, and what the same takes in the model's order."""
    figure, both = panels(
        "Certified: read until no bound that is left reaches the tenth best score", material.source, 2
    )
    query, in_corpus = _typical(material)
    (in_model,) = _proofs(material, Order.MODEL, [query])
    for axes, order, proof in zip(both, (Order.CORPUS, Order.MODEL), (in_corpus, in_model), strict=True):
        _panel(axes, proof)
        axes.set_title(f"{order.value}'s order: {proof.n_read:,} of {len(proof.bounds):,} read")
    both[0].set_ylabel("score")
    explain(figure, both[0], 5)
    return figure


def _typical(material: Material) -> tuple[int, Proof]:
    """The query whose proof takes the median number of reads, and that proof."""
    proofs = _proofs(material, Order.CORPUS, range(min(TRIED, len(material.queries))))
    by_reads = sorted(range(len(proofs)), key=lambda query: proofs[query].n_read)
    typical = by_reads[len(proofs) // 2]
    return typical, proofs[typical]


def _proofs(material: Material, order: Order, which: "range | list[int]") -> list[Proof]:
    axes = material.axes(order).first(bound_axes_count(material.dim))
    coder = fit_coder(axes, material.stored)
    codes, residual, longest = coder.encode(material.stored)
    index = empty_bounds(coder.width)
    index.add(codes)
    part = BoundPart(0, len(codes), index, residual, longest)
    rows: Rows = np.arange(len(codes), dtype=np.int64)
    coordinates = axes.coordinates(material.stored)
    proofs = []
    for query in material.queries[which]:
        bounds = part.tight(coder.query(query), rows, coder.rounding)
        exact = score(material.stored, query)
        order_of_bounds = np.argsort(-bounds, kind="stable")
        tenth = float(np.sort(exact)[-K])
        shares = coordinates @ axes.coordinates(query[None])[0]
        proofs.append(
            Proof(
                bounds[order_of_bounds], exact[order_of_bounds], shares[order_of_bounds], tenth,
                int((bounds >= tenth).sum()),
            )
        )  # fmt: skip
    return proofs


def _panel(axes: Axes, proof: Proof) -> None:
    places = np.unique(np.geomspace(1, len(proof.bounds), DRAWN).astype(int))
    at = places - 1
    axes.plot(places, proof.bounds[at], color=BLUE, linewidth=2, label="upper bound")
    axes.plot(places, proof.shares[at], color=GREY, linewidth=1, label="what the kept axes say")
    axes.scatter(places, proof.scores[at], s=12, color=GREEN, linewidth=0, label="exact score")
    axes.axhline(proof.tenth, color=VERMILION, linewidth=1.2, linestyle="--", label="tenth best")
    axes.axvline(proof.n_read, color=VERMILION, linewidth=1, label="read up to here")
    logarithmic(axes, [each for each in (1, 10, 100, 1000, 10_000) if each <= len(proof.bounds)])
    axes.set_xlabel("rows by falling bound")
