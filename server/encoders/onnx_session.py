"""How ONNX Runtime is set up to serve: little memory, and no core kept busy with waiting.

Imports numpy and onnxruntime and nothing of the server: it runs in a process of its own too, which is to stay small.
"""

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, OrtValue, RunOptions, SessionOptions

GRAPH = "model.onnx"
TABLES = "tables.bin"
TABLES_LIST = "tables.json"  # [{"name": …, "offset": …, "shape": …}, …]: what lies where in TABLES
ERRORS_ONLY = 3  # of ONNX Runtime's log levels: its warnings advise whoever made the graph


def open_session(folder: Path, threads: int) -> InferenceSession:
    """Open an exported model. `threads` work on each step of one batch.

    Its inputs are int64 (n, tokens), its output `vectors` is float32 (n, dim).
    """
    return TableSession(folder, session_options(threads))


def session_options(threads: int) -> SessionOptions:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Plans of where a batch's tensors go, one for each shape that came up: 7 MiB at batches of 1024 tokens, and no
    # faster, since the next batch has another shape.
    options.enable_mem_pattern = False
    # Threads that wait for work would keep the cores busy that searches need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class TableSession(InferenceSession):  # type: ignore[misc]  # it has no hints
    """A session whose embedding tables are read from their file row by row and never stay in the process.

    ONNX Runtime could map the file by itself, but then every row ever read would stay in the process's memory, which
    after some hundred texts is the whole table: most of a small model, and gigabytes of some multilingual ones.
    """

    def __init__(self, folder: Path, options: SessionOptions) -> None:
        self._file: mmap.mmap | None = None
        listed = json.loads((folder / TABLES_LIST).read_text(encoding="utf-8"))
        if listed:
            with (folder / TABLES).open("rb") as file:
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        tables = [_table(self._file, each["offset"], each["shape"]) for each in listed]
        for each, table in zip(listed, tables, strict=True):
            options.add_initializer(each["name"], table)
        super().__init__(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        self._tables = tables  # the session borrows them

    def run(self, output_names: Any, input_feed: Any, run_options: RunOptions | None = None) -> Any:
        outputs = super().run(output_names, input_feed, run_options)
        # Each row read has brought up to 160 KiB of its neighbours into the process, from the page cache: 12 MiB
        # after a few queries. Letting go takes microseconds, and so does reading a row again; nothing is lost.
        if self._file is not None:
            self._file.madvise(mmap.MADV_DONTNEED)
        return outputs


def _table(file: Any, offset: int, shape: list[int]) -> OrtValue:
    """float32 of that shape, not copied."""
    values = np.frombuffer(file, "<f4", int(np.prod(shape)), offset)
    return OrtValue.ortvalue_from_numpy(values.reshape(shape))
