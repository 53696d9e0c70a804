"""The encoder: a stack of self-attention and feed-forward sublayers."""

import keras
from keras import layers, ops

from keras_transformer.layers import similarity as similarities
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.self_attention import SelfAttention
from keras_transformer.layers.shapes import check_vectors


class TransformerLayer(layers.Layer):
    """What an encoder layer and a decoder layer share: arguments, and how a sublayer is wrapped.

    Args:
        num_heads, key_dim, value_dim, attention_dropout: see `MultiHeadAttention`.
        similarity: likewise; of a layer, every attention gets a copy of its own.
        rotary_layout: see `SelfAttention`.
        d_ff, activation, feed_forward_dropout: see `FeedForward`.
        dropout: rate on the output of each sublayer (paper, section 5.4).
        norm_first: normalise the input of each sublayer (pre-norm) instead of the sum behind it
            (post-norm, as in the paper, section 3.1).
        layer_norm_epsilon: added to the variance.
    """

    def __init__(
        self,
        num_heads,
        d_ff,
        *,
        key_dim=None,
        value_dim=None,
        similarity="scaled_dot",
        activation="relu",
        dropout=0.1,
        attention_dropout=0.0,
        feed_forward_dropout=0.0,
        norm_first=False,
        layer_norm_epsilon=1e-5,
        rotary_layout=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.d_ff = d_ff
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.similarity = similarities.to_config(similarity)
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.feed_forward_dropout = feed_forward_dropout
        self.norm_first = norm_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.rotary_layout = rotary_layout
        self.feed_forward = FeedForward(
            d_ff,
            self.activation,
            feed_forward_dropout,
            name="feed_forward",
            dtype=self.dtype_policy,
        )
        self.sublayer_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def _attention(self, attention_class, name, **options):
        return attention_class(
            self.num_heads,
            self.key_dim,
            self.value_dim,
            self.similarity,
            self.attention_dropout,
            name=name,
            dtype=self.dtype_policy,
            **options,
        )

    def _norm(self, name):
        return layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, name=name, dtype=self.dtype_policy
        )

    def _sublayer(self, x, norm, sublayer, training=None):
        """X + dropout(sublayer(x)), normalised before or after."""
        if self.norm_first:
            return x + self.sublayer_dropout(sublayer(norm(x)), training=training)
        return norm(x + self.sublayer_dropout(sublayer(x), training=training))

    def _input_of(self, x, norm):
        """What a sublayer reads: x, normalised where that comes first."""
        return norm(x) if self.norm_first else x

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "d_ff": self.d_ff,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "similarity": self.similarity,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "feed_forward_dropout": self.feed_forward_dropout,
            "norm_first": self.norm_first,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "rotary_layout": self.rotary_layout,
        }


@keras.saving.register_keras_serializable(package="keras_transformer")
class EncoderLayer(TransformerLayer):
    """Self-attention, then feed-forward ('Attention Is All You Need', section 3.1).

    Arguments are those of `TransformerLayer`.

    Call arguments:
        x: `[B, S, D]`.
        attention_mask: boolean, broadcastable to `[B, S, S]`, True = may attend.

    Returns:
        `[B, S, D]`.

    Raises:
        ValueError: a size, rate, activation or layout that cannot be; a size of the input that is
            no multiple of `num_heads` where `key_dim` and `value_dim` are not given; inputs or a
            mask of another shape.

    Example:
        >>> layer = EncoderLayer(num_heads=2, d_ff=16, norm_first=True)
        >>> x = np.ones((1, 3, 8), "float32")
        >>> is_real = np.array([[[True, True, False]]])     # the third position is padding
        >>> tuple(layer(x, is_real).shape)
        (1, 3, 8)
        >>> np.asarray(layer.return_scores(x, is_real))[0, 0, 0].astype(float).tolist()
        [0.5, 0.5, 0.0]
    """

    def __init__(self, num_heads, d_ff, **options):
        super().__init__(num_heads, d_ff, **options)
        self.self_attention = self._attention(
            SelfAttention, "self_attention", rotary_layout=self.rotary_layout
        )
        self.self_attention_norm = self._norm("self_attention_norm")
        self.feed_forward_norm = self._norm("feed_forward_norm")

    def build(self, input_shape):
        sublayers = (
            self.self_attention,
            self.self_attention_norm,
            self.feed_forward,
            self.feed_forward_norm,
        )
        for sublayer in sublayers:
            sublayer.build(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x, attention_mask=None, training=None):
        def attend(x):
            return self.self_attention(x, attention_mask, training=training)

        def feed_forward(x):
            return self.feed_forward(x, training=training)

        x = self._sublayer(x, self.self_attention_norm, attend, training)
        return self._sublayer(x, self.feed_forward_norm, feed_forward, training)

    def return_scores(self, x, attention_mask=None):
        """Return the attention weights `[B, N, S, S]`, float32, without dropout."""
        x = self._input_of(x, self.self_attention_norm)
        return self.self_attention.return_scores(x, attention_mask)


