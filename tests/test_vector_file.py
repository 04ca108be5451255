"""index/vector_file.py: rows as they were written, room given back, views that don't change."""

import errno
import os

import numpy as np
import pytest

from index import vector_file
from index.errors import DiskFullError, StorageError
from index.vector_file import VectorFile, row_checksums, to_float32


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("float16", "<f2"), ("float32", "<f4")])
def test_rows_come_back_as_stored_and_numpy_reads_the_file_in_one_line(
    tmp_path, make_vectors, dtype, numpy_dtype
):
    vectors = make_vectors(500, 24, seed=1)
    file = VectorFile(tmp_path / "v", 24, dtype)
    file.append(file.to_stored(vectors[:300]), 0)
    file.append(file.to_stored(vectors[300:]), 300)
    file.sync()
    rows = np.array([0, 7, 299, 300, 499])
    view = file.view(500)
    np.testing.assert_array_equal(view.gather(rows), vectors[rows].astype(numpy_dtype).astype(np.float32))
    plain = np.memmap(tmp_path / "v", dtype=numpy_dtype, mode="r").reshape(-1, 24)
    np.testing.assert_array_equal(plain, vectors.astype(numpy_dtype))


def test_blocks_cover_a_range_once_and_in_order(tmp_path, make_vectors, monkeypatch):
    vectors = make_vectors(100, 8, seed=2)
    monkeypatch.setattr(vector_file, "BLOCK_BYTES", 16 * 32)  # sixteen rows of 32 bytes
    file = VectorFile(tmp_path / "v", 8, "float32")
    file.append(vectors, 0)
    blocks = list(file.view(100).blocks(10, 60))
    assert [first for first, _ in blocks] == [10, 26, 42, 58]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), vectors[10:60])
    assert sum(len(block) for _, block in file.view(90).blocks(0, 100)) == 90


def test_a_view_stays_as_it_was_while_rows_are_appended(tmp_path, make_vectors):
    vectors = make_vectors(64, 16, seed=3)
    file = VectorFile(tmp_path / "v", 16, "float32")
    file.append(vectors[:32], 0)
    view = file.view(32)
    file.append(vectors[32:], 32)
    rows = np.arange(32)
    for _ in range(3):
        np.testing.assert_array_equal(view.gather(rows), vectors[:32])
    assert view.n_rows == 32
    assert file.view(64).gather(np.array([63])).tolist() == [vectors[63].tolist()]


def test_what_lies_past_the_committed_rows_is_overwritten(tmp_path, make_vectors):
    vectors = make_vectors(30, 4, seed=4)
    file = VectorFile(tmp_path / "v", 4, "float32")
    file.append(vectors[:10], 0)
    file.append(vectors[10:20], 10)  # never committed
    file.append(vectors[20:25], 10)
    file.cut(15)
    assert file.n_whole_rows == 15
    np.testing.assert_array_equal(file.view(15).gather(np.arange(10, 15)), vectors[20:25])


def test_a_full_disk_gives_the_room_back_and_says_so(tmp_path, make_vectors, monkeypatch):
    vectors = make_vectors(20, 4, seed=5)
    file = VectorFile(tmp_path / "v", 4, "float32")
    file.append(vectors[:10], 0)
    real = os.pwrite
    written = []

    def half_then_full(fd, data, offset):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(fd, data[:50], offset))
        return written[0]

    monkeypatch.setattr(vector_file.os, "pwrite", half_then_full)
    with pytest.raises(DiskFullError, match="no room left on the disk"):
        file.append(vectors[10:], 10)
    assert (tmp_path / "v").stat().st_size == 10 * 16
    np.testing.assert_array_equal(file.view(10).gather(np.arange(10)), vectors[:10])


def test_a_file_shorter_than_its_rows_is_an_error_not_garbage(tmp_path, make_vectors):
    file = VectorFile(tmp_path / "v", 4, "float32")
    file.append(make_vectors(10, 4, seed=6), 0)
    view = file.view(10)
    os.truncate(tmp_path / "v", 9 * 16 + 3)
    with pytest.raises(StorageError, match="ends in the middle"):
        list(view.blocks())
    assert file.n_whole_rows == 9


def test_a_flipped_bit_changes_that_rows_checksum_alone(make_vectors):
    stored = make_vectors(5, 8, seed=7).astype("<f2")
    before = row_checksums(stored)
    stored.view(np.uint8)[3, 2] ^= 1
    after = row_checksums(stored)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, False, True]
    assert row_checksums(stored[:0]) == []


@pytest.mark.parametrize("dim", [1, 64])
def test_every_float16_becomes_the_float32_that_numpy_makes_of_it(dim):
    every = np.arange(1 << 16, dtype="<u2").view("<f2").reshape(-1, dim)
    assert np.isnan(every).any()
    finite = np.where(np.isfinite(every), every, every.dtype.type(0))  # the quick way alone
    damaged = []
    for value in (np.inf, -np.inf, np.nan):
        damaged.append(finite.copy())
        damaged[-1][0, 0] = value
    for stored in (every, finite, *damaged):
        expected = stored.astype(np.float32)
        np.testing.assert_array_equal(to_float32(stored).view(np.uint32), expected.view(np.uint32))
    assert to_float32(every[:0]).shape == (0, dim)
    assert to_float32(every).dtype == np.float32


