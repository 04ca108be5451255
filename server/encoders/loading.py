"""From the settings to a running encoder."""

from pathlib import Path

from server.encoders.bundled import check_bundled, find_bundled
from server.encoders.encoder import Encoder
from server.encoders.errors import ModelNotFound
from server.encoders.hub import find_on_hub
from server.encoders.model_files import ModelFolder, check_folder, combined_digest, file_digests
from server.settings import EncoderSettings, PassageSettings


def load_encoder(encoder: EncoderSettings, passages: PassageSettings, models_dir: Path) -> Encoder | None:
    """Find, check, load and try out the model; None for `none`, where clients bring the vectors.

    Takes seconds; torch is imported here and not before. The network is used only for a hub name that is not
    in `models_dir` yet. Whoever calls this closes the encoder.

    Raises:
        ModelNotFound, ModelDamaged, ModelNotSupported: see there.
        SettingsError: the passages asked for don't suit the model.
    """
    if encoder.model == "none":
        return None
    folder = find_model(encoder.model, models_dir)
    digests = file_digests(folder.path)
    if encoder.model == "bundled":
        check_bundled(digests)
    check_folder(folder.path)

    from server.encoders.local_encoder import LocalEncoder
    from server.encoders.torch_model import load_torch_model

    model = load_torch_model(folder, combined_digest(digests))
    return LocalEncoder(model, encoder.batch_tokens, passages)


def find_model(name: str, models_dir: Path) -> ModelFolder:
    """The folder of the model that `encoder.model` names: the bundled one, a folder, or one of the hub.

    Raises:
        ModelNotFound: there is none.
    """
    if name == "bundled":
        return find_bundled()
    path = Path(name).expanduser()
    if path.is_dir():
        return ModelFolder(str(path), path.resolve())
    if path.exists():
        raise ModelNotFound(
            f"{name} is a file; a model is a folder", hint="Name the folder that the file is in."
        )
    return find_on_hub(name, models_dir)
