"""The encoder whose model runs in another program, reached over HTTP."""

import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.encoders.encoder import never
from server.encoders.errors import (
    EncoderUnavailable,
    EncodingStopped,
    RemoteEncoderRefused,
    TextNotEncodable,
)
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.passages import PassageSplitter
from server.encoders.query_cache import QueryCache
from server.encoders.remote_batches import BatchSize
from server.encoders.remote_host import Host, Patience
from server.encoders.remote_probes import PROBES
from server.encoders.remote_protocols import Answer
from server.encoders.remote_refusals import TextRefused, TooMany
from server.encoders.remote_tokens import Limits
from server.encoders.tokens import MAX_CHARACTERS_A_TOKEN, TokenCounter, check_text

LAYER_NORM = "+layernorm"  # what the fingerprint's `pooling` says where we do that step
FIRST_POLL_S, LONGEST_POLL_S = 1.0, 30.0

Learn = Callable[[], Limits]


class RemoteEncoder:
    """A program at another address; the methods are those of the Encoder protocol, and some more.

    Each call does its own asking, in the thread that it came in: a search never waits for an ingest here. Tokens
    are counted with a stand-in (see remote_tokens), so that `max_tokens` and the length of passages are estimates
    on the safe side. Texts are sent in batches whose size follows what the program takes and how fast it is.
    """

    def __init__(
        self,
        host: Host,
        fingerprint: Fingerprint,
        counter: TokenCounter,
        limits: Limits,
        learn: Learn | None,
        *,
        patience: Patience,
        batch_tokens: int,
        query_cache: int,
        adds_prompts: bool,
    ) -> None:
        """`learn` asks the program for its limits, once, before the first document; None: `limits` are those."""
        self.fingerprint = fingerprint
        self._host = host
        self._counter = counter
        self._limits = limits
        self._splitter = PassageSplitter(counter, limits.passage, limits.overlap)
        self._learn = learn
        self._learning = threading.Lock()  # guards _learn; _limits and _splitter are replaced under it
        self._size = BatchSize(batch_tokens)
        self.query_cache = QueryCache(fingerprint, query_cache)
        self._adds_prompts = adds_prompts
        self._patience = patience
        self._closed = threading.Event()

    @property
    def n_waiting(self) -> int:
        return 0

    @property
    def is_down(self) -> bool:
        """Whether the last request found nobody who could answer."""
        return self._host.is_down

    @property
    def max_tokens(self) -> int:
        """Tokens that the program reads of a text, as far as is known; `fingerprint.max_tokens` or fewer."""
        return self._limits.max_tokens

    def count_tokens(self, texts: Sequence[str], role: Role) -> NDArray[np.int64]:
        """int64 (n_texts,): about how many tokens each text is to the program, prompt included; rather too many."""
        counted = self._counter.count(texts, role)
        # What is within the limit as we count stays so: floor(limit / ratio) × ratio can be a hair above it.
        tokens: NDArray[np.int64] = np.ceil(counted * self._limits.ratio - 1e-9).astype(np.int64)
        return tokens

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the protocol says. Asked again once at most, and not at all while the program is down.

        Raises:
            RemoteEncoderDown, RemoteEncoderRefused: besides those of the protocol.
        """
        for position, text in enumerate(texts):
            check_text(text, position)
        texts = [self._first_part(text) for text in texts]
        return self.query_cache.encode(texts, self._encode_queries)

    def query_is_known(self, text: str) -> bool:
        return self.query_cache.knows(text)

    def query_fits(self, text: str) -> bool:
        check_text(text)
        return self._first_part(text) == text

    def encode_documents(self, texts: Sequence[str], stop: Callable[[], bool] = never) -> NDArray[np.float32]:
        """As the protocol says; `stop` is asked between tries too.

        Raises:
            RemoteEncoderDown, RemoteEncoderRefused: besides those of the protocol.
        """
        for position, text in enumerate(texts):
            check_text(text, position)
        self._learn_once()
        lengths = self._counter.count(texts, Role.DOCUMENT)
        too_long = np.flatnonzero(lengths > self._limits.counted)
        if len(too_long):
            position = int(too_long[0])
            n_tokens = math.ceil(int(lengths[position]) * self._limits.ratio)
            raise TextNotEncodable(
                f"the passage has about {n_tokens} tokens, the model reads {self.max_tokens}",
                hint="Split the text first, or send it again: it was split for a model that reads more.",
                position=position,
            )
        return self._encode(texts, lengths, Role.DOCUMENT, self._patience, stop)

    def split(self, text: str) -> list[tuple[int, int]]:
        return self._splitter.split(text)

    def wait_until_back(self, stop: threading.Event) -> None:
        """Return when the program answers with vectors, when `stop` is set, or when the encoder is closed.

        It is asked at once, then after 1 s, 2 s and so on to 30 s.
        """
        once = Patience(tries=1, first_wait_s=0, longest_wait_s=0)
        wait_s = FIRST_POLL_S
        while not stop.is_set() and not self._closed.is_set():
            try:
                self._host.ask(PROBES[:1], Role.DOCUMENT, once)
            except (EncoderUnavailable, RemoteEncoderRefused, TooMany, TextRefused):
                end = time.monotonic() + wait_s
                while time.monotonic() < end and not self._closed.is_set() and not stop.is_set():
                    stop.wait(min(1.0, wait_s))
                wait_s = min(2 * wait_s, LONGEST_POLL_S)
            else:
                return

    def close(self) -> None:
        self._closed.set()
        self._host.close()

    def _encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tries = 1 if self._host.is_down else min(2, self._patience.tries)
        patience = Patience(tries, self._patience.first_wait_s / 2, 1.0, repeats_timeouts=False)
        lengths = self._counter.count(texts, Role.QUERY)
        return self._encode(texts, lengths, Role.QUERY, patience, never)

    def _encode(
        self,
        texts: Sequence[str],
        lengths: NDArray[np.int64],
        role: Role,
        patience: Patience,
        stop: Callable[[], bool],
    ) -> NDArray[np.float32]:
        """Batch by batch, the longest texts first; one that is refused is halved until the text is found."""
        vectors = np.empty((len(texts), self.fingerprint.dim), np.float32)
        prompt = self.fingerprint.prompt(role) if self._adds_prompts else ""
        order = np.argsort(-lengths, kind="stable")
        halves: list[NDArray[np.intp]] = []  # of a batch with a text that was refused
        while halves or len(order):
            if stop():
                raise EncodingStopped("the encoding was stopped before its end")
            if halves:
                rows = halves.pop()
            else:
                n_rows = self._size.take(lengths[order])
                rows, order = order[:n_rows], order[n_rows:]
            started = time.monotonic()
            try:
                answer = self._host.ask([prompt + texts[row] for row in rows], role, patience, stop)
            except TooMany as error:
                self._size.too_many(len(rows), error.is_timeout)
                order = np.concatenate([rows, order])
            except TextRefused as error:
                if len(rows) == 1:
                    raise TextNotEncodable(
                        str(error),
                        hint="Lower encoder.max_tokens or passages.max_tokens.",
                        position=int(rows[0]),
                    ) from error
                middle = len(rows) // 2
                halves += [rows[middle:], rows[:middle]]
            else:
                self._size.answered(len(rows), int(lengths[rows[0]]), time.monotonic() - started)
                vectors[rows] = self._unit(answer, rows)
        return vectors

    def _unit(self, answer: Answer, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Unit vectors, (n_texts, dim); `rows` are the texts' positions in the caller's list."""
        vectors, dim = answer.vectors, self.fingerprint.dim
        if vectors.shape[1] != dim:
            raise RemoteEncoderRefused(
                f"the program that encodes gives {vectors.shape[1]} dimensions; the data has {dim}",
                hint=f"Have it load the model that made the data: {self.fingerprint.model}.",
            )
        bad = ~np.isfinite(vectors).all(axis=1)  # (n_texts,)
        if bad.all() and len(rows) > 1:
            raise RemoteEncoderRefused(f"none of {len(rows)} vectors of one answer is finite")
        if self.fingerprint.pooling.endswith(LAYER_NORM):
            # Its other step, a scale, is undone by the unit length.
            vectors = vectors - vectors.mean(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):  # of the bad ones
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # (n_texts, 1)
        bad |= lengths[:, 0] == 0
        if bad.any():
            raise TextNotEncodable(
                "the program that encodes gives no usable vector for it: one not finite, or all zeros",
                hint="Rephrase the text or remove it.",
                position=int(rows[np.argmax(bad)]),
            )
        return np.asarray(vectors / lengths, np.float32)

    def _first_part(self, text: str) -> str:
        """As much of a query as the program reads."""
        counted = self._limits.counted
        text = text[: counted * MAX_CHARACTERS_A_TOKEN]
        excess = int(self._counter.count([text], Role.QUERY)[0]) - counted
        while excess > 0:
            ends = [end for _, end in self._counter.tokenizer.encode(text, add_special_tokens=False).offsets]
            text = text[: ends[max(0, len(ends) - excess - 1)]] if excess < len(ends) else ""
            excess = int(self._counter.count([text], Role.QUERY)[0]) - counted if text else 0
        return text

    def _learn_once(self) -> None:
        with self._learning:
            if self._learn is not None:
                self._limits = self._learn()
                self._splitter = PassageSplitter(self._counter, self._limits.passage, self._limits.overlap)
                self._learn = None
