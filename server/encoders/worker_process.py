"""The server's end of the process that runs a model: starts it, talks to it, starts it again when it died."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import structlog

from server.encoders import errors
from server.encoders.errors import EncoderError, EncoderUnavailable, ModelDamaged
from server.encoders.frames import Frame, Kind, pack_json, receive, send, unpack_json

PACKAGE_FOLDER = Path(__file__).parents[2]
END_S = 5.0  # an idle process is gone in milliseconds
LONGEST_LINE = 500  # characters of one line of its output that are logged


class WorkerProcess:
    """A process that holds one model. Used by one thread at a time.

    It is started by the first call that needs it. If it dies over a batch, the batch is tried once more in a fresh
    one.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        """Start nothing yet. `spec` says which model to load, see worker.open_runner."""
        self._spec = spec
        self._running: _Running | None = None

    @property
    def pid(self) -> int | None:
        """The process's number; None while there is none."""
        return None if self._running is None else self._running.process.pid

    def start(self) -> dict[str, Any]:
        """Start it and wait until the model is loaded; return what it says of the model.

        Raises:
            ModelDamaged, ModelNotSupported: the model can't be loaded.
            EncoderUnavailable: the process ended before it could say why.
        """
        self.end()
        running = _Running()
        try:
            send(running.connection, Kind.START, pack_json(self._spec))
            kind, content = receive(running.connection)
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

    def encode(self, kind: Kind, content: bytes) -> bytearray:
        """Have one batch encoded; returns the packed vectors.

        Raises:
            EncoderUnavailable: the process died over this batch twice, or could not be started.
            RuntimeError: the model raised an error; the process goes on.
        """
        if self._running is not None and self._running.process.poll() is not None:
            self._bury()  # it died between two batches
        ended = ""
        for _ in range(2):
            if self._running is None:
                self.start()
            answer = self._exchange(kind, content)
            if answer is None:
                ended = self._bury()
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
        if self._running is not None:
            self._running.end()
            self._running = None

    def _exchange(self, kind: Kind, content: bytes) -> Frame | None:
        """Send a batch and wait for the answer; None: the process died."""
        assert self._running is not None
        try:
            send(self._running.connection, kind, content)
            return receive(self._running.connection)
        except (OSError, EOFError):
            return None

    def _bury(self) -> str:
        """Clear a dead process away, say so in the log, and return how it ended."""
        assert self._running is not None
        ended = self._running.end()
        self._running = None
        structlog.get_logger().warning("the model's process died", ended=ended)
        return ended


class _Running:
    """One started process, its connection, and the thread that logs what it prints."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                # -P: no module of the folder that the server was started in can pose as one of ours.
                [sys.executable, "-P", "-m", "server.encoders.worker", str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": _with_package(os.environ.get("PYTHONPATH"))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the server, which ends this one when it is done
                text=True,
                errors="replace",
            )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        self._logger = threading.Thread(target=_log_lines, args=[self._output], daemon=True)
        self._logger.start()

    def end(self) -> str:
        """Close the connection, at which it ends; return how it ended."""
        self.connection.close()
        try:
            status = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._logger.join()
        self._output.close()
        if status < 0:
            return f"was killed by signal {-status} ({signal.strsignal(-status)})"
        return f"ended with status {status}"


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
