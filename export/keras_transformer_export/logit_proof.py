"""Logits of the exported graph against those of the full Keras model, teacher-forced."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from keras_transformer_export.onnx_process import run_apart
from keras_transformer_export.parity import ParityError

LOGIT_TOLERANCE = 1e-5
SENTENCES = 8
# The search gives banned tokens, such as the pad, -1e9; the full model does not.
BANNED = -1e8


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
    from keras_transformer.translator import pad_rows

    config = translator.config
    chosen = sorted(sentences, key=len)[-SENTENCES:]
    rows = [[*row, config.eos_id] for row in translator.source.encode(chosen)]
    source_ids = pad_rows(rows, config.pad_id)
    with tempfile.TemporaryDirectory(prefix="keras_transformer.") as folder:
        path = Path(folder) / "logits.onnx"
        onnx.save(with_logits(model), path)
        outputs = run_apart(path, [{"source_ids": source_ids.astype("int64")}])[0]
    ids = outputs["ids"][:, 0]
    target_in = np.roll(ids, 1, axis=1)
    target_in[:, 0] = config.start_id
    inputs = (source_ids, target_in.astype("int32"))
    expected = np.asarray(translator.model(inputs))
    received = outputs["logits"].transpose(1, 0, 2)
    return _difference(expected, received, ids != config.pad_id)


def with_logits(model: ModelProto) -> ModelProto:
    """Return the graph with one more output: `logits` [T, R, V], what each step chose from.

    Raises:
        ParityError: the graph has no Loop that chooses with ArgMax.
    """
    proof = ModelProto()
    proof.CopyFrom(model)
    for loop in proof.graph.node:
        choice = _choice(loop)
        if choice is not None:
            body = next(a.g for a in loop.attribute if a.name == "body")
            body.node.append(helper.make_node("Identity", [choice.input[0]], ["proof_logits"]))
            body.output.append(
                helper.make_tensor_value_info("proof_logits", TensorProto.FLOAT, None)
            )
            loop.output.append("logits")
            output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", "R", "V"])
            proof.graph.output.append(output)
            return proof
    raise ParityError("The exported graph must have a Loop that chooses tokens with ArgMax.")


def _choice(loop: NodeProto) -> NodeProto | None:
    for attribute in loop.attribute:
        if attribute.name == "body":
            return next((n for n in attribute.g.node if n.op_type == "ArgMax"), None)
    return None


def _difference(expected: np.ndarray, received: np.ndarray, real: np.ndarray) -> float:
    compared = real[:, :, None] & (received > BANNED)
    difference = np.abs(expected - received)[compared].max()
    relative = float(difference / np.abs(expected[compared]).max())
    if not relative <= LOGIT_TOLERANCE:
        raise ParityError(
            f"The logits of the exported graph must equal those of Keras within {LOGIT_TOLERANCE} "
            f"of the largest. Received: {relative:.1e}"
        )
    return relative
