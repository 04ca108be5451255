"""From the settings to a running encoder."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from server.encoders.bundled import check_bundled, find_bundled
from server.encoders.cores import n_cores, threads_and_lanes
from server.encoders.encoder import Encoder
from server.encoders.errors import ExportFailed, ModelNotFound
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.hub import find_on_hub
from server.encoders.known import known
from server.encoders.layer_norm import STEP, LayerNormed
from server.encoders.model import Model
from server.encoders.model_files import (
    ModelFolder,
    check_folder,
    combined_digest,
    file_digests,
    read_prompts,
)
from server.encoders.packages import NO_TELEMETRY
from server.memory import give_back
from server.settings import EncoderSettings, PassageSettings


def load_encoder(
    encoder: EncoderSettings,
    passages: PassageSettings,
    models_dir: Path,
    stored: Fingerprint | None = None,
) -> Encoder | None:
    """Find, check, load and try out the model; None for `none`, where clients bring the vectors.

    Takes a second, and the first time with a model some ten more: it is made into an ONNX file, in `models_dir`.
    What was exported runs in this process, unless it is to end when nobody asks; torch is imported in a process of its
    own or not at all. The network is used only for a
    hub name that is not in `models_dir` yet, and for a model at a URL. Whoever calls this closes the encoder.

    `stored` is the fingerprint of the data there is, if any: with it, a program at a URL may be down for now.

    Raises:
        ModelNotFound, ModelDamaged, ModelNotSupported, ExportFailed, TorchMissing, EncoderUnavailable: see there.
        SettingsError: the passages asked for don't suit the model.
    """
    if encoder.model == "none":
        return None
    if encoder.is_remote:
        from server.encoders.remote import load_remote

        return load_remote(encoder, passages, stored)
    from server.encoders.local_encoder import LocalEncoder

    model = load_model(encoder, models_dir)
    try:
        local = LocalEncoder(model, encoder.batch_tokens, passages, encoder.query_cache)
    except BaseException:
        model.close()
        raise
    give_back()  # reading a tokenizer leaves some MiB behind
    return local


def load_model(encoder: EncoderSettings, models_dir: Path) -> Model[Any]:
    """The model of `load_encoder`, ready to run. Raises as that does."""
    folder = find_model(encoder.model, models_dir)
    digests = file_digests(folder.path)
    if encoder.model == "bundled":
        check_bundled(digests)
    check_folder(folder.path)
    weights_sha256 = combined_digest(digests)
    facts = known(folder.name)
    prompts = _prompts(encoder, folder)
    model: Model[Any] | None = None
    if encoder.backend != "torch":
        try:
            model = _open_exported(encoder, folder, weights_sha256, prompts, models_dir)
        except ExportFailed as error:
            if encoder.backend == "onnx" or encoder.precision != "float32":
                raise
            structlog.get_logger().warning(
                "this model runs on torch, which takes more memory and time", reason=str(error)
            )
    if model is None:
        from server.encoders.pipeline_model import open_pipeline

        model = open_pipeline(folder, weights_sha256, prompts, encoder.idle_unload_s)
    if facts is not None and facts.layer_norm and STEP not in model.fingerprint.pooling.split("+"):
        return LayerNormed(model)
    return model


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


def _prompts(encoder: EncoderSettings, folder: ModelFolder) -> dict[Role, str]:
    """The settings' prompts; where they name none, the model's own; where it has none at all, those it is known for."""
    own = read_prompts(folder.path)
    facts = known(folder.name)
    if not any(own) and facts is not None:
        own = (facts.query_prompt, facts.document_prompt)
    given = (encoder.query_prompt, encoder.document_prompt)
    query, document = (mine if mine is not None else its for mine, its in zip(given, own, strict=True))
    return {Role.QUERY: query, Role.DOCUMENT: document}


def _open_exported(
    encoder: EncoderSettings,
    folder: ModelFolder,
    weights_sha256: str,
    prompts: dict[Role, str],
    models_dir: Path,
) -> Model[Any]:
    """The model in ONNX Runtime, exported before or now. Raises ExportFailed, TorchMissing."""
    os.environ.update(NO_TELEMETRY)  # before ONNX Runtime is imported
    from tokenizers import Tokenizer

    from server.encoders.exports import find_export, make_export, shipped_dir
    from server.encoders.tokens import TokenCounter

    export = (
        find_export(models_dir, weights_sha256, encoder.precision)
        or find_export(shipped_dir(), weights_sha256, encoder.precision)
        or make_export(folder, weights_sha256, encoder.precision, encoder.int8_min_cosine, models_dir)
    )
    threads, lanes = threads_and_lanes(n_cores(), encoder.precision)
    # Prompts are put before the texts here, so that others need no other export.
    fingerprint = replace(
        export.fingerprint,
        model=folder.name,
        query_prompt=prompts[Role.QUERY],
        document_prompt=prompts[Role.DOCUMENT],
    )
    counter = TokenCounter(Tokenizer.from_file(str(export.folder / "tokenizer.json")), prompts)
    if not encoder.idle_unload_s:
        from server.encoders.onnx_model import OnnxModel, open_runner

        runner = open_runner(export.folder, threads, export.pad_id)
        return OnnxModel(runner, fingerprint, counter, lanes)
    from server.encoders.onnx_apart import OnnxModelApart
    from server.encoders.worker_process import WorkerProcess

    process = WorkerProcess(
        {"runtime": "onnx", "folder": str(export.folder), "threads": threads, "pad_id": export.pad_id}, lanes
    )
    process.start()
    return OnnxModelApart(process, fingerprint, counter, encoder.idle_unload_s)
