"""The exported graph with int8 weights and int8 products, in standard ONNX operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from keras_transformer_export.graph_passes import Graph
from keras_transformer_export.graph_passes.local_weights import (
    make_weights_local,
    make_weights_shared,
)
from keras_transformer_export.graph_passes.nodes import Node, Region
from keras_transformer_export.stored_weights import Change, finished, weight

ZERO_POINT = 128
MOST = 127
# A table that no product reads is stored in int8 from this many elements on.
LARGE_TABLE = 16_384
# A mask over the vocabulary is worth storing as bytes.
LARGE_MASK = 1_024


def quantize_int8(model: ModelProto) -> tuple[ModelProto, Change]:
    """Store matrices as one byte a number, and multiply by them in integers.

    Quantized are, in the top graph and in every body:

    - products of a value with a constant matrix (MatMul; Gemm with and without transB). The
      matrix gets one scale for each output; the value is quantized where it is used, one scale
      for the whole tensor (DynamicQuantizeLinear), and the sum of integer products is exact.
      ONNX Runtime makes one DynamicQuantizeMatMul of these nodes, also inside loops.
    - tables that Gather reads by row, with one scale for each row: those that a product reads as
      well (the tied embedding, which then stands once), and others of 16,384 elements or more.

    All else stays float32: biases, norms, softmax, products of two values (attention), positions,
    small tables, log-probabilities. No product is exempt, neither the first nor the last: measured
    alone, none cost quality; the output projection changes most outputs of all, and takes most of
    the time of a small model.

    Large vectors of two values (masks over the vocabulary) are stored as booleans, without loss.

    Bytes are unsigned with zero point 128. Signed ones overflow in the 16-bit sums of processors
    without VNNI, unless one of their 8 bits is given up, and cost more accuracy in both ways.

    Because a batch shares the scale of its values, a text may be translated differently beside
    other texts, where two tokens are nearly equally likely.

    Args:
        model: an exported graph in float32, with weights as initializers of the top graph; it is
            not changed.

    Returns:
        The new model, of the same inputs and outputs, and what was changed.

    Raises:
        ValueError: a weight is not finite, or the model has no product with a constant matrix.
    """
    graph = Graph(model)
    make_weights_shared(graph)
    quantizer = _Quantizer(graph)
    for node in graph.nodes("MatMul", "Gemm"):
        quantizer.quantize_product(node)
    for node in graph.nodes("Gather"):
        quantizer.quantize_lookup(node)
    if not quantizer.products:
        raise ValueError(
            "model must have products of values with constant float32 matrices. Pass the graph "
            "that was exported in float32. Received: a graph without one"
        )
    quantizer.store_masks()
    make_weights_local(graph)
    quantized = finished(graph)
    change = Change(
        len(quantizer.stored),
        quantizer.products,
        quantizer.kept,
        model.ByteSize(),
        quantized.ByteSize(),
    )
    return quantized, change


def quantize_matrix(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes around zero point 128, and float32 scales: one for all numbers along `axis`.

    A scale fits the largest of its numbers; where all of them are zero, it is 1.
    """
    scales = np.abs(array).max(axis=axis) / np.float32(MOST)
    scales = np.where(scales < np.finfo("float32").tiny, 1, scales).astype("float32")
    steps = np.rint(array / np.expand_dims(scales, axis)).clip(-MOST, MOST)
    return (steps + ZERO_POINT).astype("uint8"), scales


