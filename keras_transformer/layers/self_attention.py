"""Self-attention, and causal self-attention with a cached step."""

import keras
from keras import ops

from keras_transformer.layers.attention import (
    MultiHeadAttention,
    attention_weights,
    split_heads,
)
from keras_transformer.layers.cache import FixedCache, GrownCache
from keras_transformer.layers.masks import causal_mask
from keras_transformer.layers.positional import LAYOUTS, rotate


@keras.saving.register_keras_serializable(package="keras_transformer")
class SelfAttention(MultiHeadAttention):
    """Every position attends to every position (paper, section 3.2.3, second use).

    Query, key and value are projected by one matrix product.

    Args:
        num_heads, key_dim, value_dim, similarity, dropout: see `MultiHeadAttention`.
        rotary_layout: `interleaved` or `halves`: turn queries and keys by their positions, see
            `rotate`; None: positions are not known here.

    Call arguments:
        x: `[B, T, D]`.
        attention_mask: boolean, broadcastable to `[B, T, T]`.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: as `MultiHeadAttention`; an unknown layout; an odd head size with rotary
            positions.

    Example:
        >>> attention = SelfAttention(num_heads=2, rotary_layout="interleaved")
        >>> x = np.ones((1, 3, 8), "float32")
        >>> tuple(attention(x).shape), tuple(attention.return_scores(x).shape)
        ((1, 3, 8), (1, 2, 3, 3))
    """

    def __init__(
        self,
        num_heads,
        key_dim=None,
        value_dim=None,
        similarity="scaled_dot",
        dropout=0.0,
        rotary_layout=None,
        **kwargs,
    ):
        if rotary_layout is not None and rotary_layout not in LAYOUTS:
            raise ValueError(
                f"rotary_layout must be None or one of {LAYOUTS}. "
                f"Received: rotary_layout={rotary_layout!r}"
            )
        super().__init__(num_heads, key_dim, value_dim, similarity, dropout, **kwargs)
        self.rotary_layout = rotary_layout

    def build(self, input_shape):
        super().build(input_shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def build_projections(self, key_width, value_width, key_input, value_input):
        self._splits = [key_width, 2 * key_width]
        self.input_projection = self._projection(
            2 * key_width + value_width, self.d_model, "query_key_value"
        )

    def call(self, x, attention_mask=None, training=None):
        return self._output(*self.heads(x), attention_mask, ops.shape(x)[1], training)

    def return_scores(self, x, attention_mask=None):
        """Return the attention weights `[B, N, T, T]`, float32, without dropout."""
        self._ensure_built(x)
        query, prepared_key, _ = self.heads(x)
        return attention_weights(self.similarity(query, prepared_key), attention_mask)

    def heads(self, x):
        """Return query, prepared key and value `[B, N, T, H]` of every head."""
        rows = self._rows(self.input_projection, "x", x)
        length = ops.shape(x)[1]
        query, key, value = (
            split_heads(part, length, self.num_heads)
            for part in ops.split(rows, self._splits, axis=-1)
        )
        query, key = self._turned(query, key, ops.arange(length))
        return query, self.similarity.prepare_key(key), value

    def _turned(self, query, key, positions):
        """Give queries and keys their rotary positions `[T]`, if there are any."""
        if self.rotary_layout is None:
            return query, key
        return (
            rotate(query, positions, self.rotary_layout),
            rotate(key, positions, self.rotary_layout),
        )

    def get_config(self):
        return {**super().get_config(), "rotary_layout": self.rotary_layout}


@keras.saving.register_keras_serializable(package="keras_transformer")
class CausalSelfAttention(SelfAttention):
    """Every position attends to itself and those before it (paper, section 3.2.3, third use).

    Arguments are those of `SelfAttention`.

    Call arguments:
        x: `[B, T, D]`.

    Returns:
        `[B, T, D]`; position t depends on positions 0..t only.

    Raises:
        ValueError: as `SelfAttention`.

    Example:
        >>> attention = CausalSelfAttention(num_heads=2)
        >>> weights = attention.return_scores(np.ones((1, 3, 8), "float32"))
        >>> np.asarray(weights)[0, 0].astype(float).round(3).tolist()
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.333, 0.333, 0.333]]
    """

    def call(self, x, training=None):
        return super().call(x, causal_mask(ops.shape(x)[1]), training=training)

    def return_scores(self, x):
        """Return the attention weights `[B, N, T, T]`, float32, without dropout."""
        return super().return_scores(x, causal_mask(ops.shape(x)[1]))

    def init_cache(self, rows, capacity=None):
        """Return an empty cache for `rows` sequences.

        Args:
            rows: number of sequences R, an int or a scalar tensor.
            capacity: the most positions, for a `FixedCache`; None: a `GrownCache`. Its first
                length is then a tensor where `rows` is one, so that a compiled loop lets it grow.
        """
        length = rows * 0 if capacity is None else capacity
        value = ops.zeros((rows, self.num_heads, length, self.value_size), self.compute_dtype)
        # one position prepared and cut off: some operators cannot work on none
        one = ops.zeros((rows, self.num_heads, capacity or 1, self.key_size), self.compute_dtype)
        key = self.similarity.prepare_key(one)
        if capacity is not None:
            return FixedCache(key, value)
        cut = [slice(None)] * len(key.shape)
        cut[self.similarity.length_axis] = slice(0, length)
        return GrownCache(key[tuple(cut)], value)

    def step(self, x, step, cache):
        """Attend from one new position to all positions so far.

        Args:
            x: rows `[R, D]` of the new position.
            step: integer scalar, that position, from 0.
            cache: from `init_cache` or the step before.

        Returns:
            rows `[R, D]`, and the cache with the new key and value in it.
        """
        query, key, value = (
            ops.reshape(part, (-1, self.num_heads, 1, part.shape[-1] // self.num_heads))
            for part in ops.split(self.input_projection(x), self._splits, axis=-1)
        )
        query, key = self._turned(query, key, ops.reshape(step, (1,)))
        cache = cache.append(
            self.similarity.prepare_key(key), value, step, self.similarity.length_axis
        )
        context = self.attend(query, cache.key, cache.value, cache.mask(step))
        rows = ops.reshape(context, (-1, self.num_heads * self.value_size))
        return self.output_projection(rows), cache
