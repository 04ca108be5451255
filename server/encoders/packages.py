"""The packages that run models: what only full installations have, and what one of them must be told."""

import importlib.util

from server.encoders.errors import TorchMissing

# ONNX Runtime makes up a number for the device and keeps it in the user's cache folder, unless it is told not to.
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}

FULL_ONLY = ("torch", "sentence_transformers", "onnx")


def check_full(model: str) -> None:
    """Say so where they are missing, before a process is started that would fail for want of them.

    Raises:
        TorchMissing: one of them isn't installed.
    """
    missing = [name for name in FULL_ONLY if importlib.util.find_spec(name) is None]
    if missing:
        raise TorchMissing(
            f"the model {model} isn't exported for ONNX Runtime yet, which takes torch, sentence-transformers and "
            f"onnx; not installed here: {', '.join(missing).replace('_', '-')}",
            hint="Use the full image, or export it on a machine with a full installation (twopass models export "
            f"{model}) and copy the folder models of its data directory into this one's.",
        )
