"""Three hundred thousand real English texts and their vectors by the bundled model, made once and cached.

The texts come with Debian: WordNet's definitions and examples, the descriptions of its packages, the GCIDE
dictionary. Short definitions are a hard case: many of them lie close together.
"""

import argparse
import gzip
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WORDNET = Path("/usr/share/wordnet")  # package wordnet-base
GCIDE = Path("/usr/share/dictd/gcide.dict.dz")  # package dict-gcide
N_TEXTS, N_QUERIES = 301_000, 1000  # the queries are the last of the texts
SHORTEST, LONGEST = 20, 400  # characters
SEED = 20240501
CHUNK = 10_000  # texts to a file, so that an interrupted run loses a minute at most
BATCH = 32  # larger ones leave the processor's cache: 383 texts/s at 32, 226 at 256
MAX_TOKENS = 128

# A pronunciation between backslashes, an etymology or a source in brackets.
_ASIDES = re.compile(r"\\[^\\]*\\|\[[^\]]*\]")
_PART_OF_SPEECH = re.compile(
    r"^[\s,;.&]*(?:(?:n|a|adv|v|t|i|pl|imp|p|pr|vb|prep|interj|conj|E|L)\.[\s,;&]*)+"
)
_SENSE = re.compile(r"^(?:\d+|\([a-z]\))\.?\s")


def wordnet_texts(folder: Path = WORDNET) -> Iterator[str]:
    """Yield each synset's definition, and its examples as texts of their own."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text().splitlines():
            if line.startswith("  "):  # the licence
                continue
            gloss = line.partition(" | ")[2]
            definition, *examples = re.split(r';?\s*"', gloss)
            yield definition
            yield from examples


def package_texts() -> Iterator[str]:
    """Yield the descriptions that apt knows: the summary, and each paragraph where long ones are installed."""
    said = subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, text=True, check=True).stdout
    for found in re.finditer(r"^Description(?:-en)?: (.*(?:\n .*)*)", said, re.MULTILINE):
        summary, _, rest = found[1].partition("\n")
        yield summary
        yield from rest.split("\n .\n")


def gcide_texts(path: Path = GCIDE) -> Iterator[str]:
    """Yield each sense, note and quotation of the dictionary, without pronunciation and etymology."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        text = file.read()
    for entry in re.split(r"\n(?=\S)", text):
        head, *paragraphs = re.split(r"\n\s*\n", entry)
        if "\\" not in head:
            continue  # the preface
        head = "".join(head.partition("\\")[1:])  # what follows the headword
        for paragraph in (head, *paragraphs):
            yield _SENSE.sub("", _PART_OF_SPEECH.sub("", _ASIDES.sub(" ", paragraph)).strip())


def distinct(texts: Iterable[str]) -> list[str]:
    """Return the texts with spaces tidied, none twice, long ones cut at a word, short ones left out."""
    found: dict[str, None] = {}
    for text in texts:
        tidy = " ".join(text.replace("{", "").replace("}", "").split()).strip(' ";')
        if len(tidy) > LONGEST:
            tidy = tidy[:LONGEST].rpartition(" ")[0]
        if len(tidy) >= SHORTEST:
            found[tidy] = None
    return list(found)


def load_texts(cache: Path) -> list[str]:
    """Return the corpus' texts, then the queries'; kept in the cache, since Debian's packages change.

    Raises:
        SystemExit: the sources are not installed, or hold too few texts.
    """
    path = cache / "glosses.txt"
    if path.exists():
        return path.read_text().splitlines()
    if missing := [each for each in (WORDNET, GCIDE) if not each.exists()]:
        raise SystemExit(f"{missing[0]} isn't there: apt-get install wordnet-base dict-gcide")
    texts: list[str] = []
    for source in (wordnet_texts, package_texts, gcide_texts):
        before = len(texts)
        texts = distinct([*texts, *source()])
        print(f"  {source.__name__}: {len(texts) - before} new texts")
    if len(texts) < N_TEXTS:
        raise SystemExit(f"expected at least {N_TEXTS} distinct texts, found {len(texts)}")
    order = np.random.default_rng(SEED).permutation(len(texts))[:N_TEXTS]
    texts = [texts[i] for i in order]
    cache.mkdir(parents=True, exist_ok=True)
    _replace(path, "\n".join(texts).encode())
    return texts


def load_glosses(cache: Path) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return (corpus, queries), float16 (300 000, 384) and (1000, 384), unit length; made where missing."""
    corpus, queries = cache / "glosses.npy", cache / "glosses-queries.npy"
    if not (corpus.exists() and queries.exists()):
        encode(cache)
    return np.load(corpus, mmap_mode="r"), np.load(queries)


def encode(cache: Path, bfloat16: bool = False) -> None:
    """Encode what isn't encoded yet, the queries first, then chunk by chunk, and join the chunks.

    Args:
        cache: where texts, chunks and vectors lie.
        bfloat16: multiply in bfloat16. Where the processor has it, that is nearly twice as fast (383 against
            205 texts/s); cosines of the vectors with those of float32: 0.99999 on average, 0.99995 at least.
    """
    # Imported here: whoever has the vectors needs neither torch nor the model.
    import torch
    from sentence_transformers import SentenceTransformer

    from server.encoders.bundled import find_bundled

    texts = load_texts(cache)
    model = SentenceTransformer(str(find_bundled().path), device="cpu")
    model.max_seq_length = MAX_TOKENS

    def save(path: Path, part: list[str]) -> None:
        # It sorts a chunk by length itself, so that no batch is mostly padding.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            vectors = model.encode(part, batch_size=BATCH, show_progress_bar=False).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        with (partial := path.with_suffix(".partial")).open("wb") as file:
            np.save(file, vectors.astype(np.float16))
        partial.replace(path)

    folder = cache / "glosses-chunks"
    folder.mkdir(exist_ok=True)
    n_corpus = len(texts) - N_QUERIES
    if not (cache / "glosses-queries.npy").exists():
        save(cache / "glosses-queries.npy", texts[n_corpus:])
    paths = [folder / f"{first:06d}.npy" for first in range(0, n_corpus, CHUNK)]
    started, n_done = time.perf_counter(), 0
    for first, path in zip(range(0, n_corpus, CHUNK), paths, strict=True):
        if path.exists():
            continue
        part = texts[first : min(first + CHUNK, n_corpus)]
        save(path, part)
        n_done += len(part)
        rate = n_done / (time.perf_counter() - started)
        left = (n_corpus - first - len(part)) / rate
        print(
            f"  {first + len(part)} of {n_corpus} encoded, {rate:.0f} texts/s, {left:.0f} s left", flush=True
        )
    with (partial := cache / "glosses.partial").open("wb") as file:
        np.save(file, np.concatenate([np.load(path) for path in paths]))
    partial.replace(cache / "glosses.npy")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


def main() -> None:
    """`python -m benchmarks.texts [--cache FOLDER]`: make the texts and their vectors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.texts", description=main.__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/twopass-benchmarks").expanduser())
    parser.add_argument("--bfloat16", action="store_true", help="nearly twice as fast where the CPU has it")
    arguments = parser.parse_args()
    encode(arguments.cache, arguments.bfloat16)


if __name__ == "__main__":
    main()
