"""Models of the Hugging Face hub: from the data directory if they are there, else fetched once."""

import logging
import re
from pathlib import Path

from server.encoders.errors import ModelNotFound, first_line
from server.encoders.hub_files import Meter, OnBytes, bar_of, fetch_large
from server.encoders.known import known
from server.encoders.model_files import CONFIG_FILES, WEIGHT_FILES, ModelFolder

log = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
DEFAULT_OWNER = "sentence-transformers"  # of names without an owner, as sentence-transformers has it
OTHER_RUNTIMES = ["onnx/*", "openvino/*", "original/*", "gguf/*", "*.onnx", "*.gguf"]


def find_on_hub(
    name: str,
    models_dir: Path,
    endpoint: str | None = None,
    on_bytes: OnBytes | None = None,
    revision: str | None = None,
) -> ModelFolder:
    """The folder of a hub model: the copy in `models_dir`, untouched by newer versions, or else a new one.

    Only the files that sentence-transformers loads are fetched; one that a fetch cut short began is gone on with.
    `endpoint` is the hub's address; None: the one that huggingface_hub is set to. `on_bytes` is told how far a fetch
    is, from several threads, one at a time. `revision` is a commit; None: the one that is here, or else the newest.

    Raises:
        ModelNotFound: it is not there and can't be fetched.
    """
    repository = repository_of(name)
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    constants.HF_HUB_DISABLE_TELEMETRY = True  # promised: no telemetry
    disable_progress_bars()
    try:
        return ModelFolder(repository, _snapshot(repository, models_dir, endpoint, revision, None))
    except LocalEntryNotFoundError:
        log.info("fetching the model %s from the hub into %s", repository, models_dir)
    hint = (
        "Set encoder.model to 'bundled', or fetch the model on a machine with a network and set "
        "encoder.model to the folder it is in."
    )
    try:
        return ModelFolder(
            repository,
            _snapshot(repository, models_dir, endpoint, revision, on_bytes or (lambda done, total: None)),
        )
    except GatedRepoError as error:
        raise ModelNotFound(
            f"the hub gives the model {repository} only to users who accepted its terms",
            hint=f"Accept them at https://huggingface.co/{repository} and set HF_TOKEN. " + hint,
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the hub knows no model {repository}, or it is private; nor is there a folder {name}",
            hint="Check the spelling, and HF_TOKEN for a private one. " + hint,
        ) from error
    except Exception as error:  # no network, a proxy, a full disk: errors of many libraries, one answer
        raise ModelNotFound(
            f"the model {repository} is not in {models_dir} and could not be fetched: {first_line(error)}",
            hint="Check the network and start again; what was fetched so far is kept. " + hint,
        ) from error


def repository_of(name: str) -> str:
    """The name with its owner: a known model's own, else the one that sentence-transformers has by default.

    Raises:
        ModelNotFound: it can't be a model's name.
    """
    if not HUB_NAME.fullmatch(name):
        raise ModelNotFound(
            f"there is no folder {name}, and it is no name of a model on the hub either",
            hint="Set encoder.model to 'bundled', to a folder that exists, or to a name like "
            "Snowflake/snowflake-arctic-embed-m-v1.5.",
        )
    if "/" in name:
        return name
    model = known(name)
    return model.name if model and "/" in model.name else f"{DEFAULT_OWNER}/{name}"


def cache_folder(repository: str, models_dir: Path) -> Path:
    """Where huggingface_hub keeps what it fetched of a model: refs, snapshots of links, and the blobs they lead to."""
    return models_dir / f"models--{repository.replace('/', '--')}"


def _snapshot(
    repository: str, models_dir: Path, endpoint: str | None, revision: str | None, on_bytes: OnBytes | None
) -> Path:
    """The model's folder in the cache, complete; pickled weights only where there are no others.

    Without `on_bytes` the network isn't used.
    """
    from huggingface_hub import snapshot_download

    def download(names: tuple[str, ...]) -> Path:
        patterns = [pattern for name in names for pattern in (name, f"*/{name}")]
        meter = Meter(on_bytes or (lambda done, total: None))
        if on_bytes is not None:
            home = cache_folder(repository, models_dir)
            fetch_large(repository, home, revision, endpoint, (patterns, OTHER_RUNTIMES), meter)
        folder = snapshot_download(
            repository,
            cache_dir=models_dir,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=OTHER_RUNTIMES,
            local_files_only=on_bytes is None,
            endpoint=endpoint,
            tqdm_class=bar_of(meter, "Reconstructing"),
        )
        return Path(folder)

    safe, pickled = WEIGHT_FILES
    folder = download((*CONFIG_FILES, safe))
    return folder if any(folder.rglob(safe)) else download((*CONFIG_FILES, pickled))
