"""The Keras search as one ONNX graph: traced, converted by tf2onnx, rewritten by our passes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, helper, numpy_helper

from keras_transformer_export.graph_passes import optimize
from keras_transformer_export.search_inputs import DEFAULTS

OPSET = 18  # the newest that tf2onnx writes


class Value(NamedTuple):
    """An input or output: its name, type and sizes; letters for those that vary."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


INPUTS = (
    Value("source_ids", "int64", ("B", "S")),
    *(
        Value(name, default.dtype.name, ("B or 1", "P") if default.ndim else ())
        for name, default in DEFAULTS.items()
    ),
)
OUTPUTS = (Value("scores", "float32", ("B", "n")), Value("ids", "int64", ("B", "n", "T")))
# What an export may be asked for besides. Layers L, heads N.
DETAILS = {
    "log_probs": Value("log_probs", "float32", ("B", "n", "T")),
    "cross_attention": Value("cross_attention", "float32", ("B", "n", "L", "N", "T", "S")),
}


@dataclass(frozen=True)
class Conversion:
    """An ONNX model, and what became of the graph on the way."""

    model: ModelProto
    nodes_before: int
    nodes_after: int
    passes: list[tuple[str, int]]


def convert_search(model: Any, details: Sequence[str] = ()) -> Conversion:
    """Convert the search of a `Transformer` to ONNX, ids in and ids out.

    Inputs: `source_ids` int64 [B, S], and the options of the search with their defaults, integers
    int64 scalars: `beam_size` 1, `num_hypotheses` 1, `length_penalty` float 0.6,
    `max_decoding_length` 0 (source length + 50), `min_decoding_length` 0 (any), `early_stopping`
    bool, true, `target_prefix` int64 [B or 1, P], padded on the right, by default no columns.
    Outputs: `scores` float [B, n], `ids` int64 [B, n, T], and `details`.

    Args:
        model: a `Transformer`.
        details: names of `DETAILS`: further outputs.

    Raises:
        RuntimeError: Keras or tf2onnx is of a version this code does not fit, or the model has
            an operation that ONNX does not have; it is named.
    """
    outputs = [*OUTPUTS, *(DETAILS[name] for name in details)]
    conversion = convert(_search(model, details), INPUTS, outputs)
    conversion.model.graph.initializer.extend(
        numpy_helper.from_array(default, name) for name, default in DEFAULTS.items()
    )
    return conversion


def convert(
    function: Callable[..., dict[str, Any]], inputs: Sequence[Value], outputs: Sequence[Value]
) -> Conversion:
    """Trace a function of tensors, convert it with tf2onnx, and apply all passes.

    Args:
        function: from a tensor for each of `inputs` to a dict with a tensor for each of `outputs`.
        inputs: of the function, and of the graph.
        outputs: of the graph.

    Raises:
        RuntimeError: see `convert_search`.
    """
    import tensorflow as tf

    signature = [
        tf.TensorSpec([s if isinstance(s, int) else None for s in shape], dtype, name)
        for name, dtype, shape in inputs
    ]
    raw = _convert(function, signature)
    optimized, passes = optimize(raw)
    _refuse_foreign_operators(optimized)
    _declare(optimized.graph.input, inputs)
    _declare(optimized.graph.output, outputs)
    onnx.checker.check_model(optimized, full_check=True)
    return Conversion(optimized, _count(raw.graph), _count(optimized.graph), passes)


def _search(model: Any, details: Sequence[str]) -> Callable[..., dict[str, Any]]:
    from keras import ops

    from keras_transformer.decoding.details import details_of
    from keras_transformer.decoding.generation import generate

    def search(source_ids: Any, *values: Any) -> dict[str, Any]:
        options = {
            name: ops.cast(value, "int32") if default.dtype == "int64" else value
            for (name, default), value in zip(DEFAULTS.items(), values, strict=True)
        }
        source_ids = ops.cast(source_ids, "int32")
        found = generate(model, source_ids, **options)
        outputs = {"ids": ops.cast(found.ids, "int64"), "scores": found.scores}
        return outputs | (details_of(model, source_ids, found.ids, details) if details else {})

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


def _declare(declared: Any, values: Sequence[Value]) -> None:
    """Put inputs or outputs into the order of `values`, and name their dimensions."""
    types = {value.name: value.type.tensor_type.elem_type for value in declared}
    del declared[:]
    declared.extend(
        helper.make_tensor_value_info(value.name, types[value.name], list(value.shape))
        for value in values
    )


def _all_nodes(graph: GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g)


def _count(graph: GraphProto) -> int:
    return sum(1 for _ in _all_nodes(graph))
