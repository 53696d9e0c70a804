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


def similarity(layer, head, query, key):
    """Scores `[T, S]` of one head, pair by pair, from the similarity's formula."""
    weights = {w.name: _array(w)[head] for w in layer.weights}
    score = SCORES[type(layer).__name__]
    return np.array([[score(q, k, weights) for k in key] for q in query])


SCORES = {
    "ScaledDot": lambda q, k, w: q @ k / math.sqrt(len(q)),
    "Dot": lambda q, k, w: q @ k,
    "General": lambda q, k, w: q @ w["kernel"] @ k,
    "Additive": lambda q, k, w: (
        w["vector"].ravel() @ np.tanh(q @ w["query_kernel"] + k @ w["key_kernel"])
    ),
    "LinearConcat": lambda q, k, w: (
        np.concatenate([w["query_vector"].ravel(), w["key_vector"].ravel()])
        @ np.concatenate([q, k])
    ),
    "Cosine": lambda q, k, w: (
        q @ k / np.linalg.norm(q) / np.linalg.norm(k) / math.exp(w["log_temperature"].item())
    ),
}


def rotary(vectors, layout):
    """Su et al. 2021, equation 15, for the vectors `[T, H]` of one head."""
    size = vectors.shape[-1]
    turned = np.empty_like(vectors)
    for position, vector in enumerate(vectors):
        for i in range(size // 2):
            angle = position / 10000 ** (2 * i / size)
            a, b = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + size // 2)
            turned[position, a] = vector[a] * math.cos(angle) - vector[b] * math.sin(angle)
            turned[position, b] = vector[a] * math.sin(angle) + vector[b] * math.cos(angle)
    return turned


def multi_head(layer, x, memory, allowed, maps):
    """Section 3.2.2 for one sentence; `maps` holds (kernel, bias) of query, key, value, output."""
    query, key, value = (
        np.split(inputs @ kernel + bias, layer.num_heads, axis=-1)
        for inputs, (kernel, bias) in zip((x, memory, memory), maps, strict=False)
    )
    layout = getattr(layer, "rotary_layout", None)
    heads = []
    for head, (q, k, v) in enumerate(zip(query, key, value, strict=True)):
        if layout is not None:
            q, k = rotary(q, layout), rotary(k, layout)
        scores = similarity(layer.similarity, head, q, k)
        heads.append(softmax(np.where(allowed, scores, -np.inf)) @ v)
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
    if config.positions == "rotary":
        return vectors
    if config.positions == "learned":
        return vectors + _array(positions.embeddings)[: len(ids)]
    return vectors + [
        [sinusoid(p, c, config.d_model, config.position_layout) for c in range(config.d_model)]
        for p in range(len(ids))
    ]


def _encoder_layer(layer, x, allowed, config):
    own = layer.self_attention

    def attend(x):
        return multi_head(own, x, x, allowed, self_attention_maps(own))

    x = _residual(x, layer.self_attention_norm, config, attend)
    return _residual(x, layer.feed_forward_norm, config, lambda x: _feed_forward(layer, x, config))


def _decoder_layer(layer, y, memory, allowed, config):
    own, cross = layer.self_attention, layer.cross_attention
    causal = np.tril(np.ones((len(y), len(y)), bool))

    def attend(y):
        return multi_head(own, y, y, causal, self_attention_maps(own))

    def attend_memory(y):
        return multi_head(cross, y, memory, allowed, cross_attention_maps(cross))

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
    return np.asarray(variable).astype("float64")
