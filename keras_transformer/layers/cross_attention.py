"""Encoder-decoder attention: the target attends to the source."""

import keras
from keras import ops

from keras_transformer.layers.attention import (
    MultiHeadAttention,
    attention_weights,
    has_any,
    masked_softmax,
    merge_heads,
    split_heads,
)
from keras_transformer.layers.shapes import check_equal, check_vectors


@keras.saving.register_keras_serializable(package="keras_transformer")
class CrossAttention(MultiHeadAttention):
    """The target attends to the source (paper, section 3.2.3, first use).

    Arguments are those of `MultiHeadAttention`.

    Call arguments:
        query: target `[B, T, D]`.
        memory: encoder output `[B, S, D]`.
        attention_mask: boolean, broadcastable to `[B, T, S]`.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: as `MultiHeadAttention`; target and memory of different batch sizes.

    Example:
        >>> attention = CrossAttention(num_heads=2)
        >>> target, memory = np.ones((1, 2, 8), "float32"), np.ones((1, 5, 8), "float32")
        >>> only_three = np.array([[[True, True, True, False, False]]])
        >>> weights = attention.return_scores(target, memory, only_three)
        >>> np.asarray(weights)[0, 0, 0].astype(float).round(3).tolist()
        [0.333, 0.333, 0.333, 0.0, 0.0]
        >>> tuple(attention(target, memory, only_three).shape)
        (1, 2, 8)
    """

    def build(self, query_shape, memory_shape=None):
        if memory_shape is not None:
            check_vectors("memory", memory_shape)
        super().build(query_shape, memory_shape)

    def compute_output_shape(self, query_shape, memory_shape=None):
        return query_shape

    def build_projections(self, key_width, value_width, key_input, value_input):
        self._splits = [key_width]
        self.query_projection = self._projection(key_width, self.d_model, "query")
        self.memory_projection = self._projection(key_width + value_width, key_input, "key_value")

    def call(self, query, memory, attention_mask=None, training=None):
        check_equal(0, query=query.shape, memory=memory.shape)
        heads = (self._split(self.query_projection, "query", query), *self._project_memory(memory))
        return self._output(*heads, attention_mask, ops.shape(query)[1], training)

    def return_scores(self, query, memory, attention_mask=None):
        """Return the attention weights `[B, N, T, S]`, float32, without dropout."""
        self._ensure_built(query, memory)
        prepared_key, _ = self._project_memory(memory)
        query = self._split(self.query_projection, "query", query)
        scores = self.similarity(query, prepared_key)
        return attention_weights(scores, attention_mask)

    def project_memory(self, memory, attention_mask=None):
        """Return prepared key and value `[B, N, S, H]`: once per source, before the steps.

        Where the mask, boolean `[B, 1, S]`, lets a source have no position at all, the values
        are zeros, so that `step` need not look.
        """
        prepared_key, value = self._project_memory(memory)
        if attention_mask is not None:
            value = ops.where(has_any(attention_mask), value, ops.zeros_like(value))
        return prepared_key, value

    def _project_memory(self, memory):
        rows = self._rows(self.memory_projection, "memory", memory)
        key, value = (
            split_heads(part, ops.shape(memory)[1], self.num_heads)
            for part in ops.split(rows, self._splits, axis=-1)
        )
        return self.similarity.prepare_key(key), value

    def step(self, x, projected, attention_mask=None, beam_size=1):
        """Attend from rows of one position to `projected`, from `project_memory`.

        The hypotheses of a source share its keys and values: they are queries side by side.

        Args:
            x: rows `[B * K, D]`, the K hypotheses of each source together.
            projected: prepared key and value of B sources.
            attention_mask: boolean `[B, 1, S]`.
            beam_size: K, an int or a scalar tensor.

        Returns:
            rows `[B * K, D]`.
        """
        query = self.query_projection(x)
        if isinstance(beam_size, int) and beam_size == 1:
            query = ops.reshape(query, (-1, self.num_heads, 1, self.key_size))
        else:
            query = split_heads(query, beam_size, self.num_heads)
        prepared_key, value = projected
        weights = masked_softmax(self.similarity(query, prepared_key), attention_mask)
        context = ops.matmul(ops.cast(weights, self.compute_dtype), value)
        if isinstance(beam_size, int) and beam_size == 1:
            rows = ops.reshape(context, (-1, self.num_heads * self.value_size))
        else:
            rows = merge_heads(context)
        return self.output_projection(rows)
