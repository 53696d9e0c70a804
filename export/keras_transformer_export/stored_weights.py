"""Which constants of a graph are weights, and what a change of their storage did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto

from keras_transformer_export.graph_passes import Graph

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Change:
    """What a change of precision did to a model.

    Attributes:
        weights: matrices that now take fewer bytes.
        products: products, in all bodies, that are computed with them in int8.
        kept: matrices that stay float32, with the reason.
        bytes_before: size of the model that was given.
        bytes_after: size of the new model.
    """

    weights: int
    products: int
    kept: dict[str, str]
    bytes_before: int
    bytes_after: int


def weight(graph: Graph, name: str) -> np.ndarray | None:
    """Return the float32 matrix that a constant is, or None.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    array = graph.constants.get(name)
    if array is None or array.dtype != np.float32 or array.ndim != 2 or not array.size:
        return None
    if not np.isfinite(array).all():
        raise ValueError(
            "model must have finite weights: one that is not a number or infinite has no shorter "
            f"form. Train the model again, or export it in float32 only. Received: {name}"
        )
    return array


def finished(graph: Graph) -> ModelProto:
    """Return the checked model of a graph whose weights are stored in fewer bytes."""
    model = graph.to_model()
    shorten_names(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def shorten_names(model: ModelProto) -> None:
    """Give every inner value a name of few letters: long ones are a tenth of a small int8 file.

    Inputs and outputs of the model keep theirs. `Graph.to_model` made `model`: its names are
    unique across all bodies.
    """
    kept = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    short = {name: name for name in kept}
    numbers = (_digits(number) for number in range(1 << 62))
    fresh = (name for name in numbers if name not in kept)

    def shortened(name: str) -> str:
        if name not in short:
            short[name] = next(fresh)
        return short[name]

    for graph in _graphs(model.graph):
        del graph.value_info[:]
        for named in (*graph.initializer, *graph.input, *graph.output):
            named.name = shortened(named.name)
        for node in graph.node:
            node.ClearField("name")
            for names in (node.input, node.output):
                names[:] = [shortened(name) for name in names]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _digits(number: int) -> str:
    found = ""
    while number or not found:
        number, digit = divmod(number, len(DIGITS))
        found = DIGITS[digit] + found
    return f"v{found}"
