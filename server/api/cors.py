"""What a browser lets pages of other sites do here: nothing, unless the settings name them."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
REQUEST_HEADERS = ("authorization", "api-key", "content-type", "x-request-id")
ANSWER_HEADERS = ("x-request-id", "retry-after", "server-timing")


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these sites call the app. To be added last: a browser asks without a key, and reads errors too."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=ANSWER_HEADERS,
        )
