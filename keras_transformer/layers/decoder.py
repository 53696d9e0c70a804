"""The decoder: causal self-attention, attention to the source, feed-forward."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_transformer.layers.cross_attention import CrossAttention
from keras_transformer.layers.encoder import Stack, TransformerLayer
from keras_transformer.layers.self_attention import CausalSelfAttention
from keras_transformer.layers.shapes import check_vectors


class Memory(NamedTuple):
    """What decoding needs of the source, computed once per source."""

    projected: Any  # per layer: prepared key and value [B, N, S, H]
    attention_mask: Any  # boolean [B, 1, S], True = may attend


@keras.saving.register_keras_serializable(package="keras_transformer")
class DecoderLayer(TransformerLayer):
    """Causal self-attention, cross-attention, feed-forward (paper, section 3.1).

    Arguments are those of `TransformerLayer`.

    Call arguments:
        x: target `[B, T, D]`.
        memory: encoder output `[B, S, D]`.
        attention_mask: boolean, broadcastable to `[B, T, S]`, True = may attend.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: as `EncoderLayer`; target and memory of different batch sizes.

    Example:
        >>> layer = DecoderLayer(num_heads=2, d_ff=16)
        >>> target, memory = np.ones((1, 2, 8), "float32"), np.ones((1, 5, 8), "float32")
        >>> tuple(layer(target, memory).shape)
        (1, 2, 8)
        >>> causal, cross = layer.return_scores(target, memory)
        >>> tuple(causal.shape), tuple(cross.shape)
        ((1, 2, 2, 2), (1, 2, 2, 5))
    """

    def __init__(self, num_heads, d_ff, **options):
        super().__init__(num_heads, d_ff, **options)
        self.self_attention = self._attention(
            CausalSelfAttention, "self_attention", rotary_layout=self.rotary_layout
        )
        self.cross_attention = self._attention(CrossAttention, "cross_attention")
        self.self_attention_norm = self._norm("self_attention_norm")
        self.cross_attention_norm = self._norm("cross_attention_norm")
        self.feed_forward_norm = self._norm("feed_forward_norm")

    def build(self, x_shape, memory_shape=None):
        self.self_attention.build(x_shape)
        self.cross_attention.build(x_shape, memory_shape or x_shape)
        self.feed_forward.build(x_shape)
        for norm in (self.self_attention_norm, self.cross_attention_norm, self.feed_forward_norm):
            norm.build(x_shape)
        self.built = True

    def compute_output_shape(self, x_shape, memory_shape=None):
        return x_shape

    def call(self, x, memory, attention_mask=None, training=None):
        def attend(x):
            return self.self_attention(x, training=training)

        def attend_memory(x):
            return self.cross_attention(x, memory, attention_mask, training=training)

        def feed_forward(x):
            return self.feed_forward(x, training=training)

        x = self._sublayer(x, self.self_attention_norm, attend, training)
        x = self._sublayer(x, self.cross_attention_norm, attend_memory, training)
        return self._sublayer(x, self.feed_forward_norm, feed_forward, training)

    def return_scores(self, x, memory, attention_mask=None):
        """Return the weights of both attentions, float32, without dropout.

        Returns:
            Causal `[B, N, T, T]` and cross `[B, N, T, S]`.
        """

        def attend(x):
            return self.self_attention(x)

        before = self._input_of(x, self.self_attention_norm)
        causal = self.self_attention.return_scores(before)
        x = self._sublayer(x, self.self_attention_norm, attend)
        before = self._input_of(x, self.cross_attention_norm)
        return causal, self.cross_attention.return_scores(before, memory, attention_mask)

    def step(self, x, step, cache, projected, attention_mask=None, beam_size=1):
        """Decode one position.

        Args:
            x: rows `[B * K, D]`.
            step: integer scalar, the position.
            cache: this layer's part of the cache.
            projected: this layer's part of `Memory.projected`, of B sources.
            attention_mask: boolean `[B, 1, S]`.
            beam_size: K, hypotheses of each source.

        Returns:
            rows `[B * K, D]` and the cache with this position in it.
        """
        caches = []

        def attend(x):
            rows, new_cache = self.self_attention.step(x, step, cache)
            caches.append(new_cache)
            return rows

        def attend_memory(x):
            return self.cross_attention.step(x, projected, attention_mask, beam_size)

        x = self._sublayer(x, self.self_attention_norm, attend)
        x = self._sublayer(x, self.cross_attention_norm, attend_memory)
        x = self._sublayer(x, self.feed_forward_norm, self.feed_forward)
        return x, caches[0]


@keras.saving.register_keras_serializable(package="keras_transformer")
class Decoder(Stack):
    """A stack of `DecoderLayer` (paper, section 3.1). Arguments are those of `Stack`.

    Call arguments:
        x: target `[B, T, D]`.
        memory: encoder output `[B, S, D]`.
        attention_mask: boolean, broadcastable to `[B, T, S]`, True = may attend.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: as `DecoderLayer`; no layers.

    Example:
        >>> decoder = Decoder(num_layers=2, num_heads=2, d_ff=16)
        >>> target, memory = np.ones((1, 3, 8), "float32"), np.ones((1, 5, 8), "float32")
        >>> whole = decoder(target, memory)
        >>> tuple(whole.shape)
        (1, 3, 8)

        Step by step, with what is known of the source computed once:

        >>> source, cache = decoder.project_memory(memory, None), decoder.init_cache(rows=1)
        >>> for step in range(3):
        ...     rows, cache = decoder.step(target[:, step], step, cache, source)
        >>> bool(np.abs(np.asarray(rows) - np.asarray(whole)[:, 2]).max() < 1e-5)
        True
    """

    layer_class = DecoderLayer

    def build(self, x_shape, memory_shape=None):
        self._build_stack(x_shape, memory_shape)

    def compute_output_shape(self, x_shape, memory_shape=None):
        return x_shape

    def call(self, x, memory, attention_mask=None, training=None):
        check_vectors("x", x.shape, self.layers[0].feed_forward.d_model)
        for layer in self.layers:
            x = layer(x, memory, attention_mask, training=training)
        return self._finish(x)

    def project_memory(self, memory, attention_mask):
        """Return the `Memory` of encoder output `[B, S, D]` and its mask `[B, 1, S]`."""
        projected = tuple(
            layer.cross_attention.project_memory(memory, attention_mask) for layer in self.layers
        )
        return Memory(projected, attention_mask)

    def attention_scores(self, x, memory, attention_mask=None):
        """Return the weights of every layer: causal `[B, L, N, T, T]`, cross `[B, L, N, T, S]`."""
        weights = []
        for layer in self.layers:
            weights.append(layer.return_scores(x, memory, attention_mask))
            x = layer(x, memory, attention_mask)
        causal, cross = zip(*weights, strict=True)
        return ops.stack(causal, axis=1), ops.stack(cross, axis=1)

    def init_cache(self, rows, capacity=None):
        """Return an empty cache for `rows` sequences, see `CausalSelfAttention.init_cache`."""
        return tuple(layer.self_attention.init_cache(rows, capacity) for layer in self.layers)

    def step(self, x, step, cache, memory, beam_size=1):
        """Decode position `step`: rows `[B * K, D]`, cache, `Memory` of B -> rows, new cache."""
        new = []
        mask = memory.attention_mask
        for layer, layer_cache, projected in zip(self.layers, cache, memory.projected, strict=True):
            x, layer_cache = layer.step(x, step, layer_cache, projected, mask, beam_size)
            new.append(layer_cache)
        return self._finish(x), tuple(new)
