"""`twopass search`: questions to a running server."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from server.cli.app import app
from server.cli.sharing import LOCAL_SERVER, ApiKey, AsJson, Url, connected
from server.printing import counted, plain, print_hit, timings

if TYPE_CHECKING:
    from server.client import SearchAnswer


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
