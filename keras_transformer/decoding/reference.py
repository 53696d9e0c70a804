"""The paper's prediction loop in its plainest form: no cache, the whole prefix every time.

Slow on purpose and written to be checked by eye: tests, the benchmark and the notebook hold the
cached search against it.
"""

import numpy as np


def predict(forward, source_ids, config, limits):
    """Decode greedily by running the full model on the prefix for each new token.

    Args:
        forward: function `(source_ids [B, S], target_in [B, t]) -> logits [B, t, V]`.
        source_ids: integer array `[B, S]`.
        config: `TransformerConfig`, for the special ids.
        limits: the most tokens of each row, `[B]`.

    Returns:
        int32 array `[B, T]`: tokens with the end symbol, pads behind it.
    """
    rows = len(source_ids)
    target = np.full((rows, 1), config.start_id, "int32")
    finished = np.zeros(rows, bool)
    while not np.all(finished | (target.shape[1] - 1 >= np.asarray(limits))):
        logits = np.array(forward(source_ids, target))[:, -1]
        logits[:, list(config.banned_ids)] = -np.inf
        closed = finished | (target.shape[1] - 1 >= np.asarray(limits))
        chosen = np.where(closed, config.pad_id, logits.argmax(axis=-1))
        target = np.concatenate([target, chosen[:, None].astype("int32")], axis=1)
        finished |= chosen == config.eos_id
    return target[:, 1:]
