"""Where a graph's weights lie: in files beside it, from which ONNX Runtime takes what it needs.

Two files: `TABLES` for embedding tables, which stay mapped into memory, and `WEIGHTS` for everything else of size,
which ONNX Runtime rearranges once, when it opens the graph. Inside of the graph's own file they would be read as a
whole first, which leaves 27 MiB more behind for all-MiniLM-L6-v2, and 2 GiB is the most such a file can hold.
"""

import json
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx.numpy_helper import from_array, to_array

from server.encoders.onnx_session import GRAPH, TABLES, TABLES_LIST

WEIGHTS = "weights.bin"
TABLE_BYTES = 1 << 20  # smaller tables, such as those of positions, are not worth a mapping
WEIGHT_BYTES = 1 << 10  # smaller ones stay in the graph: its shapes are worked out from them
PAGE_BYTES = 4096
LINE_BYTES = 64  # of the processor's cache


def write_graph(model: onnx.ModelProto, base: Path, folder: Path) -> None:
    """Write the graph and its weights into an empty folder; `model` is left without its weights.

    `base` is the folder where weights lie that were not read with the graph. They are taken one at a time.
    """
    tables = _tables(model)
    listed = []
    with (folder / TABLES).open("wb") as table_file, (folder / WEIGHTS).open("wb") as weight_file:
        for tensor in model.graph.initializer:
            array = to_array(tensor, str(base))
            if tensor.name in tables and array.nbytes >= TABLE_BYTES:
                offset = _move(tensor, array.tobytes(), table_file, PAGE_BYTES)
                listed.append({"name": tensor.name, "offset": offset, "shape": array.shape})
            elif array.nbytes >= WEIGHT_BYTES:
                _move(tensor, array.tobytes(), weight_file, LINE_BYTES)
            else:
                tensor.CopyFrom(from_array(array, tensor.name))
    (folder / TABLES_LIST).write_text(json.dumps(listed), encoding="utf-8")
    onnx.save(model, str(folder / GRAPH))


def _tables(model: onnx.ModelProto) -> set[str]:
    """The names of the float32 weights of which the graph reads single rows and nothing else."""
    names = {each.name for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    by_rows: set[str] = set()
    otherwise: set[str] = set()
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            (by_rows if node.op_type == "Gather" and place == 0 else otherwise).add(name)
    return names & by_rows - otherwise


def _move(tensor: onnx.TensorProto, content: bytes, file: BinaryIO, boundary: int) -> int:
    """Put a weight's content at the file's end, and into the graph where it lies; returns the offset."""
    file.write(b"\0" * (-file.tell() % boundary))
    offset = file.tell()
    file.write(content)
    moved = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    moved.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", Path(file.name).name), ("offset", offset), ("length", len(content))):
        moved.external_data.add(key=key, value=str(value))
    tensor.CopyFrom(moved)
    return offset
