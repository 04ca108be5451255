"""What a question finds by meaning and by words, in a real store, and how good an order is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.fusion.encoded import Encoded
from benchmarks.known_items import Collection
from server.catalog import Catalog
from server.fusion import DEPTH, Scored
from server.records import DocumentWrite
from server.store import CATALOG_NAME, LocalStore

K = 10


@dataclass(frozen=True)
class Lists:
    """One question: what each search found, and what is right."""

    dense: Scored  # the DEPTH best texts by the exact cosine of their best passage
    keyword: Scored  # the DEPTH best by BM25, of the catalog's full text
    whole: float  # by BM25, of a text of ordinary length that has every word once
    cosines: NDArray[np.float64]  # (n_texts,)
    gains: NDArray[np.float64]  # (n_texts,): grades
    ideal: float  # discounted gain of the best order

    def ndcg(self, ids: NDArray[np.int64]) -> float:
        """nDCG@10 of texts in this order, with grades as gains, as trec_eval has it."""
        return _discounted(self.gains[ids[:K]]) / self.ideal


@contextmanager
def stored(folder: Path, collection: Collection, encoded: Encoded) -> Iterator[LocalStore]:
    """Store a collection as the server would; document n + 1 is text n."""
    spans: list[list[tuple[int, int]]] = [[] for _ in collection.texts]
    for text, start, end in encoded.spans.tolist():
        spans[text].append((start, end))
    writes = [
        DocumentWrite(str(at), text, "{}", str(at).encode(), False, spans[at])
        for at, text in enumerate(collection.texts)
    ]
    with Catalog(folder / CATALOG_NAME) as catalog:
        dim = encoded.vectors.shape[1]
        store = LocalStore(catalog, catalog.generations.begin(1, "{}", dim, "float16"), min(256, dim))
        store.put(writes, encoded.vectors)
        try:
            yield store
        finally:
            store.close()


def found(store: LocalStore, collection: Collection, encoded: Encoded) -> Iterator[Lists]:
    """Ask every question that has an answer."""
    texts = encoded.spans[:, 0]
    firsts = np.flatnonzero(np.diff(texts, prepend=-1))  # each text's first passage
    for query, vector, judgements in zip(
        collection.queries, encoded.queries, collection.judgements, strict=True
    ):
        if not judgements:
            continue
        cosines = np.maximum.reduceat(encoded.vectors @ vector, firsts).astype(np.float64)  # (n_texts,)
        best = np.argsort(-cosines, kind="stable")[:DEPTH]
        hits = store.catalog.fulltext.search(query, DEPTH)
        gains = np.zeros(len(collection.texts))
        gains[list(judgements)] = list(judgements.values())
        yield Lists(
            Scored(best, cosines[best]), Scored(hits.documents - 1, hits.scores), hits.whole, cosines, gains,
            _discounted(np.sort(gains)[::-1][:K]),
        )  # fmt: skip


def _discounted(gains: NDArray[np.float64]) -> float:
    return float((gains / np.log2(2 + np.arange(len(gains)))).sum())
