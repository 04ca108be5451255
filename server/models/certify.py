"""`twopass models certify`: a model measured on the user's own texts, on the user's own machine.

What is measured, and how:

- Recall of prefixes, in the model's order of dimensions and in the corpus's, against the full vectors of the drawn
  passages (see curves). Questions are the openings of some passages. The corpus's axes are fitted on half of the
  passages, none of which a question comes from.
- Prompts: how far up the passage comes that a question was taken from, with the model's prompts and without. The
  question's words stand in the passage, so this is easier than real questions are; the difference is what counts.
- How many texts are longer than the model reads; an ingest splits them.
- Speed of encoding, and the memory that loading the model and encoding took.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from index.axes import corpus_axes, model_axes
from index.vectors import Float32
from server.encoders.encoder import Encoder
from server.encoders.loading import load_encoder
from server.errors import NotFoundError
from server.models.corpus import SEED, draw, opening
from server.models.curves import POOL, known_item, lengths_to_try, recall_curve
from server.models.footprint import resident_bytes
from server.models.verdict import PromptTrial, RecallTrial, verdict
from server.settings import EncoderSettings, PassageSettings

MIN_PASSAGES = 200
"""Below, 80 candidates are so large a part of all that every prefix looks good."""
MIN_QUESTIONS = 20
MAX_QUESTIONS = 200
TIMED_QUERIES = 32
AT_ONCE = 128  # passages between two words on how far it is

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Speed:
    """Measured on this machine.

    `memory_bytes` is what this process and those below it grew by through loading the model and encoding; None where
    another program encodes.
    """

    load_s: float
    texts_per_s: float  # passages, encoded many at a time
    query_ms: float | None  # median of questions, one at a time; None without questions
    memory_bytes: int | None
    is_remote: bool


@dataclass(frozen=True)
class Certificate:
    """What was found out about one model."""

    model: str
    dim: int
    max_tokens: int
    precision: str
    texts_in_all: int
    texts: int  # drawn of them
    texts_split: int  # of the drawn
    passages: int
    duplicates: int
    recall: RecallTrial | None  # None: too few passages
    prompts: PromptTrial | None  # likewise
    speed: Speed
    verdict: str


@dataclass(frozen=True, eq=False)
class _Questions:
    texts: list[str]
    rows: NDArray[np.intp]  # (n,), the passage that each was taken from


def certify(
    settings: EncoderSettings,
    passages: PassageSettings,
    models_dir: Path,
    texts: Iterable[str],
    n: int,
    on_progress: OnProgress,
) -> Certificate:
    """Draw up to n passages of the texts, encode them, and measure.

    Args:
        on_progress: told (stage, done, in all); 0 of 0 where a stage isn't counted.

    Raises:
        NotFoundError: there are no texts, or the model is none.
        EncoderError, SettingsError: the model can't be loaded, or fails on a text.
    """
    texts = iter(texts)
    first = next(texts, None)
    if first is None:  # before the model is loaded, which takes a while
        raise NotFoundError(
            "there are no texts to try the model on", "Ingest some, or name files with --texts."
        )
    load = partial(_load, passages=passages, models_dir=models_dir)
    before = resident_bytes()
    on_progress("loading the model", 0, 0)
    started = time.perf_counter()
    with closing(load(settings)) as encoder:
        load_s = time.perf_counter() - started
        on_progress("reading texts", 0, 0)
        sample = draw(chain([first], texts), n, encoder.split)
        if not sample.passages:
            raise NotFoundError("the texts are empty", "Name other files with --texts.")
        questions = _questions(sample.passages)
        query_ms = _time_queries(encoder, questions.texts)
        queries = encoder.encode_queries(questions.texts)
        started = time.perf_counter()
        documents = _encode(encoder, sample.passages, on_progress, "encoding passages")
        seconds = time.perf_counter() - started
        speed = Speed(
            load_s=load_s,
            texts_per_s=len(sample.passages) / seconds,
            query_ms=query_ms,
            memory_bytes=None if settings.is_remote else _growth(before, resident_bytes()),
            is_remote=settings.is_remote,
        )
        fingerprint = encoder.fingerprint
    recall = prompts = None
    if len(sample.passages) >= MIN_PASSAGES and len(questions.texts) >= MIN_QUESTIONS:
        on_progress("comparing", 0, 0)
        recall = _recall(documents, queries, questions.rows)
        without = None
        if fingerprint.query_prompt or fingerprint.document_prompt:
            bare = settings.model_copy(update={"query_prompt": "", "document_prompt": ""})
            with closing(load(bare)) as encoder:
                queries_bare, documents_bare = encoder.encode_queries(questions.texts), documents
                if fingerprint.document_prompt:
                    stage = "encoding without prompts"
                    documents_bare = _encode(encoder, sample.passages, on_progress, stage)
            without = known_item(documents_bare, queries_bare, questions.rows)
        prompts = PromptTrial.of(known_item(documents, queries, questions.rows), without)
    split_share = sample.n_split / sample.n_texts
    return Certificate(
        model=fingerprint.model,
        dim=fingerprint.dim,
        max_tokens=fingerprint.max_tokens,
        precision=fingerprint.precision,
        texts_in_all=sample.n_texts_in_all,
        texts=sample.n_texts,
        texts_split=sample.n_split,
        passages=len(sample.passages),
        duplicates=sample.n_duplicates,
        recall=recall,
        prompts=prompts,
        speed=speed,
        verdict=verdict(
            fingerprint.dim, fingerprint.max_tokens, split_share, len(sample.passages), recall, prompts
        ),
    )


def _load(settings: EncoderSettings, passages: PassageSettings, models_dir: Path) -> Encoder:
    encoder = load_encoder(settings, passages, models_dir)
    if encoder is None:
        raise NotFoundError("the model 'none' encodes nothing", "Name one: bundled, a folder, or a hub name.")
    return encoder


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _questions(passages: Sequence[str]) -> _Questions:
    """The openings of passages spread evenly: at most MAX_QUESTIONS, and of a third of the passages."""
    texts: list[str] = []
    rows: list[int] = []
    at_most = min(MAX_QUESTIONS, len(passages) // 3)
    for row in np.random.default_rng(SEED).permutation(len(passages)).tolist():
        if len(texts) >= at_most:
            break
        if question := opening(passages[row]):
            texts.append(question)
            rows.append(row)
    return _Questions(texts, np.array(rows, np.intp))


def _time_queries(encoder: Encoder, questions: Sequence[str]) -> float | None:
    times = []
    for question in questions[:TIMED_QUERIES]:
        started = time.perf_counter()
        encoder.encode_queries([question])
        times.append(time.perf_counter() - started)
    return median(times) * 1000 if times else None


def _encode(encoder: Encoder, passages: Sequence[str], on_progress: OnProgress, stage: str) -> Float32:
    parts = []
    for start in range(0, len(passages), AT_ONCE):
        on_progress(stage, start, len(passages))
        parts.append(encoder.encode_documents(passages[start : start + AT_ONCE]))
    return np.concatenate(parts)


def _recall(documents: Float32, queries: Float32, asked: NDArray[np.intp]) -> RecallTrial:
    """Both curves; `asked` are the passages that questions come from, which the axes must not have seen."""
    n, dim = documents.shape
    others = np.setdiff1d(np.arange(n), asked)  # in a fixed order; the passages were drawn by chance
    fitted = documents[others[: n // 2]]
    lengths = lengths_to_try(dim)
    return RecallTrial(
        questions=len(asked),
        fitted_on=len(fitted),
        pool=POOL,
        model=recall_curve(model_axes(dim, dim), documents, queries, lengths),
        corpus=recall_curve(corpus_axes(fitted, dim), documents, queries, lengths),
    )
