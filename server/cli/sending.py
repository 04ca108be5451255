"""What `twopass ingest` and `twopass import` share: sending documents, and saying what became of them."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from server.cli.sharing import FAILED, INCOMPLETE, INTERRUPTED, connected, echo, wait_for_server
from server.incoming import Skips
from server.printing import ingest_json, plain, skipped_lines, stored_lines
from server.uploading import IngestReport, follow

if TYPE_CHECKING:
    from server.client import Client
    from server.folders.finding import Found
    from server.progress import OnDone

GOES_ON = "Interrupted. The same command goes on where it stopped: what is stored is skipped."


@dataclass
class Sending:
    """Documents on their way: what became of them so far. As JSON, every skipped one is named."""

    url: str
    api_key: str
    wait: bool
    as_json: bool = False
    found: "Found | None" = None
    report: IngestReport = field(default_factory=IngestReport)
    skips: Skips = field(init=False)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.skips = Skips(kept=float("inf")) if self.as_json else Skips()
        if self.as_json:
            self.report.refused.kept = float("inf")

    def send(self, work: Callable[["Client"], None]) -> int:
        """Do the work with a connection, say what became of it, and return the exit code."""
        code = 0
        try:
            with connected(self.url, self.api_key) as client:
                work(client)
        except KeyboardInterrupt:
            code = INTERRUPTED
            typer.echo(GOES_ON, err=self.as_json)
        except typer.Exit as stopped:
            code = stopped.exit_code
        return self.tell(code)

    def finish(self, client: "Client", on_done: "OnDone") -> None:
        """Where somebody waits for that, wait until the server has encoded what it only accepted."""
        if self.wait:
            follow(client, self.report, on_done, wait_for_server, tell_why_it_waits)

    def tell(self, code: int) -> int:
        """Say what became of it, and return the exit code: `code`, or that something is missing."""
        report, seconds = self.report, time.monotonic() - self.started
        told = code
        code = code or (INCOMPLETE if self.skips.count or report.refused.count else 0)
        if self.as_json:
            body = ingest_json(report, self.skips, self.found, seconds, code)
            typer.echo(json.dumps(body, ensure_ascii=False))
        elif report.stored or report.deleted or report.accepted or told != FAILED:
            echo(stored_lines(report, seconds))
            echo(skipped_lines(self.skips, report, self.found))
        return code


def tell_why_it_waits(why: str) -> None:
    typer.echo(f"Everything is safe on the server, which waits: {plain(why)}", err=True)
