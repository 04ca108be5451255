"""The other end of the process that converts files: starts it, waits for it, ends it where it takes too long."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from server.converting.converted import Attachment, Converted
from server.decoding import UnreadableError

LIMIT_S = 300.0  # for one file; a PDF of a thousand pages with tables takes about as long on a small machine
MEMORY_BYTES = 1 << 30  # for one file, beyond what the libraries take
PACKAGE_FOLDER = Path(__file__).parents[2]
INSTALL = "pip install 'twopass[files]'"


class NotReadNow(Exception):
    """A file wasn't read for a reason that isn't in the file; the text says which."""


class Converter:
    """Turns web pages, mails, PDF, office files and books into text.

    The process is started by the first file that needs it. A file that makes it hang, crash or take too much memory
    costs that process, and the next file gets a fresh one.
    """

    def __init__(self, limit_s: float = LIMIT_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self.limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None

    def convert(self, path: Path, parts: Sequence[int] = (), kind: str = "") -> Converted:
        """Return what a file says; Markdown, but for pages, PDF and mails, which are plain text.

        Args:
            parts: leads to what is attached to the file, a mail: its part, then that one's part, and so on.
            kind: the suffix that stands for how that is read; "": the file's own.

        Raises:
            UnreadableError: it can't be converted; converting it again would end the same way.
            NotReadNow: it can't be read, or what reads it isn't installed.
        """
        kind = kind or path.suffix.lower()
        request = {"path": str(path), "parts": parts, "kind": kind}
        bounds = {"limit_s": self.limit_s, "memory_bytes": self._memory_bytes}
        try:
            told = self._ask(json.dumps(request | bounds).encode() + b"\n")
        except TimeoutError:
            self.close()
            raise UnreadableError(
                f"took longer than {self.limit_s:g} s to convert, and was given up"
            ) from None
        except (OSError, EOFError):
            raise UnreadableError(f"can't be converted: the converter {self._buried()} over it") from None
        if told.pop("ends", False):
            self.close()
        if told.get("missing"):
            raise NotReadNow(f"{kind} files need markitdown, which isn't installed here: {INSTALL}")
        if "unread" in told:
            raise NotReadNow(f"can't be read: {told['unread'].lower()}")
        if "error" in told:
            raise UnreadableError(told["error"])
        told["attachments"] = tuple(Attachment(**each) for each in told["attachments"])
        return Converted(**told)

    def close(self) -> None:
        """End the process if it runs."""
        if self._process is not None:
            self._buried()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: bytes) -> dict[str, Any]:
        """Raises TimeoutError, and OSError or EOFError if the process has ended."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _started()
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        until, answer = time.monotonic() + self.limit_s, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(max(until - time.monotonic(), 0)):
                    raise TimeoutError
                block = os.read(process.stdout.fileno(), 1 << 16)
                if not block:
                    raise EOFError
                answer += block
        told: dict[str, Any] = json.loads(answer)
        return told

    def _buried(self) -> str:
        """End the process, clear it away, and say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "could not be started"
        assert process.stdin is not None and process.stdout is not None
        process.stdout.close()
        with contextlib.suppress(OSError):  # it is gone already
            process.stdin.close()
        try:
            code = process.wait(0.5)  # idle it ends by itself when its input does; dead it is dead
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _started() -> "subprocess.Popen[bytes]":
    above = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        # -P: no module of the folder that the command runs in can pose as one of ours.
        [sys.executable, "-P", "-m", "server.converting.process"],
        # markitdown imports ONNX Runtime, which keeps a number for the device unless it is told not to.
        env=os.environ
        | {
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join([str(PACKAGE_FOLDER), *([above] if above else [])]),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the command, which ends this one
    )
