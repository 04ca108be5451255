"""What only full installations have: the packages that make a model into what ONNX Runtime runs."""

import importlib.util

from server.encoders.errors import TorchMissing

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
