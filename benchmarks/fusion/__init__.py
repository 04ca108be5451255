"""Meaning, words, and both together: nDCG@10 of dense search, of BM25, and of ways to fuse the two.

A way's parameter is chosen on all collections but one and tried on that one, for each of them in turn: the one whose
largest loss against the better of dense and BM25 is the least.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.fusion.encoded import CACHE, collections, encode
from benchmarks.fusion.lists import K, Lists, found, stored
from benchmarks.fusion.ways import WAYS, Way
from benchmarks.known_items import Collection
from benchmarks.serving import temporary_folder
from server.encoders.encoder import Encoder
from server.encoders.loading import load_encoder
from server.hybrid import Hybrid
from server.queries import Query
from server.searches import Searches
from server.settings import EncoderSettings, IndexSettings, PassageSettings
from server.store import LocalStore

RESAMPLES = 2000
SEED = 20240501

Ndcg = NDArray[np.float64]  # (n_queries,) of one collection


@dataclass(frozen=True)
class Measured:
    """One collection's questions."""

    name: str
    n_texts: int
    lists: list[Lists]
    dense: Ndcg  # every full vector scanned
    keyword: Ndcg
    served: Ndcg  # by both passes of a real search
    served_hybrid: Ndcg
    ms: tuple[float, float]  # of processor time, median of a search without encoding: dense, hybrid

    @property
    def better(self) -> Ndcg:
        """Of the two parts, the one that is better on average."""
        return max(self.dense, self.keyword, key=np.mean)


def run(data: Path) -> None:
    """Print what each way makes of each collection."""
    encoder = load_encoder(EncoderSettings(), PassageSettings(), CACHE / "models")
    assert encoder is not None
    try:
        measured = [measure(each, encoder) for each in collections(data)]
    finally:
        encoder.close()
    print(f"\nnDCG@10 of fusions, {sum(len(each.lists) for each in measured)} questions")
    for each in measured:
        print(f"  {each.name}: {each.n_texts} texts, {len(each.lists)} questions")
    print_head(measured)
    print_row("dense", [each.dense for each in measured], measured)
    print_row("BM25", [each.keyword for each in measured], measured)
    for way in WAYS:
        tried = {
            value: [ndcg(way, value, each.lists) for each in measured] for value in way.values
        }  # {parameter: of each collection}
        for value, figures in tried.items():
            print_row(f"{way.name} {value:g}", figures, measured)
        if len(tried) > 1:
            chosen = [held_out(tried, measured, at) for at in range(len(measured))]
            print_row(f"{way.name} held out", [tried[v][at] for at, v in enumerate(chosen)], measured)
            print("    chosen: " + ", ".join(f"{value:g}" for value in chosen))
    print_row("served dense", [each.served for each in measured], measured)
    print_row("served hybrid", [each.served_hybrid for each in measured], measured)
    print_intervals("served hybrid", [each.served_hybrid for each in measured], measured)
    for each in measured:
        print(
            f"  {each.name}: a search {each.ms[0]:.2f} ms, hybrid {each.ms[1]:.2f} ms (processor time, medians)"
        )


def measure(collection: Collection, encoder: Encoder) -> Measured:
    """Ask a collection's questions, of each part alone and as the server does."""
    encoded = encode(collection, encoder)
    with temporary_folder() as folder, stored(folder, collection, encoded) as store:
        lists = list(found(store, collection, encoded))
        served, ms = asked(store, collection, encoder, lists, None)
        served_hybrid, hybrid_ms = asked(store, collection, encoder, lists, Hybrid())
    return Measured(
        collection.name, len(collection.texts), lists, np.array([each.ndcg(each.dense.ids) for each in lists]),
        np.array([each.ndcg(each.keyword.ids) for each in lists]), served, served_hybrid, (ms, hybrid_ms),
    )  # fmt: skip


def asked(
    store: LocalStore, collection: Collection, encoder: Encoder, lists: list[Lists], hybrid: Hybrid | None
) -> tuple[Ndcg, float]:
    """Search as people do; return each nDCG, and the median milliseconds of processor time of a search.

    Only this thread's: the model encodes in a process of its own, and what else the machine does doesn't count.
    """
    searches = Searches(store, encoder, IndexSettings())
    texts = [query for query, right in zip(collection.queries, collection.judgements, strict=True) if right]
    figures, took_s = [], []
    for text, each in zip(texts, lists, strict=True):
        query = Query(text=text, k=K, hybrid=hybrid)
        began = time.thread_time()
        (answer,) = searches.search([query])
        took_s.append(time.thread_time() - began)
        figures.append(each.ndcg(np.array([int(hit.document.id) for hit in answer.hits], np.int64)))
    return np.array(figures), float(np.median(took_s)) * 1000


def ndcg(way: Way, value: float, lists: list[Lists]) -> Ndcg:
    """Return the nDCG of each question by a way with its parameter."""
    return np.array([each.ndcg(way.order(each, value)) for each in lists])


def held_out(tried: dict[float, list[Ndcg]], measured: list[Measured], at: int) -> float:
    """Return the parameter whose largest loss is the least on all collections but one."""

    def worst(value: float) -> float:
        return min(
            figures.mean() - each.better.mean()
            for number, (figures, each) in enumerate(zip(tried[value], measured, strict=True))
            if number != at
        )

    return max(tried, key=worst)


def print_head(measured: list[Measured]) -> None:
    names = "".join(f"{each.name:>12}" for each in measured)
    print(
        f"  {'':24}{names}{'gain':>9}{'worst':>9}    gain: over dense, mean; worst: against the better part"
    )


def print_row(name: str, figures: list[Ndcg], measured: list[Measured]) -> None:
    means = np.array([each.mean() for each in figures])
    gain = float(np.mean([mean - each.dense.mean() for mean, each in zip(means, measured, strict=True)]))
    worst = float(min(mean - each.better.mean() for mean, each in zip(means, measured, strict=True)))
    print(f"  {name:24}{''.join(f'{mean:12.4f}' for mean in means)}{gain:+9.4f}{worst:+9.4f}")


def print_intervals(name: str, figures: list[Ndcg], measured: list[Measured]) -> None:
    """Differences with their 95 % intervals, by resampling questions."""
    rng = np.random.default_rng(SEED)
    print(f"  {name}, against dense and against the better part, 95 % intervals by resampling questions:")
    gains = np.zeros(RESAMPLES)
    for mine, each in zip(figures, measured, strict=True):
        drawn = rng.integers(0, len(mine), (RESAMPLES, len(mine)))
        told = []
        for other in (each.dense, each.better):
            differences = (mine - other)[drawn].mean(axis=1)
            low, high = np.percentile(differences, [2.5, 97.5])
            told.append(f"{(mine - other).mean():+.4f} ({low:+.4f} to {high:+.4f})")
        gains += (mine - each.dense)[drawn].mean(axis=1) / len(figures)
        print(f"    {each.name:12} {told[0]}   {told[1]}")
    low, high = np.percentile(gains, [2.5, 97.5])
    print(f"    mean gain    {gains.mean():+.4f} ({low:+.4f} to {high:+.4f})")
