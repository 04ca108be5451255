"""Who may ask: one key for everything but the health routes and the pages, where a key is set."""

import hmac

from pydantic import SecretStr

from server.errors import UnauthorizedError

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
"""Probes carry no key."""

PAGE_PATHS = frozenset({"/", "/docs", "/openapi.json"})
PAGE_FOLDERS = ("/web/", "/docs/")
"""A browser that opens a page sends no key. They hold nothing of anybody's; what they show they ask for with one."""


def is_open(path: str) -> bool:
    """Whether a path answers without a key."""
    return path in OPEN_PATHS or path in PAGE_PATHS or path.startswith(PAGE_FOLDERS)


def check_key(key: SecretStr, path: str, authorization: bytes) -> None:
    """Compare the Authorization header with the key, in constant time.

    Raises:
        UnauthorizedError: a key is set, the path is not open, and the header doesn't carry it.
    """
    expected = key.get_secret_value().encode()
    if not expected or is_open(path):
        return
    scheme, _, given = authorization.partition(b" ")
    if not authorization:
        raise UnauthorizedError("this server asks for a key and none was sent")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), expected):
        raise UnauthorizedError("the key is wrong")
