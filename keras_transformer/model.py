"""The encoder-decoder Transformer as a Keras model, with the cached step that decoding uses."""

from keras_transformer import backend

backend.start()

from typing import Any, NamedTuple

import keras
from keras import layers, ops

from keras_transformer.config import TransformerConfig
from keras_transformer.functional import functional_model
from keras_transformer.layers.decoder import Decoder
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.encoder import Encoder
from keras_transformer.layers.masks import padding_mask
from keras_transformer.layers.positional import PositionalEmbedding
from keras_transformer.sequence_model import SequenceModel


class AttentionScores(NamedTuple):
    """The attention weights of a whole model, float32, for B sentence pairs.

    `cross[0]` are those of the first sentence, with the axes layer, head, target, source.
    """

    encoder: Any  # [B, L, N, S, S]
    causal: Any  # [B, L, N, T, T]
    cross: Any  # [B, L, N, T, S]


@keras.saving.register_keras_serializable(package="keras_transformer")
class Transformer(SequenceModel):
    """The Transformer of 'Attention Is All You Need' (Vaswani et al. 2017).

    Under `mixed_float16` and `mixed_bfloat16` (`dtype=`, or Keras's policy) logits, softmax and
    weights stay float32. On a CPU compile a `mixed_bfloat16` model with `jit_compile=True`:
    outside XLA, TensorFlow 2.21 cuts bfloat16 products off where it should round, gradients come
    out some 2 % too small, and a loss within 2 % of float32's is not promised.

    Args:
        config: a `TransformerConfig`, or its fields as a dict.

    Call arguments:
        inputs: pair `(source_ids [B, S], target_in [B, T])` of integers, padded on the right
            with `config.pad_id`.

    Returns:
        float32 logits `[B, T, V]`; position t predicts the token after `target_in[:, t]`.

    Raises:
        ValueError: an id outside the vocabulary (in eager calls), a wrong number of inputs.

    Example:
        >>> config = TransformerConfig.preset("tiny", source_vocab_size=9, target_vocab_size=7)
        >>> tuple(Transformer(config)((np.array([[4, 5, 3]]), np.array([[2, 4]]))).shape)
        (1, 2, 7)
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(config, TransformerConfig):
            config = TransformerConfig(**dict(config))
        self.config = config
        dtype = self.dtype_policy

        def embedding(vocab_size, name):
            return TokenEmbedding(
                vocab_size, config.d_model, config.embedding_scale, name=name, dtype=dtype
            )

        self.token_embedding = embedding(config.target_vocab_size, "token_embedding")
        self.source_embedding = (
            self.token_embedding
            if config.embeddings == "shared"
            else embedding(config.source_vocab_size, "source_embedding")
        )
        self.source_positions = self._positions("source_positions")
        self.target_positions = self._positions("target_positions")
        self.embedding_dropout = Dropout(
            config.dropout if config.embedding_dropout is None else config.embedding_dropout,
            dtype=dtype,
        )
        self.encoder = Encoder(config.num_encoder_layers, name="encoder", **self._stack_options())
        self.decoder = Decoder(config.num_decoder_layers, name="decoder", **self._stack_options())
        self.output_projection = (
            layers.Dense(config.target_vocab_size, use_bias=False, name="output", dtype=dtype)
            if config.embeddings == "separate"
            else None
        )
        self.build([(None, None), (None, None)])

    def _positions(self, name):
        config = self.config
        if config.positions == "rotary":
            return None  # attention layers turn queries and keys
        return PositionalEmbedding(
            config.positions,
            config.position_layout,
            config.max_positions,
            name=name,
            dtype=self.dtype_policy,
        )

    def _stack_options(self):
        config = self.config
        same = (
            "num_heads", "d_ff", "key_dim", "value_dim", "similarity", "activation", "dropout",
            "attention_dropout", "feed_forward_dropout", "norm_first", "final_norm",
            "layer_norm_epsilon",
        )  # fmt: skip
        return {
            **{name: getattr(config, name) for name in same},
            "rotary_layout": config.position_layout if config.positions == "rotary" else None,
            "dtype": self.dtype_policy,
        }

    def build(self, input_shape):
        vectors = (None, None, self.config.d_model)
        for layer in {id(e): e for e in (self.token_embedding, self.source_embedding)}.values():
            layer.build((None, None))
        for positions in (self.source_positions, self.target_positions):
            if positions is not None:
                positions.build(vectors)
        self.embedding_dropout.build(vectors)
        self.encoder.build(vectors)
        self.decoder.build(vectors, vectors)
        if self.output_projection is not None:
            self.output_projection.build((None, self.config.d_model))
        if self.config.output_bias:
            self.output_bias = self.add_weight(
                shape=(self.config.target_vocab_size,), initializer="zeros", name="output_bias"
            )
        self.built = True

    def call(self, inputs, training=None):
        source_ids, target_in = self.unpack(inputs)
        memory = self.encode(source_ids, training=training)
        return self.decode(target_in, memory, self.source_mask(source_ids), training=training)

    def source_mask(self, source_ids):
        """Return the boolean mask `[B, 1, S]` of the real source positions."""
        return padding_mask(source_ids, self.config.pad_id)

    def encode(self, source_ids, training=None):
        """Return the memory `[B, S, D]` of the source ids `[B, S]`."""
        x = self._embed_source(source_ids, training)
        return self.encoder(x, self.source_mask(source_ids), training=training)

    def _embed_source(self, source_ids, training=None):
        return self.embedding_dropout(self.source_vectors(source_ids), training=training)

    def _embed_target(self, target_in, training=None):
        return self.embedding_dropout(self.target_vectors(target_in), training=training)

    def source_vectors(self, source_ids):
        """Return what stands for the source ids `[B, S]`, with positions: `[B, S, D]`."""
        x = self.source_embedding(source_ids)
        return x if self.source_positions is None else self.source_positions(x)

    def target_vectors(self, target_in):
        """Return what stands for `target_in` `[B, T]`, with positions: `[B, T, D]`."""
        x = self.token_embedding(target_in)
        return x if self.target_positions is None else self.target_positions(x)

    def decode(self, target_in, memory, memory_mask, training=None):
        """Return logits `[B, T, V]` of every target position, all at once.

        Args:
            target_in: `[B, T]`, beginning with the start id.
            memory: `[B, S, D]` from `encode`.
            memory_mask: boolean `[B, 1, S]` from `source_mask`.
            training: whether dropout is on.
        """
        x = self._embed_target(target_in, training)
        x = self.decoder(x, memory, memory_mask, training=training)
        logits = self.to_logits(ops.reshape(x, (-1, self.config.d_model)))
        return ops.reshape(logits, (-1, ops.shape(target_in)[1], self.config.target_vocab_size))

    def to_logits(self, rows):
        """Return float32 logits `[..., V]` of what the decoder gives, `[..., D]`."""
        if self.output_projection is None:
            logits = self.token_embedding.project(rows)
        else:
            logits = self.output_projection(rows)
        if self.config.output_bias:
            logits = logits + ops.cast(self.output_bias, logits.dtype)
        return ops.cast(logits, "float32")

    def project_memory(self, source_ids):
        """Encode the source ids `[B, S]` and project keys and values for every decoder layer.

        Returns:
            `Memory`, which `decode_step` reads.
        """
        return self.decoder.project_memory(self.encode(source_ids), self.source_mask(source_ids))

    def init_cache(self, memory, capacity=None, beam_size=1):
        """Return an empty cache for `beam_size` hypotheses of each source in `memory`.

        Args:
            memory: a `Memory`, from `project_memory`.
            capacity: None: the cache grows by one position with each `decode_step`. A Python int:
                buffers of that many positions, for compilers that want fixed shapes: JAX, and
                TensorFlow under `jit_compile`. Both give the same logits.
            beam_size: K, an int or a scalar tensor.
        """
        rows = ops.shape(memory.attention_mask)[0] * beam_size
        return self.decoder.init_cache(rows, capacity)

    def decode_step(self, ids, step, cache, memory, beam_size=1):
        """Decode one position.

        Args:
            ids: `[R]`, the token before the one to predict; at step 0 the start id. R = B * K:
                the hypotheses of a source stand together.
            step: integer scalar, the position of `ids`, from 0.
            cache: from `init_cache` or the step before.
            memory: from `project_memory`, of B sources.
            beam_size: K, an int or a scalar tensor.

        Returns:
            float32 logits `[R, V]` and the cache with this position in it.
        """
        x = self.token_embedding(ids)
        if self.target_positions is not None:
            x = self.target_positions.step(x, step)
        rows, cache = self.decoder.step(x, step, cache, memory, beam_size)
        return self.to_logits(rows), cache

    def attention_scores(self, source_ids, target_in):
        """Return what every head of every layer attends to.

        Args:
            source_ids: `[B, S]`.
            target_in: `[B, T]`, beginning with the start id.

        Returns:
            `AttentionScores`: encoder `[B, L, N, S, S]`, causal `[B, L, N, T, T]` and cross
            `[B, L, N, T, S]`; each row sums to 1.
        """
        source_ids, target_in = self.unpack((source_ids, target_in))
        mask = self.source_mask(source_ids)
        memory, encoder = self.encoder.attention_scores(self._embed_source(source_ids), mask)
        target = self._embed_target(target_in)
        return AttentionScores(encoder, *self.decoder.attention_scores(target, memory, mask))

    def functional(self):
        """Return a functional `keras.Model` of the same layers and weights, to be looked at.

        `keras.utils.plot_model(model.functional(), show_shapes=True, expand_nested=True)` draws
        every layer of both stacks, where of this model it draws one box; the `summary` of it says
        what is connected to what. It gives the same logits, and training either trains both.
        Save this model, not that one: the search, `Translator` and the export read this class.

        Example:
            >>> config = TransformerConfig.preset("tiny", source_vocab_size=9, target_vocab_size=7)
            >>> graph = Transformer(config).functional()
            >>> [layer.name for layer in graph.get_layer("encoder").layers][2:]
            ['layer_0', 'layer_1', 'layer_2', 'layer_3']
        """
        return functional_model(self)
