"""`twopass rebuild`, `twopass compact` and `twopass plan`: the index, made anew, made smaller or foreseen."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
    fail,
)
from server.printing import compaction_lines, job_lines, plan_lines, trial_lines
from server.progress import work_progress

if TYPE_CHECKING:
    from server.client import Client, JobAnswer

JOB_POLL_S = 0.25  # between two looks at a job


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
    with connected(url, api_key) as client:
        job = client.rebuild({name: value for name, value in given.items() if value is not None})
        if wait:
            job = ended(client, job)
    if as_json:
        typer.echo(json.dumps(job, ensure_ascii=False))
    else:
        echo(job_lines(job))
    raise typer.Exit(INCOMPLETE if job["status"] in ("failed", "cancelled") else 0)


@app.command(
    short_help="Give back the room of deleted and replaced documents.",
    epilog="""\b
Example
  twopass compact --wait

Exit code: 0 if it was begun, with --wait if it is done, 1 if it failed, 2 if the server could not be reached or
refused, 130 after Ctrl-C.""",
)
def compact(
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is, until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Drop the vectors of deleted and replaced documents now.

    The server does it by itself where they are many: index.compact_share. Searches and ingest go on; it takes the disk
    room of what is kept once more.
    """
    with connected(url, api_key) as client:
        job = ended(client, client.compact()) if wait else client.compact()
    if as_json:
        typer.echo(json.dumps(job, ensure_ascii=False))
    else:
        echo(compaction_lines(job))
    raise typer.Exit(INCOMPLETE if job["status"] in ("failed", "cancelled") else 0)


def ended(client: "Client", job: "JobAnswer") -> "JobAnswer":
    """Show how far a job is, until it ends; return it as it is then."""
    try:
        with work_progress() as on_progress:
            while job["status"] in ("waiting", "running"):
                on_progress(job["stage"], job["progress"]["done"], job["progress"]["total"])
                time.sleep(JOB_POLL_S)
                job = client.job(job["id"])
    except KeyboardInterrupt:
        typer.echo("Interrupted. The server goes on with it.")
        raise typer.Exit(INTERRUPTED) from None
    return job


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
        fail(str(error), "", FAILED)
    planned = forecast(Question(rows, dim, budget or limit_bytes() // 2, dtype, target_recall))
    if not as_json:
        echo(plan_lines(planned))
    measured = None
    if verify:
        try:
            with work_progress() as on_progress:
                measured = trial(planned, verify_rows, on_progress)
        except (IndexFault, OSError) as error:
            fail(str(error), "TMPDIR=/some/folder puts the trial elsewhere.", INCOMPLETE)
        if not as_json:
            echo(trial_lines(measured))
    if as_json:
        typer.echo(json.dumps(told(planned, measured)))
    raise typer.Exit(0 if planned.best.fits else INCOMPLETE)
