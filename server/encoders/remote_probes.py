"""What a program that encodes is asked once, before it is trusted: dimension, steadiness, tokens, and how far it reads.

About a dozen requests of short texts and, mostly, one of two long ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from server.encoders.errors import RemoteEncoderDown, RemoteEncoderRefused
from server.encoders.remote_protocols import Answer
from server.encoders.remote_refusals import TextRefused, TooMany
from server.encoders.remote_tokens import (
    LARGEST_RATIO,
    LEAST_RATIO,
    MARGIN,
    RATIO_PROBES,
    UNKNOWN_RATIO,
)

Ask = Callable[[Sequence[str]], Answer]
CountTokens = Callable[[Sequence[str]], NDArray[np.int64]]

PROBES = ("twopass", "Two passes find what one would miss.")
STEADY = 1e-3  # how much a number of a unit vector may change from call to call; half precision stays below
LEAST_TOKENS = 32  # a program that doesn't read this far reads nothing
# What differs between two long texts: their last 1/64. It moved all-MiniLM's vectors by 0.0025 in cosine at 512
# tokens, and means of word vectors, which dilute it most, by 0.00015 at 2048 to 32 768. Cut texts are the same.
END_SHARE, END_TOKENS = 64, 12
SAME_COSINE = 1 - 1e-5
HEAD = (
    "The ferry comes twice a day and the post once. ",
    "A clerk keeps a ledger of arrivals, departures and small complaints. ",
    "Snails spend the winter sealed in their shells, under a stone or in a wall. ",
    "Bread is left to rise overnight and baked before the street wakes up. ",
)
ENDS = (
    "Volcanoes throw ash over the glacier and molten rock runs down to the sea. ",
    "The committee paid for insurance, postage and seven train tickets to the capital. ",
)


@dataclass(frozen=True)
class Ratio:
    """The program's tokens for each that we count: the largest of several scripts, and that of English."""

    largest: float
    english: float


@dataclass(frozen=True)
class Reach:
    """How far the program reads: `max_tokens`, by its own tokenizer; `why`, where that is less than was asked for."""

    max_tokens: int
    why: str


def probe_dim(ask: Ask) -> int:
    """The dimension, from two texts asked for twice, the second time the other way round.

    Raises:
        RemoteEncoderRefused: the vectors are none, all the same, or change from call to call.
    """
    first = _unit(ask(PROBES).vectors)
    second = _unit(ask(PROBES[::-1]).vectors)[::-1]
    if first.shape != second.shape:
        raise RemoteEncoderRefused(
            f"two requests for the same texts gave {first.shape[1]} and {second.shape[1]} dimensions"
        )
    if np.abs(first - second).max() > STEADY:
        raise RemoteEncoderRefused(
            f"two requests for the same texts gave vectors that differ by {np.abs(first - second).max():.3f}",
            hint="Is encoder.model a model for embeddings? Do several models answer at encoder.url?",
        )
    if np.abs(first[0] - first[1]).max() < STEADY:
        raise RemoteEncoderRefused(
            "two different texts have the same vector", hint="Is encoder.model a model for embeddings?"
        )
    return int(first.shape[1])


def probe_ratio(ask: Ask, tokenizer: Tokenizer) -> Ratio:
    """The program's tokens for each that `tokenizer` counts; a guess on the safe side where it doesn't say.

    Infinity says how many characters it read, unless told to tokenize.
    """
    unknown = Ratio(UNKNOWN_RATIO, UNKNOWN_RATIO)
    said: list[int] = []
    for text in RATIO_PROBES:
        try:
            n_tokens = ask([text]).n_tokens
        except TextRefused:  # too long already: how far it reads is found out next
            n_tokens = None
        if n_tokens is None:
            return unknown
        said.append(n_tokens)
    if all(abs(n_tokens - len(text)) <= 2 for n_tokens, text in zip(said, RATIO_PROBES, strict=True)):
        return unknown
    counted = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(RATIO_PROBES))]
    ratios = [n_tokens / ours * MARGIN for n_tokens, ours in zip(said, counted, strict=True)]
    if max(ratios) > LARGEST_RATIO:
        return unknown
    return Ratio(max(LEAST_RATIO, *ratios), max(LEAST_RATIO, ratios[0]))


def probe_reach(ask: Ask, count: CountTokens, ratio: float, max_tokens: int) -> Reach:
    """How many tokens the program reads to their end, `max_tokens` or one half after another of it.

    Two texts that differ only at their end must have different vectors.

    Raises:
        RemoteEncoderRefused: it doesn't read to the end of LEAST_TOKENS.
    """
    tokens, why = max_tokens, ""
    last: Exception | None = None
    while tokens >= LEAST_TOKENS:
        try:
            first, second = _unit(ask(_long_texts(count, math.floor(tokens / ratio))).vectors)
        except (TextRefused, TooMany, RemoteEncoderDown) as error:
            # Down: too slow for one text of this length, or crashed over it; if it stays down, the last try says so.
            why, last = str(error), error
        else:
            if float(first @ second) < SAME_COSINE:
                return Reach(tokens, why)
            why, last = f"of {tokens} tokens it doesn't read the last", None
        tokens //= 2
    if isinstance(last, RemoteEncoderDown):
        raise last
    raise RemoteEncoderRefused(
        f"the program that encodes doesn't read {LEAST_TOKENS} tokens: {why}",
        hint="Is encoder.model a model for embeddings? Raise the context length it is loaded with.",
    )


def _long_texts(count: CountTokens, n_counted: int) -> list[str]:
    """Two English texts of as many tokens as `count` may give, alike but for the last 1/END_SHARE."""
    head = _repeated(HEAD, count, n_counted - max(END_TOKENS, n_counted // END_SHARE))
    room = n_counted - int(count([head])[0])
    return [head + _repeated((end,), count, room + int(count([""])[0])) for end in ENDS]


def _repeated(sentences: Sequence[str], count: CountTokens, n_counted: int) -> str:
    """The sentences over and over, cut at a word, as long as `n_counted` allows; at least one word."""
    words = " ".join(sentences).split()
    a_round = max(1, int(count([" ".join(words)])[0]) - int(count([""])[0]))
    many = words * (n_counted // a_round + 1)
    low, high = 1, len(many)  # low words fit, or nothing does
    while low < high:
        middle = (low + high + 1) // 2
        if int(count([" ".join(many[:middle])])[0]) <= n_counted:
            low = middle
        else:
            high = middle - 1
    return " ".join(many[:low]) + " "


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise RemoteEncoderRefused(
            "the vectors of the probe texts are not finite, or all zeros",
            hint="Is encoder.model a model for embeddings? Some models need another number format on this hardware.",
        )
    unit: NDArray[np.float32] = vectors / lengths
    return unit
