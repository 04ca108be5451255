"""The exported model without any of twopass around it: onnxruntime and tokenizers, one call after another."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from server.encoders.batching import cut_into_batches
from server.encoders.bundled import find_bundled
from server.encoders.cores import n_cores
from server.encoders.exports import find_export
from server.encoders.model_files import combined_digest, file_digests
from server.encoders.onnx_session import open_session


class BareEncoder:
    """The bundled model's export, in this process, with as many threads as the server gives it."""

    def __init__(self, models_dir: Path, precision: str, batch_tokens: int) -> None:
        weights_sha256 = combined_digest(file_digests(find_bundled().path))
        export = find_export(models_dir, weights_sha256, precision)
        assert export is not None, "a server that was started before has made it"
        self._session = open_session(export.folder, n_cores())
        self._names = [each.name for each in self._session.get_inputs()]
        self._tokenizer = Tokenizer.from_file(str(export.folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(export.fingerprint.max_tokens)
        self._pad_id = export.pad_id
        self._batch_tokens = batch_tokens

    def call_ms(self, text: str) -> float:
        """Milliseconds of the one call of onnxruntime for one text."""
        feed = self._feed([self._tokenizer.encode_batch_fast([text])[0].ids])
        started = time.perf_counter()
        self._session.run(None, feed)
        return (time.perf_counter() - started) * 1000

    def encode_one_by_one(self, texts: Sequence[str]) -> None:
        for text in texts:
            self._session.run(None, self._feed([self._tokenizer.encode_batch_fast([text])[0].ids]))

    def encode(self, texts: Sequence[str]) -> None:
        """Sorted by length, in batches."""
        ids = [each.ids for each in self._tokenizer.encode_batch_fast(list(texts))]
        for rows in cut_into_batches(np.array([len(each) for each in ids]), self._batch_tokens):
            self._session.run(None, self._feed([ids[row] for row in rows]))

    def _feed(self, ids: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
        padded = np.full((len(ids), max(map(len, ids))), self._pad_id, np.int64)
        mask = np.zeros_like(padded)
        for row, each in enumerate(ids):
            padded[row, : len(each)] = each
            mask[row, : len(each)] = 1
        inputs = {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}
        return {name: inputs[name] for name in self._names}
