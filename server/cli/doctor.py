"""`twopass doctor`."""

import json
import shutil
from typing import TYPE_CHECKING, Annotated, cast

import typer

from server.cli.app import app
from server.cli.sharing import (
    FAILED,
    INCOMPLETE,
    UNREADABLE,
    ApiKey,
    AsJson,
    Config,
    DataDir,
    connected,
    echo,
    fail,
)
from server.printing import check_lines, counted, plain

if TYPE_CHECKING:
    from server.client import DoctorAnswer
    from server.settings import Settings

WIDEST = 110  # columns


@app.command(
    short_help="Say what is well and what isn't, with advice.",
    epilog="""\b
Examples
  twopass doctor
  twopass doctor --json --url http://nas:8000

Exit code: 0 if nothing has failed (warnings don't count), 1 if something has, 2 if nothing could be looked at.""",
)
def doctor(
    config: Config = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="TWOPASS_URL",
            help="Ask this server; else the one at work on the data directory, if there is one.",
            show_default=False,
        ),
    ] = "",
    api_key: ApiKey = "",
) -> None:
    """Look at memory, disk, processor, model, recall, damage and settings.

    Asks the running server. Where none runs, looks at the machine and the data directory itself, changing nothing.
    """
    from server.settings import SettingsError, load_settings

    try:
        settings = load_settings(config, options={} if data_dir is None else {"data_dir": data_dir})
    except SettingsError as error:
        fail(str(error), "Correct this and run it again; config.yaml explains every setting.", FAILED)
    asked = url or _own_server(settings)
    told = None
    if url:
        with connected(url, api_key) as client:
            told = client.doctor()
    elif asked:
        told = _asked(asked, api_key)
    if told is None:
        asked, told = "", _own_look(settings)
    if as_json:
        typer.echo(json.dumps({"server": asked or None, **told}, ensure_ascii=False))
    else:
        typer.echo(
            f"As the server at {asked} says:"
            if asked
            else f"{plain(str(settings.data_dir))}, as it lies there:"
        )
        echo(check_lines(told["checks"], min(shutil.get_terminal_size().columns, WIDEST)))
        typer.echo(_verdict(told))
    raise typer.Exit(0 if told["ok"] else INCOMPLETE)


def _own_server(settings: "Settings") -> str:
    """The address of the server that works on the data directory; empty if none does, or nobody can say."""
    from index.durable import lock_holder

    if settings.server.port == 0 or lock_holder(settings.data_dir / "lock") is None:
        return ""
    host = settings.server.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def _asked(url: str, api_key: str) -> "DoctorAnswer | None":
    """What the server here says; None where it doesn't answer, or not to this key."""
    from server.client import Client, ClientError

    try:
        with Client(url, api_key) as client:
            return client.doctor()
    except ClientError as error:
        typer.echo(f"The server at {url} wasn't asked: {error} {error.hint}", err=True)
        return None


def _own_look(settings: "Settings") -> "DoctorAnswer":
    from index.errors import IndexFault, StorageError
    from server.doctor import examine, stored
    from server.errors import ServiceError, answer_for
    from server.settings import SettingsError

    try:
        return cast("DoctorAnswer", examine(stored(settings)).told())
    except SettingsError as error:
        fail(str(error), "Correct the setting and run it again.", FAILED)
    except StorageError as error:
        fail(str(error), UNREADABLE, FAILED)
    except (ServiceError, IndexFault) as error:
        answer = answer_for(error)
        fail(str(error), getattr(error, "hint", None) or (answer.hint if answer else ""), FAILED)


def _verdict(told: "DoctorAnswer") -> str:
    counts = {name: sum(each["status"] == name for each in told["checks"]) for name in ("fail", "warn")}
    if not any(counts.values()):
        return "All is well."
    return f"{counted(counts['fail'], 'failure')}, {counted(counts['warn'], 'warning')}."
