"""The encoder whose model runs in this process."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.encoders.batching import EncodingQueue, JobLine, cut_into_batches
from server.encoders.encoder import never
from server.encoders.errors import EncodingFailed, EncodingStopped, TextNotEncodable
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.model import Model
from server.encoders.passages import PassageSplitter
from server.encoders.tokens import MAX_CHARACTERS_A_TOKEN, check_text
from server.settings import PassageSettings, SettingsError

MIN_TEXT_TOKENS = 16  # tokens of text that a passage must hold beside the prompt; shorter ones say nothing


class LocalEncoder:
    """A model, a splitter and a queue; the methods are those of the Encoder protocol."""

    def __init__(self, model: Model, batch_tokens: int, passages: PassageSettings) -> None:
        """Start the model's thread.

        Raises:
            SettingsError: the passages asked for don't suit the model.
        """
        max_tokens = _passage_tokens(model, passages)
        self._model = model
        self._batch_tokens = batch_tokens
        self._splitter = PassageSplitter(model.token_counter, max_tokens, passages.overlap_tokens)
        self._queue = EncodingQueue(model.embed, JobLine(batch_tokens))

    @property
    def fingerprint(self) -> Fingerprint:
        return self._model.fingerprint

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        for position, text in enumerate(texts):
            check_text(text, position)
        # What lies beyond can't be among the tokens that the model reads, and would only cost time.
        texts = [text[: self._query_characters] for text in texts]
        lengths = self._model.token_counter.count(texts, Role.QUERY)
        return self._encode(texts, np.minimum(lengths, self.fingerprint.max_tokens), Role.QUERY, never)

    def query_fits(self, text: str) -> bool:
        if len(text) > self._query_characters:
            return False
        check_text(text)
        [length] = self._model.token_counter.count([text], Role.QUERY)
        return bool(length <= self.fingerprint.max_tokens)

    def encode_documents(self, texts: Sequence[str], stop: Callable[[], bool] = never) -> NDArray[np.float32]:
        for position, text in enumerate(texts):
            check_text(text, position)
        lengths = self._model.token_counter.count(texts, Role.DOCUMENT)
        too_long = np.flatnonzero(lengths > self.fingerprint.max_tokens)
        if len(too_long):
            position = int(too_long[0])
            raise TextNotEncodable(
                f"the passage has {lengths[position]} tokens, the model reads {self.fingerprint.max_tokens}",
                hint="Split the text first.",
                position=position,
            )
        return self._encode(texts, lengths, Role.DOCUMENT, stop)

    def split(self, text: str) -> list[tuple[int, int]]:
        return self._splitter.split(text)

    def close(self) -> None:
        self._queue.close()

    @property
    def _query_characters(self) -> int:
        return self.fingerprint.max_tokens * MAX_CHARACTERS_A_TOKEN

    def _encode(
        self, texts: Sequence[str], lengths: NDArray[np.int64], role: Role, stop: Callable[[], bool]
    ) -> NDArray[np.float32]:
        """Encode batch by batch; the calling thread waits for each, so that others get their turn between."""
        vectors = np.empty((len(texts), self.fingerprint.dim), np.float32)
        for rows in cut_into_batches(lengths, self._batch_tokens):
            if stop():
                raise EncodingStopped("the encoding was stopped before its end")
            batch = self._queue.run([texts[row] for row in rows], int(lengths[rows].max()), role)
            vectors[rows] = _unit(batch, rows)
        return vectors


def _passage_tokens(model: Model, passages: PassageSettings) -> int:
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
