"""The server's end of the process that runs a model: starts it, talks to it, starts it again when it died."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import structlog

from server.encoders import errors
from server.encoders.cores import ONE_LANE, Lanes
from server.encoders.errors import EncoderError, EncoderUnavailable, ModelDamaged
from server.encoders.frames import Frame, Kind, pack_json, receive, send, unpack_json
from server.encoders.packages import NO_TELEMETRY

PACKAGE_FOLDER = Path(__file__).parents[2]
END_S = 5.0  # an idle process is gone in milliseconds
LONGEST_LINE = 500  # characters of one line of its output that are logged


class WorkerProcess:
    """A process that holds one model and encodes as many batches at once as there are lanes, for as many threads.

    It is started by the first call that needs it. If it dies over a batch, the batch is tried once more in a fresh
    one.
    """

    def __init__(self, spec: dict[str, Any], lanes: Lanes = ONE_LANE) -> None:
        """Start nothing yet. `spec` says which model to load, see worker.open_runner."""
        self.lanes = lanes
        self._spec = spec
        self._changing = threading.Lock()  # while a process is started or cleared away
        self._running: _Running | None = None

    @property
    def pid(self) -> int | None:
        """The process's number; None while there is none."""
        running = self._running
        return None if running is None else running.process.pid

    def start(self) -> dict[str, Any]:
        """Start it and wait until the model is loaded; return what it says of the model.

        Raises:
            ModelDamaged, ModelNotSupported: the model can't be loaded.
            EncoderUnavailable: the process ended before it could say why.
        """
        with self._changing:
            return self._start()

    def encode(self, kind: Kind, content: bytes) -> bytearray:
        """Have one batch encoded; returns the packed vectors.

        Raises:
            EncoderUnavailable: the process died over this batch twice, or could not be started.
            RuntimeError: the model raised an error; the process goes on.
        """
        ended = ""
        for _ in range(2):
            running = self._alive()
            answer = running.ask(kind, content)
            if answer is None:
                ended = self._bury(running)
            elif answer[0] is Kind.FAILED:
                raise RuntimeError(unpack_json(answer[1])["message"])
            else:
                return answer[1]
        raise EncoderUnavailable(
            f"the model's process {ended} over this batch, and a second one too",
            hint="If memory ran out: lower encoder.batch_tokens, or see encoder.precision.",
        )

    def end(self) -> None:
        """End the process if it runs; the next `encode` starts another."""
        with self._changing:
            if self._running is not None:
                self._running.end()
                self._running = None

    def _start(self) -> dict[str, Any]:
        running = _Running(self.lanes.batches)
        try:
            kind, content = running.begin(self._spec)
        except (OSError, EOFError) as error:
            raise EncoderUnavailable(
                f"the model's process {running.end()} while it loaded the model",
                hint="Look for its words in the server's log. Is there enough memory?",
            ) from error
        if kind is Kind.FAILED:
            running.end()
            raise _loading_error(unpack_json(content))
        self._running = running
        return unpack_json(content)

    def _alive(self) -> "_Running":
        """The running process, or a fresh one if it isn't there, or died between two batches."""
        running = self._running  # another thread may clear it away, or start the next, at any moment
        if running is not None and running.process.poll() is not None:
            self._bury(running)
        with self._changing:
            if self._running is None:
                self._start()
            assert self._running is not None
            return self._running

    def _bury(self, dead: "_Running") -> str:
        """Clear a dead process away, say so in the log, and return how it ended. The first thread that sees it does."""
        with self._changing:
            if self._running is dead:
                self._running = None
                structlog.get_logger().warning("the model's process died", ended=dead.end())
            return dead.ended


class _Running:
    """One started process, a connection for each lane, and the thread that logs what it prints."""

    def __init__(self, n_lanes: int) -> None:
        pairs = [socket.socketpair() for _ in range(n_lanes)]
        theirs = [pair[1].fileno() for pair in pairs]
        self._connections = [pair[0] for pair in pairs]
        self._free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self.ended = ""
        with contextlib.ExitStack() as stack:
            for _, their in pairs:
                stack.enter_context(their)
            self.process = subprocess.Popen(
                # -P: no module of the folder that the server was started in can pose as one of ours.
                [sys.executable, "-P", "-m", "server.encoders.worker", *map(str, theirs)],
                env=os.environ | NO_TELEMETRY | {"PYTHONPATH": _with_package(os.environ.get("PYTHONPATH"))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=theirs,
                start_new_session=True,  # Ctrl-C is for the server, which ends this one when it is done
                text=True,
                errors="replace",
            )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        self._logger = threading.Thread(target=_log_lines, args=[self._output], daemon=True)
        self._logger.start()

    def begin(self, spec: dict[str, Any]) -> Frame:
        """Have the model loaded. Raises OSError or EOFError if the process ends over that."""
        send(self._connections[0], Kind.START, pack_json(spec))
        answer = receive(self._connections[0])
        for connection in self._connections:
            self._free.put(connection)
        return answer

    def ask(self, kind: Kind, content: bytes) -> Frame | None:
        """Send a batch by a free lane and wait for the answer; None: the process died."""
        with self._lane() as connection:
            try:
                send(connection, kind, content)
                return receive(connection)
            except (OSError, EOFError):
                return None

    def end(self) -> str:
        """Close the connections, at which it ends; return how it ended."""
        for connection in self._connections:
            connection.close()
        try:
            status = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._logger.join()
        self._output.close()
        self.ended = f"ended with status {status}"
        if status < 0:
            self.ended = f"was killed by signal {-status} ({signal.strsignal(-status)})"
        return self.ended

    @contextlib.contextmanager
    def _lane(self) -> Iterator[socket.socket]:
        connection = self._free.get()
        try:
            yield connection
        finally:
            self._free.put(connection)


def _log_lines(output: IO[str]) -> None:
    log = structlog.get_logger()
    for line in output:
        if line.strip():
            log.warning("the model's process says", line=line.rstrip()[:LONGEST_LINE])


def _with_package(python_path: str | None) -> str:
    return os.pathsep.join([str(PACKAGE_FOLDER), *([python_path] if python_path else [])])


def _loading_error(told: dict[str, Any]) -> EncoderError:
    """The error that the process met while it loaded the model."""
    kind = getattr(errors, told["kind"], None)
    if isinstance(kind, type) and issubclass(kind, EncoderError):
        return kind(told["message"], told["hint"])
    return ModelDamaged(f"the model can't be loaded: {told['message']}", told["hint"])
