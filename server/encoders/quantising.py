"""A graph's matrix products in eight bits. Runs in the child process that exports.

Weights are quantised once, each output column with a scale of its own; what they are multiplied with when it comes,
each token with a scale of its own. ONNX Runtime's own tool gives one scale to a whole batch, so that a text's vector
depends on the texts beside it: measured on all-MiniLM-L6-v2 and 120 texts, the mean cosine of a text alone with itself
in a batch is 0.991 that way and 1 this way, that with float32 0.992 and 0.996, and both take the same time.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.numpy_helper import from_array, to_array

from server.encoders.errors import ExportFailed

# Levels on each side of zero. Weights take seven of their eight bits: processors without VNNI add two products of
# eight bits in sixteen, 2 × 255 × 64 < 2^15, so that all processors give the same vectors. With all eight, 0.997.
WEIGHT_LEVELS = 64
TOKEN_LEVELS = 127
ZERO = 128  # what stands for zero in a token's unsigned bytes
DOMAIN = "com.microsoft"  # of MatMulIntegerToFloat
# Of the names given here; no exporter's begin so.
MARK = "int8:"
CONSTANT = "int8-constant:"


def quantise(model: onnx.ModelProto, base: Path) -> None:
    """Change the graph's products with constant matrices, in place. Embedding tables stay as they are.

    `base` is the folder where weights lie that were not read with the graph.

    Raises:
        ExportFailed: there are none.
    """
    graph = model.graph
    weights = {each.name: each for each in graph.initializer if len(each.dims) == 2}
    done: set[str] = set()  # tokens and weights that are quantised already: several products share them
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        if not _is_product(node) or node.input[1] not in weights:
            nodes.append(node)
            continue
        tokens, weight = node.input[:2]
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        quantised = f"{weight}.T" if transposed else weight
        if quantised not in done:
            matrix = to_array(weights[weight], str(base)).astype(np.float32)
            graph.initializer.extend(_quantised_weight(matrix.T if transposed else matrix, quantised))
        if tokens not in done:
            nodes += _quantise_tokens(tokens)
        done |= {tokens, quantised}
        replaced.add(weight)
        nodes += _multiply(tokens, quantised, node)
    if not replaced:
        raise ExportFailed(
            "the model multiplies with no matrices, so that eight bits would save nothing",
            hint="Set encoder.precision to float32.",
        )
    graph.initializer.extend(_constants())
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _is_product(node: onnx.NodeProto) -> bool:
    """Whether it is tokens times a matrix, and perhaps plus a bias, with nothing else about it."""
    if node.op_type == "MatMul":
        return True
    values = {each.name: each.f if each.name in ("alpha", "beta") else each.i for each in node.attribute}
    return (
        node.op_type == "Gemm"
        and values.get("alpha", 1) == values.get("beta", 1) == 1
        and not values.get("transA", 0)
    )


def _quantised_weight(matrix: NDArray[np.float32], name: str) -> Iterator[onnx.TensorProto]:
    """int8 (n_in, n_out) and the columns' scales, float32 (n_out,)."""
    scales = np.maximum(np.abs(matrix).max(axis=0), 1e-12) / WEIGHT_LEVELS
    yield from_array(np.round(matrix / scales).astype(np.int8), f"{MARK}{name}")
    yield from_array(scales.astype(np.float32), f"{MARK}{name}.scales")


def _constants() -> Iterator[onnx.TensorProto]:
    yield from_array(np.array([-1]), f"{CONSTANT}last")
    yield from_array(np.array(1e-12, np.float32), f"{CONSTANT}least")
    yield from_array(np.array(1 / TOKEN_LEVELS, np.float32), f"{CONSTANT}step")
    yield from_array(np.array(1, np.float32), f"{CONSTANT}one")
    yield from_array(np.array(ZERO, np.uint8), f"{CONSTANT}zero")


def _quantise_tokens(name: str) -> Iterator[onnx.NodeProto]:
    """uint8, of the shape of the tensor called so, (n, tokens, n_in); its scales are float32 (n, tokens, 1)."""
    mine = f"{MARK}{name}"
    yield helper.make_node("Abs", [name], [f"{mine}.abs"])
    yield helper.make_node("ReduceMax", [f"{mine}.abs", f"{CONSTANT}last"], [f"{mine}.max"], keepdims=1)
    yield helper.make_node("Max", [f"{mine}.max", f"{CONSTANT}least"], [f"{mine}.most"])
    yield helper.make_node("Mul", [f"{mine}.most", f"{CONSTANT}step"], [f"{mine}.scales"])
    yield helper.make_node("Div", [name, f"{mine}.scales"], [f"{mine}.levels"])
    yield helper.make_node("QuantizeLinear", [f"{mine}.levels", f"{CONSTANT}one", f"{CONSTANT}zero"], [mine])


def _multiply(tokens: str, weight: str, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Multiply in integers, scale by columns, then by tokens; a bias comes last."""
    [result] = node.output
    inputs = [
        f"{MARK}{tokens}",
        f"{MARK}{weight}",
        f"{CONSTANT}one",
        f"{MARK}{weight}.scales",
        f"{CONSTANT}zero",
    ]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{MARK}{result}.columns"], domain=DOMAIN)
    has_bias = len(node.input) == 3
    product = f"{MARK}{result}.product" if has_bias else result
    yield helper.make_node("Mul", [f"{MARK}{result}.columns", f"{MARK}{tokens}.scales"], [product])
    if has_bias:
        yield helper.make_node("Add", [product, node.input[2]], [result])
