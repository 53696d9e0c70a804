"""The layers of the Transformer, to use one by one or as a whole."""

from keras_transformer import backend

backend.start()

from keras_transformer.layers.attention import MultiHeadAttention
from keras_transformer.layers.cross_attention import CrossAttention
from keras_transformer.layers.decoder import Decoder, DecoderLayer
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.encoder import Encoder, EncoderLayer
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.masks import causal_mask, padding_mask
from keras_transformer.layers.positional import (
    PositionalEmbedding,
    position_shift_matrix,
    rotate,
    sinusoidal_positions,
)
from keras_transformer.layers.self_attention import CausalSelfAttention, SelfAttention
from keras_transformer.layers.similarity import (
    Additive,
    Cosine,
    Dot,
    General,
    LinearConcat,
    ScaledDot,
    Similarity,
    scaled_dot,
)

__all__ = [
    "Additive",
    "CausalSelfAttention",
    "Cosine",
    "CrossAttention",
    "Decoder",
    "DecoderLayer",
    "Dot",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "General",
    "LinearConcat",
    "MultiHeadAttention",
    "PositionalEmbedding",
    "ScaledDot",
    "SelfAttention",
    "Similarity",
    "TokenEmbedding",
    "causal_mask",
    "padding_mask",
    "position_shift_matrix",
    "rotate",
    "scaled_dot",
    "sinusoidal_positions",
]
