"""`twopass serve`."""

import signal
import sys
from typing import Annotated, Literal

import typer

from server.cli.app import app
from server.cli.sharing import INCOMPLETE, Config, DataDir, fail


@app.command(
    epilog="""\b
Example
  twopass serve --data-dir ~/search --port 9000

Exit code: 0 after a clean end, 1 if it could not start.""",
)
def serve(
    config: Config = None,
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Address to listen on.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 takes a free one."),
    ] = None,
    check: Annotated[
        Literal["newest", "all"] | None,
        typer.Option(help="Stored vectors to check at start; all: reads everything, mends what is damaged."),
    ] = None,
) -> None:
    """Run the server until Ctrl-C or SIGTERM."""
    # Until uvicorn takes them over: process 1 of a container ignores a signal that it has no handler for.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit(0))

    from server.memory import no_garbage

    with no_garbage():
        from server.settings import SettingsError, load_settings

    given = {"data_dir": data_dir, "server.host": host, "server.port": port, "index.check_on_open": check}
    try:
        settings = load_settings(
            config, options={key: value for key, value in given.items() if value is not None}
        )
    except SettingsError as error:
        fail(str(error), "Correct this and start again; config.yaml explains every setting.", INCOMPLETE)

    with no_garbage():
        from server.app import serve as run_server
        from server.errors import StartupError

    try:
        code = run_server(settings)
    except StartupError as error:
        fail(str(error), error.hint or "", INCOMPLETE)
    raise typer.Exit(code)
