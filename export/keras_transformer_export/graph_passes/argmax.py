"""The best of a vocabulary: without the Bitcast of keras.ops.argmax, and in two stages."""

import math
from typing import Any

import numpy as np
from onnx import helper

from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.nodes import Node

LONG = 1024  # below, one search is as fast as two
SHORTEST_CHUNK = 16


def drop_negative_zero_test(graph: Graph) -> int:
    """Let ArgMax read its data where Keras first replaces -0.0 by a tiny negative number.

    Keras tests the sign bit with Bitcast, which tf2onnx cannot convert. The results differ only
    where the largest value is zero and stands in one row as -0.0 before 0.0.
    """
    changes = 0
    for argmax in graph.nodes("ArgMax"):
        select = graph.producer(argmax.inputs[0], "Where")
        if select is None or not _replaces_negative_zero(graph, select):
            continue
        graph.set_inputs(argmax, [select.inputs[2]])
        changes += 1
    return changes


def split_long_searches(graph: Graph) -> int:
    """Look for the best of thousands among the best of each chunk, and then in the best chunk.

    ONNX Runtime compares several numbers at once where it reduces to the largest, and one by one
    where it must say which is the largest. Of equal ones the first counts, as in ArgMax.
    """
    changes = 0
    for argmax in graph.nodes("ArgMax"):
        sizes = _rows_and_size(graph, argmax)
        chunk = None if sizes is None else _chunk(sizes[1])
        if sizes is None or chunk is None:
            continue
        _search_in_chunks(graph, argmax, sizes[0], chunk, sizes[1] // chunk)
        changes += 1
    return changes


def _rows_and_size(graph: Graph, argmax: Node) -> tuple[str, int] | None:
    """What is reshaped to `[-1, V]` before its largest number of each row is searched, and V."""
    reshape = graph.producer(argmax.inputs[0], "Reshape")
    shape = None if reshape is None else graph.constants.get(reshape.inputs[1])
    usual = argmax.attribute("select_last_index", 0) == 0 and argmax.attribute("keepdims", 1) == 0
    if reshape is None or shape is None or len(shape) != 2 or shape[0] != -1 or not usual:
        return None
    return (reshape.inputs[0], int(shape[1])) if argmax.attribute("axis", 0) in (1, -1) else None


def _chunk(size: int) -> int | None:
    """The divisor of `size` that is nearest to its square root, if it is near enough."""
    if size < LONG:
        return None
    divisors = [n for n in range(SHORTEST_CHUNK, size // SHORTEST_CHUNK + 1) if size % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n * n / size)), default=None)


def _search_in_chunks(graph: Graph, argmax: Node, rows: str, chunk: int, count: int) -> None:
    region = graph.region_of(argmax)

    def before(op_type: str, inputs: list[str], **attributes: Any) -> str:
        node = Node(op_type, inputs, [graph.new_value(op_type, like="")])
        node.attributes = {k: helper.make_attribute(k, v) for k, v in attributes.items()}
        graph.insert(node, region, region.nodes.index(argmax))
        return node.outputs[0]

    def integers(*values: int) -> str:
        return graph.constant(np.array(values, "int64"), "chunks")

    chunks = before("Reshape", [rows, integers(-1, count, chunk)])
    largest = before("ReduceMax", [chunks, integers(2)], keepdims=0)
    which = before("ArgMax", [largest], axis=1, keepdims=1)
    best = before("GatherND", [chunks, which], batch_dims=1)
    within = before("ArgMax", [best], axis=1, keepdims=1)
    place = before("Add", [before("Mul", [which, integers(chunk)]), within])
    graph.replace(argmax, "Reshape", [place, integers(-1)])


def _replaces_negative_zero(graph: Graph, select: Node) -> bool:
    condition, tiny, data = select.inputs
    both = graph.producer(condition, "And")
    value = graph.scalar(tiny)
    if both is None or value is None or not -1.2e-38 < value < 0:
        return False
    return any(_is_zero(graph, name, data) for name in both.inputs) and any(
        user.op_type == "Bitcast" for user in graph.consumers(data)
    )


def _is_zero(graph: Graph, value: str, data: str) -> bool:
    equal = graph.producer(value, "Equal")
    return equal is not None and data in equal.inputs
