"""`twopass ingest --watch`: folders kept in step for as long as it runs."""

import contextlib
import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from server.cli.ingest import Wishes
from server.cli.sending import Sending
from server.cli.sharing import FAILED, connected, echo, fail
from server.client import ClientError, RefusedError, UnreachableError
from server.folders.syncing import SETTLED_S
from server.folders.watching import Changes
from server.incoming import Skipped, Skips
from server.printing import duration, ingest_json, plain, round_line, skipped_lines, stored_lines
from server.progress import progress

if TYPE_CHECKING:
    from server.client import Client
    from server.folders.syncing import Syncing

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a server that is away is asked again; it doubles
BUSY = (424, 429, 500, 502, 503, 504, 507)  # what a server answers that may take the same later


def watch_folders(wishes: Wishes, poll_s: float | None) -> int:
    """Keep a server in step with folders until Ctrl-C or SIGTERM; return the exit code.

    A server that is away or busy is waited for; a key that is wrong ends it.
    """
    folders = [Path(path) for path in wishes.paths]
    for folder in folders:
        if not folder.is_dir():
            fail(f"--watch takes folders, and {folder} is none.", "Name the folder that it lies in.", FAILED)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with (
            Changes(folders, poll_s, _say) as changes,
            connected(wishes.url, wishes.api_key) as client,
            wishes.syncing(client) as syncing,
        ):
            _say(f"Watching {', '.join(map(plain, wishes.paths))}. Ctrl-C ends it.")
            _Watch(wishes, changes, client, syncing).run()
    except KeyboardInterrupt:
        _say("Stopped watching. What is sent is safe; the next run goes on from there.")
    return 0


@dataclass
class _Watch:
    """One watch: round after round, and what was told already."""

    wishes: Wishes
    changes: Changes
    client: "Client"
    syncing: "Syncing"
    told: set[Skipped] = field(default_factory=set)
    is_first: bool = True

    def run(self) -> NoReturn:
        """Look, send, and wait for changes. Raises KeyboardInterrupt, and RefusedError for good."""
        verify, pause_s = True, FIRST_PAUSE_S
        while True:
            sending = Sending(self.wishes.url, self.wishes.api_key, self.wishes.wait, self.wishes.as_json)
            try:
                put_off = self._round(sending, verify)
            except (UnreachableError, RefusedError) as error:
                if isinstance(error, RefusedError) and error.status not in BUSY:
                    raise
                self._tell(sending, False)
                _say(f"{_sentence(error)} Trying again in {duration(pause_s)}.")
                time.sleep(pause_s)
                verify, pause_s = True, min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            self._tell(sending, self.is_first)
            self.is_first, verify, pause_s = False, False, FIRST_PAUSE_S
            self.changes.wait(SETTLED_S if put_off else None)

    def _round(self, sending: Sending, verify: bool) -> bool:
        """Bring the server in step once; say whether something was left for a moment later."""
        sending.found = found = self.wishes.find(sending.skips.add)
        plan = self.syncing.plan(found, SETTLED_S)
        # A bar for the first look, which may be long; later ones say what they did.
        with progress(plan.total) if self.is_first else contextlib.nullcontext(_silent) as on_done:
            self.syncing.run(plan, sending.report, sending.skips.add, on_done, verify)
            sending.finish(self.client, on_done)
        self.syncing.converter.close()  # it takes some 150 MB, and the next change may be days away
        return plan.put_off

    def _tell(self, sending: Sending, whole: bool) -> None:
        """Say what a round did: the `whole` of it, or what is new."""
        report, seconds = sending.report, time.monotonic() - sending.started
        found = sending.found if whole else None
        new = Skips(kept=sending.skips.kept)
        for skipped in sending.skips.first:
            if skipped not in self.told:
                self.told.add(skipped)
                new.add(skipped)
        line = round_line(report)
        if not (whole or line or new.count or report.refused.count):
            return
        if self.wishes.as_json:
            typer.echo(json.dumps(ingest_json(report, new, found, seconds, 0), ensure_ascii=False))
            return
        if whole:
            echo(stored_lines(report, seconds))
        elif line:
            typer.echo(f"{time.strftime('%H:%M:%S')}  {line}")
        echo(skipped_lines(new, report, found))


def _silent(n: int, more: int = 0) -> None:
    """Take the place of a progress bar."""


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _sentence(error: ClientError) -> str:
    """Return what is wrong as a sentence; a server's own words aren't always one."""
    words = plain(str(error))
    return words if words.endswith(".") else f"The server refused: {words}."


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
