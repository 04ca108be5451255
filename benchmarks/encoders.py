"""ONNX Runtime as float32 and int8 beside torch, and the server beside the bare model: memory, time, relevance.

`python -m benchmarks encoders [--cache FOLDER] [--data FOLDER] [PART …]`. Each part's rivals take turns in one run,
and every figure is a median. The texts are those of benchmarks.texts.
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.bare_encoder import BareEncoder
from benchmarks.processes import family, memory_mib, resident_mib
from benchmarks.serving import Server, serving, temporary_folder, wait_for_index
from benchmarks.texts import load_texts
from benchmarks.wire import Connection, request, requests_per_s_of
from server.settings import EncoderSettings

BATCH_TOKENS = EncoderSettings().batch_tokens
VARIANTS: dict[str, dict[str, object]] = {
    "onnx float32": {"encoder__backend": "onnx"},
    "onnx int8": {"encoder__backend": "onnx", "encoder__precision": "int8"},
    "torch": {"encoder__backend": "torch"},
}
N_DOCUMENTS, N_SEARCHES = 10_000, 1000
N_QUERIES = 300  # timed beside the bare call
N_ROUNDS, N_IN_A_ROUND = 5, 320  # of searches at concurrency 16 beside 1
N_INGESTED, N_BLOCK = 20_000, 1000


def main(arguments: list[str]) -> None:
    """Run the parts named, or all of them."""
    parts: dict[str, Callable[[Path, list[str], Path], None]] = {
        "memory": memory,
        "query": query,
        "throughput": throughput,
        "ingest": ingest,
        "idle": idle,
        "relevance": relevance,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks encoders", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/twopass-benchmarks").expanduser())
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with cranfield/")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    # Where no compiled files may be kept, each start compiles anew and leaves 5 MiB of garbage behind.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    texts = load_texts(given.cache)
    with temporary_folder() as models:
        for name in given.parts or parts:
            parts[name](models, texts, given.data)


@contextlib.contextmanager
def started(models: Path, **settings: object) -> Iterator[Server]:
    """A server on an empty data directory, with the exports that earlier ones made."""
    with temporary_folder() as data_dir:
        (data_dir / "models").symlink_to(models)
        with serving(data_dir, **settings) as server:
            yield server


def memory(models: Path, texts: list[str], data: Path) -> None:
    """All processes of the server: started, then with documents, then after searches."""
    print(f"\nMemory in MiB of all the server's processes, {N_DOCUMENTS} documents, {N_SEARCHES} searches")
    print(
        f"  {'':<14}{'ready after s':>14}{'started':>9}{'ingested':>9}{'searched: Rss':>15}{'Pss':>6}{'own':>6}"
    )
    for name, settings in VARIANTS.items():
        with started(models, **settings):  # exports, and compiles what Python hasn't yet
            pass
        with started(models, **settings) as server:
            at_start = memory_mib(server.process.pid)
            add(server, texts[:N_DOCUMENTS])
            wait_for_index(server)
            ingested = memory_mib(server.process.pid)
            with Connection(port_of(server)) as connection:
                for text in texts[-N_SEARCHES:]:
                    connection.ask(search(text))
            now = memory_mib(server.process.pid)
            each = [round(resident_mib(pid)) for pid in family(server.process.pid)]
            print(
                f"  {name:<14}{server.ready_s:>14.2f}{at_start['Rss']:>9.0f}{ingested['Rss']:>9.0f}"
                f"{now['Rss']:>15.0f}{now['Pss']:>6.0f}{now['Anonymous']:>6.0f}   Rss of each: {each}"
            )


def query(models: Path, texts: list[str], data: Path) -> None:
    """One search at a time beside the bare call, text by text in turns."""
    print(f"\nText query over HTTP beside the bare call, {N_QUERIES} texts in turns, medians in ms")
    for name, settings in list(VARIANTS.items())[:2]:
        with started(models, **settings) as server:
            add(server, texts[:N_DOCUMENTS])
            wait_for_index(server)
            bare = BareEncoder(models, str(settings.get("encoder__precision", "float32")), BATCH_TOKENS)
            times: list[tuple[float, float, float, float]] = []
            with Connection(port_of(server)) as connection:
                for text in texts[-N_QUERIES - 20 :]:
                    bare_ms = bare.call_ms(text)
                    sent = search(text)
                    at = time.perf_counter()
                    answer = connection.ask(sent)
                    http_ms = (time.perf_counter() - at) * 1000
                    encode_ms = json.loads(answer)["timings_ms"]["encode"]
                    sent = search(f"{text} ", hybrid=True)  # the space: another text to the cache of queries
                    at = time.perf_counter()
                    connection.ask(sent)
                    hybrid_ms = (time.perf_counter() - at) * 1000
                    times.append((bare_ms, http_ms, encode_ms, hybrid_ms))
            bare_ms, http_ms, encode_ms, hybrid_ms = (
                median(column) for column in zip(*times[20:], strict=True)
            )
            print(
                f"  {name:<14} bare {bare_ms:.2f}, HTTP {http_ms:.2f} (encoding {encode_ms:.2f}): "
                f"{http_ms / bare_ms:.2f} times the bare call; with words {hybrid_ms:.2f}"
            )


def throughput(models: Path, texts: list[str], data: Path) -> None:
    """Searches a second from 16 connections and from one, and the bare model one text at a time, in turns."""
    print(f"\nSearches a second, {N_ROUNDS} rounds of {N_IN_A_ROUND} in turns, medians")
    for name, settings in VARIANTS.items():
        with started(models, **settings, encoder__query_cache=0) as server:
            add(server, texts[:N_DOCUMENTS])
            wait_for_index(server)
            precision = str(settings.get("encoder__precision", "float32"))
            bare = BareEncoder(models, precision, BATCH_TOKENS)
            rates: dict[str, list[float]] = {"16 connections": [], "1": [], "bare, one at a time": []}
            for start in range(0, N_ROUNDS * N_IN_A_ROUND, N_IN_A_ROUND):
                asked = texts[-start - N_IN_A_ROUND - 1 : -start - 1]
                requests = [search(text) for text in asked]
                rates["16 connections"].append(requests_per_s_of(port_of(server), requests, 16, len(asked)))
                rates["1"].append(requests_per_s_of(port_of(server), requests, 1, len(asked)))
                rates["bare, one at a time"].append(rate(bare.encode_one_by_one, asked))
            told = {each: median(found) for each, found in rates.items()}
            at_16 = told["16 connections"]
            print(
                f"  {name:<14} "
                + ", ".join(f"{each}: {found:.0f}" for each, found in told.items())
                + f"; 16 at once is {at_16 / told['1']:.2f} times 1, "
                f"{at_16 / told['bare, one at a time']:.2f} times the bare model"
            )


def ingest(models: Path, texts: list[str], data: Path) -> None:
    """Documents a second over HTTP beside the bare model, in blocks that take turns."""
    print(
        f"\nIngest of {N_INGESTED} short texts beside the bare model, in turns by {N_BLOCK}, medians of texts/s"
    )
    for name, settings in list(VARIANTS.items())[:2]:
        with started(models, **settings) as server:
            bare = BareEncoder(models, str(settings.get("encoder__precision", "float32")), BATCH_TOKENS)
            bare_rates, rates = [], []
            for start in range(0, N_INGESTED, N_BLOCK):
                block = texts[start : start + N_BLOCK]
                bare_rates.append(rate(bare.encode, block))
                rates.append(rate(lambda block: add(server, block), block))
            print(
                f"  {name:<14} bare {median(bare_rates):.0f}, server {median(rates):.0f}: "
                f"{median(rates) / median(bare_rates):.2f} of the bare model"
            )


def idle(models: Path, texts: list[str], data: Path) -> None:
    """What idle_unload_s gives back, and what the next search waits."""
    print("\nencoder.idle_unload_s: memory in MiB (Rss, Pss) before and after, and the searches that follow")
    for name, settings in VARIANTS.items():
        with started(models, **settings, encoder__idle_unload_s=1) as server:
            add(server, texts[:100])
            before = memory_mib(server.process.pid)
            while len(family(server.process.pid)) > 1:
                time.sleep(0.05)
            after = memory_mib(server.process.pid)
            waited = []
            with Connection(port_of(server)) as connection:
                for text in texts[-4:]:
                    at = time.perf_counter()
                    connection.ask(search(text))
                    waited.append((time.perf_counter() - at) * 1000)
            print(
                f"  {name:<14} {before['Rss']:.0f}, {before['Pss']:.0f} -> {after['Rss']:.0f}, {after['Pss']:.0f}; "
                + ", ".join(f"{each:.1f}" for each in waited)
                + " ms"
            )


def relevance(models: Path, texts: list[str], data: Path) -> None:
    """nDCG@10 and reciprocal rank on Cranfield, by exact search."""
    if not (data / "cranfield").is_dir():
        print(f"\nrelevance: left out, {data / 'cranfield'} isn't there (see benchmarks/README.md)")
        return
    from benchmarks import cranfield  # ir-measures has no wheel for Linux on ARM

    print("\nCranfield, exact search")
    collection = cranfield.load(data / "cranfield")
    for name, settings in VARIANTS.items():
        with started(models, **settings) as server:
            server.add(collection.documents, batch=100)
            figures = cranfield.judge(server, collection, "exact").figures
            print(f"  {name:<14} " + "  ".join(f"{each} {value:.4f}" for each, value in figures.items()))


def add(server: Server, texts: Sequence[str]) -> None:
    server.add([{"text": text} for text in texts], batch=500)


def search(text: str, hybrid: bool = False) -> bytes:
    """By meaning alone, since the encoder is measured."""
    return request("POST", "/search", json.dumps({"query": text, "hybrid": hybrid}).encode())


def port_of(server: Server) -> int:
    port = server.http.base_url.port
    assert port is not None
    return port


def rate(work: Callable[[Sequence[str]], None], texts: Sequence[str]) -> float:
    """Texts a second."""
    at = time.perf_counter()
    work(texts)
    return len(texts) / (time.perf_counter() - at)
