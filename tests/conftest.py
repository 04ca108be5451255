"""Fixtures that several test files share: made-up vectors, and the real server in a process of its own."""

import atexit
import contextlib
import fcntl
import functools
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import numpy as np
import pytest

from index.vectors import Float32, normalise
from server.converting.converter import Converter
from server.encoders.loading import load_encoder
from server.settings import EncoderSettings, PassageSettings, Settings

Seen = TypeVar("Seen")
ROOT = Path(__file__).parent.parent
EXPORTED = "EXPORTED_FOR_TESTS"
"""In the environment: the folder that the processes of one test run share."""


def clustered(n: int, dim: int, seed: int) -> Float32:
    """Unit vectors with a falling spectrum and clusters, as real embeddings have: (n, dim) float32."""
    rng = np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim)) ** -0.5
    centres = rng.standard_normal((12, dim))
    points = centres[rng.integers(0, 12, n)] + 0.8 * rng.standard_normal((n, dim))
    return normalise((points * spectrum).astype(np.float32))


def deny_listing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let no folder of this name be listed, as permissions would, which don't hold for root."""
    scandir = os.scandir

    def deny(path: Any) -> Any:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)


def pytest_configure(config: pytest.Config) -> None:
    """Keep what `twopass ingest` remembers out of the home of whoever runs the tests, and let them hear Ctrl-C."""
    os.environ["XDG_STATE_HOME"] = passing_folder("state")
    # Hundreds of servers and commands are started: what is compiled once is kept for the next.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if EXPORTED not in os.environ:
        os.environ[EXPORTED] = passing_folder("exported")
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as in a script's background; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def passing_folder(what: str) -> str:
    """Make a folder that is gone when this process has ended."""
    folder = tempfile.mkdtemp(prefix=f"twopass-{what}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud how many tests of the page did not run."""
    skipped = [each for each in terminalreporter.stats.get("skipped", []) if "browser" in each.keywords]
    if skipped:
        why = skipped[0].longrepr[2].removeprefix("Skipped: ")
        terminalreporter.write_line(f"warning: {len(skipped)} browser tests did not run: {why}", yellow=True)


@pytest.fixture
def make_vectors():
    return clustered


@functools.cache
def exported() -> Path:
    """A models folder with the bundled model's ONNX file in it, made once for all of xdist's workers: ten seconds."""
    folder = Path(os.environ[EXPORTED])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits, and finds it
        encoder = load_encoder(EncoderSettings(), PassageSettings(), folder / "models")
    assert encoder is not None
    encoder.close()
    return folder / "models"


@pytest.fixture(scope="session")
def bundled_export() -> Path:
    """The folder of `exported`."""
    return exported()


def lend_export(data_dir: Path) -> None:
    """Put the bundled model's ONNX file into a data directory, so that its server needn't make it again."""
    mine, lent = data_dir / "models" / "onnx", exported() / "onnx"
    if mine.exists():
        return
    shutil.copytree(lent, mine, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


@contextlib.contextmanager
def beside(*calls: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run calls in threads beside the block, each with an event that is set once the block has ended, however it did.

    All have returned behind it; what one of them raised is raised here, and not in another test.
    """
    is_over = threading.Event()
    with ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(call, is_over) for call in calls]
        try:
            yield
        finally:
            is_over.set()
    for each in running:
        each.result()


def until(look: Callable[[], Seen], is_it: Callable[[Seen], object] = bool) -> Seen:
    """Look until what is seen is it, and return it; what is waited for has the processor between two looks."""
    while not is_it(seen := look()):
        time.sleep(0.01)
    return seen


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """A port on 127.0.0.1 at which nobody answers but the servers that are told to, and that no other is given."""
    with socket.socket() as keeper:
        keeper.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # for those who listen at it beside this one
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


class Server:
    """A running `twopass serve`, and what it has logged so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.other: list[str] = []  # what was printed beside the log
        self._url: queue.Queue[str | None] = queue.Queue()
        # A reader of its own: a full pipe would stop the server.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        url = self._url.get()
        if url is None:
            raise AssertionError(f"the server ended with {process.wait()}: {''.join(self.other)}")
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
                if self.log[-1]["event"] == "listening":
                    self._url.put(self.log[-1]["url"])
            except ValueError:
                self.other.append(line)
        self._url.put(None)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send a signal and wait; return the exit status."""
        self.process.send_signal(how)
        return self.end()

    def end(self) -> int:
        """Wait for the process and for the rest of its log; return the exit status."""
        status = self.process.wait(timeout=60)
        self._reader.join()
        self.http.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


def ended(server: Server, job: str) -> dict[str, Any]:
    """Wait until a job neither waits nor runs any more; return what is told of it then."""
    return until(
        lambda: server.http.get(f"/jobs/{job}").json(),
        lambda told: told["status"] not in ("waiting", "running"),
    )


def environment(data_dir: Path, **settings: object) -> dict[str, str]:
    """This process's environment without settings of twopass, plus those given as section__key."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TWOPASS_")}
    mine = {"data_dir": data_dir, "server__port": 0, "log__format": "json", **settings}
    return clean | {f"TWOPASS_{name.upper()}": str(value) for name, value in mine.items()}


def without_model(data_dir: Path, dim: int) -> Settings:
    """For a collection in this process, which spares the start of a server where only what it stores is needed."""
    return Settings(data_dir=data_dir, encoder=EncoderSettings(model="none", dim=dim))


class Called(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def twopass(*words: object, stdin: str = "", **variables: str) -> Called:
    """Run a command in this process, which spares it a second of imports; of TWOPASS_ variables it has these alone."""
    from typer.testing import CliRunner

    from server.cli import app

    others = dict.fromkeys(name for name in os.environ if name.startswith("TWOPASS_"))
    done = CliRunner().invoke(
        app,
        list(map(str, words)),
        input=stdin,
        env={**others, "COLUMNS": "100", **variables},
        prog_name="twopass",
        catch_exceptions=False,
    )
    return Called(done.exit_code, done.stdout, done.stderr)


def called(data_dir: Path, *words: object, **settings: object) -> Called:
    """Run a `twopass` command in this process, with these settings."""
    variables = environment(data_dir, **settings)
    return twopass(
        *words, **{name: value for name, value in variables.items() if name.startswith("TWOPASS_")}
    )


@contextlib.contextmanager
def serving(
    data_dir: Path,
    program: tuple[str, ...] = ("-m", "server.cli"),
    export: bool = True,
    python: str | Path = sys.executable,
    **settings: object,
) -> Iterator[Server]:
    """Run the real server in a process of its own on a free port; stop it at the end if it still runs.

    With the bundled model, its ONNX file is there already.
    """
    if settings.get("encoder__model", "bundled") == "bundled" and export:
        lend_export(data_dir)
    process = subprocess.Popen(
        [python, *program, "serve"],
        env=environment(data_dir, **settings),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = None
    try:
        server = Server(process)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        if server is not None:
            server.end()
        else:
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


@pytest.fixture
def serve():
    """`with serve(data_dir, encoder__model="none", …) as server`"""
    return serving


@contextlib.contextmanager
def mounted(size: str) -> Iterator[Path]:
    """A file system of its own. Not in pytest's folders: what a killed run leaves there, no later one could tidy up."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a tmpfs needs root")
    path = Path(passing_folder("disk"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    with mounted("4m") as path:
        yield path


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    """What converts files, in a process of its own that a module's tests share."""
    with Converter() as made:
        yield made


@pytest.fixture(scope="session")
def brought(tmp_path_factory) -> Iterator[Server]:
    """A server without a model, for vectors of 32 dimensions; tests must not mind each other's documents."""
    settings = {"encoder__model": "none", "encoder__dim": 32, "index__prefix_dim": 16}
    with serving(tmp_path_factory.mktemp("brought"), **settings) as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Iterator[Server]:
    """A server with the bundled model; tests must not mind each other's documents."""
    with serving(tmp_path_factory.mktemp("texts")) as server:
        yield server
        server.stop()
