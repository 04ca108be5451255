"""`twopass ingest`: files and folders to a running server, once or for as long as they change."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.app import app
from server.cli.sharing import (
    FAILED,
    INCOMPLETE,
    LOCAL_SERVER,
    ApiKey,
    AsJson,
    Url,
    echo,
    fail,
    wait_for_server,
)
from server.printing import plain, skipped_lines
from server.progress import progress

if TYPE_CHECKING:
    from server.client import Client
    from server.folders.finding import Found
    from server.folders.ignoring import Rules
    from server.folders.ledger import Ledger
    from server.folders.syncing import Syncing
    from server.incoming import OnSkip


@app.command(
    short_help="Send files and folders to a running server.",
    epilog="""\b
Examples
  twopass ingest ~/notes ~/papers/list.jsonl
  twopass ingest ~/notes --base ~     (ids like notes/todo.md)
  twopass ingest ~/library --exclude 'drafts/' --exclude '*.tmp.*' --delete
  twopass ingest ~/notes --watch
  man git | twopass ingest -
  twopass ingest ~/library --no-wait && twopass jobs

Exit code: 0 if everything is stored (with --no-wait: accepted), 1 if something was skipped, 2 if the server could
not be reached or would not go on, 130 after Ctrl-C. With --watch: 0 after Ctrl-C or SIGTERM, else 2.""",
)
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files and folders; - is standard input.", show_default=False),
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out what matches, as in .gitignore. May be given again.",
            show_default=False,
        ),
    ] = None,
    gitignore: Annotated[
        bool,
        typer.Option(
            "--gitignore/--no-gitignore", help="Whether .gitignore files count, as .twopassignore does."
        ),
    ] = True,
    base: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Make ids relative to this folder, for files that move."),
    ] = None,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Delete documents here whose files are gone, or are left out now."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: keep the server in step with folders until Ctrl-C.")
    ] = False,
    poll: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="With --watch: look this often instead of asking the kernel, which doesn't know what others change on "
            "a network disk. There it is 10 by itself.",
            show_default=False,
        ),
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End when all is safe on the server, which encodes it later.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to remember what was sent. Default: ~/.local/state/twopass/ingest.sqlite3",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = LOCAL_SERVER,
    api_key: ApiKey = "",
) -> None:
    """Send texts to a running server: files, folders, or - for standard input.

    Folders are searched for .txt, .md, .rst, .html, .htm, .jsonl and .eml files, and with the extra twopass[files] for
    .pdf, .docx, .pptx, .xlsx, .epub and .msg; what is hidden is passed over. A line of .jsonl is a document, {"id",
    "text", "metadata", "vector"}, of which it needs a text or a vector.

    A file's path is its document's id; Markdown becomes a document for each heading, a mail one and one for each file
    attached. Run it again whenever something changed: what is unchanged isn't read again, what changed is replaced.
    """
    from server.folders.ignoring import PatternError, rules_for

    try:
        rules = rules_for(exclude or [], gitignore)
    except PatternError as error:
        fail(f"--exclude can't be read: {error}", "Write patterns as in .gitignore.", FAILED)
    if poll is not None and not watch:
        fail("--poll says how often --watch looks, which isn't given.", "Give both, or neither.", FAILED)
    if watch:
        from server.cli.watching import watch_folders

        wishes = Wishes(paths, rules, base, True, not no_wait, state, as_json, url, api_key)
        raise typer.Exit(watch_folders(wishes, poll))
    raise typer.Exit(once(Wishes(paths, rules, base, delete, not no_wait, state, as_json, url, api_key)))


@dataclass(frozen=True)
class Wishes:
    """What was asked for."""

    paths: list[str]
    rules: "Rules"
    base: Path | None
    delete: bool
    wait: bool
    state: Path | None
    as_json: bool
    url: str
    api_key: str

    def find(self, on_skip: "OnSkip") -> "Found":
        """Look for files."""
        from server.folders.finding import find_sources

        return find_sources(self.paths, on_skip, self.base, self.rules)

    @contextlib.contextmanager
    def syncing(self, client: "Client") -> Iterator["Syncing"]:
        """What brings the server in step, with its ledger and converter. Ends the command where the ledger fails."""
        from server.converting.converter import Converter
        from server.folders.ledger import LedgerError
        from server.folders.syncing import Syncing

        try:
            with self._ledger(client.url) as ledger, Converter() as converter:
                base = self.base.resolve() if self.base else None
                yield Syncing(client, ledger, converter, base, self.wait, self.delete, wait_for_server)
        except LedgerError as error:
            fail(f"what was sent can't be remembered: {error}", "Name another file with --state.", FAILED)

    def _ledger(self, server: str) -> "Ledger":
        """Open the ledger; without one all is read again, but nothing can be known to be gone. Raises LedgerError."""
        from server.folders.ledger import Ledger, LedgerError, default_path

        try:
            return Ledger(self.state or default_path(), server)
        except LedgerError as error:
            if self.delete or self.state:
                raise
            typer.echo(
                f"Note: what was sent can't be remembered, so all is read: {plain(str(error))}", err=True
            )
            return Ledger(None, server)


def once(wishes: Wishes) -> int:
    """Bring the server in step; return the exit code."""
    from server.cli.sending import Sending

    sending = Sending(wishes.url, wishes.api_key, wishes.wait, wishes.as_json)
    sending.found = found = wishes.find(sending.skips.add)
    if not found.sources and not (wishes.delete and found.folders):
        if wishes.as_json:
            return sending.tell(INCOMPLETE)
        typer.echo("There is nothing to ingest.")
        echo(skipped_lines(sending.skips, None, found))
        return INCOMPLETE

    def send(client: "Client") -> None:
        with wishes.syncing(client) as syncing:
            plan = syncing.plan(found)
            with progress(plan.total) as on_done:
                syncing.run(plan, sending.report, sending.skips.add, on_done)
                sending.finish(client, on_done)

    return sending.send(send)
