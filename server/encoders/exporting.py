"""The child process that makes an ONNX export: `python -m server.encoders.exporting`.

Its first line of input is a JSON object that says what to do; the rest of its input is the parent's life: at its end
the process ends too. Its output is one JSON object that says what came of it. Torch and onnx are imported here, not in
the server, and their memory goes with the process.
"""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.encoders.errors import EncoderError, ExportFailed, first_line
from server.encoders.export_check import SERVED_BY_TORCH, Probe, cosines, take_probes
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.model_files import ModelFolder
from server.encoders.tokens import PROBE, TokenCounter

MIN_COSINE = 0.9999  # of float32's vectors with torch's: rounding leaves 1 - 1e-6
EXAMPLE_TEXTS = 4  # that the graph is traced with; they are of different lengths
THREADS = 2
PACKAGES = ("twopass", "torch", "sentence-transformers", "transformers", "onnx", "onnxruntime")


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not the answer
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):  # where memory runs out, this process is to be the one that is killed
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        told = export(spec)
    except EncoderError as error:
        told = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    except MemoryError:
        told = {"error": "ExportFailed", "message": "there is too little memory", "hint": SERVED_BY_TORCH}
    with os.fdopen(answer, "w") as file:
        json.dump(told, file)


def export(spec: dict[str, Any]) -> dict[str, Any]:
    """Fill the empty folder `target` with graph and tokenizer; return what the manifest is to say.

    Raises:
        ExportFailed: the graph can't be made, or gives other vectors.
        ModelDamaged, ModelNotSupported: the model itself can't be loaded.
    """
    started = time.monotonic()
    target = Path(spec["target"])
    work = target / "work"
    work.mkdir()
    traced = _trace(ModelFolder(spec["model"], Path(spec["folder"])), spec["weights_sha256"], work)
    import onnx

    from server.encoders.onnx_session import open_session
    from server.encoders.weight_files import write_graph

    graph = onnx.load(str(traced.path), load_external_data=False)
    if spec["precision"] == "int8":
        from server.encoders.quantising import quantise

        quantise(graph, work)
    write_graph(graph, work, target)
    shutil.rmtree(work)
    (target / "tokenizer.json").write_text(traced.tokenizer, encoding="utf-8")
    try:
        session = open_session(target, THREADS)
        found = cosines(session, traced.probes, traced.pad_id)
    except MemoryError:
        raise
    except Exception as error:  # of ONNX Runtime over a graph that holds for some shapes only
        raise ExportFailed(
            f"ONNX Runtime can't run the exported graph: {first_line(error)}", hint=SERVED_BY_TORCH
        ) from error
    check_cosines(found, spec["precision"], spec["int8_min_cosine"])
    return {
        "fingerprint": asdict(replace(traced.fingerprint, precision=spec["precision"])),
        "inputs": [each.name for each in session.get_inputs()],
        "pad_id": traced.pad_id,
        "extra_tokens": dict.fromkeys(Role, 0),  # the tokenizer's are all there are, as was checked
        "cosine": {"min": found.min(), "mean": found.mean(), "n_texts": len(found)},
        "versions": {name: version(name) for name in PACKAGES},
        "seconds": round(time.monotonic() - started, 1),
    }


def check_cosines(found: NDArray[np.float64], precision: str, int8_min_cosine: float) -> None:
    """Raises ExportFailed if an export's cosines with torch are too low."""
    if precision == "float32" and found.min() < MIN_COSINE:
        raise ExportFailed(
            f"the exported graph gives other vectors than torch: the lowest cosine is {found.min():.6f}, and less than "
            f"{MIN_COSINE} is more than rounding",
            hint=SERVED_BY_TORCH,
        )
    if precision == "int8" and found.mean() < int8_min_cosine:
        raise ExportFailed(
            f"the vectors of int8 have a mean cosine of {found.mean():.4f} with those of float32; "
            f"encoder.int8_min_cosine asks for {int8_min_cosine:.4f}",
            hint="Set encoder.precision to float32, or, to use int8 all the same, encoder.int8_min_cosine to "
            f"{found.mean() - 5e-5:.4f}.",
        )


@dataclass(frozen=True, eq=False)
class Traced:
    """What is known of a model when torch is done with it; the graph lies at `path`, perhaps with weights beside it."""

    path: Path
    fingerprint: Fingerprint
    tokenizer: str
    pad_id: int
    probes: list[Probe]


def _trace(folder: ModelFolder, weights_sha256: str, work: Path) -> Traced:
    """Load the model into torch, encode the probes, write the graph; the model is gone from memory afterwards."""
    from server.encoders.torch_model import load_torch_model
    from server.encoders.tracing import check_pipeline, trace

    model = load_torch_model(folder, weights_sha256)
    check_pipeline(model.pipeline)
    counter = serving_counter(model.token_counter, model.fingerprint)
    pad_id = _pad_id(model.pipeline)
    probes = take_probes(model, counter)
    trace(model.pipeline, [probe.ids for probe in probes[:EXAMPLE_TEXTS]], pad_id, work / "traced.onnx")
    return Traced(work / "traced.onnx", model.fingerprint, counter.tokenizer.to_str(), pad_id, probes)


def serving_counter(counter: TokenCounter, fingerprint: Fingerprint) -> TokenCounter:
    """One whose tokenizer gives just the tokens that the model takes.

    Static embeddings take no special tokens, though their tokenizer may add some.
    """
    tokenizer = counter.tokenizer
    if any(counter.extra.values()):
        expected = [int(counter.count([PROBE], role)[0]) for role in Role]
        tokenizer.post_processor = None
        found = [len(tokenizer.encode(fingerprint.prompt(role) + PROBE).ids) for role in Role]
        if found != expected:
            raise ExportFailed(
                "the model puts tokens around a text that its tokenizer doesn't know of", hint=SERVED_BY_TORCH
            )
    return TokenCounter(tokenizer, {role: fingerprint.prompt(role) for role in Role})


def _pad_id(pipeline: Any) -> int:
    """The model's own, since some models find the end of a text by it; 0 for those without."""
    found = getattr(getattr(pipeline[0], "tokenizer", None), "pad_token_id", None)
    return int(found or 0)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
