"""The command itself; the modules beside this one add what it can do."""

import os
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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    # Before numpy and faiss are loaded. Their OpenBLAS keeps 8 MiB for each of its threads, which wait for one
    # another in a busy loop: a first pass of 100 000 x 768 took 11.4 s of one core to make, with two threads 21 s.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
