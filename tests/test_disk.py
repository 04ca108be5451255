"""index/disk.py: the disk's speed in bounded time, past the page cache, and the rows per wave that follow from it."""

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from index import disk
from index.disk import DiskSpeed, measure_disk, wave_rows
from index.errors import StorageError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(os.urandom(5 << 20))
    return path


class SlowDisk:
    """A clock that only reads move: each takes `read_s`, and none gains by waiting with others."""

    def __init__(self, monkeypatch, read_s: float) -> None:
        self.read_s = read_s
        self.now_s = 1000.0
        self.offsets: list[int] = []
        self._turn = threading.Lock()
        self._read = os.preadv
        monkeypatch.setattr(disk, "time", SimpleNamespace(perf_counter=lambda: self.now_s))
        monkeypatch.setattr(disk.os, "preadv", self.preadv)

    def preadv(self, fd, buffers, offset, flags=0):
        with self._turn:
            self.offsets.append(offset)
            self.now_s += self.read_s
        return self._read(fd, buffers, offset, flags)


def without_direct_reads(monkeypatch):
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(disk.os, "open", refuse)


def test_a_hard_disk_is_measured_right_and_within_the_time(file, monkeypatch):
    hard_disk = SlowDisk(monkeypatch, 0.010)
    speed = measure_disk(file, 0.25)
    assert speed is not None
    assert speed.read_ms == pytest.approx(10.0)
    assert speed.serial_reads_per_s == pytest.approx(100.0)
    assert speed.parallel_reads_per_s == pytest.approx(100.0)
    assert hard_disk.now_s - 1000.0 <= 0.3
    assert len(hard_disk.offsets) >= 1 + 8 + 5
    assert all(offset % 4096 == 0 and offset < 5 << 20 for offset in hard_disk.offsets)
    assert len(set(hard_disk.offsets)) >= 10


def test_a_disk_that_takes_all_the_time_for_one_read_is_not_asked_for_many(file, monkeypatch):
    tape = SlowDisk(monkeypatch, 0.3)
    assert measure_disk(file, 0.25) == DiskSpeed(
        pytest.approx(300.0), pytest.approx(1 / 0.3), pytest.approx(1 / 0.3)
    )
    assert len(tape.offsets) == 2  # one to see whether it can be read at all


def test_a_fast_disk_is_left_alone_when_the_figures_have_settled(file, monkeypatch):
    ssd = SlowDisk(monkeypatch, 0.00001)
    speed = measure_disk(file, 0.25)
    assert speed is not None
    assert speed.parallel_reads_per_s == pytest.approx(100_000.0)
    assert len(ssd.offsets) == 1 + 256 + 2048
    assert ssd.now_s - 1000.0 < 0.03


def test_a_real_file_is_measured_and_closed_again(file):
    before = sorted(Path("/proc/self/fd").iterdir())
    contents = file.read_bytes()
    with file.open("rb+") as written:
        os.fsync(written.fileno())  # a page being written can't be dropped, where O_DIRECT is unknown
    speed = measure_disk(file)
    if speed is not None:  # None where the temporary folder is memory that knows no O_DIRECT
        assert 0 < speed.read_ms < float("inf")
        assert speed.serial_reads_per_s > 0
        assert speed.parallel_reads_per_s > 0
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert file.read_bytes() == contents


def test_without_direct_reads_every_page_is_dropped_before_it_is_read(file, monkeypatch):
    without_direct_reads(monkeypatch)
    monkeypatch.setattr(disk, "_is_cached", lambda fd, offset, page: False)
    slow = SlowDisk(monkeypatch, 0.010)
    dropped = []
    real = os.posix_fadvise

    def advise(fd, offset, length, advice):
        if advice == os.POSIX_FADV_DONTNEED:
            assert length == 4096
            dropped.append(offset)
        real(fd, offset, length, advice)

    monkeypatch.setattr(disk.os, "posix_fadvise", advise)
    speed = measure_disk(file)
    assert speed is not None
    assert speed.read_ms == pytest.approx(10.0)
    assert len(dropped) >= 8 + 5
    assert sorted(dropped) == sorted(slow.offsets)


@pytest.mark.skipif(not disk.NOWAIT, reason="Python without preadv2")
def test_pages_that_stay_in_the_cache_say_nothing_about_the_disk(file, monkeypatch):
    without_direct_reads(monkeypatch)
    monkeypatch.setattr(disk.os, "posix_fadvise", lambda *args: None)
    with file.open("rb") as cached:
        try:
            os.preadv(cached.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT)
        except OSError:
            pytest.skip("the temporary folder's file system can't tell what is cached")
    file.read_bytes()
    assert measure_disk(file) is None


@pytest.mark.skipif(not disk.NOWAIT, reason="Python without preadv2")
def test_where_the_system_cannot_tell_what_is_cached_the_disk_is_measured_all_the_same(file, monkeypatch):
    without_direct_reads(monkeypatch)
    slow = SlowDisk(monkeypatch, 0.010)

    def cannot_tell(fd, buffers, offset, flags=0):
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return slow.preadv(fd, buffers, offset)

    monkeypatch.setattr(disk.os, "preadv", cannot_tell)
    speed = measure_disk(file)
    assert speed is not None
    assert speed.read_ms == pytest.approx(10.0)


def test_a_small_file_says_nothing_and_a_missing_one_is_an_error(tmp_path):
    (tmp_path / "small").write_bytes(bytes((4 << 20) - 1))
    assert measure_disk(tmp_path / "small") is None
    with pytest.raises(StorageError, match="nowhere"):
        measure_disk(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("read_ms", "reads_per_s", "n_candidates", "expected"),
    [
        (8.0, 200.0, 80, 11),  # hard disk
        (8.0, 200.0, 400, 25),
        (0.7, 1800.0, 80, 10),  # SD card
        (0.05, 1000.0, 80, 8),  # control group
        (0.07, 30_000.0, 80, 80),  # SSD
        (0.07, 30_000.0, 400, 38),
        (0.1, 16_000.0, 80, 80),  # 5 ms for all
        (0.1, 15_900.0, 80, 14),
    ],
)
def test_waves_fit_the_disk(read_ms, reads_per_s, n_candidates, expected):
    assert wave_rows(DiskSpeed(read_ms, 1e3 / read_ms, reads_per_s), n_candidates) == expected


def test_a_wave_is_never_larger_than_the_pool_and_an_unknown_disk_gets_a_middling_one():
    assert wave_rows(None) == 16
    assert wave_rows(None, 5) == 5
    assert wave_rows(DiskSpeed(8.0, 125.0, 200.0), 3) == 3
    assert wave_rows(DiskSpeed(300.0, 3.3, 3.3), 80) == 9
