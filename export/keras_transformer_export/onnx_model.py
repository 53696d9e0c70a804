"""The Keras search as one ONNX graph: traced, converted by tf2onnx, rewritten by our passes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, helper, numpy_helper

from keras_transformer_export.graph_passes import optimize
from keras_transformer_export.search_inputs import DEFAULTS

OPSET = 18  # the newest that tf2onnx writes
INPUT_SHAPES: dict[str, list[str | int]] = {
    "source_ids": ["B", "S"],
    **{name: [] for name in DEFAULTS},
    "target_prefix": ["B or 1", "P"],
}
OUTPUT_SHAPES = {"scores": ["B", "n"], "ids": ["B", "n", "T"]}


@dataclass(frozen=True)
class Conversion:
    """An ONNX model, and what became of the graph on the way."""

    model: ModelProto
    nodes_before: int
    nodes_after: int
    passes: list[tuple[str, int]]


def convert_search(model: Any) -> Conversion:
    """Convert the search of a `Transformer` to ONNX, ids in and ids out.

    Inputs: `source_ids` int64 [B, S], and the options of the search with their defaults, integers
    int64 scalars: `beam_size` 1, `num_hypotheses` 1, `length_penalty` float 0.6,
    `max_decoding_length` 0 (source length + 50), `min_decoding_length` 0 (any), `target_prefix`
    int64 [B or 1, P], padded on the right, by default no columns. Outputs: `scores` float [B, n],
    `ids` int64 [B, n, T].

    Raises:
        RuntimeError: Keras or tf2onnx is of a version this code does not fit, or the model has
            an operation that ONNX does not have; it is named.
    """
    import tensorflow as tf

    raw = _convert(
        _search(model),
        [
            tf.TensorSpec([None, None], "int64", name="source_ids"),
            *(
                tf.TensorSpec([None] * value.ndim, value.dtype, name=name)
                for name, value in DEFAULTS.items()
            ),
        ],
    )
    optimized, passes = optimize(raw)
    _refuse_foreign_operators(optimized)
    _declare(optimized.graph.input, INPUT_SHAPES)
    _declare(optimized.graph.output, OUTPUT_SHAPES)
    onnx.checker.check_model(optimized, full_check=True)
    optimized.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in DEFAULTS.items())
    return Conversion(optimized, _count(raw.graph), _count(optimized.graph), passes)


def _search(model: Any) -> Callable[..., dict[str, Any]]:
    from keras import ops

    from keras_transformer.decoding.generation import generate

    def search(source_ids: Any, *values: Any) -> dict[str, Any]:
        options = {
            name: ops.cast(value, "int32") if default.dtype == "int64" else value
            for (name, default), value in zip(DEFAULTS.items(), values, strict=True)
        }
        found = generate(model, ops.cast(source_ids, "int32"), **options)
        return {"ids": ops.cast(found.ids, "int64"), "scores": found.scores}

    return search


def _convert(function: Callable[..., Any], signature: list[Any]) -> ModelProto:
    # The steps of `tf2onnx.convert.from_function`, without its optimizers: they take longer than
    # all the rest, and our passes come to the same graph without them.
    import tensorflow as tf
    from tf2onnx import convert, optimizer, tf_loader, tfonnx

    _fit_tf2onnx_to_keras()
    # without autograph, which would rewrite all of Keras first; the search has no use for it
    traced = tf.function(function, input_signature=signature, autograph=False)
    concrete = traced.get_concrete_function()
    inputs = [tensor.name for tensor in concrete.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in concrete.outputs]
    with _quiet_conversion():
        frozen = tf_loader.from_function(concrete, inputs, outputs)
    with _quiet_conversion(), tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        converted = tfonnx.process_tf_graph(
            graph,
            continue_on_error=True,  # what it cannot convert is refused by name afterwards
            opset=OPSET,
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=convert.tensor_names_from_structed(concrete, inputs, outputs),
        )
        return optimizer.optimize_graph(converted, optimizers={}).make_model("search")


def _fit_tf2onnx_to_keras() -> None:
    """Apply the fix that Keras keeps for its own ONNX export: tf2onnx knows only Keras 2."""
    try:
        from keras.src.export.tf2onnx_lib import patch_tf2onnx
    except ImportError as error:
        import keras

        raise RuntimeError(
            "Keras must have keras.src.export.tf2onnx_lib.patch_tf2onnx, which version 3.15 has. "
            f"Install keras>=3.15,<3.16 for the export. Received: keras {keras.__version__}"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks NumPy for np.object
        patch_tf2onnx()


@contextlib.contextmanager
def _quiet_conversion() -> Iterator[None]:
    """Keep tf2onnx's log off the screen: what matters of it is checked afterwards."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _refuse_foreign_operators(model: ModelProto) -> None:
    """Where tf2onnx must give up, it leaves TensorFlow operators in the graph and says nothing."""
    foreign = Counter(
        node.op_type
        for node in _all_nodes(model.graph)
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type)
    )
    if foreign:
        names = ", ".join(f"{name} ({count}x)" for name, count in foreign.items())
        raise RuntimeError(
            "The model must be made of operations that tf2onnx can convert. Write the layer with "
            f"other keras.ops, or export formats=('saved_model',) only. Received: {names}"
        )


def _declare(values: Any, shapes: Mapping[str, Sequence[str | int]]) -> None:
    """Put inputs or outputs into the order of `shapes`, and name their dimensions."""
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    del values[:]
    values.extend(
        helper.make_tensor_value_info(name, types[name], list(shape))
        for name, shape in shapes.items()
    )


def _all_nodes(graph: GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g)


def _count(graph: GraphProto) -> int:
    return sum(1 for _ in _all_nodes(graph))
