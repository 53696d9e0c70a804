"""What the model thought of outputs that were found: their probabilities and attention."""

from keras import ops


def details_of(model, source_ids, ids, names):
    """Run the full model once on the outputs of a search.

    Args:
        model: a `Transformer`.
        source_ids: int32 `[B, S]`.
        ids: int32 `[B, n, T]`: tokens with the end symbol, pads behind it.
        names: some of "log_probs" and "cross_attention".

    Returns:
        A dict with `log_probs` float32 `[B, n, T]`, the log-probability of each token; and
        `cross_attention` float32 `[B, n, L, N, T, S]`, where each head of each layer looked in the
        source to predict it. Both are 0 at pads.
    """
    batch, count, length = (ops.shape(ids)[axis] for axis in range(3))
    sources = ops.reshape(
        ops.broadcast_to(ops.expand_dims(source_ids, 1), (batch, count, ops.shape(source_ids)[1])),
        (batch * count, -1),
    )
    targets = ops.reshape(ids, (batch * count, length))
    starts = ops.full((batch * count, 1), model.config.start_id, "int32")
    target_in = ops.concatenate([starts, targets[:, :-1]], axis=1)
    real = ops.cast(ops.not_equal(targets, model.config.pad_id), "float32")
    found = {}
    if "log_probs" in names:
        log_probs = ops.log_softmax(model((sources, target_in)), axis=-1)
        vocab_size = model.config.target_vocab_size
        places = ops.cast(ops.arange(batch * count * length), "int32") * vocab_size
        log_probs = ops.take(
            ops.reshape(log_probs, (-1,)), places + ops.reshape(targets, (-1,)), axis=0
        )
        log_probs = ops.reshape(log_probs, (batch * count, length)) * real
        found["log_probs"] = ops.reshape(log_probs, (batch, count, length))
    if "cross_attention" in names:
        weights = model.attention_scores(sources, target_in).cross
        weights = weights * ops.reshape(real, (batch * count, 1, 1, length, 1))
        heads = weights.shape[1:3]
        found["cross_attention"] = ops.reshape(weights, (batch, count, *heads, length, -1))
    return found
