"""Encoder and decoder step as two ONNX graphs, for people who drive the loop themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from onnx import ModelProto

from keras_transformer_export.onnx_model import Value, convert

ENCODER, DECODER = "encoder.onnx", "decoder_step.onnx"
NEXT = "next_"


class Part(NamedTuple):
    """A graph, and its inputs and outputs."""

    model: ModelProto
    inputs: list[Value]
    outputs: list[Value]


def convert_split(model: Any) -> dict[str, Part]:
    """Convert a `Transformer` to an encoder and a decoder step, by the names of their files.

    The encoder takes `source_ids` int64 [B, S] and gives what the decoder reads of the sources:
    `memory_key_0`, `memory_value_0` and so on for each layer, and `memory_mask` bool [B, 1, S].
    The decoder takes these, `ids` int64 [B] (the newest tokens, at first the start id), `step`
    int64 scalar (their position, from 0), and the cache, `past_key_0`, `past_value_0` and so on,
    at first of length 0. It gives `logits` float [B, V], in which tokens that are never output
    are lower by 1e9, and the longer cache, `next_past_key_0` and so on.

    Raises:
        RuntimeError: as `convert_search`.
    """
    import tensorflow as tf

    source = Value("source_ids", "int64", ("B", "S"))
    memory, cache = _values(tf, model)
    ids, step = Value("ids", "int64", ("B",)), Value("step", "int64", ())
    logits = Value("logits", "float32", ("B", model.config.target_vocab_size))
    inputs, outputs = [ids, step, *memory, *cache], [logits, *map(_longer, cache)]
    return {
        ENCODER: Part(convert(_encode(model, memory), [source], memory).model, [source], memory),
        DECODER: Part(
            convert(_decode(model, memory, cache), inputs, outputs).model, inputs, outputs
        ),
    }


def _values(tf: Any, model: Any) -> tuple[list[Value], list[Value]]:
    """What memory and cache consist of, in the order in which their structures are flattened."""
    import keras

    def both(source_ids: Any) -> Any:
        memory = model.project_memory(tf.cast(source_ids, "int32"))
        return keras.tree.flatten(memory), keras.tree.flatten(model.init_cache(memory))

    traced = tf.function(both, autograph=False)
    memory, cache = traced.get_concrete_function(
        tf.TensorSpec([None, None], "int64")
    ).structured_outputs
    layers = [f"{part}_{layer}" for layer in range(len(cache) // 2) for part in ("key", "value")]
    return (
        [_value(f"memory_{n}", x, "S") for n, x in zip([*layers, "mask"], memory, strict=True)],
        [_value(f"past_{n}", x, "T") for n, x in zip(layers, cache, strict=True)],
    )


def _value(name: str, tensor: Any, length: str) -> Value:
    """Every size that is not known is the length, but for the first, the batch."""
    sizes = [length if size is None else size for size in tensor.shape]
    return Value(name, tensor.dtype.name, ("B", *sizes[1:]))


def _longer(value: Value) -> Value:
    sizes = tuple("T + 1" if size == "T" else size for size in value.shape)
    return Value(NEXT + value.name, value.dtype, sizes)


def _encode(model: Any, memory: Sequence[Value]) -> Any:
    import keras
    from keras import ops

    def encode(source_ids: Any) -> dict[str, Any]:
        found = keras.tree.flatten(model.project_memory(ops.cast(source_ids, "int32")))
        return {value.name: tensor for value, tensor in zip(memory, found, strict=True)}

    return encode


def _decode(model: Any, memory: Sequence[Value], cache: Sequence[Value]) -> Any:
    import keras
    import numpy as np
    from keras import ops

    from keras_transformer.decoding.tokens import TokenRules

    config = model.config
    rules = TokenRules(
        config.target_vocab_size, config.eos_id, config.pad_id, tuple(config.banned_ids)
    )
    example = model.project_memory(np.full((1, 1), config.eos_id, "int32"))
    structures = (example, model.init_cache(example, capacity=1))

    def decode(ids: Any, step: Any, *tensors: Any) -> dict[str, Any]:
        parts = (tensors[: len(memory)], tensors[len(memory) :])
        read, past = (
            keras.tree.pack_sequence_as(s, list(p)) for s, p in zip(structures, parts, strict=True)
        )
        logits, longer = model.decode_step(
            ops.cast(ids, "int32"), ops.cast(step, "int32"), _grown(past), read
        )
        rows = ops.shape(logits)[0]
        allowed = rules.forbid(ops.reshape(logits, (-1,)), step, rules.forbidden(rows))
        found = {"logits": ops.reshape(allowed, (-1, config.target_vocab_size))}
        for value, tensor in zip(cache, keras.tree.flatten(longer), strict=True):
            found[NEXT + value.name] = tensor
        return found

    return decode


def _grown(cache: Any) -> Any:
    """The example is a `FixedCache`, since a `GrownCache` needs a graph to begin in."""
    from keras_transformer.layers.cache import GrownCache

    return tuple(GrownCache(*layer) for layer in cache)