class Stack(layers.Layer):
    """`num_layers` equal layers, with an optional normalisation behind the last.

    Args:
        num_layers: how many.
        num_heads, d_ff: see `TransformerLayer`.
        final_norm: normalise the output; None: only when `norm_first` (a pre-norm sum is not).
        **options: the other arguments of `TransformerLayer`.

    Raises:
        ValueError: no layers, or as one of them.
    """

    layer_class: type[TransformerLayer]

    def __init__(self, num_layers, num_heads, d_ff, *, final_norm=None, **options):
        own = {key: options.pop(key) for key in ("name", "dtype", "trainable") if key in options}
        if not isinstance(num_layers, int) or num_layers < 1:
            raise ValueError(
                f"num_layers must be an integer from 1. Received: num_layers={num_layers!r}"
            )
        super().__init__(**own)
        self.num_layers = num_layers
        self.final_norm = options.get("norm_first", False) if final_norm is None else final_norm
        self.layers = [
            self.layer_class(
                num_heads, d_ff, name=f"layer_{index}", dtype=self.dtype_policy, **options
            )
            for index in range(num_layers)
        ]
        self.norm = self.layers[0]._norm("final_norm") if self.final_norm else None

    def _build_stack(self, x_shape, *memory_shape):
        for layer in self.layers:
            layer.build(x_shape, *memory_shape)
        if self.norm is not None:
            self.norm.build(x_shape)
        self.built = True

    def _finish(self, x):
        return x if self.norm is None else self.norm(x)

    def get_config(self):
        config = self.layers[0].get_config()
        return {
            **config,
            **super().get_config(),
            "num_layers": self.num_layers,
            "final_norm": self.final_norm,
        }


@keras.saving.register_keras_serializable(package="keras_transformer")
class Encoder(Stack):
    """A stack of `EncoderLayer` (paper, section 3.1). Arguments are those of `Stack`.

    Call arguments:
        x: `[B, S, D]`.
        attention_mask: boolean, broadcastable to `[B, S, S]`, True = may attend.

    Returns:
        Memory `[B, S, D]`.

    Raises:
        ValueError: as `EncoderLayer`; no layers.

    Example:
        >>> encoder = Encoder(num_layers=2, num_heads=2, d_ff=16)
        >>> tuple(encoder(np.ones((1, 3, 8), "float32")).shape)
        (1, 3, 8)
    """

    layer_class = EncoderLayer

    def build(self, input_shape):
        self._build_stack(input_shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x, attention_mask=None, training=None):
        check_vectors("x", x.shape, self.layers[0].feed_forward.d_model)
        for layer in self.layers:
            x = layer(x, attention_mask, training=training)
        return self._finish(x)

    def attention_scores(self, x, attention_mask=None):
        """Return the memory `[B, S, D]` and the weights of every layer, `[B, L, N, S, S]`."""
        weights = []
        for layer in self.layers:
            weights.append(layer.return_scores(x, attention_mask))
            x = layer(x, attention_mask)
        return self._finish(x), ops.stack(weights, axis=1)
