"""Tiny seeded models whose weights are all away from their initial 0 and 1, and ids for them."""

import functools
import math
import random

import keras
import numpy as np
import numpy_transformer
from keras import ops

from keras_transformer import backend
from keras_transformer.config import TransformerConfig
from keras_transformer.layers import ScaledDot
from keras_transformer.model import Transformer

SIZES = {
    "source_vocab_size": 11,
    "target_vocab_size": 13,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "d_model": 8,
    "d_ff": 12,
    "num_heads": 2,
    "dropout": 0.0,
}

# One row for each option of the architecture, most of them combined with another.
OPTIONS = {
    "post_norm": {"num_encoder_layers": 2, "num_decoder_layers": 2},
    "norm_first": {"norm_first": True, "num_encoder_layers": 2, "num_decoder_layers": 2},
    "norm_first_without_final_norm": {"norm_first": True, "final_norm": False},
    "post_norm_with_final_norm": {"final_norm": True, "layer_norm_epsilon": 0.01},
    "learned_positions": {"positions": "learned", "max_positions": 20},
    "halves_layout": {"position_layout": "halves", "embedding_scale": False},
    "shared_embeddings": {"source_vocab_size": 13, "embeddings": "shared"},
    "separate_embeddings": {"embeddings": "separate", "output_bias": True},
    "output_bias_gelu": {"output_bias": True, "activation": "gelu"},
    "silu_one_head": {"activation": "silu", "num_heads": 1},
    "key_and_value_sizes": {"num_heads": 3, "key_dim": 5, "value_dim": 2},
    "uneven_stacks": {"num_decoder_layers": 3},
    "start_is_pad": {"decoder_start_id": 0},
    "start_is_eos": {"decoder_start_id": 3},
    "rotary": {"positions": "rotary", "num_encoder_layers": 2, "num_decoder_layers": 2},
    "rotary_halves": {"positions": "rotary", "position_layout": "halves", "key_dim": 6},
    "dot": {"similarity": "dot", "norm_first": True},
    "general": {"similarity": "general", "key_dim": 3, "value_dim": 5},
    "additive": {"similarity": "additive", "num_decoder_layers": 2},
    "concat": {"similarity": "concat", "num_heads": 1},
    "linear_concat": {"similarity": "linear_concat"},
    "cosine": {"similarity": "cosine", "positions": "rotary"},
    "own_similarity": {"similarity": "tests>Negated"},
    "other_special_ids": {"pad_id": 4, "unk_id": 0, "bos_id": 1, "eos_id": 2},
}


@keras.saving.register_keras_serializable(package="tests")
class Negated(ScaledDot):
    """What a user might write: a similarity with a weight of its own for each head."""

    def build_heads(self, num_heads, head_dim):
        self.factor = self.add_weight(shape=(num_heads, 1, 1), initializer="ones", name="factor")

    def call(self, query, prepared):
        return -ops.cast(self.factor, query.dtype) * super().call(query, prepared)


numpy_transformer.SCORES["Negated"] = lambda q, k, w: (
    -w["factor"].item() * (q @ k) / math.sqrt(len(q))
)


def tiny_config(**fields):
    return TransformerConfig(**{**SIZES, **fields})


def tiny_model(seed=0, **fields):
    random.seed(seed)  # of which Keras draws the seeds of initializers and of dropout
    model = Transformer(tiny_config(**fields))
    disturb(model, seed)
    return model


@functools.cache
def model_with(option):
    """The model of a row of `OPTIONS`, and its forward pass compiled once; read only."""
    model = tiny_model(**OPTIONS[option])
    ids = ((None, None), "int32")
    compiled = backend.compile(
        lambda sources, targets: model((sources, targets)), [ids, ids], model.variables
    )
    return model, lambda sources, targets: np.asarray(compiled(sources, targets))


def disturb(layer, seed=0):
    """Move every weight: norms that do nothing and biases of zero would hide mistakes."""
    generator = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(np.asarray(weight) + generator.normal(0, 0.3, weight.shape))


def assert_close(found, expected, tolerance=1e-5):
    """Equal to within `tolerance` of the largest number, as float32 sums can be."""
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def random_ids(config, lengths, vocab_size, seed=0, *, start=None, end=None):
    """Rows of ordinary ids of the given lengths, padded; the first or last id may be set."""
    generator = np.random.default_rng(seed)
    ordinary = [
        i for i in range(vocab_size) if i not in (config.pad_id, config.bos_id, config.eos_id)
    ]
    ids = np.full((len(lengths), max(lengths)), config.pad_id, "int32")
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = generator.choice(ordinary, length)
        if end is not None:
            row[length - 1] = end
        if start is not None:
            row[0] = start
    return ids


def source_ids(config, lengths, seed=0):
    return random_ids(config, lengths, config.source_vocab_size, seed, end=config.eos_id)


def target_ids(config, lengths, seed=1):
    return random_ids(config, lengths, config.target_vocab_size, seed, start=config.start_id)


def batch(model, source_lengths=(5, 2, 1, 7), target_lengths=(4, 6, 1, 3)):
    config = model.config
    return source_ids(config, source_lengths), target_ids(config, target_lengths)
