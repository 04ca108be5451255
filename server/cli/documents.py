"""`twopass ingest` and `twopass search`: texts to a running server, and questions."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from server.cli.app import app
from server.cli.sharing import (
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    LOCAL_SERVER,
    ApiKey,
    AsJson,
    Url,
    connected,
    echo,
    wait_for_server,
)
from server.printing import counted, plain, print_hit, skipped_lines, stored_lines, timings
from server.progress import progress

if TYPE_CHECKING:
    from server.client import SearchAnswer
    from server.incoming import Document, OnSkip, Skips
    from server.readers import Found


@app.command(
    short_help="Send files and folders to a running server.",
    epilog="""\b
Examples
  twopass ingest ~/notes ~/papers/list.jsonl
  twopass ingest ~/notes --base ~     (ids like notes/todo.md)
  man git | twopass ingest -
  twopass ingest ~/library --no-wait && twopass jobs

Exit code: 0 if everything is stored (with --no-wait: accepted), 1 if something was skipped, 2 if the server could
not be reached or would not go on, 130 after Ctrl-C.""",
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
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End when all is safe on the server, which encodes it later.")
    ] = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Send texts to a running server: files, folders, or - for standard input.

    Folders are searched for .txt, .md, .rst, .html, .htm and .jsonl files; what is hidden is passed over. A
    line of .jsonl is a document, {"id", "text", "metadata", "vector"}, of which it needs a text or a vector.

    A file's path is its document's id. Run it again whenever something changed: what is unchanged is skipped,
    what changed is replaced.
    """
    from server.incoming import Skips
    from server.readers import count_documents, find_sources, read_sources

    skips = Skips()
    found = find_sources(paths, skips.add, base)
    if not found.sources:
        typer.echo("There is nothing to ingest.")
        echo(skipped_lines(skips, None, found))
        raise typer.Exit(INCOMPLETE)
    raise typer.Exit(
        sent(
            lambda on_skip: read_sources(found.sources, on_skip),
            count_documents(found.sources), skips, found, not no_wait, url, api_key,
        )
    )  # fmt: skip


def sent(
    read: Callable[["OnSkip"], Iterator["Document"]],
    total: int | None,
    skips: "Skips",
    found: "Found | None",
    wait: bool,
    url: str,
    api_key: str,
) -> int:
    """Send documents to a server and say what became of them; return the exit code."""
    from server.incoming import Skipped
    from server.uploading import IngestReport, follow
    from server.uploading import ingest as send

    report = IngestReport()
    started = time.monotonic()
    code = 0
    try:
        with connected(url, api_key) as client, progress(total) as on_done:

            def on_skip(skipped: Skipped) -> None:
                skips.add(skipped)
                on_done(1)

            send(client, read(on_skip), report, on_done, wait_for_server, wait=wait)
            if wait:
                follow(client, report, on_done, wait_for_server, tell_why_it_waits)
    except KeyboardInterrupt:
        code = INTERRUPTED
        typer.echo("Interrupted. The same command goes on where it stopped: what is stored is skipped.")
    except typer.Exit as stopped:
        code = stopped.exit_code
    if report.stored or report.accepted or code != FAILED:
        echo(stored_lines(report, time.monotonic() - started))
        echo(skipped_lines(skips, report, found))
    return code or (INCOMPLETE if skips.count or report.refused.count else 0)


def tell_why_it_waits(why: str) -> None:
    typer.echo(f"Everything is safe on the server, which waits: {plain(why)}", err=True)


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
    hybrid: Annotated[
        bool | None,
        typer.Option(
            "--hybrid/--no-hybrid",
            help="Whether exact words count too, or meaning alone. Default: the server's.",
            show_default=False,
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
        typer.Option(
            "--explain",
            help="Show prefix scores, what words did, and ranks before and after.",
        ),
    ] = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Ask a running server a question.

    Prints the best documents, and of each the passage that fits best.
    """
    request: dict[str, Any] = {"query": query, "k": k, "mode": mode, "include": ["text", "metadata"]}
    if hybrid is not None:
        request["hybrid"] = hybrid
    if oversample is not None:
        request["oversample"] = oversample
    if max_read is not None:
        request["max_read"] = max_read
    if explain:
        request["include"].append("explain")
    with connected(url, api_key) as client:
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
