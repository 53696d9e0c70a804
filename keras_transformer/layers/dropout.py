"""Dropout whose random bits cost next to nothing in a compiled training step."""

import keras
import numpy as np
from keras import ops


def mix(bits):
    """Scramble uint32 numbers so that each bit depends on all: a bijection.

    Two rounds of multiply and xor-shift with the constants `lowbias32` that Chris Wellons found by
    search (https://nullprogram.com/blog/2018/07/31/).
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = ops.bitwise_xor(bits, ops.right_shift(bits, np.uint32(shift)))
        bits = bits * np.uint32(factor)
    return ops.bitwise_xor(bits, ops.right_shift(bits, np.uint32(16)))


def keep_mask(shape, seed, rate):
    """Return booleans, True with probability 1 - rate, a function of the seed alone.

    Entry i is decided by hashing i with two keys made from the seed. The hash is a handful of
    integer operations that a compiler fuses into what uses the mask, where a general-purpose
    generator, whose numbers are fit for more than masks, takes a tenth of a training step
    (benchmarks/RESULTS.md). Equal seeds give equal masks on every backend.

    Args:
        shape: ints or scalar tensors.
        seed: two integers, as `keras.random.SeedGenerator.next` gives them.
        rate: from 0 to below 1.
    """
    seed = ops.cast(seed, "uint32")
    first = mix(mix(seed[0] + np.uint32(0x9E3779B9)) + seed[1])
    second = mix(ops.bitwise_xor(first, seed[1]) + np.uint32(0x85EBCA6B))
    count = 1
    for size in shape:
        count = count * size
    bits = mix(ops.cast(ops.arange(count), "uint32") + first)
    bits = mix(ops.bitwise_xor(bits, second))
    return ops.reshape(bits >= np.uint32(round(rate * 2**32)), shape)


@keras.saving.register_keras_serializable(package="keras_transformer")
class Dropout(keras.layers.Dropout):
    """Sets entries to zero with probability `rate` in training (Srivastava et al. 2014).

    The others are divided by 1 - rate, so that the mean stays. As `keras.layers.Dropout`, but for
    where the random bits come from, see `keep_mask`.

    Args:
        rate: from 0 to below 1.
        seed: an integer; None: by chance.

    Raises:
        ValueError: `rate` out of range.
    """

    def __init__(self, rate, seed=None, **kwargs):
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be from 0 to below 1. Received: rate={rate}")
        super().__init__(rate, seed=seed, **kwargs)

    def build(self, input_shape):
        self.built = True  # `summary` then knows the shape

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        kept = keep_mask(ops.shape(inputs), self.seed_generator.next(), self.rate)
        return ops.where(kept, inputs / (1 - self.rate), ops.zeros((), inputs.dtype))

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config
