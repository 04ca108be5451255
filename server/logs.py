"""Logging: one line per event on standard error, for people or as JSON. Never a text, a query or a key."""

import logging
import sys

import structlog

from server.settings import LogSettings


def start_logging(settings: LogSettings) -> None:
    """Set up structlog and quieten the libraries' own loggers."""
    level = getattr(logging, settings.level.upper())
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
