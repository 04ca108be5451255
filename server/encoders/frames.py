"""What server and encoder process say to each other: one byte of kind, eight of length, then JSON or raw arrays.

Arrays are little-endian. Nothing is pickled. Imports numpy and nothing of the server: the encoder process needs
this module, and is to stay small.
"""

import json
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frame = tuple["Kind", bytearray]

_HEAD = "<BQ"  # kind, length
_HEAD_BYTES = 9


class Kind(IntEnum):
    """What a frame holds."""

    START = 1  # JSON: which model to open, and how
    READY = 2  # JSON: what the server must know of it
    TOKENS = 3  # token ids of a batch
    TEXTS = 4  # JSON: the texts of a batch, and their role
    VECTORS = 5
    FAILED = 6  # JSON: class, message and hint of an error


def send(connection: socket.socket, kind: Kind, content: bytes) -> None:
    """Send one frame. Raises OSError if nobody is there to take it."""
    connection.sendall(struct.pack(_HEAD, kind, len(content)) + content)


def receive(connection: socket.socket) -> Frame:
    """Wait for one frame. Raises EOFError if the other side is gone, OSError if it went in the middle."""
    kind, n_bytes = struct.unpack(_HEAD, _receive_exactly(connection, _HEAD_BYTES))
    return Kind(kind), _receive_exactly(connection, n_bytes)


def pack_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def unpack_json(content: bytearray) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(content)
    return found


def pack_tokens(ids: Sequence[NDArray[np.int32]]) -> bytes:
    """Number of texts, tokens of each, then all ids, as int32."""
    lengths = [len(ids), *(len(each) for each in ids)]
    return np.concatenate([np.array(lengths, np.int32), *ids]).astype("<i4", copy=False).tobytes()


def unpack_tokens(content: bytearray, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `padded`, of what `pack_tokens` made."""
    numbers = np.frombuffer(content, "<i4")
    n_texts = int(numbers[0])
    return padded(numbers[1 : 1 + n_texts], numbers[1 + n_texts :], pad_id)


def padded(
    lengths: NDArray[np.int32], all_ids: NDArray[np.int32], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask of a batch, int64 (n_texts, longest), padded at the end.

    Args:
        lengths: int32 (n_texts,), tokens of each. all_ids: int32 (their sum,), one text behind the other.
    """
    longest = int(lengths.max(initial=1))  # a text of no tokens still needs a column
    mask = np.arange(longest) < lengths[:, None]  # (n_texts, longest)
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = all_ids
    return ids, mask.astype(np.int64)


def pack_vectors(vectors: NDArray[np.float32]) -> bytes:
    """Number of vectors, dimension, then the numbers, (n_texts, dim) row by row."""
    return np.array(vectors.shape, "<u4").tobytes() + vectors.astype("<f4", copy=False).tobytes()


def unpack_vectors(content: bytearray) -> NDArray[np.float32]:
    """float32 (n_texts, dim)."""
    n_texts, dim = (int(size) for size in np.frombuffer(content, "<u4", 2))
    numbers: NDArray[np.float32] = np.frombuffer(content, "<f4", offset=8).astype(np.float32, copy=False)
    return numbers.reshape(n_texts, dim)


def _receive_exactly(connection: socket.socket, n_bytes: int) -> bytearray:
    content = bytearray(n_bytes)
    rest = memoryview(content)
    while rest:
        n_read = connection.recv_into(rest)
        if n_read == 0:
            raise EOFError("the other side is gone")
        rest = rest[n_read:]
    return content