def file_of_rows(tmp_path, make_vectors, n_rows=60, dim=768):
    """Rows of 1536 bytes, a quarter of which lie on two pages."""
    vectors = make_vectors(n_rows, dim, seed=8).astype("<f2").astype(np.float32)
    file = VectorFile(tmp_path / "v", dim, "float16")
    file.append(file.to_stored(vectors), 0)
    file.sync()
    return vectors, file


def refuse_cached_reads(monkeypatch, refuse):
    """Let `refuse(offset)` stand for the answer of a read that must not wait; None lets it through.

    Returns the offsets of all reads that must not wait, of those that may, and of those advised.
    """
    asked, waited, advised = [], [], []
    real, advise = os.preadv, os.posix_fadvise

    def preadv(fd, buffers, offset, flags=0):
        (asked if flags else waited).append(offset)
        answer = refuse(offset) if flags else None
        return real(fd, buffers, offset, flags) if answer is None else answer

    def posix_fadvise(fd, offset, length, advice):
        if advice == os.POSIX_FADV_WILLNEED:
            advised.append(offset)
        advise(fd, offset, length, advice)

    monkeypatch.setattr(vector_file.os, "preadv", preadv)
    monkeypatch.setattr(vector_file.os, "posix_fadvise", posix_fadvise)
    return asked, waited, advised


needs_nowait = pytest.mark.skipif(not vector_file.NOWAIT, reason="Python without preadv2")


@needs_nowait
def test_rows_in_the_page_cache_are_read_once_and_none_is_cold(tmp_path, make_vectors, monkeypatch):
    vectors, file = file_of_rows(tmp_path, make_vectors)
    rows = np.array([0, 2, 5, 30, 59])
    if file.view(60).gather_counted(rows).n_cold is None:
        pytest.skip("the temporary folder's file system can't tell what is cached")
    asked, waited, advised = refuse_cached_reads(monkeypatch, lambda offset: None)
    gathered = file.view(60).gather_counted(rows)
    assert gathered.n_cold == 0
    np.testing.assert_array_equal(gathered.vectors, vectors[rows])
    assert asked == (rows * 1536).tolist()
    assert waited == advised == []


@needs_nowait
@pytest.mark.parametrize("second_answer", [0, 512], ids=["none of it", "its first page"])
def test_rows_missing_from_the_page_cache_are_waited_for_and_counted(
    tmp_path, make_vectors, monkeypatch, second_answer
):
    vectors, file = file_of_rows(tmp_path, make_vectors)
    rows = np.array([1, 2, 5, 30])

    def answer(offset):
        if offset == 1 * 1536:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return second_answer if offset == 5 * 1536 else 1536

    asked, waited, advised = refuse_cached_reads(monkeypatch, answer)
    gathered = file.view(60).gather_counted(rows)
    assert gathered.n_cold == 2
    assert asked == (rows * 1536).tolist()
    assert waited == advised == [1 * 1536, 5 * 1536]
    np.testing.assert_array_equal(gathered.vectors[[0, 2]], vectors[[1, 5]])


@needs_nowait
def test_a_dropped_file_is_read_from_the_disk_and_counted(tmp_path, make_vectors):
    vectors, file = file_of_rows(tmp_path, make_vectors, n_rows=3000)
    with (tmp_path / "v").open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            kept = os.preadv(opened.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            kept = 0
        except OSError:
            kept = 1
    if kept:
        pytest.skip("the temporary folder's file system doesn't drop pages or can't tell")
    rows = np.array([2700, 2702, 2999])  # megabytes from the page asked above, and no two on one page
    gathered = file.view(3000).gather_counted(rows)
    assert gathered.n_cold == 3
    np.testing.assert_array_equal(gathered.vectors, vectors[rows])
    assert file.view(3000).gather_counted(rows).n_cold == 0


@needs_nowait
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_where_the_cache_cannot_be_asked_all_rows_are_advised_and_read(
    tmp_path, make_vectors, monkeypatch, code
):
    vectors, file = file_of_rows(tmp_path, make_vectors)

    def answer(offset):
        raise OSError(code, os.strerror(code))

    asked, waited, advised = refuse_cached_reads(monkeypatch, answer)
    rows = np.array([3, 4, 50])
    for _ in range(2):
        gathered = file.view(60).gather_counted(rows)
        assert gathered.n_cold is None
        np.testing.assert_array_equal(gathered.vectors, vectors[rows])
    assert asked == [3 * 1536]  # once, not for every search
    assert waited == advised == (rows * 1536).tolist() * 2


@needs_nowait
def test_a_disk_that_fails_is_an_error_that_names_the_file(tmp_path, make_vectors, monkeypatch):
    _, file = file_of_rows(tmp_path, make_vectors)

    def answer(offset):
        raise OSError(errno.EIO, "Input/output error")

    refuse_cached_reads(monkeypatch, answer)
    with pytest.raises(StorageError, match=r"/v: Input/output error"):
        file.view(60).gather(np.array([3]))


def test_a_row_that_has_gone_from_the_file_is_an_error(tmp_path, make_vectors):
    _, file = file_of_rows(tmp_path, make_vectors)
    view = file.view(60)
    os.truncate(tmp_path / "v", 59 * 1536 + 100)
    with pytest.raises(StorageError, match="ends within row 59"):
        view.gather(np.array([58, 59]))
    assert view.gather(np.array([], np.int64)).shape == (0, 768)
