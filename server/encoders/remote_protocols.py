"""What goes to a program that encodes, and what comes back: OpenAI's /v1/embeddings and Ollama's /api/embed.

Nothing here talks to the network. What each program does was read in its source: text-embeddings-inference and
Infinity answer with floats or base64, LM Studio with floats whatever was asked and 0 for the tokens, llama.cpp
with null where a number is not finite; none of them needs `index`, some give it.
"""

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from server.encoders.errors import RemoteEncoderRefused
from server.encoders.fingerprint import Role

VERSION = re.compile(r"v\d\w*")  # a part of a path, as in /v1, or /v1beta/openai
NOT_EMBEDDINGS = (
    "Compare encoder.url with the address of that program's embeddings; encoder.backend says which kind."
)


@dataclass(frozen=True, eq=False)
class Answer:
    """What one request brought.

    `vectors` is float32 (n_texts, dim), in the order of the texts, of any length, perhaps with NaN or infinities.
    `n_tokens` is how many tokens the program says it read of all texts together; None where it doesn't say.
    """

    vectors: NDArray[np.float32]
    n_tokens: int | None


class Wire(Protocol):
    """One way to ask for vectors over HTTP."""

    addresses: tuple[str, ...]
    """Where to ask; the first one that isn't answered with 404 is the one."""

    def body(self, texts: Sequence[str], role: Role) -> dict[str, Any]:
        """The JSON to send. `texts` go as they are."""
        ...

    def read(self, content: Any, n_texts: int) -> Answer:
        """Take the parsed JSON of an answer apart.

        Raises:
            RemoteEncoderRefused: it doesn't hold one vector for each text, all of one length.
        """
        ...


class OpenAIWire:
    """OpenAI's, and that of nearly all others. `dimensions` is never sent: full vectors are what we store."""

    def __init__(self, url: str, model: str) -> None:
        self.addresses = openai_addresses(url)
        self.asks_base64 = True  # a third of the bytes; who can't give it sends numbers, or says so
        self.names_role = False  # only twopass knows `input_type`; others may refuse what they don't know
        self._model = model

    def body(self, texts: Sequence[str], role: Role) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "input": list(texts)}
        if self.asks_base64:
            body["encoding_format"] = "base64"
        if self.names_role:
            body["input_type"] = role.value
        return body

    def read(self, content: Any, n_texts: int) -> Answer:
        items = content.get("data") if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise RemoteEncoderRefused("the answer has no list `data` of embeddings", hint=NOT_EMBEDDINGS)
        _check_count(len(items), n_texts)
        places = [item.get("index") for item in items]
        if any(place is not None for place in places):
            if any(type(place) is not int for place in places) or sorted(places) != list(range(n_texts)):
                raise RemoteEncoderRefused(
                    f"the answer numbers its {n_texts} embeddings {places[:10]}, not 0 to {n_texts - 1}"
                )
            items = [item for _, item in sorted(zip(places, items, strict=True), key=lambda pair: pair[0])]
        usage = content.get("usage")
        n_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return Answer(_stacked([item.get("embedding") for item in items]), _count(n_tokens))


class OllamaWire:
    """Ollama's own. `truncate: false` has it refuse what it would else cut in silence."""

    def __init__(self, url: str, model: str) -> None:
        self.addresses: tuple[str, ...] = (ollama_address(url),)
        self._model = model

    def body(self, texts: Sequence[str], role: Role) -> dict[str, Any]:
        return {"model": self._model, "input": list(texts), "truncate": False}

    def read(self, content: Any, n_texts: int) -> Answer:
        items = content.get("embeddings") if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise RemoteEncoderRefused("the answer has no list `embeddings`", hint=NOT_EMBEDDINGS)
        _check_count(len(items), n_texts)
        return Answer(_stacked(items), _count(content.get("prompt_eval_count")))


def openai_addresses(url: str) -> tuple[str, ...]:
    """Where embeddings may be, given http://host, http://host/v1 or http://host/v1/embeddings.

    Without a version, /v1/embeddings is tried first, then /embeddings, where Infinity has them.
    """
    path = urlsplit(url).path.rstrip("/")
    if path.endswith("/embeddings"):
        return (_with_path(url, path),)
    if any(VERSION.fullmatch(part) for part in path.split("/")):
        return (_with_path(url, f"{path}/embeddings"),)
    return (_with_path(url, f"{path}/v1/embeddings"), _with_path(url, f"{path}/embeddings"))


def ollama_address(url: str) -> str:
    """Ollama's own address, also where somebody gave the one of its OpenAI side."""
    path = urlsplit(url).path.rstrip("/")
    for ending in ("/v1/embeddings", "/v1", "/api/embed", "/api"):
        path = path.removesuffix(ending)
    return _with_path(url, f"{path}/api/embed")


def models_address(embeddings: str) -> str:
    """Where the models are listed, beside an address of embeddings in OpenAI's shape."""
    return _with_path(embeddings, urlsplit(embeddings).path.removesuffix("/embeddings") + "/models")


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=path))


def _check_count(n_vectors: int, n_texts: int) -> None:
    if n_vectors != n_texts:
        raise RemoteEncoderRefused(f"{n_texts} texts were sent and {n_vectors} embeddings came back")


def _count(value: Any) -> int | None:
    """A number of tokens; LM Studio says 0 and means that it didn't count."""
    return value if type(value) is int and value > 0 else None


def _stacked(items: Sequence[Any]) -> NDArray[np.float32]:
    """(n_texts, dim) float32 of lists of numbers, or of base64 of little-endian float32."""
    vectors = [_vector(item) for item in items]
    dims = sorted({vector.shape[0] if vector.ndim == 1 else 0 for vector in vectors})
    if len(dims) != 1 or dims[0] == 0:
        raise RemoteEncoderRefused(
            f"the embeddings of one answer are not lists of one length: {dims}", hint=NOT_EMBEDDINGS
        )
    return np.stack(vectors)


def _vector(item: Any) -> NDArray[np.float32]:
    try:
        if isinstance(item, str):
            return np.frombuffer(binascii.a2b_base64(item, strict_mode=True), "<f4").astype(np.float32)
        if isinstance(item, list):
            with np.errstate(over="ignore"):  # 1e300 becomes an infinity, which is found later
                return np.array([np.nan if number is None else number for number in item], np.float32)
    except (ValueError, TypeError) as error:
        raise RemoteEncoderRefused(f"an embedding can't be read: {error}", hint=NOT_EMBEDDINGS) from error
    raise RemoteEncoderRefused(
        f"an embedding is neither numbers nor base64, but a {type(item).__name__}", hint=NOT_EMBEDDINGS
    )
