"""Models run by sentence-transformers on torch: in the encoder process, never in the server.

Nothing else imports either, and only loading does.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from server.encoders.errors import EncoderError, ModelDamaged, ModelNotSupported, first_line
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.frames import pack_vectors, unpack_json
from server.encoders.model_files import FETCH_AGAIN, ModelFolder, read_prompts
from server.encoders.tokens import PROBE, TokenCounter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_MAX_TOKENS = 512  # of models without a limit of their own; more of a text says less about each part
LARGEST_LIMIT = 1_000_000  # tokens; tokenizers write 10^30 for "no limit"
UNIT_TOLERANCE = 1e-3  # of a pipeline that normalises; float32 is off by 1e-7, bfloat16 by less than this
PROBES = ["twopass", "Two passes find what one would miss."]
# A row of the table that transformers logs of weights that were not in the file and are now random
MISSING_WEIGHT = re.compile(r"^(.+?)\s*\|\s*(?:\x1b\[\d+m)?MISSING", re.MULTILINE)


class TorchModel:
    """A sentence-transformers pipeline, and what counts its tokens."""

    def __init__(
        self, pipeline: "SentenceTransformer", fingerprint: Fingerprint, counter: TokenCounter
    ) -> None:
        self.pipeline = pipeline
        self.fingerprint = fingerprint
        self.token_counter = counter

    def embed(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        return _embed(self.pipeline, texts, role, self.fingerprint.prompt(role))


class TorchRunner:
    """A model in the encoder process; the methods are those of the Runner protocol."""

    patience_s = None

    def __init__(self, model: TorchModel) -> None:
        self._model = model

    def about(self) -> dict[str, Any]:
        """Its fingerprint, its tokenizer, and the tokens that PROBE is to it: what PipelineModel is made of."""
        counter = self._model.token_counter
        return {
            "fingerprint": self._model.fingerprint.to_json(),
            "tokenizer": counter.tokenizer.to_str(),
            "probe_tokens": {role: int(counter.count([PROBE], role)[0]) for role in Role},
        }

    def encode(self, content: bytearray) -> bytes:
        batch = unpack_json(content)
        return pack_vectors(self._model.embed(batch["texts"], Role(batch["role"])))

    def rest(self) -> None:
        """Nothing to give back."""


def load_runner(spec: Mapping[str, Any]) -> TorchRunner:
    """Load what the server asked for; raises as load_torch_model does."""
    folder = ModelFolder(spec["name"], Path(spec["path"]))
    return TorchRunner(
        load_torch_model(folder, spec["weights_sha256"], (spec["query_prompt"], spec["document_prompt"]))
    )


def load_torch_model(
    folder: ModelFolder, weights_sha256: str, own_prompts: tuple[str, str] | None = None
) -> TorchModel:
    """Load a model from its folder, in float32, and try it out. Never touches the network or runs its code.

    `own_prompts`, for queries and for documents, replace the model's.

    Raises:
        ModelDamaged: files are missing or unreadable, or the vectors not finite or not what the model says.
        ModelNotSupported: it needs its own code, another package, or a tokenizer that is not a fast one.
    """
    query_prompt, document_prompt = own_prompts or read_prompts(folder.path)
    prompts = {Role.QUERY: query_prompt, Role.DOCUMENT: document_prompt}
    pipeline = _load_pipeline(folder)
    max_tokens = _limit(pipeline)

    def model_count(text: str, role: Role) -> int:
        features = pipeline.preprocess([text], prompt=prompts[role], task=role.value)
        return int(features["input_ids"].numel())

    try:
        counter = TokenCounter(_tokenizer(pipeline), prompts, model_count)
        probes = np.concatenate([_embed(pipeline, PROBES, role, prompts[role]) for role in Role])
    except EncoderError:
        raise
    except Exception as error:  # whatever breaks inside of a foreign model, the answer is the same
        raise ModelDamaged(
            f"the model in {folder.path} can't encode: {first_line(error)}", hint=FETCH_AGAIN
        ) from error
    _check_probes(probes, pipeline, folder)
    fingerprint = Fingerprint(
        model=folder.name,
        weights_sha256=weights_sha256,
        dim=probes.shape[1],
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        pooling=_pooling(pipeline),
        max_tokens=max_tokens,
    )
    return TorchModel(pipeline, fingerprint, counter)


def _load_pipeline(folder: ModelFolder) -> "SentenceTransformer":
    with _quiet() as report:
        try:
            import torch
            from sentence_transformers import SentenceTransformer

            # float32 whatever the file holds: the same vectors everywhere, and most CPUs are slow at less.
            pipeline = SentenceTransformer(
                str(folder.path),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32},
            )
        except MemoryError:
            raise
        except Exception as error:  # a foreign loader raises anything over a foreign file
            if isinstance(error, ImportError) or "trust_remote_code" in str(error):
                raise ModelNotSupported(
                    f"the model in {folder.path} needs code of its own or a package: {first_line(error)}",
                    hint="twopass runs no code that comes with a model. Choose another model.",
                ) from error
            raise ModelDamaged(
                f"the model in {folder.path} can't be loaded: {first_line(error)}", hint=FETCH_AGAIN
            ) from error
    # A pooler stands behind the layers that sentence-transformers reads; many models come without its.
    missing = [name for name in MISSING_WEIGHT.findall("\n".join(report)) if "pooler" not in name]
    if missing:
        raise ModelDamaged(
            f"the model in {folder.path} has no weights for {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            hint=FETCH_AGAIN,
        )
    return pipeline


def _embed(
    pipeline: "SentenceTransformer", texts: Sequence[str], role: Role, prompt: str
) -> NDArray[np.float32]:
    encode = pipeline.encode_query if role is Role.QUERY else pipeline.encode_document
    vectors = encode(list(texts), prompt=prompt, batch_size=len(texts), show_progress_bar=False)
    return np.ascontiguousarray(vectors, dtype=np.float32)  # (n_texts, dim)


def _limit(pipeline: "SentenceTransformer") -> int:
    """Tokens that the model reads of a text; a model without a limit is given one."""
    first: Any = pipeline[0]
    limits = [pipeline.max_seq_length, *(getattr(first, f"{role}_length", None) for role in Role)]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < LARGEST_LIMIT]
    if known:
        return min(known)
    tokenizer = getattr(first, "tokenizer", None)
    if isinstance(tokenizer, Tokenizer):  # static embeddings
        tokenizer.enable_truncation(DEFAULT_MAX_TOKENS)
    elif tokenizer is not None:
        pipeline.max_seq_length = DEFAULT_MAX_TOKENS
    return DEFAULT_MAX_TOKENS


def _tokenizer(pipeline: "SentenceTransformer") -> Tokenizer:
    first: Any = pipeline[0]
    tokenizer = getattr(first, "tokenizer", None)
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(fast, Tokenizer) or "text" not in pipeline.modalities:
        raise ModelNotSupported(
            "the model reads no text through a fast tokenizer, so that its tokens can't be counted",
            hint="Choose a model with a tokenizer.json.",
        )
    return fast


def _check_probes(vectors: NDArray[np.float32], pipeline: "SentenceTransformer", folder: ModelFolder) -> None:
    """Raises ModelDamaged if the vectors of PROBES, (n_probes, dim), are none."""
    if not np.isfinite(vectors).all():
        raise ModelDamaged(f"the model in {folder.path} gives vectors that are not finite", hint=FETCH_AGAIN)
    said = pipeline.get_embedding_dimension()
    if said is not None and said != vectors.shape[1]:
        raise ModelDamaged(
            f"the model in {folder.path} says it has {said} dimensions, but gives {vectors.shape[1]}",
            hint=FETCH_AGAIN,
        )
    lengths = np.linalg.norm(vectors, axis=1)
    normalises = any(type(module).__name__ == "Normalize" for module in pipeline)
    if (normalises and np.abs(lengths - 1).max() > UNIT_TOLERANCE) or not lengths.all():
        raise ModelDamaged(
            f"the model in {folder.path} gives vectors of length {lengths.min():.4f} to {lengths.max():.4f}",
            hint=FETCH_AGAIN,
        )


def _pooling(pipeline: "SentenceTransformer") -> str:
    """The steps behind the transformer, such as `cls+dense+normalize`; if it doesn't normalise, we do."""
    steps = []
    modules: list[Any] = list(pipeline)
    for module in modules:
        name = type(module).__name__
        if name == "Pooling":
            modes = module.pooling_mode
            steps.append(modes if isinstance(modes, str) else ",".join(modes))
            steps += [] if module.include_prompt else ["without-prompt"]
        elif name not in ("Transformer", "Normalize"):
            steps.append(name.lower())
    return "+".join([*steps, "normalize"])


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep progress bars and warnings off the terminal; yields the warnings about weights, once logged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        collector = _Collector()
        logger = logging.getLogger("transformers.modeling_utils")
        level, propagate = logger.level, logger.propagate
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addHandler(collector)
        try:
            yield collector.messages
        finally:
            logger.removeHandler(collector)
            logger.propagate = propagate
            logger.setLevel(level)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
