"""The command itself; the modules beside this one add what it can do."""

from typing import Annotated

import typer

from server import __version__

app = typer.Typer(
    help="Vector search on your own machine: short prefixes in memory, full vectors on disk.",
    epilog="""\b
Start with       twopass demo
With your texts  twopass serve, and in another terminal
                 twopass ingest FOLDER
                 twopass search "a question"
""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    app(prog_name="twopass")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"twopass {__version__}")
        raise typer.Exit


@app.callback()
def before_any_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Hold the options that stand before a command."""
