"""The forward pass of Bahdanau et al. 2015, appendix A.2, in float64 NumPy, written from the paper.

Sentence by sentence, token by token, without padding and without batches, to be checked by eye;
only the weights are the model's. z is the paper's update gate, so Keras's weights of that gate
are taken with the opposite sign.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gates(cell):
    """W, U and b of the gates z, r and of the candidate, from a Keras GRU cell."""
    columns = [np.split(_array(w), 3, axis=-1) for w in (cell.kernel, cell.recurrent_kernel)]
    update, reset, candidate = zip(*columns, np.split(_array(cell.bias), 3), strict=True)
    return [-part for part in update], reset, candidate


def gru(cell, x, h):
    """One step: h_i = (1 - z) * h_{i-1} + z * candidate."""
    (w_z, u_z, b_z), (w_r, u_r, b_r), (w, u, b) = gates(cell)
    z = sigmoid(x @ w_z + h @ u_z + b_z)
    r = sigmoid(x @ w_r + h @ u_r + b_r)
    candidate = np.tanh(x @ w + (r * h) @ u + b)
    return (1 - z) * h + z * candidate


def states(cell, vectors):
    """The states of one direction, from zeros."""
    h = np.zeros(cell.units)
    result = []
    for x in vectors:
        h = gru(cell, x, h)
        result.append(h)
    return result


def annotate(model, source):
    """h_j = [forward state; backward state] of each real token, `[S, 2n]` (equation 7)."""
    vectors = _array(model.source_embedding.embeddings)[source]
    forward = states(model.encoder.forward_layer.cell, vectors)
    backward = states(model.encoder.backward_layer.cell, vectors[::-1])[::-1]
    return np.array([np.concatenate(pair) for pair in zip(forward, backward, strict=True)])


def align(model, state, annotations):
    """alpha_ij of one target position, `[S]`."""
    similarity = model.decoder.cell.similarity
    w, u, v = (
        _array(weight).squeeze()
        for weight in (similarity.query_kernel, similarity.key_kernel, similarity.vector)
    )
    energies = np.array([v @ np.tanh(state @ w + h @ u) for h in annotations])
    exponentials = np.exp(energies - energies.max())
    return exponentials / exponentials.sum()


def sentence(model, source, target_in):
    """Logits `[T, V]` and alignment `[T, S]` of one sentence without padding."""
    annotations = annotate(model, source)
    n = model.config.hidden_size
    state = np.tanh(_dense(model.initial_state, annotations[0, n:]))
    logits, alignment = [], []
    for token in target_in:
        embedded = _array(model.token_embedding.embeddings)[token]
        alpha = align(model, state, annotations)
        context = sum(weight * h for weight, h in zip(alpha, annotations, strict=True))
        t = _dense(model.deep_output, np.concatenate([state, context, embedded]))
        hidden = np.array([max(t[2 * j], t[2 * j + 1]) for j in range(len(t) // 2)])
        logits.append(_dense(model.output_projection, hidden))
        alignment.append(alpha)
        state = gru(model.decoder.cell.gru, np.concatenate([embedded, context]), state)
    return np.array(logits), np.array(alignment)


def _dense(layer, x):
    return x @ _array(layer.kernel) + _array(layer.bias)


def _array(variable):
    return variable.numpy().astype("float64")
