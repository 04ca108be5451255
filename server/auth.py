"""Who may do what: one key that may do everything, and one that may only read.

A key is known here by its SHA-256 alone. No slower hash is needed: one that the server makes has 256 random bits, and
one that somebody chose stands in the settings as it is.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from enum import IntEnum

from server.errors import ReadOnlyKeyError, UnauthorizedError

KEY_BYTES = 32
"""Random bytes of a key that the server makes: what nobody will ever guess."""

NOBODY = b"\0" * 32
"""Compared with where there is no such key, so that it takes as long; no text is known to have this hash."""


class Right(IntEnum):
    """What a key allows, or a route needs; the larger holds the smaller."""

    NONE = 0  # health routes, pages: they ask for no key
    READ = 1
    ADMIN = 2


def hash_of(key: str | bytes) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def new_key() -> str:
    """Make a key: 43 letters, digits, - and _."""
    return secrets.token_urlsafe(KEY_BYTES)


@dataclass(frozen=True)
class Keys:
    """The hashes of both keys."""

    admin: bytes | None = field(default=None, repr=False)  # None: no key is asked for, whatever `reader` is
    reader: bytes | None = field(default=None, repr=False)

    @property
    def asked_for(self) -> bool:
        """Whether there is a key, without which nothing is told or changed."""
        return self.admin is not None

    def held(self, given: bytes) -> Right:
        """Return what a key allows. Takes the same time for every key."""
        if self.admin is None:
            return Right.ADMIN
        digest = hash_of(given)
        is_admin = hmac.compare_digest(digest, self.admin)
        is_reader = hmac.compare_digest(digest, self.reader or NOBODY)
        return Right.ADMIN if is_admin else Right.READ if is_reader else Right.NONE

    def check(self, given: bytes | None, needed: Right) -> None:
        """Let a request pass that brings this key, or None.

        Raises:
            UnauthorizedError: it needs a key, and brings none or a wrong one.
            ReadOnlyKeyError: it may only read.
        """
        held = self.held(given or b"")
        if held >= needed:
            return
        if held is Right.READ:
            raise ReadOnlyKeyError("this key may only read, and the request would do more")
        if given is None:
            raise UnauthorizedError("this server asks for a key and none was sent")
        raise UnauthorizedError("the key is wrong")
