"""Vectors for other programs: texts in, unit vectors out, nothing stored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from index.vectors import Float32, prefixes
from server.checks import check_count, check_utf8
from server.encoders.encoder import Encoder
from server.encoders.fingerprint import Role
from server.encoders.known import known
from server.errors import InputError, InputTooLongError, NoEncoderError, TooLargeError, UnknownModelError
from server.settings import LimitSettings


@dataclass(frozen=True, eq=False)
class Embedded:
    """`vectors` is float32 (n_texts, dimensions), unit length; `n_tokens` what the model read of all texts."""

    vectors: Float32
    n_tokens: int


def model_names(encoder: Encoder) -> list[str]:
    """What the encoder's model may be called, its own name first."""
    names = [encoder.fingerprint.model, encoder.fingerprint.model.rpartition("/")[2]]
    if (model := known(names[0])) is not None:
        names += [model.name, model.name.rpartition("/")[2], *model.aliases]
    return list(dict.fromkeys(names))


def encoder_named(encoder: Encoder | None, model: str) -> Encoder:
    """The encoder, if it goes by that name.

    Raises:
        UnknownModelError: it has another one.
        NoEncoderError: there is none.
    """
    if encoder is None:
        raise NoEncoderError("this server has no model to encode text", "input")
    names = model_names(encoder)
    if model not in names:
        raise UnknownModelError(f"there is no model {model!r} here", f"This server has: {', '.join(names)}")
    return encoder


def embed(
    encoder: Encoder,
    texts: Sequence[str],
    role: Role,
    dimensions: int | None,
    limits: LimitSettings,
    stop: Callable[[], bool],
) -> Embedded:
    """Encode texts, together with what others have encoded at the same time; `stop` ends it between batches.

    Raises:
        TooLargeError: more texts than one request may bring, or a longer one.
        InputTooLongError: a text is longer than the model reads; nothing is cut.
        InputError: a text is empty or no text, or `dimensions` more than the model has.
        EncoderError: as the encoder says.
    """
    dim = encoder.fingerprint.dim
    if dimensions is not None and dimensions > dim:
        raise InputError(
            f"dimensions is {dimensions}, but the model has {dim}",
            "dimensions",
            "Ask for fewer, or leave it out.",
        )
    check_count(len(texts), "texts", limits.documents_per_request, "documents_per_request")
    if not texts:
        raise InputError("there are no texts in the request", "input", "Send at least one.")
    for at, text in enumerate(texts):
        n_bytes = len(check_utf8(text, f"input[{at}]"))
        if n_bytes > limits.text_bytes:
            raise TooLargeError(
                f"input[{at}] has {n_bytes} bytes; the limit is {limits.text_bytes}",
                "Split it, or raise limits.text_bytes.",
            )
        if not text:
            raise InputError("the text is empty", f"input[{at}]", "Leave it out, or give it a text.")
    lengths = encoder.count_tokens(texts, role)
    too_long = np.flatnonzero(lengths > encoder.max_tokens)
    if len(too_long):
        at = int(too_long[0])
        raise InputTooLongError(
            f"input[{at}] has {lengths[at]} tokens, its prompt included; the model reads {encoder.max_tokens}",
            f"input[{at}]",
        )
    vectors = encoder.encode_queries(texts) if role is Role.QUERY else encoder.encode_documents(texts, stop)
    return Embedded(
        vectors if dimensions in (None, dim) else prefixes(vectors, dimensions), int(lengths.sum())
    )
