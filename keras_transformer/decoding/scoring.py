"""How hypotheses are scored, and when one is finished: the one definition."""

import numpy as np
from keras import ops

MAX_EXTRA_LENGTH = 50
FORBIDDEN = -1e9


def length_penalty(length, alpha):
    """Return ((5 + length) / 6) ^ alpha (Wu et al. 2016, equation 14).

    Args:
        length: tokens of the output, the end symbol included.
        alpha: 0 gives 1: no penalty.
    """
    return ((5.0 + ops.cast(length, "float32")) / 6.0) ** alpha


def decoding_limits(source_lengths, max_decoding_length):
    """Return how many tokens each output may have, int32 `[R]`.

    Args:
        source_lengths: real source tokens of each row, `[R]`.
        max_decoding_length: integer scalar; 0 stands for the source length + 50
            ('Attention Is All You Need', section 6.1).
    """
    maximum = ops.cast(max_decoding_length, "int32")
    default = ops.cast(source_lengths, "int32") + MAX_EXTRA_LENGTH
    return ops.where(ops.equal(maximum, 0), default, maximum)


def token_bias(vocab_size, banned_ids):
    """Return NumPy float32 `[V]` to add to logits so that `banned_ids` are never chosen."""
    bias = np.zeros(vocab_size, "float32")
    bias[list(banned_ids)] = FORBIDDEN
    return bias
