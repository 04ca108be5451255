"""`twopass jobs`: the long work of a running server; how far it is, pausing and ending it."""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

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
from server.printing import duration, plain
from server.progress import work_progress

if TYPE_CHECKING:
    from server.client import Client, JobAnswer

ENDED = ("done", "failed", "cancelled")
JOB_POLL_S = 0.5  # between two looks at a job
SHOWN_ID = 8  # characters; jobs in one list hardly share so many

jobs = typer.Typer(rich_markup_mode=None)
app.add_typer(
    jobs,
    name="jobs",
    short_help="See, pause and cancel the long work of a running server.",
    epilog="""\b
Examples
  twopass jobs
  twopass jobs show 3fe81a02 --wait
  twopass jobs pause 3fe81a02

Exit code: 0, or what the commands below say.""",
)

Identifier = Annotated[
    str, typer.Argument(metavar="ID", help="A job's id, or its beginning.", show_default=False)
]


@jobs.callback(invoke_without_command=True)
def all_jobs(
    context: typer.Context, as_json: AsJson = False, url: Url = LOCAL_SERVER, api_key: ApiKey = ""
) -> None:
    """Show what a running server does beside requests: documents to be encoded, a change of the model, rebuilds.

    Without a command: a list, the newest first.
    """
    if context.invoked_subcommand is None:
        list_jobs(as_json, url, api_key)


@jobs.command(
    "list",
    short_help="All jobs, the newest first.",
    epilog="""\b
Example
  twopass jobs list --json

Exit code: 0, or 2 if the server could not be reached.""",
)
def list_jobs(as_json: AsJson = False, url: Url = LOCAL_SERVER, api_key: ApiKey = "") -> None:
    """List what has not ended, and the last that have."""
    with connected(url, api_key) as client:
        found = client.jobs()
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        echo([line(job) for job in found] or ["There are no jobs."])


@jobs.command(
    short_help="One job, and what came of it.",
    epilog="""\b
Example
  twopass jobs show 3fe81a02 --wait

Exit code: 0, 1 if the job failed, was cancelled or left documents out, 2 if the server could not be reached or has no
such job, 130 after Ctrl-C.""",
)
def show(
    identifier: Identifier,
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is, until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Show a job: how far it is, what it waits for, and which documents it could not store."""
    try:
        with connected(url, api_key) as client:
            job = named(client, identifier)
            if wait:
                with work_progress(job["progress"]["unit"]) as on_progress:
                    while job["status"] not in ENDED:
                        on_progress(
                            job["stage"] or job["status"], job["progress"]["done"], job["progress"]["total"]
                        )
                        time.sleep(JOB_POLL_S)
                        job = client.job(job["id"])
    except KeyboardInterrupt:
        typer.echo("Interrupted. The server goes on with it.")
        raise typer.Exit(INTERRUPTED) from None
    tell(job, as_json)
    result = job["result"] or {}
    raise typer.Exit(INCOMPLETE if job["status"] in ("failed", "cancelled") or result.get("failed") else 0)


@jobs.command(
    short_help="Let a job stand still, over restarts too.",
    epilog="""\b
Example
  twopass jobs pause 3fe81a02

Exit code: 0, or 2 if the server could not be reached or the job can't be paused.""",
)
def pause(
    identifier: Identifier, as_json: AsJson = False, url: Url = LOCAL_SERVER, api_key: ApiKey = ""
) -> None:
    """Let a job stand still until it is resumed; the jobs behind it go on."""
    asked(identifier, "pause", as_json, url, api_key)


@jobs.command(
    short_help="Let a paused job go on.",
    epilog="""\b
Example
  twopass jobs resume 3fe81a02

Exit code: 0, or 2 if the server could not be reached or the job has ended.""",
)
def resume(
    identifier: Identifier, as_json: AsJson = False, url: Url = LOCAL_SERVER, api_key: ApiKey = ""
) -> None:
    """Let a paused job go on where it stopped."""
    asked(identifier, "resume", as_json, url, api_key)


@jobs.command(
    short_help="End a job.",
    epilog="""\b
Example
  twopass jobs cancel 3fe81a02

Exit code: 0, or 2 if the server could not be reached or the job has ended.""",
)
def cancel(
    identifier: Identifier, as_json: AsJson = False, url: Url = LOCAL_SERVER, api_key: ApiKey = ""
) -> None:
    """End a job. What it has stored stays; documents that it has not stored yet are forgotten."""
    asked(identifier, "cancel", as_json, url, api_key)


def asked(identifier: str, how: str, as_json: bool, url: str, api_key: str) -> None:
    with connected(url, api_key) as client:
        job = client.control_job(named(client, identifier)["id"], how)
    tell(job, as_json)


def named(client: "Client", beginning: str) -> "JobAnswer":
    """Return the one job whose id begins so."""
    found = [job for job in client.jobs() if job["id"].startswith(beginning)]
    if len(found) != 1:
        which = "There is no job" if not found else f"There are {len(found)} jobs"
        fail(f"{which} whose id begins with {beginning!r}.", "`twopass jobs` lists them.", FAILED)
    return found[0]


def tell(job: "JobAnswer", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(job, ensure_ascii=False))
        return
    echo([f"Job {job['id']}, begun {job['created_at'][:19]} UTC", line(job)])
    if job["type"] == "ingest":
        echo(ingest_lines(job["result"] or {}))


def line(job: "JobAnswer") -> str:
    """One job in one line."""
    progress = job["progress"]
    parts = [f"{progress['done']:,} of {progress['total']:,} {progress['unit']}"]
    if progress["rate"]:
        parts.append(f"{progress['rate']:,.0f}/s" if progress["rate"] >= 10 else f"{progress['rate']:.1f}/s")
    if progress["eta_s"] is not None:
        parts.append(f"{duration(progress['eta_s'])} left")
    parts += [plain(each) for each in (job["stage"], job["error"]) if each]
    return f"{job['id'][:SHOWN_ID]}  {job['type']:<8} {job['status']:<10} {' · '.join(parts)}"


def ingest_lines(result: dict[str, Any]) -> Iterator[str]:
    """Say what an ingest job has stored, and what it had to leave out."""
    names = {
        "created": "new",
        "updated": "updated",
        "unchanged": "unchanged",
        "overtaken": "replaced by newer ones",
    }
    yield "  " + ", ".join(f"{result[name]:,} {word}" for name, word in names.items() if result.get(name))
    if failed := result.get("failed"):
        yield f"  Left out: {failed['count']:,}"
        for each in failed["documents"]:
            yield f"    {plain(each['id'])}: {plain(each['reason'])}"
        if failed["count"] > len(failed["documents"]):
            yield f"    … and {failed['count'] - len(failed['documents']):,} more"
