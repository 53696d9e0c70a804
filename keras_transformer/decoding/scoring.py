"""How hypotheses are scored, and how long an output may be: the one definition."""

from keras import ops

MAX_EXTRA_LENGTH = 50


def length_penalty(length, alpha):
    """Return ((5 + length) / 6) ^ alpha (Wu et al. 2016, equation 14).

    Args:
        length: tokens of the output, the end symbol included.
        alpha: 0 gives 1: no penalty.
    """
    return ((5.0 + ops.cast(length, "float32")) / 6.0) ** alpha


def decoding_limits(source_lengths, max_decoding_length):
    """Return how many tokens each output may have, int32 `[B]`.

    Args:
        source_lengths: real source tokens of each row, `[B]`.
        max_decoding_length: integer scalar; 0 stands for the source length + 50
            ('Attention Is All You Need', section 6.1).
    """
    maximum = ops.cast(max_decoding_length, "int32")
    default = ops.cast(source_lengths, "int32") + MAX_EXTRA_LENGTH
    return ops.where(ops.equal(maximum, 0), default, maximum)
