"""`twopass export` and `twopass import`: documents as lines of JSON, out of one server and into another."""

import contextlib
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from server.cli.app import app
from server.cli.sharing import (
    INCOMPLETE,
    INTERRUPTED,
    LOCAL_SERVER,
    ApiKey,
    AsJson,
    Url,
    connected,
    fail,
    place_of,
    wait_for_server,
)
from server.printing import counted, plain
from server.progress import progress

if TYPE_CHECKING:
    from server.client import Client

STANDARD = "-"
FIELDS = ("id", "text", "metadata", "vector")
SHOWN = 20  # ids that are told


@app.command(
    short_help="Write a running server's documents as lines of JSON.",
    epilog="""\b
Examples
  twopass export documents.jsonl
  twopass export - | gzip > documents.jsonl.gz

Exit code: 0 if all are written, 1 if some were left out or the file can't be written, 2 if the server could not be
reached or refused, 130 after Ctrl-C.""",
)
def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Where to; - is standard output.", show_default=False)
    ],
    vectors: Annotated[
        bool,
        typer.Option(
            "--vectors",
            help="Vectors that were made here too, of documents of one passage. A server that imports them takes them "
            "as they are, and its model can't be changed then.",
        ),
    ] = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Write every document as a line {"id", "text", "metadata", "vector"}, for other programs or `twopass import`.

    Vectors are base64 of little-endian float32: of documents that were sent with one, as nobody else has it. The rest
    are made anew from their texts. Documents that come and go meanwhile may be missing; for one moment as a whole
    there is `twopass backup`.
    """
    from index.durable import write_atomically
    from index.errors import IndexFault

    left_out: list[str] = []

    def write(path: Path) -> None:
        with path.open("wb") as into:
            write_documents(client, into, vectors, left_out)

    place = place_of(Path(file))
    try:
        with connected(url, api_key) as client:
            if file == STANDARD:
                write_documents(client, sys.stdout.buffer, vectors, left_out)
            else:
                write_atomically(place, write)
    except IndexFault as error:
        fail(str(error), "", INCOMPLETE)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if left_out:
        typer.echo(
            f"Left out, as their vectors are damaged: {', '.join(map(plain, left_out[:SHOWN]))}", err=True
        )
    raise typer.Exit(INCOMPLETE if left_out else 0)


def write_documents(client: "Client", into: IO[bytes], vectors: bool, left_out: list[str]) -> None:
    """Write a server's documents, one a line; the ids of those without a text or a vector are added to `left_out`."""
    stats = client.stats()
    with progress(stats["documents"]) as on_done:
        for page in client.pages("all" if vectors else "brought"):
            for stored in page:
                document = {name: stored[name] for name in FIELDS if stored[name] not in (None, {})}
                if "text" in document or "vector" in document:
                    into.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
                else:
                    left_out.append(document["id"])
            on_done(len(page))
    if stats["pending"]:
        typer.echo(
            f"Note: {counted(stats['pending'], 'document')} wait to be encoded and are not in it.", err=True
        )


@app.command(
    "import",
    short_help="Send documents from lines of JSON to a running server.",
    epilog="""\b
Examples
  twopass import documents.jsonl
  zcat documents.jsonl.gz | twopass import -

Exit code: 0 if everything is stored (with --no-wait: accepted), 1 if something was skipped, 2 if the server could
not be reached or would not go on, 130 after Ctrl-C.""",
)
def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="From where; - is standard input.", show_default=False)
    ],
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End when all is safe on the server, which encodes it later.")
    ] = False,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Store the documents of `twopass export`, or of any file with a document a line.

    A line that can't be used is told and passed over. What is stored unchanged under its id is skipped.
    """
    from server.cli.sending import Sending
    from server.incoming import Skipped
    from server.jsonl import count_lines
    from server.readers import read_export
    from server.uploading import ingest

    path = Path(file)
    sending = Sending(url, api_key, not no_wait, as_json)
    try:
        with path.open("rb") if file != STANDARD else contextlib.nullcontext(sys.stdin.buffer) as lines:
            total = count_lines(path) if path.is_file() else None

            def send(client: "Client") -> None:
                with progress(total) as on_done:

                    def on_skip(skipped: Skipped) -> None:
                        sending.skips.add(skipped)
                        on_done(1)

                    documents = read_export(lines, file, on_skip)
                    ingest(client, documents, sending.report, on_done, wait_for_server, sending.wait)
                    sending.finish(client, on_done)

            code = sending.send(send)
    except OSError as error:
        fail(
            f"{file} can't be read: {(error.strerror or str(error)).lower()}.", "Check the path.", INCOMPLETE
        )
    raise typer.Exit(code)
