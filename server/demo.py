"""`twopass demo`: the docstrings of Python's standard library, indexed and searched through a real server."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from rich.console import Console
from rich.text import Text

from server.client import DEFAULT_URL, Client, ClientError, RefusedError, SearchAnswer, UnreachableError
from server.docstrings import collect_docstrings
from server.incoming import Document
from server.uploading import IngestReport, ingest

QUESTIONS = (
    "how do I undo a git-style diff",
    "read a zip archive",
    "make a temporary folder that deletes itself",
    "count how often each word occurs",
    "wait until several threads have all reached the same point",
    "remember the results of slow function calls",
)
SHOWN_HITS = 3
START_TIMEOUT_S = 120.0  # a slow machine imports torch and reads the model from a cold disk
STOP_TIMEOUT_S = 60.0
LOG_TAIL_LINES = 15
LOG_HEAD_BYTES = 1 << 16  # among the first of them the server says where it listens
LISTENING = re.compile(rb"\] listening .*\burl=(\S+)")

Progress = Callable[[int | None], AbstractContextManager[Callable[[int], None]]]


class DemoError(Exception):
    """The demo can't go on. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def run(
    data_dir: Path, console: Console, progress: Progress, documents: Sequence[Document] | None = None
) -> None:
    """Tell the whole story: collect, serve, ingest, ask; at the end the server is stopped.

    Args:
        data_dir: the demo's own folder; made if missing, kept.
        progress: shows how far the ingest is; see server.progress.
        documents: instead of the whole library's docstrings.

    Raises:
        DemoError: the server didn't start or stop as it should, refused something, or the folder holds other
            documents.
    """
    if documents is None:
        documents = collect_docstrings()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    console.print(f"Documents   {len(documents):,} docstrings of Python {version}'s standard library")
    started = time.monotonic()
    with _server(data_dir) as url, Client(url) as client:
        info = client.info()
        console.print(f"Server      {url}, model {info['model']}, data in {data_dir} ({_since(started)})")
        _check_folder(client, data_dir)
        started = time.monotonic()
        report = IngestReport()
        with progress(len(documents)) as on_done:
            ingest(client, documents, report, on_done)
        if report.refused.count:
            first = report.refused.first[0]
            raise DemoError(
                f"The server refused {report.refused.count} documents; {first.source}: {first.reason}"
            )
        console.print(
            f"Stored      {report.created:,} new, {report.updated:,} updated, {report.unchanged:,} unchanged "
            f"({_since(started)})\n"
        )
        console.print(
            f"The first pass ranks everything by the first {info['prefix_dim']} of {info['dim']} dimensions "
            "(prefix); the second reads the best candidates' full vectors from disk and ranks those again "
            "(full). Rank: before → after.\n"
        )
        for question in QUESTIONS:
            _print_answer(console, question, _ask(client, question))
    _print_what_next(console, data_dir)


@contextlib.contextmanager
def _server(data_dir: Path) -> Iterator[str]:
    """Run a server of our own, with default settings, and yield its address once it is ready."""
    data_dir = data_dir.resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(
            f"{data_dir} can't be made: {error.strerror}.", "Choose another with --data-dir."
        ) from error
    # In the data folder and without our settings: a config.yaml or a key of yours is not meant for the demo.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TWOPASS_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path[1:]])
    # The server chooses a port itself: one chosen for it could be another's by the time it comes to it.
    command = [sys.executable, "-m", "server.cli", "serve", "--data-dir", str(data_dir), "--port", "0"]
    with tempfile.TemporaryFile() as log, _ended_in_order():
        process = subprocess.Popen(command, cwd=data_dir, env=environment, stdout=log, stderr=log)
        try:
            yield _address(process, log)
        except ClientError as error:
            hint = error.hint if isinstance(error, RefusedError) else ""  # a dead server's log says more
            raise DemoError(f"{error}\nThe end of the server's log:\n{_tail(log)}", hint) from error
        finally:
            code = _stop(process)
        if code != 0:
            raise DemoError(f"The server ended with exit code {code}. The end of its log:\n{_tail(log)}")


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, so that the server is not left behind."""

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _address(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Return where the server answers, as soon as it does.

    Raises:
        UnreachableError: the server ended, or isn't ready after START_TIMEOUT_S.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    # Read in its place: the server writes where this file stands.
    while not (said := LISTENING.search(os.pread(log.fileno(), LOG_HEAD_BYTES, 0))):
        if process.poll() is not None:
            raise UnreachableError("The demo's server could not start.", "")
        if time.monotonic() > deadline:
            raise UnreachableError(f"The demo's server is not ready after {START_TIMEOUT_S:.0f} s.", "")
        time.sleep(0.1)
    return said[1].decode()


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the server to stop and return its exit code."""
    process.terminate()
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])


def _check_folder(client: Client, data_dir: Path) -> None:
    """Raises DemoError: the folder holds documents, but none of the demo's."""
    present = client.first_documents(100)
    if present and not any({"module", "kind"} <= document["metadata"].keys() for document in present):
        raise DemoError(f"{data_dir} holds other documents.", "Give the demo a folder of its own: --data-dir")


def _ask(client: Client, question: str) -> SearchAnswer:
    # It shows what the second pass does, so nothing else is to move the hits.
    wanted = {"query": question, "k": 10, "hybrid": False, "include": ["text", "metadata", "explain"]}
    return client.search(wanted)


def _print_answer(console: Console, question: str, answer: SearchAnswer) -> None:
    hits = answer["hits"][:SHOWN_HITS]
    ids_width = max((len(hit["id"]) for hit in hits), default=0)
    console.print(Text(question, style="bold"))
    console.print("  prefix    full      rank", style="dim")
    for hit in hits:
        explain = hit["explain"]
        row = Text(f"   {explain['prefix_score']:.3f}   {hit['score']:.3f}")
        row.append(f"  {explain['prefix_rank']:>3} → {explain['rank']:<3}  {hit['id']:<{ids_width}}  ")
        row.append(" ".join((hit["text"] or "").partition(": ")[2].split()), style="dim")
        row.truncate(console.width, overflow="ellipsis")
        console.print(row)
    took = answer["timings_ms"]
    console.print(
        f"  {took['encode']:.1f} ms encoding, {took['first_pass']:.2f} ms first pass, "
        f"{took['second_pass']:.2f} ms second pass over {answer['candidates']} candidates\n",
        style="dim",
    )


def _print_what_next(console: Console, data_dir: Path) -> None:
    folder = shlex.quote(str(data_dir))
    question = {"query": "parse command line options", "k": 3}
    note = {"id": "note", "text": "The spare key to the garden shed is under the flower pot."}
    lines = (
        "Now you. Serve the same folder (the demo's own server has stopped):",
        "",
        f"  TWOPASS_DATA_DIR={folder} make serve",
        f"  twopass serve --data-dir {folder}      (the same, where twopass is installed)",
        "",
        "and in another terminal search it, add a document of your own, and find that by other words:",
        "",
        f"  {_curl('/search', question)}",
        f"  {_curl('/documents', {'documents': [note]})}",
        f"  {_curl('/search', {'query': 'how do I open the garden house', 'k': 1})}",
        "",
        'or: twopass search "parse command line options" and twopass ingest FOLDER',
    )
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _curl(path: str, body: dict[str, object]) -> str:
    header = "-H 'content-type: application/json'"
    return f"curl -s {DEFAULT_URL}{path} {header} -d {shlex.quote(json.dumps(body))}"


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
