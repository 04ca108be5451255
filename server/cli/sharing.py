"""What the commands share: options, exit codes, how they speak to people and to a server."""

import contextlib
import importlib.util
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from server.printing import duration

if TYPE_CHECKING:
    from server.client import Client

INCOMPLETE, FAILED, INTERRUPTED = 1, 2, 130  # exit codes besides 0

Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Settings; else TWOPASS_CONFIG, else ./config.yaml."),
]
DataDir = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where the data is. Wins over the settings.")
]
Url = Annotated[str, typer.Option(metavar="URL", envvar="TWOPASS_URL", help="The running server.")]
ApiKey = Annotated[
    str,
    typer.Option(metavar="KEY", envvar="TWOPASS_API_KEY", help="The server's key.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
LOCAL_SERVER = "http://127.0.0.1:8000"
UNREADABLE = "Run this as the user that the server runs as. If it is that one, look at the disk."
"""What to do about data on this machine that can't be read."""


@contextlib.contextmanager
def connected(url: str, api_key: str) -> Iterator["Client"]:
    from server.client import Client, ClientError, RefusedError

    try:
        with Client(url, api_key) as client:
            yield client
    except RefusedError as error:
        fail(f"The server refused: {error}" if error.code else str(error), error.hint, FAILED)
    except ClientError as error:
        fail(str(error), error.hint, FAILED)


def echo(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def fail(message: str, hint: str, code: int) -> NoReturn:
    """Say what happened and what to do, and end."""
    typer.echo(f"twopass: {message}", err=True)
    if hint:
        typer.echo(hint, err=True)
    raise typer.Exit(code)


def place_of(file: Path) -> Path:
    """Where a whole file takes its name: links are followed. Ends the command where a folder or a device is."""
    if file.exists() and not file.is_file():
        fail(f"{file} is no file.", "Choose another name.", INCOMPLETE)
    return file.resolve()


def check_plots() -> None:
    """End at once, rather than after the measurement, where plots can't be drawn: the slim image lacks matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        fail(
            "matplotlib, which draws plots, isn't installed",
            "Leave --plot out, or use the full image.",
            FAILED,
        )


def wait_for_server(seconds: float) -> None:
    typer.echo(f"The server is busy or away; trying again in {duration(seconds)}.", err=True)
    time.sleep(seconds)
