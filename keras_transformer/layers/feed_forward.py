"""Position-wise feed-forward network."""

import keras
from keras import layers, ops

from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.shapes import check_size


@keras.saving.register_keras_serializable(package="keras_transformer")
class FeedForward(layers.Layer):
    """Two linear maps with an activation between ('Attention Is All You Need', section 3.3).

    FFN(x) = activation(x W1 + b1) W2 + b2, the same at every position.

    Args:
        d_ff: inner size.
        activation: `relu` (the paper), or any Keras activation.
        dropout: rate on the inner activations.

    Call arguments:
        x: `[..., D]`.

    Returns:
        `[..., D]`.

    Raises:
        ValueError: `d_ff` below 1, an unknown activation, a rate out of range, or vectors of
            another size than those the layer was built for.

    Example:
        >>> feed_forward = FeedForward(d_ff=16)
        >>> tuple(feed_forward(np.ones((1, 3, 8), "float32")).shape)
        (1, 3, 8)
        >>> feed_forward.count_params()      # 8 * 16 + 16 and 16 * 8 + 8
        280
    """

    def __init__(self, d_ff, activation="relu", dropout=0.0, **kwargs):
        if not isinstance(d_ff, int) or d_ff < 1:
            raise ValueError(f"d_ff must be an integer from 1. Received: d_ff={d_ff!r}")
        super().__init__(**kwargs)
        self.d_ff = d_ff
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.inner = layers.Dense(d_ff, activation=self.activation, dtype=self.dtype_policy)
        self.inner_dropout = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.d_model = input_shape[-1]
        self.outer = layers.Dense(self.d_model, name="outer", dtype=self.dtype_policy)
        self.inner.build((None, self.d_model))
        self.outer.build((None, self.d_ff))
        self.built = True

    def call(self, x, training=None):
        check_size("x", x.shape, self.d_model)
        if len(x.shape) == 2:
            return self._rows(x, training)
        rows = self._rows(ops.reshape(x, (-1, self.d_model)), training)
        return ops.reshape(rows, ops.shape(x))

    def _rows(self, rows, training):
        """`[R, D]` -> `[R, D]`, each linear map one matrix product."""
        return self.outer(self.inner_dropout(self.inner(rows), training=training))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "d_ff": self.d_ff,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }
