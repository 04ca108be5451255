"""Commands that need no server: `twopass verify` and `twopass demo`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server.cli.app import app
from server.cli.sharing import FAILED, INCOMPLETE, UNREADABLE, AsJson, Config, DataDir, fail
from server.printing import counted, duration, plain
from server.progress import check_progress, progress


@app.command(
    short_help="Check stored data.",
    epilog="""\b
Example
  twopass verify --data-dir ~/search

Exit code: 0 if all is well, 1 if something is wrong, 2 if it could not be checked.""",
)
def verify(config: Config = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check stored data: catalog, vectors and index files against each other.

    Changes nothing, and a server may be running on the data.
    """
    from index.errors import IndexFault, StorageError
    from server.errors import ServiceError
    from server.settings import SettingsError, load_settings
    from server.verification import verify as check_data

    try:
        settings = load_settings(config, options={} if data_dir is None else {"data_dir": data_dir})
        with check_progress() as on_progress:
            report = check_data(settings.data_dir, on_progress)
    except SettingsError as error:
        fail(str(error), "Correct this and run it again; config.yaml explains every setting.", FAILED)
    except StorageError as error:
        fail(str(error), UNREADABLE, FAILED)
    except (ServiceError, IndexFault) as error:
        fail(str(error), getattr(error, "hint", None) or "", FAILED)
    if as_json:
        typer.echo(json.dumps({"ok": report.ok, **dataclasses.asdict(report)}, ensure_ascii=False))
    else:
        for problem in report.problems:
            typer.echo(f"{problem.code}: {plain(problem.detail)}\n    {problem.hint}")
        verdict = counted(len(report.problems), "problem") if report.problems else "no problems"
        typer.echo(
            f"{settings.data_dir}: {verdict}. Checked {counted(report.documents, 'document')} and "
            f"{counted(report.rows, 'vector')} ({report.checked_bytes / 1e6:,.1f} MB) "
            f"in {duration(report.seconds)}."
        )
    raise typer.Exit(0 if report.ok else INCOMPLETE)


@app.command(
    short_help="Index Python's own documentation and search it.",
    epilog="""\b
Example
  twopass demo --data-dir /tmp/twopass-demo

Exit code: 0, or 1 if something went wrong.""",
)
def demo(
    data_dir: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the demo keeps its data; a folder of its own.")
    ] = Path("twopass-demo"),
) -> None:
    """Index the documentation inside Python's standard library, and search it.

    Starts a server of its own on a free port and stops it at the end. Takes a minute or two the first time;
    the folder stays, so the second time takes seconds.
    """
    from server.client import ClientError
    from server.demo import DemoError, run

    try:
        run(data_dir, Console(highlight=False), progress)
    except (DemoError, ClientError) as error:
        fail(str(error), error.hint, INCOMPLETE)
