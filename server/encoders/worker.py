"""The process that runs a model: `python -m server.encoders.worker FD …`, over sockets that the server has the other
ends of.

It loads the model that the first frame names and answers one batch after another, on each connection in a thread of
its own. It ends when the connections are closed, so with the server however that ended, even in the middle of a batch.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Protocol

from server.encoders.errors import first_line
from server.encoders.frames import Kind, pack_json, receive, send, unpack_json
from server.memory import keep_memory_small

OOM_SCORE = 500  # of 1000; counts as if it held half of the machine's memory more


class Runner(Protocol):
    """A loaded model. With several connections, several threads call it at once."""

    def about(self) -> dict[str, Any]:
        """What the server must know of the model."""
        ...

    def encode(self, content: bytearray) -> bytes:
        """One batch as the server packed it; its packed vectors."""
        ...

    @property
    def patience_s(self) -> float | None:
        """Call `rest` when no batch came for so long; None: there is no need."""
        ...

    def rest(self) -> None:
        """Give back memory that only a large batch needs."""
        ...


def open_runner(spec: dict[str, Any]) -> Runner:
    """Load the model that the server asks for. Only the runtime that it needs is imported."""
    if spec["runtime"] == "onnx":
        from server.encoders.onnx_runner import OnnxRunner

        return OnnxRunner(Path(spec["folder"]), spec["threads"], spec["pad_id"])
    from server.encoders.torch_model import load_runner

    return load_runner(spec)


def answer_batches(connection: socket.socket, runner: Runner) -> None:
    """Answer until the server is gone."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    while True:
        patience_s = runner.patience_s
        if patience_s is not None and not waiting.poll(patience_s * 1000):
            runner.rest()
        _, content = receive(connection)
        try:
            vectors = runner.encode(content)
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch failed and the next may not
            send(connection, Kind.FAILED, pack_error(error))
        else:
            send(connection, Kind.VECTORS, vectors)


def serve(connection: socket.socket, runner: Runner) -> None:
    """Answer on one connection, and end the process with it: were only this thread to end, the server would wait."""
    try:
        answer_batches(connection, runner)
    except (EOFError, ConnectionError):
        os._exit(0)  # the server is gone
    except BaseException:  # noqa: BLE001 - told, on standard error, and then the same
        traceback.print_exc()
        os._exit(1)


def pack_error(error: Exception) -> bytes:
    return pack_json(
        {"kind": type(error).__name__, "message": first_line(error), "hint": getattr(error, "hint", "")}
    )


def end_with(connection: socket.socket) -> None:
    """End this process at once when the other side is closed: a batch may take minutes, or hang."""
    closed = select.poll()
    closed.register(connection, 0)  # POLLHUP comes unasked
    closed.poll()
    os._exit(0)


def stand_behind_the_server() -> None:
    """Leave signals that mean the whole service to the server, which may have batches left, and die before it.

    Where memory runs out the kernel then takes this process, which is started again, and not the one with the data.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # there is such a file on Linux only
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def main() -> None:
    keep_memory_small()
    stand_behind_the_server()
    first, *others = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    threading.Thread(target=end_with, args=[first], daemon=True).start()
    _, spec = receive(first)
    try:
        runner = open_runner(unpack_json(spec))
    except Exception as error:  # noqa: BLE001 - a foreign runtime over foreign files; the server tells the user
        send(first, Kind.FAILED, pack_error(error))
        return
    send(first, Kind.READY, pack_json(runner.about()))
    for connection in others:
        threading.Thread(target=serve, args=[connection, runner], daemon=True).start()
    serve(first, runner)


if __name__ == "__main__":
    main()
