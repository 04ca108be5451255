"""Token ids in, vectors out, by ONNX Runtime: an exported model at work, in whichever process.

Imports numpy, onnxruntime and little else: every import is memory that a small machine lacks.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import RunOptions

from server.encoders.frames import pack_vectors, padded, unpack_tokens
from server.encoders.onnx_session import open_session
from server.memory import give_back

# A batch of 1024 tokens leaves 40 MiB in ONNX Runtime's arena, one of 256 tokens 10. What large ones left is given
# back when none has followed for a second, which takes as long as a short query does.
LARGE_BATCH_TOKENS = 256
LARGE_FOR_S = 1.0


class OnnxRunner:
    """The methods are those of the Runner protocol; several threads encode with one copy of the weights."""

    def __init__(self, folder: Path, threads: int, pad_id: int) -> None:
        self._session = open_session(folder, threads)
        give_back()  # what reading the file left behind: 13 MiB of all-MiniLM-L6-v2
        self._names = {each.name for each in self._session.get_inputs()}
        self._pad_id = pad_id
        self._lock = threading.Lock()
        self._large_until: float | None = None  # time.monotonic; None: the arena is small
        self._shrinking = RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def about(self) -> dict[str, Any]:
        return {}

    def encode(self, content: bytearray) -> bytes:
        return pack_vectors(self._run(*unpack_tokens(content, self._pad_id)))

    def embed(self, texts: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Encode one batch. texts: of each its token ids, int32 (n_tokens,). Returns float32 (n_texts, dim)."""
        lengths = np.array([len(each) for each in texts], np.int32)
        return self._run(*padded(lengths, np.concatenate(texts), self._pad_id))

    def _run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """ids and mask: int64 (n_texts, longest)."""
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: array for name, array in inputs.items() if name in self._names}
        shrink = self._is_time_to_shrink(ids.size)
        [vectors] = self._session.run(["vectors"], feed, self._shrinking if shrink else None)
        if shrink:
            give_back()
        found: NDArray[np.float32] = vectors
        return found

    @property
    def patience_s(self) -> float | None:
        until = self._large_until
        return None if until is None else max(0.0, until - time.monotonic())

    def rest(self) -> None:
        self.embed([np.array([self._pad_id], np.int32)])

    def _is_time_to_shrink(self, n_tokens: int) -> bool:
        """Whether this batch is to give back what large ones before it left; true for one batch only."""
        now = time.monotonic()
        with self._lock:
            if n_tokens > LARGE_BATCH_TOKENS:
                self._large_until = now + LARGE_FOR_S
            elif self._large_until is not None and now >= self._large_until:
                self._large_until = None
                return True
            return False
