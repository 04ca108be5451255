"""The `twopass` command.

`serve`, `verify` and `demo` work on this machine; `ingest` and `search` speak HTTP to a running server. What
is slow to import (the model's library, faiss, the web framework) is imported inside the command that needs
it, so that `--help` and the client commands answer at once.
"""

import contextlib
import dataclasses
import json
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from server import __version__

if TYPE_CHECKING:
    from server.client import Client, Hit, IngestReport, SearchAnswer
    from server.readers import Found, Skips

INCOMPLETE, FAILED, INTERRUPTED = 1, 2, 130  # exit codes besides 0
PLAIN_PROGRESS_S = 5.0  # between two lines of progress, where there is no terminal
PASSAGE_LINES = 3

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
    from server.client import IngestReport
    from server.client import ingest as send
    from server.readers import Skipped, Skips, count_documents, find_sources, read_sources

    skips, report = Skips(), IngestReport()
    found = find_sources(paths, skips.add, base)
    started = time.monotonic()
    code = 0
    if not found.sources:
        typer.echo("There is nothing to ingest.")
        _print_skips(skips, report, found)
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
        _print_stored(report, time.monotonic() - started)
        _print_skips(skips, report, found)
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
        Literal["two_pass", "prefix", "exact"],
        typer.Option(help="Prefixes and then full vectors, prefixes only, or every full vector."),
    ] = "two_pass",
    oversample: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="X", help="Candidates for each document asked for. Default: the server's."
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
        _print_hit(console, rank, hit)
    for warning in answer["warnings"]:
        typer.echo(f"Note: {plain(warning)}", err=True)
    typer.echo(f"{counted(len(answer['hits']), 'document')} · {timings(answer)}")


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
        report = check_data(settings.data_dir, lambda done, total: None)
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
            f"in {_duration(report.seconds)}."
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
def progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far an ingest is, on standard error; call what this yields with the number of documents done.

    A bar on a terminal, a line every few seconds elsewhere. `total` is None where nobody knows.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    done, told_at = 0, started

    def state() -> str:
        seconds = max(time.monotonic() - started, 1e-3)
        parts = [f"{done:,} of {total:,} documents" if total is not None else f"{done:,} documents"]
        if done:
            rate = done / seconds
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
            if total is not None and done < total:
                parts.append(f"{_duration((total - done) / rate)} left")
        return " · ".join(parts)

    with contextlib.ExitStack() as stack:
        bar = None
        if console.is_terminal:
            bar = Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True)
            task = stack.enter_context(bar).add_task(state(), total=total)

        def on_done(n: int) -> None:
            nonlocal done, told_at
            done += n
            if bar is not None:
                bar.update(task, completed=done, description=state())
            elif time.monotonic() - told_at >= PLAIN_PROGRESS_S:
                told_at = time.monotonic()
                console.print(state(), highlight=False)

        yield on_done


def timings(answer: "SearchAnswer") -> str:
    """Say how a search was done and how long it took."""
    took = answer["timings_ms"]
    return (
        f"{counted(answer['candidates'], 'candidate')} · encode {took['encode']:.1f} ms · "
        f"first pass {took['first_pass']:.2f} ms · second pass {took['second_pass']:.2f} ms · "
        f"total {took['total']:.1f} ms"
    )


def counted(n: int, thing: str) -> str:
    """Say a number of things: 1 document, 2,000 documents."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def plain(text: str) -> str:
    """Return text on one line, without characters that could steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


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


def _fail(message: str, hint: str, code: int) -> NoReturn:
    """Say what happened and what to do, and end."""
    typer.echo(f"twopass: {message}", err=True)
    if hint:
        typer.echo(hint, err=True)
    raise typer.Exit(code)


def _wait_for_server(seconds: float) -> None:
    typer.echo(f"The server is busy or away; trying again in {_duration(seconds)}.", err=True)
    time.sleep(seconds)


def _print_stored(report: "IngestReport", seconds: float) -> None:
    typer.echo(
        f"{counted(report.stored, 'document')} stored: {report.created:,} new, {report.updated:,} updated, "
        f"{report.unchanged:,} unchanged ({counted(report.passages, 'passage')}) in {_duration(seconds)}."
    )
    for warning in dict.fromkeys(report.warnings):
        typer.echo(f"Note: {plain(warning)}")


def _print_skips(skips: "Skips", report: "IngestReport", found: "Found") -> None:
    for what, some in (("Skipped", skips), ("Refused by the server", report.refused)):
        if some.count:
            typer.echo(f"{what}: {some.count:,}")
            for each in some.first:
                typer.echo(f"  {plain(each.source)}: {plain(each.reason)}")
            if some.count > len(some.first):
                typer.echo(f"  … and {some.count - len(some.first):,} more")
    if found.other_kinds:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.other_kinds.most_common(5))
        typer.echo(f"Passed over {counted(found.other_kinds.total(), 'file')} of other kinds: {kinds}")


def _print_hit(console: Console, rank: int, hit: "Hit") -> None:
    line = Text(f"{rank:>3}  {hit['score']:.3f}  ")
    line.append(plain(hit["id"]), style="bold")
    if (explain := hit.get("explain")) and explain["prefix_score"] is not None:
        line.append(
            f"  prefix {explain['prefix_score']:.3f}, rank {explain['prefix_rank']} → {explain['rank']}"
        )
    console.print(line)
    passage = plain(hit["passage"].get("text") or "")
    for row in textwrap.wrap(passage, max(console.width - 12, 20), max_lines=PASSAGE_LINES, placeholder=" …"):
        console.print(Text(f"            {row}", style="dim"))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


if __name__ == "__main__":
    main()
