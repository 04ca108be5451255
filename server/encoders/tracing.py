"""A sentence-transformers pipeline as an ONNX graph: token ids in, one vector a text out."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from server.encoders.errors import ExportFailed, first_line
from server.encoders.export_check import SERVED_BY_TORCH
from server.encoders.frames import pack_tokens, unpack_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "vectors"
# The newest that torch's tracing exporter writes.
OPSET = 20


class TextToVector(nn.Module):
    """The whole pipeline as a function of two tensors, int64 (n, tokens): pooling, dense layers, normalisation."""

    def __init__(self, pipeline: "SentenceTransformer") -> None:
        super().__init__()
        modules: list[Any] = list(pipeline)
        if type(modules[0]).__name__ == "StaticEmbedding":
            modules[0] = MeanOfRows(modules[0].embedding.weight)
        self.steps = nn.ModuleList(modules)
        # Of a text alone they are zeros throughout. Models without them would make something of zeros, too.
        self.has_types = "token_type_ids" in pipeline.preprocess(["a"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.has_types:
            features["token_type_ids"] = torch.zeros_like(input_ids)
        for step in self.steps:
            features = step(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors.float()  # (n, dim)


class MeanOfRows(nn.Module):
    """Static embeddings for a padded batch; sentence-transformers' own take a flat one, for which ONNX has no step."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float(), requires_grad=False)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        mask = features["attention_mask"].unsqueeze(-1).float()  # (n, tokens, 1)
        rows = nn.functional.embedding(features["input_ids"], self.weight) * mask  # (n, tokens, dim)
        features["sentence_embedding"] = rows.sum(1) / mask.sum(1).clamp(min=1)
        return features


def check_pipeline(pipeline: "SentenceTransformer") -> None:
    """Refuse what the graph can't say, before minutes are spent on it.

    Raises:
        ExportFailed: queries and documents take different ways, or the prompt is left out of the pooling.
    """
    modules: list[Any] = list(pipeline)
    for module in modules:
        if type(module).__name__ in ("Router", "Asym"):
            raise ExportFailed(
                "the model sends queries and documents through different layers", hint=SERVED_BY_TORCH
            )
        if not getattr(module, "include_prompt", True):
            raise ExportFailed(
                "the model's pooling leaves out the prompt, whose length the graph isn't told",
                hint=SERVED_BY_TORCH,
            )


def trace(
    pipeline: "SentenceTransformer", texts: Sequence[NDArray[np.int32]], pad_id: int, path: Path
) -> None:
    """Write the graph to `path`; where its weights are too many for one file, they lie beside it.

    This is torch's tracing exporter. Of some forty kinds of models that sentence-transformers loads it can do all but
    Longformer and FNet, with which the newer one, by torch.export, fares no better; and that one needs onnxscript.

    Args:
        texts: an example batch, the token ids of each text, int32 (n_tokens,): at least two, of different lengths.

    Raises:
        ExportFailed: the exporter can't do it.
    """
    ids, mask = (torch.from_numpy(each) for each in unpack_tokens(bytearray(pack_tokens(texts)), pad_id))
    axes = {name: {0: "n", 1: "tokens"} for name in INPUTS} | {OUTPUT: {0: "n"}}
    try:
        with torch.no_grad(), _broadcast_masks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # branches on shapes; whether they matter is tested afterwards
            torch.onnx.export(
                TextToVector(pipeline).eval(),
                (ids, mask),
                str(path),
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except MemoryError:
        raise
    except Exception as error:  # it raises anything over a foreign model's code
        raise ExportFailed(
            f"torch.onnx can't export the model: {first_line(error)}", hint=SERVED_BY_TORCH
        ) from error


@contextmanager
def _broadcast_masks() -> Iterator[None]:
    """Have transformers make attention masks of its own kinds by broadcasting, which can be traced.

    For models that attend both ways inside of a causal design, such as EmbeddingGemma, it calls vmap, which can't.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS

    def broadcasting(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **more: make(*args, **more | {"use_vmap": False})

    originals = {kind: MASKS[kind] for kind in ("sdpa", "eager")}
    for kind, make in originals.items():
        MASKS[kind] = broadcasting(make)
    try:
        yield
    finally:
        for kind in originals:
            del MASKS[kind]  # type: ignore[no-untyped-call]
