"""index/vector_file.py: rows as they were written, room given back, views that don't change."""

import errno
import os

import numpy as np
import pytest

from index import vector_file
from index.errors import DiskFullError, StorageError
from index.vector_file import VectorFile, row_checksums


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
