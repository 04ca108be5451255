"""The `twopass` command.

`serve`, `verify`, `plan` and `demo` work on this machine; `ingest`, `search` and `rebuild` speak HTTP to a running
server. What
is slow to import (the model's library, faiss, the web framework) is imported inside the command that needs
it, so that `--help` and the client commands answer at once.
"""

import contextlib
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from server import __version__
from server.printing import (
    counted,
    duration,
    job_lines,
    plain,
    plan_lines,
    print_hit,
    skipped_lines,
    stored_lines,
    timings,
    trial_lines,
)
from server.progress import check_progress, progress, work_progress

if TYPE_CHECKING:
    from server.client import Client, SearchAnswer

INCOMPLETE, FAILED, INTERRUPTED = 1, 2, 130  # exit codes besides 0
JOB_POLL_S = 0.25  # between two looks at a job

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
    # Until uvicorn takes the signal over: process 1 of a container ignores one that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from server.app import serve as run_server
    from server.errors import StartupError
    from server.settings import SettingsError, load_settings

    given = {"data_dir": data_dir, "server.host": host, "server.port": port, "index.check_on_open": check}
    try:
        settings = load_settings(
            config, options={key: value for key, value in given.items() if value is not None}
        )
        code = run_server(settings)
    except SettingsError as error:
        _fail(str(error), "Correct this and start again; config.yaml explains every setting.", INCOMPLETE)
    except StartupError as error:
        _fail(str(error), error.hint or "", INCOMPLETE)
    raise typer.Exit(code)


@app.command(
    short_help="Send files and folders to a running server.",
    epilog="""\b
Examples
  twopass ingest ~/notes ~/papers/list.jsonl
  twopass ingest ~/notes --base ~     (ids like notes/todo.md)
  man git | twopass ingest -

Exit code: 0 if everything is stored, 1 if something was skipped, 2 if the server could not be reached or
would not go on, 130 after Ctrl-C.""",
)
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files and folders; - is standard input.", show_default=False),
    ],
    base: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Make ids relative to this folder, for files that move."),
    ] = None,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Send texts to a running server: files, folders, or - for standard input.

    Folders are searched for .txt, .md, .rst, .html, .htm and .jsonl files; what is hidden is passed over. A
    line of .jsonl is a document, {"id", "text", "metadata", "vector"}, of which it needs a text or a vector.

    A file's path is its document's id. Run it again whenever something changed: what is unchanged is skipped,
    what changed is replaced.
    """
    from server.incoming import Skipped, Skips
    from server.readers import count_documents, find_sources, read_sources
    from server.uploading import IngestReport
    from server.uploading import ingest as send

    skips, report = Skips(), IngestReport()
    found = find_sources(paths, skips.add, base)
    started = time.monotonic()
    code = 0
    if not found.sources:
        typer.echo("There is nothing to ingest.")
        _echo(skipped_lines(skips, report, found))
        raise typer.Exit(INCOMPLETE)
    try:
        with _connected(url, api_key) as client, progress(count_documents(found.sources)) as on_done:

            def on_skip(skipped: Skipped) -> None:
                skips.add(skipped)
                on_done(1)

            send(client, read_sources(found.sources, on_skip), report, on_done, _wait_for_server)
    except KeyboardInterrupt:
        code = INTERRUPTED
        typer.echo("Interrupted. The same command goes on where it stopped: what is stored is skipped.")
    except typer.Exit as stopped:
        code = stopped.exit_code
    if report.stored or code != FAILED:
        _echo(stored_lines(report, time.monotonic() - started))
        _echo(skipped_lines(skips, report, found))
    raise typer.Exit(code or (INCOMPLETE if skips.count or report.refused.count else 0))


@app.command(
    epilog="""\b
Example
  twopass search "how do I read a zip archive" -k 5

Exit code: 0 if the server answered, 2 if it could not be reached or refused.""",
)
def search(
    query: Annotated[
        str,
        typer.Argument(metavar="QUESTION", help="What to look for, in your own words.", show_default=False),
    ],
    k: Annotated[int, typer.Option("-k", min=1, metavar="N", help="Documents to find.")] = 10,
    mode: Annotated[
        Literal["two_pass", "prefix", "certified", "exact"],
        typer.Option(
            help="Prefixes and then full vectors, prefixes only, until proved to be the best, or every full vector."
        ),
    ] = "two_pass",
    oversample: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="X", help="Candidates for each document asked for. Default: the server's."
        ),
    ] = None,
    max_read: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Full vectors that mode certified reads at most. Default: the server's."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show prefix scores, and ranks before and after the second pass."),
    ] = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Ask a running server a question.

    Prints the best documents, and of each the passage that fits best.
    """
    request: dict[str, Any] = {"query": query, "k": k, "mode": mode, "include": ["text", "metadata"]}
    if oversample is not None:
        request["oversample"] = oversample
    if max_read is not None:
        request["max_read"] = max_read
    if explain:
        request["include"].append("explain")
    with _connected(url, api_key) as client:
        body = client.search_json(request)
    if as_json:
        typer.echo(body)
        return
    answer: SearchAnswer = json.loads(body)
    console = Console(highlight=False, soft_wrap=True)
    for rank, hit in enumerate(answer["hits"], 1):
        print_hit(console, rank, hit)
    for warning in answer["warnings"]:
        typer.echo(f"Note: {plain(warning)}", err=True)
    proved = " · certified" if answer["certified"] else ""
    typer.echo(f"{counted(len(answer['hits']), 'document')} · {timings(answer)}{proved}")


