"""A disk that fails when a test says so: failing_disk.c, compiled, and the memory that it shares with the test."""

import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
CONTROL = struct.Struct("=5q128s256s")  # as `struct control` there
KILL, TORN = -1, -2
COUNTED = 1 << 62  # a call that never comes: all are counted and none fails


def compiled(folder: Path, source: Path = SOURCE) -> Path:
    """Compile a library to be loaded into a server; skip the test where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc)")
    library = folder / f"{source.stem}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class FailingDisk:
    """What the processes that are started with its `environment` have under `folder`."""

    def __init__(self, library: Path, folder: Path, control: Path) -> None:
        control.write_bytes(bytes(CONTROL.size))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), CONTROL.size)
        self.folder = folder
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAIL_CONTROL": str(control),
            "FAIL_UNDER": str(folder),
        }

    @contextmanager
    def failing(self, at: int, how: int, lasting: bool = False, only: str = "") -> Iterator[None]:
        """Let the call `at`, counted from 1 and from now on, fail during the block, and with `lasting` all behind it.

        Args:
            how: an errno, KILL or TORN.
            only: count such calls alone, as `failed` tells them.
        """
        self._control[:] = CONTROL.pack(0, 0, how, lasting, 0, only.encode(), b"")
        self._control[:8] = struct.pack("=q", at)
        try:
            yield
        finally:
            self.heal()

    def heal(self) -> None:
        """Let no call fail any more."""
        self._control[:8] = bytes(8)

    @property
    def n_calls(self) -> int:
        """Calls that were counted."""
        return int(CONTROL.unpack(self._control[:])[1])

    @property
    def failed(self) -> str:
        """The first call that failed, such as "write /lock", with its path in the folder; "" where none did."""
        return CONTROL.unpack(self._control[:])[6].rstrip(b"\0").decode()
