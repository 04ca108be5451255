"""The encoder whose model runs on this machine."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.encoders.batching import EncodingQueue, JobLine, cut_into_batches
from server.encoders.encoder import never
from server.encoders.errors import EncodingFailed, EncodingStopped, TextNotEncodable
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.model import Model, Prepared
from server.encoders.passages import PassageSplitter
from server.encoders.query_cache import QueryCache
from server.encoders.tokens import MAX_CHARACTERS_A_TOKEN, check_text
from server.settings import PassageSettings, SettingsError

MIN_TEXT_TOKENS = 16  # tokens of text that a passage must hold beside the prompt; shorter ones say nothing
# Texts tokenised together, and then put in batches by length. 1024 short ones take 65 ms, while the model has
# batches for twice as long in line.
TEXTS_AT_ONCE = 1024


class LocalEncoder:
    """A model, a splitter and a queue; the methods are those of the Encoder protocol."""

    def __init__(
        self,
        model: Model[Any],
        batch_tokens: int,
        passages: PassageSettings,
        query_cache: int = 0,
    ) -> None:
        """Start the model's threads. `query_cache` is in queries.

        Raises:
            SettingsError: the passages asked for don't suit the model.
        """
        max_tokens = _passage_tokens(model, passages)
        limit = model.fingerprint.max_tokens
        self._model = model
        self._query_characters = limit * MAX_CHARACTERS_A_TOKEN
        # A token is made of at least one character of ASCII: a query of fewer is read whole, without counting.
        self._sure_characters = limit - model.token_counter.overhead(Role.QUERY)
        self._batch_tokens = batch_tokens
        self._splitter = PassageSplitter(model.token_counter, max_tokens, passages.overlap_tokens)
        self._batches_ahead = 1 + model.lanes.of_documents
        line = JobLine(batch_tokens, model.lanes)
        self._queue = EncodingQueue(model.embed, line, model.patience_s, model.rest)
        self.query_cache = QueryCache(model.fingerprint, query_cache)

    @property
    def fingerprint(self) -> Fingerprint:
        return self._model.fingerprint

    @property
    def max_tokens(self) -> int:
        return self.fingerprint.max_tokens

    def count_tokens(self, texts: Sequence[str], role: Role) -> NDArray[np.int64]:
        return self._model.token_counter.count(texts, role)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        for position, text in enumerate(texts):
            check_text(text, position)
        # What lies beyond can't be among the tokens that the model reads, and would only cost time.
        texts = [text[: self._query_characters] for text in texts]
        return self.query_cache.encode(texts, self._encode_queries)

    def query_is_known(self, text: str) -> bool:
        return self.query_cache.knows(text[: self._query_characters])

    def query_fits(self, text: str) -> bool:
        if text.isascii() and len(text) < self._sure_characters:
            return True
        if len(text) > self._query_characters:
            return False
        check_text(text)
        [length] = self._model.token_counter.count([text], Role.QUERY)
        return bool(length <= self.fingerprint.max_tokens)

    def encode_documents(self, texts: Sequence[str], stop: Callable[[], bool] = never) -> NDArray[np.float32]:
        for position, text in enumerate(texts):
            check_text(text, position)
        return self._encode(len(texts), self._document_batches(texts), Role.DOCUMENT, stop)

    def split(self, text: str) -> list[tuple[int, int]]:
        return self._splitter.split(text)

    @property
    def n_waiting(self) -> int:
        return self._queue.n_waiting

    @property
    def is_down(self) -> bool:
        return False

    def wait_until_back(self, stop: threading.Event) -> None:
        """It is here."""

    def close(self) -> None:
        self._queue.close()
        self._model.close()

    def _encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        prepared = self._model.prepare(texts, Role.QUERY)
        lengths = np.minimum(prepared.lengths, self.fingerprint.max_tokens)
        return self._encode(len(texts), _batches(prepared, lengths, self._batch_tokens), Role.QUERY, never)

    def _document_batches(self, texts: Sequence[str]) -> Iterator["_Batch"]:
        """The batches of the documents, made as they are asked for.

        Raises:
            TextNotEncodable: one is longer than the model reads.
        """
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            prepared = self._model.prepare(texts[start : start + TEXTS_AT_ONCE], Role.DOCUMENT)
            too_long = np.flatnonzero(prepared.lengths > self.fingerprint.max_tokens)
            if len(too_long):
                at = int(too_long[0])
                raise TextNotEncodable(
                    f"the passage has {prepared.lengths[at]} tokens, the model reads "
                    f"{self.fingerprint.max_tokens}",
                    hint="Split the text first.",
                    position=start + at,
                )
            for batch in _batches(prepared, prepared.lengths, self._batch_tokens):
                yield replace(batch, rows=batch.rows + start)

    def _encode(
        self, n_texts: int, batches: Iterable["_Batch"], role: Role, stop: Callable[[], bool]
    ) -> NDArray[np.float32]:
        """Encode batch by batch, so that others get their turn between."""
        vectors = np.empty((n_texts, self.fingerprint.dim), np.float32)
        in_line: deque[tuple[NDArray[np.intp], Future[NDArray[np.float32]]]] = deque()

        def collect() -> None:
            rows, done = in_line.popleft()
            vectors[rows] = _unit(done.result(), rows)

        for batch in batches:
            if stop():
                raise EncodingStopped("the encoding was stopped before its end")
            in_line.append((batch.rows, self._queue.submit(batch.inputs, batch.longest, role)))
            if len(in_line) > self._batches_ahead:  # a lane that is done finds the next batch in line
                collect()
        while in_line:
            collect()
        return vectors


@dataclass(frozen=True, eq=False)
class _Batch:
    """Texts to be encoded together, `rows` their places in the caller's list."""

    rows: NDArray[np.intp]
    inputs: Sequence[Any]
    longest: int  # tokens


