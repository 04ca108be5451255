"""`twopass models`: which there are, which are here, fetching one, and measuring one on your own texts."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from server.cli.app import app
from server.cli.sharing import (
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    AsJson,
    Config,
    DataDir,
    check_plots,
    echo,
    fail,
)
from server.progress import download_progress, work_progress

if TYPE_CHECKING:
    from server.models.pulling import Pulled
    from server.settings import Settings

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    models,
    name="models",
    short_help="List, fetch and measure models.",
    help="Which models there are and which are here; fetch one, or measure one on your texts.",
    epilog="""\b
Examples
  twopass models list
  twopass models pull Snowflake/snowflake-arctic-embed-m-v1.5
  twopass models certify bundled --plot recall.png

Exit code: 0, or what the commands below say.""",
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name on the hub, Ollama's or OpenAI's, or bundled.", show_default=False
    ),
]


@models.command(
    "list",
    short_help="Which models are known, and which are here.",
    epilog="""\b
Example
  twopass models list --json

Exit code: 0, or 2 if the settings can't be used.""",
)
def list_models(config: Config = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the known models, and the others in the data directory.

    Shorter lengths are those that a model was trained for: its first 256 dimensions are a vector too. In the order of
    your texts (index.order corpus), any length of any model serves. Memory is that of a process that runs it.
    """
    from server.encoders.known import KNOWN_MODELS
    from server.models.shelf import all_entries
    from server.models.telling import models_table

    with _named_errors():
        entries = all_entries(KNOWN_MODELS, _models_dir(config, data_dir))
    if as_json:
        _print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        Console(highlight=False).print(models_table(entries))


@models.command(
    short_help="All that is known of a model, and its files.",
    epilog="""\b
Examples
  twopass models show bundled
  twopass models show nomic-ai/nomic-embed-text-v1.5

Exit code: 0, 1 if nothing is known of it and it isn't here, 2 if the settings can't be used.""",
)
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name on the hub, Ollama's or OpenAI's, bundled, or a folder.",
            show_default=False,
        ),
    ],
    config: Config = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known of a model: dimensions, prompts, limits, licence; whether it is here, and its files."""
    from server.models.shelf import look_up
    from server.models.telling import entry_lines

    with _named_errors():
        entry = look_up(name, _models_dir(config, data_dir))
    if entry.known is None and entry.present is None:
        fail(
            f"nothing is known of a model {name}, and it isn't here",
            "`twopass models list` has those that are known; `twopass models pull NAME` fetches any of the hub.",
            INCOMPLETE,
        )
    if as_json:
        _print_json(dataclasses.asdict(entry))
    else:
        echo(entry_lines(entry))


@models.command(
    short_help="Fetch a model, or check the one that is here.",
    epilog="""\b
Examples
  twopass models pull Snowflake/snowflake-arctic-embed-m-v1.5
  HF_ENDPOINT=https://hub.example twopass models pull nomic-ai/nomic-embed-text-v1.5

Exit code: 0 if it is here and whole, 2 if it could not be fetched, 130 after Ctrl-C.""",
)
def pull(name: Name, config: Config = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Fetch a model from the hub into the data directory, with the SHA-256 of every file.

    One that is here is compared with what was fetched: what is missing or changed is fetched again. What a fetch left
    unfinished is gone on with. Nothing else of twopass needs the network once the model is there.
    """
    from server.models.telling import pulled_lines

    with _named_errors():
        pulled = _fetch(name, _models_dir(config, data_dir))
    if as_json:
        _print_json(dataclasses.asdict(pulled))
    else:
        echo(pulled_lines(pulled))


@models.command(
    short_help="Make the file that serves a model, for a machine without torch.",
    epilog="""\b
Example
  twopass models export nomic-ai/nomic-embed-text-v1.5 --data-dir data

Exit code: 0 if it is there and runs, 2 if it could not be made.""",
)
def export(name: Name, config: Config = None, data_dir: DataDir = None) -> None:
    """Export a model for ONNX Runtime into the data directory, as its first start would.

    An installation without torch, as the slim image is, can't do that itself: copy the data directory's folder models
    there. encoder.precision says whether it is made as float32 or int8.
    """
    from server.encoders.loading import load_model
    from server.logs import start_logging

    with _named_errors():
        settings = _settings_for(name, config, data_dir)
        start_logging(settings.log)
        encoder = settings.encoder.model_copy(update={"backend": "onnx"})  # never torch in its place
        model = load_model(encoder, settings.data_dir / "models")
        model.close()
    echo([f"{name} is exported as {encoder.precision}, below {settings.data_dir / 'models' / 'onnx'}"])


@models.command(
    short_help="Measure a model on your own texts.",
    epilog="""\b
Examples
  twopass models certify bundled
  twopass models certify nomic-ai/nomic-embed-text-v1.5 --texts ~/notes --plot recall.png

Exit code: 0, 1 if the texts are too few for a verdict, 2 if it could not be measured, 130 after Ctrl-C.""",
)
def certify(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="bundled, a folder, or a name on the hub.", show_default=False),
    ],
    config: Config = None,
    data_dir: DataDir = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(
            "--texts", metavar="PATH", help="Files or folders instead of the stored texts; may be repeated."
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Passages to try it on.")
    ] = 2000,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw recall by length, as PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how well a model serves your texts.

    Which prefix lengths suffice, whether its prompts help, how many texts are too long for it, how fast it is here, and
    what memory it takes.

    Changes no data, and a server may be running. Passages are drawn evenly from the stored texts, or from --texts, and
    encoded; a hub model that isn't here is fetched first.
    """
    from server.incoming import Skips
    from server.logs import start_logging
    from server.models.certify import certify as measure
    from server.models.corpus import file_texts, stored_texts
    from server.models.plot import draw_recall
    from server.models.shelf import look_up
    from server.models.telling import certificate_lines

    if plot is not None:
        check_plots()
    skips = Skips()
    try:
        with _named_errors():
            settings = _settings_for(model, config, data_dir)
            start_logging(settings.log)  # on standard error, away from the JSON
            models_dir = settings.data_dir / "models"
            given = file_texts(texts, skips.add) if texts else stored_texts(settings.data_dir)
            if not settings.encoder.is_remote and look_up(model, models_dir).present is None:
                _fetch(model, models_dir)
        with _named_errors(), work_progress() as on_progress:
            found = measure(
                settings.encoder,
                settings.passages.model_copy(update={"max_tokens": 0}),
                models_dir,
                given,
                sample,
                on_progress,
            )
            if plot is not None and found.recall is not None:
                draw_recall(found, plot)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json(dataclasses.asdict(found))
    else:
        echo(certificate_lines(found))
    if skips.count:
        typer.echo(
            f"Skipped: {skips.count:,}; the first: {skips.first[0].source}: {skips.first[0].reason}", err=True
        )
    if plot is not None:
        typer.echo(f"Drawn: {plot}" if found.recall else "Too few passages to draw.", err=True)
    raise typer.Exit(0 if found.recall else INCOMPLETE)


def _fetch(name: str, models_dir: Path) -> "Pulled":
    """Fetch a model, showing how far it is; Ctrl-C ends the process at once."""
    from server.models.pulling import pull as fetch

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        Console(stderr=True).show_cursor()  # which the bar hides
        sys.stderr.write("\nInterrupted. What was fetched is kept; the same command goes on with it.\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    # Left to itself, huggingface_hub fetches the file that it has begun to its end, which may take an hour.
    before = signal.signal(signal.SIGINT, leave)
    try:
        with download_progress() as on_bytes:
            return fetch(name, models_dir, on_bytes)
    finally:
        signal.signal(signal.SIGINT, before)


def _settings_for(model: str, config: Path | None, data_dir: Path | None) -> "Settings":
    """The settings, with this model; what they say of another model's encoder doesn't hold for it."""
    from server.settings import load_settings

    options: dict[str, object] = {} if data_dir is None else {"data_dir": data_dir}
    settings = load_settings(config, options=options)
    if model != settings.encoder.model:
        options |= {"encoder.model": model, "encoder.dim": None, "encoder.query_prompt": None}
        options |= {"encoder.document_prompt": None, "encoder.max_tokens": None}
        if settings.encoder.is_remote:
            options |= {"encoder.url": "", "encoder.backend": "auto"}
    return load_settings(config, options=options)


def _models_dir(config: Path | None, data_dir: Path | None) -> Path:
    from server.settings import load_settings

    return (
        load_settings(config, options={} if data_dir is None else {"data_dir": data_dir}).data_dir / "models"
    )


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Say what went wrong and what to do, and end."""
    from index.errors import IndexFault
    from server.encoders.errors import EncoderError
    from server.errors import ServiceError
    from server.settings import SettingsError

    try:
        yield
    except SettingsError as error:
        fail(str(error), "Correct this and run it again; config.yaml explains every setting.", FAILED)
    except (EncoderError, ServiceError, IndexFault) as error:
        fail(str(error), getattr(error, "hint", None) or "", FAILED)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, default=str))
