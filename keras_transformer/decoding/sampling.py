"""Sampling: tokens drawn by their probabilities, as a choice for greedy search."""

from typing import Any, NamedTuple

from keras import ops

from keras_transformer.decoding.greedy import best
from keras_transformer.decoding.tokens import FORBIDDEN
from keras_transformer.layers.dropout import mix


class Sampling(NamedTuple):
    """Draws a token of each row from the most probable ones; a `choose` of `GreedySearch`.

    The distribution is softmax(log_probs / temperature), cut to the `top_k` most probable tokens
    and to the fewest tokens that together have a probability of `top_p` ('nucleus sampling',
    Holtzman et al. 2020); tokens that are equal to the last of these stay too. What is drawn
    depends on seed, stream, position and distribution alone, not on the batch.
    """

    temperature: Any  # above 0; below 1 sharpens
    top_k: Any  # 0: all
    top_p: Any  # above 0, at most 1
    seed: Any  # uint32 scalar
    streams: Any  # int32 [B]: rows with equal numbers draw alike

    def __call__(self, scores, step, index):
        """Return an id of each row, int32 `[b]`.

        Args:
            scores: log-probabilities `[b, V]`, forbidden ones far below all others.
            step: integer scalar, the position.
            index: int32 `[b]`, the places of the rows in `streams`.
        """
        forbidden = scores < FORBIDDEN / 2
        scores = scores / self.temperature
        drawn = scores + gumbel(scores, self._bits(step, index))
        is_cut = ops.logical_or(forbidden, scores < self._threshold(scores))
        return best(ops.where(is_cut, 2 * FORBIDDEN, drawn))

    def _threshold(self, scores):
        """The lowest score `[b, 1]` that is not cut."""
        ordered = ops.flip(ops.sort(scores, axis=-1), axis=-1)
        probabilities = ops.softmax(ordered, axis=-1)
        before = ops.cumsum(probabilities, axis=-1) - probabilities
        rank = ops.cast(ops.arange(ops.shape(scores)[1]), "int32")
        most = ops.where(ops.equal(self.top_k, 0), ops.shape(scores)[1], self.top_k)
        kept = ops.logical_and(rank < most, before < self.top_p)
        kept = ops.logical_or(kept, ops.equal(rank, 0))  # the best, whatever rounding says
        return ops.min(ops.where(kept, ordered, float("inf")), axis=-1, keepdims=True)

    def _bits(self, step, index):
        """A random uint32 for each row, `[b]`."""
        streams = ops.cast(ops.take(self.streams, index, axis=0), "uint32")
        key = mix(ops.cast(self.seed, "uint32") + ops.cast(0x9E3779B9, "uint32"))
        bits = mix(ops.bitwise_xor(mix(streams + key), key))
        return mix(bits + ops.cast(step, "uint32") * ops.cast(0x85EBCA6B, "uint32"))


def gumbel(scores, bits):
    """Return standard Gumbel noise of the shape of `scores` `[b, V]` from a uint32 of each row.

    The token with the greatest sum of log-probability and such noise is a sample of the
    distribution (the Gumbel-max trick).
    """
    token = ops.cast(ops.arange(ops.shape(scores)[1]), "uint32")
    bits = mix(mix(token + ops.cast(0xC2B2AE35, "uint32")) + ops.expand_dims(bits, 1))
    # 23 bits and a half: exact in float32, and never 0 or 1
    uniform = ops.cast(ops.right_shift(bits, ops.cast(9, "uint32")), "float32")
    uniform = (uniform + 0.5) * 2.0**-23
    return -ops.log(-ops.log(uniform))
