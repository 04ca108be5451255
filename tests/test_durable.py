"""index/durable.py: all or nothing, and one writer."""

import errno
import os
import subprocess
import sys

import pytest

from index import durable
from index.errors import DiskFullError, LockedError, StorageError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    durable.write_atomically(path, lambda beside: beside.write_text("old"))

    def half(beside):
        beside.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match=r"no room left on the disk for .*file"):
        durable.write_atomically(path, half)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_other_disk_errors_keep_their_reason(tmp_path):
    with pytest.raises(StorageError, match="missing/file: No such file or directory"):
        durable.write_atomically(tmp_path / "missing" / "file", lambda beside: beside.write_text(""))


def test_folders_are_made_with_their_parents_for_their_owner_alone(tmp_path):
    durable.make_folder(tmp_path / "a" / "b")
    durable.make_folder(tmp_path / "a" / "b")
    for each in (tmp_path / "a", tmp_path / "a" / "b"):
        assert each.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        durable.make_folder(tmp_path / "file" / "c")


def test_a_second_process_is_told_who_holds_the_lock(tmp_path):
    program = (
        "import sys; from pathlib import Path; from index.durable import DirectoryLock; "
        "lock = DirectoryLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid}"):
            durable.DirectoryLock(tmp_path / "lock")
        holder.kill()
        holder.wait()
        with durable.DirectoryLock(tmp_path / "lock"):  # the lock dies with its process
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
