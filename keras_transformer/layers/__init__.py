"""The layers of the Transformer, to use one by one or as a whole."""

from keras_transformer import backend

backend.start()

from keras_transformer.layers.attention import (
    CausalSelfAttention,
    CrossAttention,
    MultiHeadAttention,
    SelfAttention,
)
from keras_transformer.layers.decoder import Decoder, DecoderLayer
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.encoder import Encoder, EncoderLayer
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.masks import causal_mask, padding_mask
from keras_transformer.layers.positional import PositionalEmbedding, sinusoidal_positions
from keras_transformer.layers.similarity import ScaledDot, scaled_dot

__all__ = [
    "CausalSelfAttention",
    "CrossAttention",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "MultiHeadAttention",
    "PositionalEmbedding",
    "ScaledDot",
    "SelfAttention",
    "TokenEmbedding",
    "causal_mask",
    "padding_mask",
    "scaled_dot",
    "sinusoidal_positions",
]