class _Quantizer:
    def __init__(self, graph: Graph):
        self.graph = graph
        # Names of bytes and scales, by matrix and the axis that shares a scale.
        self.stored: dict[tuple[str, int], tuple[str, str]] = {}
        self.products = 0
        self.kept: dict[str, str] = {}
        self._zero = graph.constant(np.array(ZERO_POINT, "uint8"), "zero_point")
        self._one = graph.constant(np.array(1, "float32"), "one")
        self._derived: dict[tuple[str, str], str] = {}
        self._transposes: dict[tuple[str, Region], str] = {}
        self._quantized_values: dict[tuple[str, Region], list[str]] = {}

    def quantize_product(self, node: Node) -> None:
        """Put integer nodes in the place of a product with a constant matrix."""
        value, name, *bias = node.inputs
        if weight(self.graph, name) is None or value in self.graph.constants:
            return
        if any(node.attribute(a, usual) != usual for a, usual in _PLAIN_GEMM.items()):
            self.kept[name] = "its product is scaled or transposed"
            return
        transposed = bool(node.attribute("transB", 0))
        matrix, scales = self._store(name, axis=1 if transposed else 0)
        if transposed:
            matrix = self._transposed(matrix, self.graph.region_of(node))
        integers, scale, zero = self._quantize_value(node, value)
        (sums,) = self._before(node, "MatMulInteger", [integers, matrix, zero, self._zero])
        (sums,) = self._before(node, "Cast", [sums], to=TensorProto.FLOAT)
        (scale,) = self._before(node, "Mul", [scale, scales])
        (product,) = self._before(node, "Mul", [sums, scale])
        if bias and bias[0]:
            (product,) = self._before(node, "Add", [product, bias[0]])
        self._replace(node, product)
        self.products += 1

    def quantize_lookup(self, node: Node) -> None:
        """Look rows up in bytes, and make only these float32."""
        name, ids = node.inputs
        table = weight(self.graph, name)
        if table is None or node.attribute("axis", 0) != 0:
            return
        if table.size < LARGE_TABLE and (name, 1) not in self.stored:
            self.kept[name] = "a small table"
            return
        stored, scales = self._store(name, axis=1)
        scales = self._derive("Unsqueeze", scales, self.graph.constant(np.array([1]), "axis"))
        (rows,) = self._before(node, "Gather", [stored, ids], axis=0)
        (steps,) = self._before(node, "DequantizeLinear", [rows, self._one, self._zero])
        (scale,) = self._before(node, "Gather", [scales, ids], axis=0)
        (found,) = self._before(node, "Mul", [steps, scale])
        self._replace(node, found)

    def store_masks(self) -> None:
        """Store large vectors of two values, such as banned tokens have, as one byte a number."""
        for name, array in list(self.graph.constants.items()):
            vector = array.dtype == np.float32 and array.ndim == 1 and array.size >= LARGE_MASK
            if not vector or not self.graph.is_used(name):
                continue
            values = np.unique(array)
            if len(values) == 2:
                where = self.graph.constant(array == values[1], "mask")
                high, low = (self.graph.constant(values[i], "value") for i in (1, 0))
                self.graph.replace_uses(name, self._derive("Where", where, high, low))

    def _store(self, name: str, axis: int) -> tuple[str, str]:
        if (name, axis) not in self.stored:
            matrix, scales = quantize_matrix(self.graph.constants[name], axis)
            names = self.graph.constant(matrix, "matrix"), self.graph.constant(scales, "scales")
            self.stored[name, axis] = names
        return self.stored[name, axis]

    def _quantize_value(self, node: Node, value: str) -> list[str]:
        """Bytes, scale and zero point of a value: made once in each body that multiplies it."""
        key = (value, self.graph.region_of(node))
        if key not in self._quantized_values:
            made = self._before(node, "DynamicQuantizeLinear", [value], outputs=3)
            self._quantized_values[key] = made
        return self._quantized_values[key]

    def _transposed(self, matrix: str, region: Region) -> str:
        """A constant of the body that reads it, once the file is loaded (`make_weights_local`)."""
        if (matrix, region) not in self._transposes:
            node = self._node("Transpose", [matrix], 1, {"perm": [1, 0]})
            self.graph.insert(node, region, 0)
            self._transposes[matrix, region] = node.outputs[0]
        return self._transposes[matrix, region]

    def _derive(self, op_type: str, constant: str, *inputs: str, **attributes: Any) -> str:
        """A value made of a constant, in front of the top graph."""
        if (op_type, constant) not in self._derived:
            node = self._node(op_type, [constant, *inputs], 1, attributes)
            self.graph.insert(node, self.graph.top, 0)
            self._derived[op_type, constant] = node.outputs[0]
        return self._derived[op_type, constant]

    def _before(
        self, node: Node, op_type: str, inputs: list[str], outputs: int = 1, **attributes: Any
    ) -> list[str]:
        region = self.graph.region_of(node)
        new = self._node(op_type, inputs, outputs, attributes)
        self.graph.insert(new, region, region.nodes.index(node))
        return new.outputs

    def _node(
        self, op_type: str, inputs: list[str], outputs: int, attributes: dict[str, Any]
    ) -> Node:
        names = [self.graph.new_value(op_type, like="") for _ in range(outputs)]
        made = {name: helper.make_attribute(name, value) for name, value in attributes.items()}
        return Node(op_type, inputs, names, made)

    def _replace(self, node: Node, value: str) -> None:
        self.graph.replace_uses(node.outputs[0], value)
        self.graph.remove(node)


_PLAIN_GEMM = {"transA": 0, "alpha": 1.0, "beta": 1.0}
