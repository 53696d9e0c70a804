"""Multi-head attention: the mathematics, and the layer."""

import keras
from keras import layers, ops

from keras_transformer.layers import similarity as similarities
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.shapes import check_equal, check_mask, check_vectors

MASKED = -1e9  # exp() of it is exactly 0 in float32


def attention_weights(scores, attention_mask=None):
    """Return softmax(scores) over the positions that may be attended to.

    Computed in float32 whatever the type of `scores`. A query that may attend to nothing gets
    weights of zero, never NaN.

    Args:
        scores: `[B, N, T, S]`.
        attention_mask: boolean, broadcastable to `[B, T, S]`, True = may attend; None: all may.

    Returns:
        float32 `[B, N, T, S]`; each row sums to 1, or to 0 where nothing may be attended to.

    Raises:
        ValueError: a mask that is not boolean or does not fit.
    """
    weights = masked_softmax(scores, attention_mask)
    return weights if attention_mask is None else ops.where(has_any(attention_mask), weights, 0.0)


def has_any(attention_mask):
    """Which queries may attend to something: `[B, T, S]` -> `[B, 1, T, 1]`."""
    return ops.any(ops.expand_dims(attention_mask, 1), axis=-1, keepdims=True)


def masked_softmax(scores, attention_mask=None):
    """As `attention_weights`, but a query that may attend to nothing gets equal weights."""
    scores = ops.cast(scores, "float32")
    if attention_mask is not None:
        check_mask(attention_mask, scores.shape)
        scores = ops.where(ops.expand_dims(attention_mask, 1), scores, MASKED)
    # Keras warns of a softmax over one position, which the first step of decoding is
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def split_heads(rows, length, num_heads):
    """`[B * T, N * H]` -> `[B, N, T, H]`."""
    head_dim = rows.shape[-1] // num_heads
    return ops.transpose(ops.reshape(rows, (-1, length, num_heads, head_dim)), (0, 2, 1, 3))


def merge_heads(heads):
    """`[B, N, T, H]` -> `[B * T, N * H]`."""
    width = heads.shape[1] * heads.shape[3]
    return ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), (-1, width))