def _batches(prepared: Prepared[Any], lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[_Batch]:
    for rows in cut_into_batches(lengths, batch_tokens):
        yield _Batch(rows, [prepared.inputs[row] for row in rows], int(lengths[rows].max()))


def _passage_tokens(model: Model[Any], passages: PassageSettings) -> int:
    """The longest passage in tokens, prompt and special tokens included."""
    limit = model.fingerprint.max_tokens
    max_tokens = passages.max_tokens or limit
    if max_tokens > limit:
        raise SettingsError(
            f"passages.max_tokens is {max_tokens}, but the model reads {limit} tokens. "
            f"Set it to {limit} or less, or to 0 for as long as the model can read."
        )
    overhead = model.token_counter.overhead(Role.DOCUMENT)
    needed = overhead + max(MIN_TEXT_TOKENS, 2 * passages.overlap_tokens)
    if max_tokens < needed:
        name = "passages.max_tokens is" if passages.max_tokens else "the model reads"
        raise SettingsError(
            f"{name} {max_tokens} tokens, of which {overhead} go to prompt and special tokens. "
            f"The rest must be at least {MIN_TEXT_TOKENS} and twice the overlap, {passages.overlap_tokens}. "
            "Lower passages.overlap_tokens or raise passages.max_tokens."
        )
    return max_tokens


def _unit(vectors: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Scale to unit length, (n_texts, dim); `rows` are the texts' positions in the caller's list."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n_texts, 1)
    if not np.isfinite(lengths).all():
        position = int(rows[np.flatnonzero(~np.isfinite(lengths[:, 0]))[0]])
        raise EncodingFailed(
            f"the model gave a vector that is not finite for text {position + 1}",
            hint="Its files may be damaged: fetch the model again.",
        )
    if not lengths.all():
        position = int(rows[np.flatnonzero(lengths[:, 0] == 0)[0]])
        raise TextNotEncodable(
            "the model knows none of its words, so that its vector has no direction",
            hint="Rephrase the text or remove it.",
            position=position,
        )
    unit: NDArray[np.float32] = vectors / lengths
    return unit
