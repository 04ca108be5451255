"""The texts that a model is tried on: those stored in the data directory, or files."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.catalog import Catalog
from server.errors import NotFoundError
from server.incoming import OnSkip
from server.readers import read_paths
from server.sentences import MIN_WORDS, SENTENCE_END
from server.store import CATALOG_NAME

SEED = 0  # the same texts give the same sample


@dataclass(frozen=True)
class Sample:
    """Passages of texts that were drawn evenly. `n_split` of the texts are longer than the model reads."""

    passages: list[str]
    n_texts: int
    n_split: int
    n_texts_in_all: int
    n_duplicates: int


def stored_texts(data_dir: Path) -> Iterator[str]:
    """The texts of the collection; a server may be running on it.

    Raises:
        NotFoundError: there is no collection.
        StorageError, FormatError, CatalogDamagedError: it can't be read.
    """
    path = data_dir / "collections" / "default" / CATALOG_NAME
    if not path.exists():
        raise NotFoundError(
            f"there is no collection in {data_dir}",
            "Check --data-dir, or name files or folders with --texts.",
        )
    return _texts_of(path)


def _texts_of(path: Path) -> Iterator[str]:
    with Catalog(path, read_only=True) as catalog:
        for _, text, _ in catalog.texts():
            yield text


def file_texts(paths: Iterable[Path], on_skip: OnSkip) -> Iterator[str]:
    """The texts of files and folders, as `twopass ingest` reads them."""
    for document in read_paths(paths, on_skip):
        if text := document.get("text"):
            yield text


def draw(texts: Iterable[str], n: int, split: Callable[[str], Sequence[tuple[int, int]]]) -> Sample:
    """Draw up to n texts, split them as an ingest would, and draw up to n passages of those.

    All texts are read, at most n are held.
    """
    chance = random.Random(SEED)
    drawn: list[str] = []
    in_all = 0
    for text in texts:  # reservoir: each text has the same chance, whatever their number
        in_all += 1
        if len(drawn) < n:
            drawn.append(text)
        elif (at := chance.randrange(in_all)) < n:
            drawn[at] = text
    n_split = 0
    passages: list[str] = []
    for text in drawn:
        spans = split(text)
        n_split += len(spans) > 1
        passages += [text[start:end] for start, end in spans if start < end]
    chance.shuffle(passages)
    del passages[n:]
    return Sample(passages, len(drawn), n_split, in_all, len(passages) - len(set(passages)))


def opening(passage: str) -> str | None:
    """The first sentence of a passage of several, else the first half of its words; None if that is too short."""
    words = passage.split()
    end = SENTENCE_END.search(passage)
    if end is not None:
        first = passage[: end.end()].split()
        if MIN_WORDS <= len(first) <= len(words) - MIN_WORDS:
            return " ".join(first)
    half = words[: len(words) // 2]
    return " ".join(half) if len(half) >= MIN_WORDS else None