@keras.saving.register_keras_serializable(package="keras_transformer")
class MultiHeadAttention(layers.Layer):
    """Attention in several learned subspaces at once ('Attention Is All You Need', section 3.2.2).

    MultiHead(Q, K, V) = Concat(head_1, ..., head_N) W_O,
    head_i = softmax(similarity(Q W_i^Q, K W_i^K)) V W_i^V.

    Args:
        num_heads: N.
        key_dim: size of one head's queries and keys; None: D // N.
        value_dim: size of one head's values; None: D // N.
        similarity: a name (`scaled_dot`, `dot`, `general`, `additive` or `concat`,
            `linear_concat`, `cosine`), the registered name of a class of your own, or a layer,
            see `Similarity`.
        dropout: rate on the attention weights.

    Call arguments:
        query: `[B, T, D]`.
        key: `[B, S, D]`; None: `query` (self-attention).
        value: `[B, S, D]`; None: `key`.
        attention_mask: boolean, broadcastable to `[B, T, S]`, True = may attend.

    Returns:
        `[B, T, D]`. `return_scores` gives the weights `[B, N, T, S]` instead.

    Raises:
        ValueError: D is not a multiple of `num_heads` and no sizes are given; inputs or a mask of
            another shape.

    Example:
        >>> attention = MultiHeadAttention(num_heads=2)
        >>> tuple(attention(np.ones((1, 3, 8), "float32")).shape)
        (1, 3, 8)
    """

    def __init__(
        self,
        num_heads,
        key_dim=None,
        value_dim=None,
        similarity="scaled_dot",
        dropout=0.0,
        **kwargs,
    ):
        for name, size in (
            ("num_heads", num_heads),
            ("key_dim", key_dim),
            ("value_dim", value_dim),
        ):
            if (size is not None or name == "num_heads") and not (
                isinstance(size, int) and size >= 1
            ):
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={size!r}")
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.similarity = similarities.get(similarity, dtype=self.dtype_policy)
        self.dropout = dropout
        self.weights_dropout = Dropout(dropout, dtype="float32")

    def build(self, query_shape, key_shape=None, value_shape=None):
        for name, shape in zip(
            ("query", "key", "value"), (query_shape, key_shape, value_shape), strict=True
        ):
            if shape is not None:
                check_vectors(name, shape)
        self.d_model = query_shape[-1]
        if (self.key_dim is None or self.value_dim is None) and self.d_model % self.num_heads:
            raise ValueError(
                "The input size must be a multiple of num_heads, or give key_dim and value_dim. "
                f"Received: input size={self.d_model}, num_heads={self.num_heads}"
            )
        self.key_size = self.key_dim or self.d_model // self.num_heads
        self.value_size = self.value_dim or self.d_model // self.num_heads
        self.build_projections(
            self.num_heads * self.key_size,
            self.num_heads * self.value_size,
            (key_shape or query_shape)[-1],
            (value_shape or key_shape or query_shape)[-1],
        )
        self.output_projection = self._projection(
            self.d_model, self.num_heads * self.value_size, "output_projection"
        )
        if not self.similarity.built:  # a loaded one is, and so is one that layers share
            heads = (None, self.num_heads, None, self.key_size)
            self.similarity.build(heads, heads)
        self.built = True

    def build_projections(self, key_width, value_width, key_input, value_input):
        """Make the linear maps in front of the heads: here one each for query, key and value."""
        self.query_projection = self._projection(key_width, self.d_model, "query")
        self.key_projection = self._projection(key_width, key_input, "key")
        self.value_projection = self._projection(value_width, value_input, "value")

    def _projection(self, width, input_size, name):
        dense = layers.Dense(width, name=name, dtype=self.dtype_policy)
        dense.build((None, input_size))
        return dense

    def call(self, query, key=None, value=None, attention_mask=None, training=None):
        heads = self.heads(query, key, value)
        return self._output(*heads, attention_mask, ops.shape(query)[1], training)

    def return_scores(self, query, key=None, value=None, attention_mask=None):
        """Return the attention weights `[B, N, T, S]`, float32, without dropout."""
        self._ensure_built(query, key, value)
        query, prepared_key, _ = self.heads(query, key, value)
        return attention_weights(self.similarity(query, prepared_key), attention_mask)

    def _ensure_built(self, *inputs):
        """Make the weights where `return_scores` comes before the first call."""
        if not self.built:
            self.build(*(None if x is None else tuple(x.shape) for x in inputs))

    def heads(self, query, key=None, value=None):
        """Return query `[B, N, T, H]`, prepared key and value `[B, N, S, H]` of every head."""
        key = query if key is None else key
        value = key if value is None else value
        check_equal(0, query=query.shape, key=key.shape, value=value.shape)
        check_equal(1, key=key.shape, value=value.shape)
        return (
            self._split(self.query_projection, "query", query),
            self.similarity.prepare_key(self._split(self.key_projection, "key", key)),
            self._split(self.value_projection, "value", value),
        )

    def _split(self, projection, name, x):
        """`[B, T, D]` -> `[B, N, T, H]`."""
        return split_heads(self._rows(projection, name, x), ops.shape(x)[1], self.num_heads)

    def _rows(self, projection, name, x):
        """Project `[B, T, D]` to `[B * T, width]`: rows, so that it is one matrix product."""
        size = projection.kernel.shape[0]
        check_vectors(name, x.shape, size)
        return projection(ops.reshape(x, (-1, size)))

    def _output(self, query, prepared_key, value, attention_mask, length, training):
        """Weighted sum of the values, heads merged and projected: `[B, T, D]`."""
        context = self.attend(query, prepared_key, value, attention_mask, training)
        rows = self.output_projection(merge_heads(context))
        return ops.reshape(rows, (-1, length, self.d_model))

    def attend(self, query, prepared_key, value, attention_mask=None, training=None):
        """softmax(similarity(query, key)) value: `[B, N, T, H]`."""
        weights = attention_weights(self.similarity(query, prepared_key), attention_mask)
        weights = self.weights_dropout(weights, training=training)
        return ops.matmul(ops.cast(weights, self.compute_dtype), value)

    def compute_output_shape(self, query_shape, key_shape=None, value_shape=None):
        return query_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "similarity": keras.saving.serialize_keras_object(self.similarity),
            "dropout": self.dropout,
        }
