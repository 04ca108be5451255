"""Where the keys come from: the settings, files with secrets in them, or one that the server has made for itself."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from index.durable import named_disk_errors, sync_folder, write_atomically
from server.auth import Keys, hash_of, new_key
from server.errors import StartupError
from server.settings import ServerSettings, Settings, check_key_text

HASH_NAME = "admin-key.sha256"
"""In the data directory: the hash of the key that the server has made, in 64 hexadecimal digits."""

MAX_SECRET_BYTES = 4096
"""A longer file holds something else; 4096 bytes are also what a proxy takes of one header."""


def open_keys(settings: Settings, is_reachable: bool, on_made: Callable[[str], None]) -> Keys:
    """Read the keys; make one where one is needed and there is none.

    Args:
        is_reachable: whether other machines can connect: then a key is needed. One for readers needs another too.
        on_made: told a key that was made just now. It is stored nowhere else; its hash is on the disk by then.

    Raises:
        StartupError, DiskFullError, StorageError: a key can't be read, or its hash not be written.
    """
    admin, reader = set_keys(settings.server)
    if admin is None:
        admin = stored_hash(settings.data_dir)
    if admin is None and (is_reachable or reader is not None):
        key = make_key(settings.data_dir)
        on_made(key)
        admin = hash_of(key)
    if admin is not None and admin == reader:
        raise StartupError(
            "server.read_key is the same key as server.api_key", "Choose another for one of the two."
        )
    return Keys(admin, reader)


def set_keys(server: ServerSettings) -> tuple[bytes | None, bytes | None]:
    """Return the hashes of both keys as far as the settings, or the files they name, have them.

    Raises:
        StartupError: a file can't be used.
    """
    admin = _set_key(server.api_key, server.api_key_file, "server.api_key_file")
    return admin, _set_key(server.read_key, server.read_key_file, "server.read_key_file")


def make_key(data_dir: Path) -> str:
    """Make a key, and store its hash in the place of an earlier one's.

    Raises:
        DiskFullError, StorageError: nothing has changed.
    """
    key = new_key()

    def write(path: Path) -> None:
        path.unlink(missing_ok=True)  # a crash can have left it, with whatever rights it had
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(hash_of(key).hex() + "\n")

    write_atomically(data_dir / HASH_NAME, write)
    return key


def remove_key(data_dir: Path) -> bool:
    """Forget the key that was made here; return whether there was one. Raises StorageError."""
    path = data_dir / HASH_NAME
    with named_disk_errors(path):
        if not path.exists():
            return False
        path.unlink()
        sync_folder(data_dir)
    return True


def stored_hash(data_dir: Path) -> bytes | None:
    """Return the hash of the key that was made here, or None.

    Raises:
        StartupError: the file can't be read, or holds something else. Without it everybody would be let in.
    """
    path = data_dir / HASH_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartupError(
            f"{path} can't be read: {error.strerror}", "Correct its owner or its permissions."
        ) from error
    if not re.fullmatch(rb"[0-9a-f]{64}\n?", text):
        raise StartupError(f"{path} doesn't hold the hash of a key", "Make another key: `twopass key --new`")
    return bytes.fromhex(text.decode())


def _set_key(key: SecretStr, file: Path | None, setting: str) -> bytes | None:
    if file is not None:
        return hash_of(_secret(file, setting))
    return hash_of(key.get_secret_value()) if key.get_secret_value() else None


def _secret(path: Path, setting: str) -> str:
    """Read a file that holds a key and, mostly, a line break."""
    hint = f"{setting} names a file with one line, the key; its owner is who runs twopass."
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as error:
        raise StartupError(f"{setting}: {path} can't be read: {error.strerror}", hint) from error
    if not secret or len(secret) > MAX_SECRET_BYTES:
        size = "is empty" if not secret else f"has more than {MAX_SECRET_BYTES} bytes"
        raise StartupError(f"{setting}: {path} {size}", hint)
    try:
        return check_key_text(secret.decode("ascii", "replace"))
    except ValueError as error:
        raise StartupError(f"{setting}: {path}: {error}", hint) from None
