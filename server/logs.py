"""Logging: one line per event on standard error, for people or as JSON. Never a text, a query or a key."""

import contextlib
import io
import logging
import sys
import traceback
from types import TracebackType
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from server.settings import LogSettings


def start_logging(settings: LogSettings) -> None:
    """Set up structlog, quieten the libraries' own loggers, and let what they have to say look like ours."""
    level = getattr(logging, settings.level.upper())
    stream = cast(TextIO, _Patient(sys.stderr))
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    structlog.configure(
        processors=[*before, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    libraries = logging.StreamHandler(stream)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name, _without_text],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[libraries])
    # What it warns of are clients that speak no HTTP, and we answer and log those ourselves.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def frames_of(trace: TracebackType | None) -> str:
    """Where an error happened; not what it says, which can quote a document."""
    return "".join(traceback.format_tb(trace))


class _Patient(io.TextIOBase):
    """A stream that may be a file on a full disk, or a pipe that nobody reads any more.

    A line that can't be written is lost. Were it an error, requests would fail over it, and threads end.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def _without_text(logger: object, method: str, event: EventDict) -> EventDict:
    """Of a library's error: its kind and place."""
    if found := event.pop("exc_info", None):
        kind, _, trace = found
        event.update(kind=kind.__qualname__, frames=frames_of(trace))
    return event
