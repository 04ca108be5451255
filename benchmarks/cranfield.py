"""Cranfield through HTTP with the bundled model: nDCG@10 of each mode, by ir-measures."""

import gzip
import json
import time
from pathlib import Path

import ir_measures
from ir_measures import RR, nDCG

from benchmarks.serving import serving, temporary_folder

MEASURES = [nDCG @ 10, RR @ 10]


def run(data: Path) -> None:
    """1 400 abstracts, 225 questions, graded judgements (Cleverdon 1967)."""
    folder = data / "cranfield"
    corpus = [json.loads(line) for line in _lines(folder / "corpus.jsonl.gz")]
    queries = [json.loads(line) for line in _lines(folder / "queries.jsonl.gz")]
    judgements = [
        ir_measures.Qrel(query, document, int(grade))
        for query, document, grade in (line.split("\t") for line in _lines(folder / "qrels.tsv.gz")[1:])
    ]
    documents = [{"id": each["_id"], "text": each["text"]} for each in corpus if each["text"].strip()]
    print(
        f"\nCranfield: {len(documents)} of {len(corpus)} texts (the rest are empty), {len(queries)} queries"
    )
    with temporary_folder() as data_dir, serving(data_dir) as server:
        started = time.perf_counter()
        server.add(documents, batch=100)
        seconds = time.perf_counter() - started
        stats = server.http.get("/stats").json()
        print(f"  ingest {seconds:.1f} s, {stats['passages']} passages")
        exact: list[list[str]] = []
        for mode in ("exact", "two_pass", "prefix"):
            searches = [{"query": each["text"], "mode": mode, "include": []} for each in queries]
            results = server.search(searches)  # k and oversample at their defaults: 10 of a pool of 80
            ids = [[hit["id"] for hit in result["hits"]] for result in results]
            exact = exact or ids
            n_same = sum(mine == true for mine, true in zip(ids, exact, strict=True))
            run_ = [
                ir_measures.ScoredDoc(query["_id"], hit["id"], hit["score"])
                for query, result in zip(queries, results, strict=True)
                for hit in result["hits"]
            ]
            figures = ir_measures.calc_aggregate(MEASURES, judgements, run_)
            told = "  ".join(f"{measure} {figures[measure]:.4f}" for measure in MEASURES)
            print(f"  {mode:9} {told}  same ten in the same order as exact: {n_same} of {len(queries)}")


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [line.rstrip("\n") for line in file]
