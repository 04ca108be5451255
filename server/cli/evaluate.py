"""`twopass evaluate`: recall and quality, measured on a running server's own documents."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from server.cli.app import app
from server.cli.sharing import (
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    LOCAL_SERVER,
    ApiKey,
    AsJson,
    Url,
    check_plots,
    connected,
    echo,
    fail,
)
from server.printing import counted, duration, plain, size
from server.progress import work_progress

if TYPE_CHECKING:
    from server.client import JobAnswer

JOB_POLL_S = 0.25  # between two looks at the job
PLOTTED = "8"  # candidates for each hit, as the settings have it


@app.command(
    short_help="Measure recall, or quality, on a running server's own documents.",
    epilog="""\b
Examples
  twopass evaluate
  twopass evaluate --sample 500 --plot recall.png
  twopass evaluate --quality

Exit code: 0, 1 if it failed or was cancelled, 2 if the server could not be reached or refused, 130 after Ctrl-C,
which cancels it.""",
)
def evaluate(
    sample: Annotated[
        int, typer.Option(min=10, max=500, metavar="N", help="Stored passages searched for.")
    ] = 200,
    k: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Neighbours to be found.")] = 10,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality", help="Whether documents are found by their own titles and first sentences."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw recall by prefix length, as PNG.")
    ] = None,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Search for a sample of the stored passages exactly, and compare: the index as it serves, and other forms.

    Takes a minute or several, beside searches, which go first. Nothing changes.
    """
    if plot is not None and quality:
        fail("--plot draws recall, which --quality doesn't measure.", "Leave one of the two out.", FAILED)
    if plot is not None:
        check_plots()
    job: JobAnswer | None = None
    with connected(url, api_key) as client:
        try:
            job = client.evaluate({"sample": sample, "k": k, "quality": quality})
            with work_progress("questions" if quality else "rows") as on_progress:
                while job["status"] in ("waiting", "running"):
                    on_progress(job["stage"], job["progress"]["done"], job["progress"]["total"])
                    time.sleep(JOB_POLL_S)
                    job = client.job(job["id"])
        except KeyboardInterrupt:
            if job is not None:
                client.control_job(job["id"], "cancel")
            typer.echo("Interrupted, and cancelled.")
            raise typer.Exit(INTERRUPTED) from None
    result = job["result"]
    if result is None:
        fail(
            f"The evaluation is {job['status']}: {plain(job['error'] or 'nothing came of it')}.",
            "",
            INCOMPLETE,
        )
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
    elif quality:
        print_quality(result["quality"])
    else:
        print_recall(result)
    if plot is not None:
        draw(result, plot)


def draw(result: dict[str, Any], path: Path) -> None:
    from index.errors import IndexFault
    from server.recall_plot import draw_recall

    try:
        draw_recall(result, PLOTTED, path)
    except IndexFault as error:
        fail(str(error), "Choose another file with --plot.", INCOMPLETE)
    typer.echo(f"Drawn: {path}", err=True)


def print_recall(result: dict[str, Any]) -> None:
    """Say how the index serves, and list what other forms would find."""
    echo(serving_lines(result))
    curve, k = result["curve"], result["k"]
    factors = list(curve["bytes_read"])
    table = Table(
        title=f"Other forms, on {counted(curve['passages'], 'passage')}: recall@{k} by candidates rescored",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),  # 80 columns are enough
    )
    for name in ("order", "codec"):
        table.add_column(name)
    for name in ("dims", "bytes", "ms", *(str(int(each) * k) for each in factors)):
        table.add_column(name, justify="right")
    for form in curve["forms"]:
        table.add_row(
            form["order"], form["codec"], str(form["prefix_dim"]), str(form["row_bytes"]), f"{form['scan_ms']:.2f}",
            *(f"{form['recall'][each]:.3f}" for each in factors),
        )  # fmt: skip
    reads = ", ".join(f"{int(each) * k}: {size(n)}" for each, n in curve["bytes_read"].items())
    Console(highlight=False).print(table)
    typer.echo(
        "bytes: of memory, a passage. ms: of the first pass, over these passages on one thread. "
        f"Read from disk for so many candidates: {reads}."
    )


def serving_lines(result: dict[str, Any]) -> Iterator[str]:
    serving = result["serving"]
    plan, pool, final = serving["first_pass"], serving["pool_recall"], serving["recall"]
    yield (
        f"{counted(result['queries'], 'query').replace('querys', 'queries')} from {result['from']} against "
        f"{counted(result['passages'], 'passage')}, in {duration(result['seconds'])}"
    )
    yield f"As it serves: {plan['codec']}, {plan['order']}'s order, {plan['prefix_dim']} dimensions"
    yield (
        f"  recall@{result['k']}  {final['mean']:.4f} ({final['low']:.4f} to {final['high']:.4f}); among "
        f"{serving['candidates']} candidates {pool['mean']:.4f} ({pool['low']:.4f} to {pool['high']:.4f})"
    )
    yield (
        f"  search     {serving['p50_ms']:.2f} ms, 90th percentile {serving['p90_ms']:.2f} ms; "
        f"{serving['rows_read']:.0f} vectors read, {size(serving['bytes_read'])}"
    )
    for warning in result["warnings"]:
        yield f"Note: {plain(warning)}"


def print_quality(quality: dict[str, Any]) -> None:
    """List how far up documents come that are asked for in their own words."""
    table = Table(
        title=f"{counted(quality['documents'], 'document')} asked for in their own words",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("question", "search"):
        table.add_column(name)
    for name in ("nDCG@10", "MRR", "found"):
        table.add_column(name, justify="right")
    for kind in ("titles", "sentences"):
        for name, scores in quality.get(kind, {}).items():
            if name != "questions":
                table.add_row(
                    f"{quality[kind]['questions']} {kind}", name.replace("_", " "),
                    *(f"{scores[each]:.3f}" for each in ("ndcg", "mrr", "found")),
                )  # fmt: skip
    Console(highlight=False).print(table)
    for warning in quality["warnings"]:
        typer.echo(f"Note: {plain(warning)}")
