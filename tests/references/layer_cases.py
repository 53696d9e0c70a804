"""One case for each public layer: the arguments and inputs that its promises are tested with."""

import inspect

import keras
import numpy as np
from tiny_models import disturb

from keras_transformer import layers

SIZES = {"num_heads": 2, "key_dim": 4, "value_dim": 5}
ROTARY = {"rotary_layout": "halves"}
OPTIONS = {
    **SIZES,
    **ROTARY,
    "d_ff": 16,
    "activation": "gelu",
    "dropout": 0.2,
    "attention_dropout": 0.1,
    "feed_forward_dropout": 0.3,
    "norm_first": True,
    "layer_norm_epsilon": 0.01,
}
X, MEMORY = (
    np.random.default_rng(i).normal(size=(2, length, 8)).astype("float32")
    for i, length in enumerate((5, 4))
)
MASK, MEMORY_MASK = (np.arange(n)[None, None] < np.array([n, 2])[:, None, None] for n in (5, 4))
IDS = np.array([[1, 2, 0], [8, 3, 3]], "int32")
CROSS = (X, MEMORY, MEMORY_MASK)
OF_A_SIMILARITY = (X, MEMORY, MEMORY, MEMORY_MASK)

# No default among the arguments, or a setting that get_config forgets would not be noticed.
CASES = {
    "Additive": ({"units": 3}, OF_A_SIMILARITY),
    "CausalSelfAttention": ({**SIZES, **ROTARY, "dropout": 0.1}, (X,)),
    "Cosine": ({"temperature": 0.5}, OF_A_SIMILARITY),
    "CrossAttention": ({**SIZES, "dropout": 0.1}, CROSS),
    "Decoder": ({**OPTIONS, "num_layers": 2, "final_norm": False}, CROSS),
    "DecoderLayer": (OPTIONS, CROSS),
    "Dot": ({}, OF_A_SIMILARITY),
    "Encoder": ({**OPTIONS, "num_layers": 2, "final_norm": False}, (X, MASK)),
    "EncoderLayer": (OPTIONS, (X, MASK)),
    "FeedForward": ({"d_ff": 16, "activation": "silu", "dropout": 0.1}, (X,)),
    "General": ({}, OF_A_SIMILARITY),
    "LinearConcat": ({}, OF_A_SIMILARITY),
    "MultiHeadAttention": ({**SIZES, "dropout": 0.1}, (X, MEMORY, MEMORY, MEMORY_MASK)),
    "PositionalEmbedding": (
        {"positions": "learned", "position_layout": "halves", "max_positions": 7},
        (X,),
    ),
    "ScaledDot": ({}, OF_A_SIMILARITY),
    "SelfAttention": ({**SIZES, **ROTARY, "dropout": 0.1}, (X, MASK)),
    "TokenEmbedding": ({"vocab_size": 9, "d_model": 8, "scale": False}, (IDS,)),
}
PUBLIC_LAYERS = [
    name
    for name in layers.__all__
    if inspect.isclass(getattr(layers, name)) and name != "Similarity"  # the base of those here
]


def is_similarity(name):
    return issubclass(getattr(layers, name), layers.Similarity)


def make(name, **changes):
    """A layer with weights away from their initial values, and its inputs.

    A similarity stands inside of the attention that uses it, as it always does.
    """
    arguments, inputs = CASES[name]
    layer = getattr(layers, name)(**{**arguments, **changes})
    if is_similarity(name):
        layer = layers.MultiHeadAttention(2, similarity=layer)
    layer(*inputs)
    disturb(layer)
    return layer, inputs


def subject(name, layer):
    """The layer that a case is about."""
    return layer.similarity if is_similarity(name) else layer


def as_model(layer, inputs):
    """What a Keras user does with a layer: a functional model of it."""
    symbolic = [keras.Input(i.shape[1:], batch_size=None, dtype=str(i.dtype)) for i in inputs]
    return keras.Model(symbolic, layer(*symbolic))
