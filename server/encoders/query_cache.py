"""Vectors of recent queries, so that the same question isn't encoded again."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from server.encoders.errors import TextNotEncodable
from server.encoders.fingerprint import Fingerprint

Vector = NDArray[np.float32]  # (dim,)
Vectors = NDArray[np.float32]  # (n_texts, dim)


class QueryCache:
    """The last `size` queries' vectors, by fingerprint and text; the one used longest ago goes first.

    Takes 4 bytes a dimension and some 300 beside: 1000 queries of 384 dimensions are 1.8 MB. Of the texts only
    digests are kept. `hits` and `misses` count queries; one that waits for another caller's vector is a hit.
    """

    def __init__(self, fingerprint: Fingerprint, size: int) -> None:
        self._size = size
        self._salt = hashlib.blake2b(fingerprint.to_json().encode(), digest_size=32).digest()
        self._lock = threading.Lock()  # guards all below
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()
        self._coming: dict[bytes, Future[Vector | None]] = {}  # what callers are about to encode
        self.hits = 0
        self.misses = 0

    def encode(self, texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]) -> Vectors:
        """The texts' vectors, those that aren't known from `encode`, all in one call.

        A text that another caller is encoding is waited for. Any thread; raises what `encode` raises, with the
        position in `texts`.
        """
        if not texts:
            return encode(texts)
        keys = [self._key(text) for text in texts]
        found: dict[bytes, Vector] = {}
        mine: dict[bytes, int] = {}  # where in `texts` each stands that is to be encoded here
        coming: dict[bytes, Future[Vector | None]] = {}
        with self._lock:
            for position, key in enumerate(keys):
                if key in self._vectors:
                    self._vectors.move_to_end(key)
                    found[key] = self._vectors[key]
                elif key in self._coming:
                    coming[key] = self._coming[key]
                elif key not in mine:
                    mine[key] = position
            self._coming |= {key: Future() for key in mine}
            self.misses += len(mine)
            self.hits += len(keys) - len(mine)
        if mine:
            try:
                found |= _encode_at(mine, texts, encode)
            finally:
                self._keep(mine, found)
        for key, future in coming.items():
            vector = future.result()
            if vector is None:  # the other caller failed, perhaps over another text of its own
                vector = _encode_at({key: keys.index(key)}, texts, encode)[key]
            found[key] = vector
        return np.stack([found[key] for key in keys])

    def knows(self, text: str) -> bool:
        """Whether the text's vector is at hand."""
        with self._lock:
            return self._key(text) in self._vectors

    def _keep(self, keys: Mapping[bytes, int], found: Mapping[bytes, Vector]) -> None:
        """Hand over what was encoded for those keys; what was not is nobody's any more."""
        with self._lock:
            for key in keys:
                self._coming.pop(key).set_result(found.get(key))
                if key in found:
                    self._vectors[key] = found[key]
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)

    def _key(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._salt, digest_size=16).digest()


def _encode_at(
    places: Mapping[bytes, int], texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]
) -> dict[bytes, Vector]:
    """Encode the texts at those places. A copy of each vector: a row would keep its whole batch in memory."""
    positions = list(places.values())
    try:
        vectors = encode([texts[position] for position in positions])
    except TextNotEncodable as error:
        error.position = positions[error.position]
        raise
    return {key: vector.copy() for key, vector in zip(places, vectors, strict=True)}
