"""Whether an export gives the vectors of the model it was made from, on texts of all kinds and as they are served."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from server.encoders.errors import ExportFailed
from server.encoders.fingerprint import Role
from server.encoders.frames import pack_tokens, unpack_tokens
from server.encoders.probe_texts import TEXTS
from server.encoders.tokens import TokenCounter

if TYPE_CHECKING:
    from server.encoders.torch_model import TorchModel

# Longer texts than this many tokens are not tried: a model that reads 8192 would take minutes over one.
LONGEST = 1024
BATCH_TEXTS = 7
BATCH_TOKENS = 4096  # padded; as many as LONGEST makes of a few texts
SERVED_BY_TORCH = "Set encoder.backend to torch; it runs this model as it is."


@dataclass(frozen=True, eq=False)
class Probe:
    """A text as token ids, int32 (n_tokens,), and its vector by torch, alone, float32 (dim,)."""

    ids: NDArray[np.int32]
    vector: NDArray[np.float32]


def take_probes(model: "TorchModel", counter: TokenCounter) -> list[Probe]:
    """Encode the probe texts with torch, in each role if the prompts differ.

    Raises:
        ExportFailed: to the model a text is other tokens than to `counter`, the one that will serve.
    """
    one_prompt = model.fingerprint.query_prompt == model.fingerprint.document_prompt
    probes = []
    for role in [Role.QUERY] if one_prompt else list(Role):
        for text in [*TEXTS, *_long_texts(counter, role, model.fingerprint.max_tokens)]:
            [ids], _ = counter.ids([text], role, model.fingerprint.max_tokens)
            _check_tokens(model, text, role, ids)
            [vector] = model.embed([text], role)
            probes.append(Probe(ids, vector))
    return probes


def cosines(session: Any, probes: Sequence[Probe], pad_id: int) -> NDArray[np.float64]:
    """float64 (n_probes, 2): the cosine of each probe's vector by `session`, alone and in a batch, with torch's.

    -1 for a vector that isn't finite; 1 where both vectors are zero, as static embeddings give for unknown words.
    """
    expected = np.array([probe.vector for probe in probes])
    alone = [_encode(session, [probe], pad_id) for probe in probes]
    batched = [_encode(session, batch, pad_id) for batch in _batches(probes)]
    found = [np.concatenate(vectors).astype(np.float64) for vectors in (alone, batched)]
    return np.stack([_cosine(vectors, expected.astype(np.float64)) for vectors in found], axis=1)


def _long_texts(counter: TokenCounter, role: Role, max_tokens: int) -> Iterator[str]:
    """One text of nearly as many tokens as the model reads, and one of more, which is cut."""
    sentences = " ".join(TEXTS)
    n_tokens = min(max_tokens, LONGEST) - counter.overhead(role)
    offsets = counter.tokenizer.encode(sentences, add_special_tokens=False).offsets
    while len(offsets) < n_tokens + BATCH_TEXTS:
        sentences += " " + sentences
        offsets = counter.tokenizer.encode(sentences, add_special_tokens=False).offsets
    yield sentences[: offsets[max(0, n_tokens - 2)][1]]
    if max_tokens <= LONGEST:
        yield sentences


def _check_tokens(model: "TorchModel", text: str, role: Role, ids: NDArray[np.int32]) -> None:
    features = model.pipeline.preprocess([text], prompt=model.fingerprint.prompt(role), task=role.value)
    theirs = features["input_ids"].flatten().tolist()
    if theirs != ids.tolist():
        raise ExportFailed(
            f"the model makes {len(theirs)} tokens of a text of which its tokenizer makes {len(ids)} others",
            hint=SERVED_BY_TORCH,
        )
    if "token_type_ids" in features and features["token_type_ids"].any():
        raise ExportFailed(
            "the model marks parts of a text by type, which isn't exported", hint=SERVED_BY_TORCH
        )


def _batches(probes: Sequence[Probe]) -> Iterator[Sequence[Probe]]:
    """Neighbours of unlike length, so that there is much padding."""
    start = 0
    for end in range(1, len(probes) + 1):
        batch = probes[start : end + 1]
        too_large = len(batch) * max(len(probe.ids) for probe in batch) > BATCH_TOKENS
        if end == len(probes) or len(batch) > BATCH_TEXTS or too_large:
            yield probes[start:end]
            start = end


def _encode(session: Any, probes: Sequence[Probe], pad_id: int) -> NDArray[np.float32]:
    """float32 (n_probes, dim), by way of what goes to the encoder process."""
    ids, mask = unpack_tokens(bytearray(pack_tokens([probe.ids for probe in probes])), pad_id)
    feed = {"input_ids": ids, "attention_mask": mask}
    [vectors] = session.run(["vectors"], {each.name: feed[each.name] for each in session.get_inputs()})
    found: NDArray[np.float32] = vectors
    return found


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) of two batches (n, dim)."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)  # (n,)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (one * other).sum(axis=1) / lengths
    both_zero = ~one.any(axis=1) & ~other.any(axis=1)
    found: NDArray[np.float64] = np.where(both_zero, 1.0, np.nan_to_num(cosine, nan=-1.0))
    return found
