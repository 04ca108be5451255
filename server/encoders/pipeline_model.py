"""A sentence-transformers pipeline, as the server sees it: it runs in a process of its own, and so does torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.frames import Kind, pack_json, unpack_vectors
from server.encoders.model import TextModel
from server.encoders.model_files import ModelFolder
from server.encoders.packages import check_full
from server.encoders.tokens import TokenCounter
from server.encoders.worker_process import WorkerProcess


class PipelineModel(TextModel):
    """The methods are those of the Model protocol; it takes the texts themselves."""

    def __init__(
        self, process: WorkerProcess, fingerprint: Fingerprint, counter: TokenCounter, patience_s: float
    ) -> None:
        self._process = process
        self.fingerprint = fingerprint
        self.token_counter = counter
        self.patience_s = patience_s

    def embed(self, inputs: Sequence[str], role: Role) -> NDArray[np.float32]:
        batch = pack_json({"texts": list(inputs), "role": role})
        return unpack_vectors(self._process.encode(Kind.TEXTS, batch))

    def rest(self) -> None:
        self._process.end()

    def close(self) -> None:
        self._process.end()


def open_pipeline(
    folder: ModelFolder, weights_sha256: str, prompts: dict[Role, str], idle_unload_s: float
) -> PipelineModel:
    """Start the process and wait until it has loaded the model: seconds, and 400 MiB for torch alone.

    After so many seconds without a text it ends, until the next; 0: it stays.

    Raises:
        TorchMissing, ModelDamaged, ModelNotSupported, EncoderUnavailable: see there.
    """
    check_full(folder.name)
    process = WorkerProcess(
        {
            "runtime": "torch",
            "name": folder.name,
            "path": str(folder.path),
            "weights_sha256": weights_sha256,
            "query_prompt": prompts[Role.QUERY],
            "document_prompt": prompts[Role.DOCUMENT],
        }
    )
    about = process.start()
    counter = TokenCounter(
        Tokenizer.from_str(about["tokenizer"]), prompts, lambda _, role: int(about["probe_tokens"][role])
    )
    return PipelineModel(process, Fingerprint.from_json(about["fingerprint"]), counter, idle_unload_s)
