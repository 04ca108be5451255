"""Cranfield through HTTP with the bundled model: nDCG@10 of each mode, by ir-measures."""

import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import RR, nDCG

from benchmarks.serving import Server, serving, temporary_folder

MEASURES = [nDCG @ 10, RR @ 10]


@dataclass(frozen=True)
class Collection:
    """1 400 abstracts, 225 questions, graded judgements (Cleverdon 1967)."""

    documents: list[dict[str, str]]
    n_empty: int
    queries: list[dict[str, str]]
    judgements: list[Any]


@dataclass(frozen=True)
class Judged:
    """What a mode found, best first, and how good that is."""

    ids: list[list[str]]
    figures: dict[str, float]


def load(folder: Path) -> Collection:
    """Read the collection; texts that are empty are left out."""
    corpus = [json.loads(line) for line in _lines(folder / "corpus.jsonl.gz")]
    documents = [{"id": each["_id"], "text": each["text"]} for each in corpus if each["text"].strip()]
    judgements = [
        ir_measures.Qrel(query, document, int(grade))
        for query, document, grade in (line.split("\t") for line in _lines(folder / "qrels.tsv.gz")[1:])
    ]
    queries = [json.loads(line) for line in _lines(folder / "queries.jsonl.gz")]
    return Collection(documents, len(corpus) - len(documents), queries, judgements)


def judge(server: Server, collection: Collection, mode: str) -> Judged:
    """Ask all questions; k and oversample at their defaults: 10 of a pool of 80."""
    searches = [{"query": each["text"], "mode": mode, "include": []} for each in collection.queries]
    results = server.search(searches)
    run_ = [
        ir_measures.ScoredDoc(query["_id"], hit["id"], hit["score"])
        for query, result in zip(collection.queries, results, strict=True)
        for hit in result["hits"]
    ]
    figures = ir_measures.calc_aggregate(MEASURES, collection.judgements, run_)
    ids = [[hit["id"] for hit in result["hits"]] for result in results]
    return Judged(ids, {str(measure): figures[measure] for measure in MEASURES})


def run(data: Path) -> None:
    """Ingest the abstracts and ask the questions in each mode."""
    collection = load(data / "cranfield")
    documents, queries = collection.documents, collection.queries
    n_texts = len(documents) + collection.n_empty
    print(f"\nCranfield: {len(documents)} of {n_texts} texts (the rest are empty), {len(queries)} queries")
    with temporary_folder() as data_dir, serving(data_dir) as server:
        started = time.perf_counter()
        server.add(documents, batch=100)
        seconds = time.perf_counter() - started
        stats = server.http.get("/stats").json()
        print(f"  ingest {seconds:.1f} s, {stats['passages']} passages")
        exact: list[list[str]] = []
        for mode in ("exact", "two_pass", "prefix"):
            judged = judge(server, collection, mode)
            exact = exact or judged.ids
            n_same = sum(mine == true for mine, true in zip(judged.ids, exact, strict=True))
            told = "  ".join(f"{measure} {value:.4f}" for measure, value in judged.figures.items())
            print(f"  {mode:9} {told}  same ten in the same order as exact: {n_same} of {len(queries)}")


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [line.rstrip("\n") for line in file]
