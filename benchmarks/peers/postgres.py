"""pgvector in a PostgreSQL of its own (pgserver's wheel carries both), over a Unix socket.

As pgvector's README advises: load with binary COPY, index afterwards with enough maintenance_work_mem, the inner
product for vectors of unit length, prepared statements.
"""

from pathlib import Path

import numpy as np
import pgserver
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector

from benchmarks.peers.peer import Float32, Rows, Setting, batches

# shared_buffers: a quarter of memory is PostgreSQL's advice; 1 GB holds the index at hand.
CONFIGURATION = {"shared_buffers": "1GB", "max_parallel_maintenance_workers": "0", "jit": "off"}
TIMEOUT = "14min"  # of the index build; the server would outlive a killed benchmark


class PgVector:
    """HNSW, m 16 and ef_construction 64, its defaults."""

    packages = ("pgserver", "pgvector")
    told = "HNSW m 16, ef_construction 64 (its defaults), float32, shared_buffers 1 GB"
    settings = tuple({"hnsw.ef_search": n} for n in (40, 100, 200, 400, 800))

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder, self._dim = folder / "pgdata", dim

    def build(self, vectors: NDArray[np.float16]) -> None:
        server = pgserver.get_server(self._folder)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for name, value in CONFIGURATION.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        server.cleanup()  # stops it, so that shared_buffers takes effect
        self.open()
        sql = self._connection
        copy = "COPY vectors (id, embedding) FROM STDIN WITH (FORMAT BINARY)"
        sql.execute(f"CREATE TABLE vectors (id integer, embedding vector({self._dim}))")
        with sql.cursor().copy(copy) as rows_in:
            rows_in.set_types(["int4", "vector"])
            for rows, block in batches(vectors):
                for row, vector in zip(rows, block, strict=True):
                    rows_in.write_row([int(row), vector])
        sql.execute("SET maintenance_work_mem = '4GB'")
        sql.execute(f"SET statement_timeout = '{TIMEOUT}'")
        sql.execute("CREATE INDEX ON vectors USING hnsw (embedding vector_ip_ops)")
        self.close()

    def open(self) -> None:
        self._server = pgserver.get_server(self._folder)
        self._connection = psycopg.connect(self._server.get_uri(), autocommit=True, prepare_threshold=0)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._connection)

    def use(self, setting: Setting) -> None:
        for name, value in setting.items():
            self._connection.execute(f"SET {name} = {value}")

    def search(self, query: Float32, k: int) -> Rows:
        sql = "SELECT id FROM vectors ORDER BY embedding <#> %s LIMIT %s"
        found = self._connection.execute(sql, (query, k), binary=True).fetchall()
        return np.array([row[0] for row in found], np.int64)

    def process_ids(self) -> list[int]:
        """PostgreSQL's processes: the first one and its children. Shared memory is counted once."""
        first = self._server.get_pid()
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *(int(child) for child in children)]

    def close(self) -> None:
        self._connection.close()
        self._server.cleanup()