@app.command(
    short_help="Have a running server make its first pass anew.",
    epilog="""\b
Examples
  twopass rebuild --wait
  twopass rebuild --codec int8 --order corpus

Exit code: 0 if it was begun, with --wait if it is done, 1 if it failed, 2 if the server could not be reached or
refused, 130 after Ctrl-C.""",
)
def rebuild(
    order: Annotated[
        Literal["model", "corpus"] | None, typer.Option(help="Which dimensions come first.")
    ] = None,
    codec: Annotated[
        Literal["float32", "float16", "int8", "pq4", "rabitq"] | None,
        typer.Option(help="How prefixes are kept in memory."),
    ] = None,
    kind: Annotated[
        Literal["flat", "ivf"] | None, typer.Option(help="Compare every row, or the nearest lists.")
    ] = None,
    prefix_dim: Annotated[int | None, typer.Option(min=1, metavar="N", help="Dimensions at most.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is, until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Make the first pass anew from the stored vectors; nothing is encoded, and searches go on.

    What isn't given is as the server's settings say. Those win again at the next rebuild that the server makes by
    itself.
    """
    given = {"order": order, "codec": codec, "kind": kind, "prefix_dim": prefix_dim}
    try:
        with _connected(url, api_key) as client:
            job = client.rebuild({name: value for name, value in given.items() if value is not None})
            if wait:
                with work_progress() as on_progress:
                    while job["status"] in ("waiting", "running"):
                        on_progress(job["stage"], job["progress"]["done"], job["progress"]["total"])
                        time.sleep(JOB_POLL_S)
                        job = client.job(job["id"])
    except KeyboardInterrupt:
        typer.echo("Interrupted. The server goes on with it.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(job, ensure_ascii=False))
    else:
        _echo(job_lines(job))
    raise typer.Exit(INCOMPLETE if job["status"] in ("failed", "cancelled") else 0)


@app.command(
    short_help="Predict memory, disk and search time of a collection.",
    epilog="""\b
Examples
  twopass plan --rows 5000000 --dim 768 --memory 512M
  twopass plan --rows 300000 --dim 384 --verify

Exit code: 0, or 1 if nothing fits into the memory or the trial failed.""",
)
def plan(
    rows: Annotated[
        int, typer.Option(min=1000, max=10**10, metavar="N", help="Passages; fewer than 1000 need no plan.")
    ],
    dim: Annotated[int, typer.Option(min=1, max=16384, metavar="N", help="Dimensions of a vector.")],
    memory: Annotated[
        str,
        typer.Option(metavar="SIZE", help="For the first pass, as 512M or 2GiB; 0: half of this machine's."),
    ] = "0",
    target_recall: Annotated[
        float, typer.Option(min=0.5, max=1, metavar="X", help="Share of the true 10 nearest to find.")
    ] = 0.99,
    dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="How full vectors are stored.")
    ] = "float16",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Build it over made-up vectors in a temporary folder, and measure."),
    ] = False,
    verify_rows: Annotated[
        int, typer.Option(min=1000, metavar="N", help="Rows of that trial at most.")
    ] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Say how a server would keep a collection of that size, and what it would take.

    Needs no server and no data. Memory is that of the first pass alone: the model and the page cache come on top.
    """
    from index.errors import IndexFault
    from server.memory import limit_bytes
    from server.planning import Question, forecast, told, trial
    from server.settings import SettingsError, budget_bytes

    try:
        budget = budget_bytes(memory, "--memory")
    except SettingsError as error:
        _fail(str(error), "", FAILED)
    planned = forecast(Question(rows, dim, budget or limit_bytes() // 2, dtype, target_recall))
    if not as_json:
        _echo(plan_lines(planned))
    measured = None
    if verify:
        try:
            with work_progress() as on_progress:
                measured = trial(planned, verify_rows, on_progress)
        except (IndexFault, OSError) as error:
            _fail(str(error), "TMPDIR=/some/folder puts the trial elsewhere.", INCOMPLETE)
        if not as_json:
            _echo(trial_lines(measured))
    if as_json:
        typer.echo(json.dumps(told(planned, measured)))
    raise typer.Exit(0 if planned.best.fits else INCOMPLETE)


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
    from index.errors import IndexFault
    from server.errors import ServiceError
    from server.settings import SettingsError, load_settings
    from server.verification import verify as check_data

    try:
        settings = load_settings(config, options={} if data_dir is None else {"data_dir": data_dir})
        with check_progress() as on_progress:
            report = check_data(settings.data_dir, on_progress)
    except SettingsError as error:
        _fail(str(error), "Correct this and run it again; config.yaml explains every setting.", FAILED)
    except (ServiceError, IndexFault) as error:
        _fail(str(error), getattr(error, "hint", None) or "", FAILED)
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
        _fail(str(error), error.hint, INCOMPLETE)


@contextlib.contextmanager
def _connected(url: str, api_key: str) -> Iterator["Client"]:
    from server.client import Client, ClientError, RefusedError

    try:
        with Client(url, api_key) as client:
            yield client
    except RefusedError as error:
        _fail(f"The server refused: {error}" if error.code else str(error), error.hint, FAILED)
    except ClientError as error:
        _fail(str(error), error.hint, FAILED)


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _fail(message: str, hint: str, code: int) -> NoReturn:
    """Say what happened and what to do, and end."""
    typer.echo(f"twopass: {message}", err=True)
    if hint:
        typer.echo(hint, err=True)
    raise typer.Exit(code)


def _wait_for_server(seconds: float) -> None:
    typer.echo(f"The server is busy or away; trying again in {duration(seconds)}.", err=True)
    time.sleep(seconds)


if __name__ == "__main__":
    main()
