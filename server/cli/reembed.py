"""`twopass reembed`: another model for the stored texts."""

import json
import time
from typing import Annotated, Any, Literal

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
from server.printing import change_lines, generation_lines
from server.progress import work_progress

JOB_POLL_S = 0.5  # between two looks at the job


@app.command(
    short_help="Change the model: have every stored text encoded anew.",
    epilog="""\b
Examples
  twopass reembed --model nomic-ai/nomic-embed-text-v1.5 --wait
  twopass reembed --model nomic-embed-text --url http://127.0.0.1:11434 --backend ollama
  twopass reembed --rollback
  twopass reembed             (how far it is, and which generations of vectors there are)

Exit code: 0 if it was begun, with --wait if it is done, 1 if it failed or was cancelled, 2 if the server could not be
reached or refused, 130 after Ctrl-C.""",
)
def reembed(
    model: Annotated[str, typer.Option(metavar="NAME", help="The new model, as encoder.model has it.")] = "",
    backend: Annotated[
        Literal["auto", "onnx", "torch", "openai", "ollama"], typer.Option(help="What runs it.")
    ] = "auto",
    precision: Annotated[
        Literal["float32", "int8"], typer.Option(help="Of its weights, on ONNX Runtime.")
    ] = "float32",
    remote: Annotated[
        str,
        typer.Option(
            "--encoder-url", metavar="URL", help="Where another program runs it; texts are sent there."
        ),
    ] = "",
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the model before.")] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Let it rest until --resume, also over restarts.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after --pause.")] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Give it up; what serves now goes on serving.")
    ] = False,
    forget: Annotated[
        int | None,
        typer.Option(metavar="N", help="Delete generation N, which served before; no way back then."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is, until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Have every stored text encoded by another model, while the present one goes on serving.

    Takes as long as encoding them did, survives restarts, and can be paused, cancelled and gone back on. Once all is
    encoded the new model takes over in one step. The vectors before are kept for index.keep_old_days.
    """
    chosen = [bool(model), rollback, pause, resume, cancel, forget is not None]
    if sum(chosen) > 1:
        fail("--model, --rollback, --pause, --resume, --cancel and --forget exclude each other.", "", FAILED)
    try:
        with connected(url, api_key) as client:
            job = next((each for each in client.jobs() if each["type"] == "reembed"), None)
            if model:
                wishes: dict[str, Any] = {"model": model, "backend": backend, "precision": precision}
                job = client.change_model({**wishes, "url": remote} if remote else wishes)
            elif rollback:
                job = client.roll_back()
            elif forget is not None:
                client.forget_generation(forget)
            elif pause or resume or cancel:
                if job is None:
                    fail("There is no change of the model under way.", "Begin one with --model.", FAILED)
                job = client.control_job(job["id"], "pause" if pause else "resume" if resume else "cancel")
            if wait and job is not None:
                with work_progress() as on_progress:
                    while job["status"] in ("waiting", "running", "paused"):
                        on_progress(job["stage"], job["progress"]["done"], job["progress"]["total"])
                        time.sleep(JOB_POLL_S)
                        job = client.job(job["id"])
            generations = client.generations()
    except KeyboardInterrupt:
        typer.echo("Interrupted. The server goes on with it.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps({"job": job, "generations": generations}, ensure_ascii=False))
    else:
        echo(change_lines(job) if job is not None else ["The model was never changed."])
        echo(generation_lines(generations))
    failed = job is not None and job["status"] in ("failed", "cancelled") and not cancel
    raise typer.Exit(INCOMPLETE if failed else 0)
