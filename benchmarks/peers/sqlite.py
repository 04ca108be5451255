"""sqlite-vec: a full scan in SQLite, of float32 vectors or of short codes with rescoring, as its guides have it.

APSW carries SQLite, since Python's own is often built without loadable extensions.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import apsw
import numpy as np
import sqlite_vec
from numpy.typing import NDArray

from benchmarks.peers.peer import Float32, Rows, Setting, batches


class SqliteFlat:
    """Every float32 vector, exactly."""

    packages: Sequence[str] = ("sqlite-vec", "apsw")
    told = "vec0 table, float32, exact"
    settings: Sequence[Setting] = ({},)
    _coarse = ""  # a second column's type, for the first pass
    _quantised = ""  # the SQL that makes it

    def __init__(self, folder: Path, dim: int) -> None:
        self._path, self._dim = folder / "vectors.sqlite3", dim

    def build(self, vectors: NDArray[np.float16]) -> None:
        self.open()
        sql = self._connection
        sql.execute("PRAGMA journal_mode = WAL")
        coarse = f", coarse {self._coarse.format(self._dim)}" if self._coarse else ""
        sql.execute(
            f"CREATE VIRTUAL TABLE vectors USING vec0(embedding float[{self._dim}] distance_metric=cosine{coarse})"
        )
        for rows, block in batches(vectors):
            with sql:  # a transaction a batch
                into, values = ("rowid, embedding", "?1, ?2")
                if self._coarse:
                    into, values = f"{into}, coarse", f"{values}, {self._quantised.format('?2')}"
                sql.executemany(
                    f"INSERT INTO vectors({into}) VALUES ({values})",
                    ((int(row), vector.tobytes()) for row, vector in zip(rows, block, strict=True)),
                )
        self.close()

    def open(self) -> None:
        self._connection = apsw.Connection(str(self._path))
        self._connection.enable_load_extension(True)
        self._connection.load_extension(sqlite_vec.loadable_path())

    def use(self, setting: Setting) -> None:
        self._setting = setting

    def search(self, query: Float32, k: int) -> Rows:
        sql = "SELECT rowid FROM vectors WHERE embedding MATCH ?1 AND k = ?2 ORDER BY distance"
        found = self._connection.execute(sql, (query.tobytes(), k))
        return np.array([row[0] for row in found], np.int64)

    def process_ids(self) -> list[int]:
        return [os.getpid()]

    def close(self) -> None:
        self._connection.close()


class SqliteBit(SqliteFlat):
    """Sign bits first, then float32: its guide on binary quantisation."""

    told = "vec0 table, 1-bit codes scanned, rescored with float32"
    settings = tuple({"oversample": n} for n in (8, 32, 128))
    _coarse, _quantised = "bit[{}]", "vec_quantize_binary({})"

    def search(self, query: Float32, k: int) -> Rows:
        coarse = self._quantised.format("?1")
        sql = (
            f"WITH pool AS (SELECT rowid, embedding FROM vectors WHERE coarse MATCH {coarse} AND k = ?2) "
            "SELECT rowid FROM pool ORDER BY vec_distance_cosine(embedding, ?1) LIMIT ?3"
        )
        found = self._connection.execute(sql, (query.tobytes(), k * self._setting["oversample"], k))
        return np.array([row[0] for row in found], np.int64)


class SqliteInt8(SqliteBit):
    """8-bit codes first; `vec_quantize_int8` spreads them over [-1, 1], most of which unit vectors never use."""

    told = "vec0 table, 8-bit codes scanned, rescored with float32"
    settings = tuple({"oversample": n} for n in (8, 32))
    _coarse, _quantised = "int8[{}] distance_metric=cosine", "vec_quantize_int8({}, 'unit')"
