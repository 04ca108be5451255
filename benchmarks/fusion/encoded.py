"""Collections with relevance judgements, and their passages and vectors as the server makes them."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.known_items import LISTS, Collection, built
from server.encoders.encoder import Encoder

CACHE = Path("~/.cache/twopass-benchmarks").expanduser()
BATCH = 500  # texts to a call of the encoder


@dataclass(frozen=True)
class Encoded:
    """A collection's passages and vectors."""

    spans: NDArray[np.int64]  # (n_passages, 3): text, start, end; the texts in order
    vectors: NDArray[np.float32]  # (n_passages, dim), unit length
    queries: NDArray[np.float32]  # (n_queries, dim), unit length


def collections(data: Path) -> Iterator[Collection]:
    """Yield Cranfield, which people judged, if it is in the folder; then those that are made."""
    if (data / "cranfield").is_dir():
        yield judged(data / "cranfield")
    else:
        print(f"  cranfield: left out, {data / 'cranfield'} isn't there")
    lists = data / "apt-lists"
    yield from built(lists if lists.is_dir() else LISTS)


def judged(folder: Path) -> Collection:
    """Read a collection that people judged; texts that are empty are left out."""
    corpus = [json.loads(line) for line in _lines(folder / "corpus.jsonl.gz")]
    corpus = [each for each in corpus if each["text"].strip()]
    queries = [json.loads(line) for line in _lines(folder / "queries.jsonl.gz")]
    text_at = {each["_id"]: at for at, each in enumerate(corpus)}
    query_at = {each["_id"]: at for at, each in enumerate(queries)}
    judgements: list[dict[int, int]] = [{} for _ in queries]
    for line in _lines(folder / "qrels.tsv.gz")[1:]:
        query, text, grade = line.split("\t")
        if text in text_at and int(grade) > 0:
            judgements[query_at[query]][text_at[text]] = int(grade)
    return Collection(
        folder.name, [each["text"] for each in corpus], [each["text"] for each in queries], judgements
    )


def encode(collection: Collection, encoder: Encoder) -> Encoded:
    """Split and encode as the server does; kept in the cache, by the texts' digest."""
    digest = hashlib.sha256(json.dumps([collection.texts, collection.queries]).encode()).hexdigest()
    path = CACHE / "fusion" / f"{collection.name}-{digest[:16]}.npz"
    if not path.exists():
        spans = [
            (at, start, end) for at, text in enumerate(collection.texts) for start, end in encoder.split(text)
        ]
        passages = [collection.texts[at][start:end] for at, start, end in spans]
        vectors = [
            encoder.encode_documents(passages[at : at + BATCH]) for at in range(0, len(passages), BATCH)
        ]
        queries = encoder.encode_queries(collection.queries)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, spans=np.array(spans), vectors=np.concatenate(vectors), queries=queries)
        partial.replace(path)
    with np.load(path) as found:
        return Encoded(found["spans"], found["vectors"], found["queries"])


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [line.rstrip("\n") for line in file]
