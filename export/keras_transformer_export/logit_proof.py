"""Logits of the exported graph against those of the full Keras model, teacher-forced."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from keras_transformer.files import naming
from keras_transformer_export.onnx_process import run_apart
from keras_transformer_export.parity import ParityError

LOGIT_TOLERANCE = 1e-5
SENTENCES = 8


def max_logit_difference(translator: Any, model: ModelProto, sentences: Sequence[str]) -> float:
    """Decode some sentences in ONNX, and compare the logits of each step with the full model's.

    Args:
        translator: a `Translator`.
        model: the graph of ids that is shipped.
        sentences: the longest few of them are used.

    Returns:
        The largest difference, relative to the largest logit.

    Raises:
        ParityError: it is more than 1e-5.
    """
    config = translator.config
    chosen = sorted(sentences, key=len)[-SENTENCES:]
    # One at a time, so that there is one phase: the rows of the loop do not change.
    rows = [np.array([[*row, config.eos_id]]) for row in translator.source.encode(chosen)]
    with tempfile.TemporaryDirectory(prefix="keras_transformer.") as folder, naming(folder):
        path = Path(folder) / "logits.onnx"
        onnx.save(with_logits(model), path)
        outputs = run_apart(path, [{"source_ids": row.astype("int64")} for row in rows])
    return max(
        _difference(_expected(translator, row, output["ids"][:, 0]), output["logits"][0, :, 0])
        for row, output in zip(rows, outputs, strict=True)
    )


def _expected(translator: Any, source_ids: np.ndarray, target_out: np.ndarray) -> np.ndarray:
    """Logits `[T, V]` of the full Keras model for one pair of `[1, S]` and `[1, T]`."""
    target_in = np.roll(target_out, 1, axis=1)
    target_in[:, 0] = translator.config.start_id
    return np.asarray(translator.model((source_ids.astype("int32"), target_in.astype("int32"))))[0]


def with_logits(model: ModelProto) -> ModelProto:
    """Return the graph with one more output, `logits`: what each step of greedy search chose from.

    Its shape is `[1, T, 1, V]` for a source of one row.

    Raises:
        ParityError: the graph has no loop that chooses with ArgMax.
    """
    proof = ModelProto()
    proof.CopyFrom(model)
    exposed = _expose(proof.graph, "logits")
    if exposed is None:
        raise ParityError("The exported graph must have a loop that chooses tokens with ArgMax.")
    proof.graph.output.append(exposed)
    return proof


def _expose(graph: GraphProto, name: str) -> ValueInfoProto | None:
    """Let a graph make the value `name` of the logits inside it; returns what it is."""
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    softmax = next((n for n in graph.node if n.op_type == "LogSoftmax"), None)
    if softmax is not None and any(node.op_type == "ArgMax" for node in graph.node):
        graph.node.append(helper.make_node("Identity", [softmax.input[0]], [name]))
        return value
    for node in graph.node:
        bodies = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
        for body in bodies.values():
            inner = _expose(body, f"{name}_inside")
            if inner is None:
                continue
            body.output.append(inner)
            for other in bodies.values():
                if other is not body:  # the branch not taken gives as many outputs
                    nothing = helper.make_node("Constant", [], [f"{name}_none"], value_float=0.0)
                    other.node.append(nothing)
                    empty = helper.make_tensor_value_info(f"{name}_none", TensorProto.FLOAT, None)
                    other.output.append(empty)
            node.output.append(name)
            return value
    return None


def _difference(expected: np.ndarray, received: np.ndarray) -> float:
    relative = float(np.abs(expected - received).max() / np.abs(expected).max())
    if not relative <= LOGIT_TOLERANCE:
        raise ParityError(
            f"The logits of the exported graph must equal those of Keras within {LOGIT_TOLERANCE} "
            f"of the largest. Received: {relative:.1e}"
        )
    return relative
