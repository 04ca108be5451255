"""Where no key is asked for: what a browser asks on behalf of somebody else's page is refused.

Any page that somebody opens on this machine can have the browser call 127.0.0.1: a form sends what changes something
without reading the answer, and a page whose own name has been made to mean 127.0.0.1 (DNS rebinding) reads it, too. The
first tells its site in `Origin`, the second its name in `Host`. A key stops both, since pages don't know it.
"""

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from server.errors import ForeignSiteError


class Sites:
    """Names that this server goes by, and sites whose pages may call it."""

    def __init__(self, names: Collection[str] = (), origins: Collection[str] = ()) -> None:
        """Know the settings server.names and server.cors_origins."""
        self._names = {"localhost", *(name.lower() for name in names)}
        self._origins = frozenset(origins)

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise ForeignSiteError for what comes from a page that isn't ours. What no browser sent passes."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host and not self._is_own(host):
            raise ForeignSiteError(
                f"this server is called {host!r}, which it doesn't know as a name of its own",
                "Call it by its address, as 127.0.0.1, or add the name to server.names; or set server.api_key.",
            )
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if not origin or origin in self._origins or "*" in self._origins:
            return
        if origin.partition("://")[2] != host:
            raise ForeignSiteError(
                f"a page of {origin!r} made this request",
                "Add its site to server.cors_origins if it may call this server; or set server.api_key.",
            )

    def _is_own(self, host: str) -> bool:
        """Whether a Host header, as `127.0.0.1:8000`, has an address or a name of ours in it."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # brackets that hold no address
            return False
        name = name.removesuffix(".")
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # an address: a page that was led here by a name has that name in its requests
