"""The forward pass of 'Attention Is All You Need' in float64 NumPy, written from the paper.

Head by head and position by position, to be checked by eye; only the weights are the model's.
"""

import math

import numpy as np


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def attention(query, key, value, allowed):
    """Equation 1 for one head of one sentence: `[T, k]`, `[S, k]`, `[S, v]`, `[T, S]`."""
    scores = query @ key.T / math.sqrt(query.shape[-1])
    return softmax(np.where(allowed, scores, -np.inf)) @ value


def multi_head(x, memory, allowed, maps, num_heads):
    """Section 3.2.2 for one sentence; `maps` holds (kernel, bias) of query, key, value, output."""
    query, key, value = (
        np.split(inputs @ kernel + bias, num_heads, axis=-1)
        for inputs, (kernel, bias) in zip((x, memory, memory), maps, strict=False)
    )
    heads = [attention(*head, allowed) for head in zip(query, key, value, strict=True)]
    kernel, bias = maps[3]
    return np.concatenate(heads, axis=-1) @ kernel + bias


def layer_norm(x, norm):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return _array(norm.gamma) * (x - mean) / np.sqrt(variance + norm.epsilon) + _array(norm.beta)


def activate(name, x):
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    assert name == "silu"
    return x / (1 + np.exp(-x))


def sinusoid(position, column, d_model, layout):
    """Section 3.5: PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos of the same."""
    half = d_model // 2
    i, is_cosine = divmod(column, 2) if layout == "interleaved" else (column % half, column // half)
    angle = position / 10000 ** (2 * i / d_model)
    return math.cos(angle) if is_cosine else math.sin(angle)


def logits(model, source_ids, target_in):
    """Return float64 logits `[B, T, V]` of a `Transformer`, each sentence by itself."""
    return np.stack([_sentence(model, *pair) for pair in zip(source_ids, target_in, strict=True)])


def _sentence(model, source, target):
    config = model.config
    real = np.asarray(source) != config.pad_id
    x = _embed(model.source_embedding, model.source_positions, source, config)
    for layer in model.encoder.layers:
        x = _encoder_layer(layer, x, real[None, :], config)
    memory = layer_norm(x, model.encoder.norm) if model.encoder.norm else x
    y = _embed(model.token_embedding, model.target_positions, target, config)
    for layer in model.decoder.layers:
        y = _decoder_layer(layer, y, memory, real[None, :], config)
    y = layer_norm(y, model.decoder.norm) if model.decoder.norm else y
    if config.embeddings == "separate":
        result = y @ _array(model.output_projection.kernel)
    else:
        result = y @ _array(model.token_embedding.embeddings).T
    return result + _array(model.output_bias) if config.output_bias else result


def _embed(embedding, positions, ids, config):
    vectors = _array(embedding.embeddings)[np.asarray(ids)]
    if config.embedding_scale:
        vectors = vectors * math.sqrt(config.d_model)
    if config.positions == "learned":
        return vectors + _array(positions.embeddings)[: len(ids)]
    return vectors + [
        [sinusoid(p, c, config.d_model, config.position_layout) for c in range(config.d_model)]
        for p in range(len(ids))
    ]


def _encoder_layer(layer, x, allowed, config):
    maps, heads = self_attention_maps(layer.self_attention), config.num_heads

    def attend(x):
        return multi_head(x, x, allowed, maps, heads)

    x = _residual(x, layer.self_attention_norm, config, attend)
    return _residual(x, layer.feed_forward_norm, config, lambda x: _feed_forward(layer, x, config))


def _decoder_layer(layer, y, memory, allowed, config):
    own, heads = self_attention_maps(layer.self_attention), config.num_heads
    cross = cross_attention_maps(layer.cross_attention)
    causal = np.tril(np.ones((len(y), len(y)), bool))

    def attend(y):
        return multi_head(y, y, causal, own, heads)

    def attend_memory(y):
        return multi_head(y, memory, allowed, cross, heads)

    y = _residual(y, layer.self_attention_norm, config, attend)
    y = _residual(y, layer.cross_attention_norm, config, attend_memory)
    return _residual(y, layer.feed_forward_norm, config, lambda y: _feed_forward(layer, y, config))


def _residual(x, norm, config, sublayer):
    if config.norm_first:
        return x + sublayer(layer_norm(x, norm))
    return layer_norm(x + sublayer(x), norm)


def _feed_forward(layer, x, config):
    inner, outer = layer.feed_forward.inner, layer.feed_forward.outer
    hidden = activate(config.activation, x @ _array(inner.kernel) + _array(inner.bias))
    return hidden @ _array(outer.kernel) + _array(outer.bias)


def separate_maps(layer):
    """(kernel, bias) of query, key, value, output of a `MultiHeadAttention`."""
    projections = (layer.query_projection, layer.key_projection, layer.value_projection)
    return [_map(dense) for dense in (*projections, layer.output_projection)]


def self_attention_maps(layer):
    """The same of a `SelfAttention`, which keeps query, key and value side by side."""
    width = layer.num_heads * layer.key_size
    fused = _cut(_map(layer.input_projection), [width, 2 * width])
    return [*fused, _map(layer.output_projection)]


def cross_attention_maps(layer):
    """The same of a `CrossAttention`, which keeps key and value side by side."""
    fused = _cut(_map(layer.memory_projection), [layer.num_heads * layer.key_size])
    return [_map(layer.query_projection), *fused, _map(layer.output_projection)]


def _map(dense):
    return _array(dense.kernel), _array(dense.bias)


def _cut(kernel_and_bias, places):
    kernel, bias = kernel_and_bias
    return list(zip(np.split(kernel, places, axis=1), np.split(bias, places), strict=True))


def _array(variable):
    return variable.numpy().astype("float64")
