"""The encoder-decoder Transformer as a Keras model, with the cached step that decoding uses."""

from keras_transformer import backend

backend.start()

import keras
from keras import layers, ops

from keras_transformer.config import TransformerConfig
from keras_transformer.layers.decoder import Decoder
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.encoder import Encoder
from keras_transformer.layers.masks import padding_mask
from keras_transformer.layers.positional import PositionalEmbedding


@keras.saving.register_keras_serializable(package="keras_transformer")
class Transformer(keras.Model):
    """The Transformer of 'Attention Is All You Need' (Vaswani et al. 2017).

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
        self.embedding_dropout = layers.Dropout(
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
        self._loss_per_token = keras.metrics.Mean(name="loss_per_token")
        self.build([(None, None), (None, None)])

    def _positions(self, name):
        config = self.config
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
        return {"dtype": self.dtype_policy, **{name: getattr(config, name) for name in same}}

    def build(self, input_shape):
        vectors = (None, None, self.config.d_model)
        for layer in {id(e): e for e in (self.token_embedding, self.source_embedding)}.values():
            layer.build()
        self.source_positions.build(vectors)
        self.target_positions.build(vectors)
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
        source_ids, target_in = self._unpack(inputs)
        memory = self.encode(source_ids, training=training)
        return self.decode(target_in, memory, self.source_mask(source_ids), training=training)

    def source_mask(self, source_ids):
        """Return the boolean mask `[B, 1, S]` of the real source positions."""
        return padding_mask(source_ids, self.config.pad_id)

    def encode(self, source_ids, training=None):
        """Return the memory `[B, S, D]` of the source ids `[B, S]`."""
        x = self.source_positions(self.source_embedding(source_ids))
        x = self.embedding_dropout(x, training=training)
        return self.encoder(x, self.source_mask(source_ids), training=training)

    def decode(self, target_in, memory, memory_mask, training=None):
        """Return logits `[B, T, V]` of every target position, all at once.

        Args:
            target_in: `[B, T]`, beginning with the start id.
            memory: `[B, S, D]` from `encode`.
            memory_mask: boolean `[B, 1, S]` from `source_mask`.
            training: whether dropout is on.
        """
        x = self.target_positions(self.token_embedding(target_in))
        x = self.embedding_dropout(x, training=training)
        x = self.decoder(x, memory, memory_mask, training=training)
        logits = self._logits(ops.reshape(x, (-1, self.config.d_model)))
        return ops.reshape(logits, (-1, ops.shape(target_in)[1], self.config.target_vocab_size))

    def _logits(self, rows):
        """`[R, D]` -> float32 `[R, V]`."""
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

    def init_cache(self, memory):
        """Return an empty cache for the rows of `memory`, from `project_memory`.

        It grows by one position with each `decode_step`. Its first length is a tensor, so that a
        compiled loop lets it grow.
        """
        rows = ops.shape(memory.attention_mask)[0]
        return self.decoder.init_cache(rows, rows * 0)

    def decode_step(self, ids, step, cache, memory):
        """Decode one position.

        Args:
            ids: `[R]`, the token before the one to predict; at step 0 the start id.
            step: integer scalar, the position of `ids`, from 0.
            cache: from `init_cache` or the step before.
            memory: from `project_memory`.

        Returns:
            float32 logits `[R, V]` and the grown cache.
        """
        x = self.target_positions.step(self.token_embedding(ids), step)
        rows, cache = self.decoder.step(x, cache, memory)
        return self._logits(rows), cache

    def _unpack(self, inputs):
        if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
            raise ValueError(
                "inputs must be a pair (source_ids [B, S], target_in [B, T]). "
                f"Received: {type(inputs).__name__}"
            )
        return inputs

    @property
    def tokens_seen(self):
        """Real target tokens of the current epoch of `fit` so far."""
        return int(self._loss_per_token.count)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if hasattr(self.loss, "token_losses"):
            losses, weights = self.loss.token_losses(y, y_pred, sample_weight)
            # as one row: Keras takes the mean of each row, and wider batches would weigh less
            self._loss_per_token.update_state(
                ops.reshape(losses, (-1,)), sample_weight=ops.reshape(weights, (-1,))
            )
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self):
        # Keras averages the loss over rows; batches hold different numbers of real tokens
        results = super().get_metrics_result()
        loss_per_token = results.pop("loss_per_token")
        return (
            {**results, "loss": loss_per_token} if hasattr(self.loss, "token_losses") else results
        )

    def export(self, filepath, format="tf_saved_model", *, input_signature=None, **options):
        """Write the forward pass with Keras's own export: int32 ids in, logits out.

        Arguments are those of `keras.Model.export`. To write a whole translator, text in and text
        out, use `keras_transformer.export`.
        """
        if input_signature is None:  # Keras would guess floats
            names = ("source_ids", "target_in")
            input_signature = [
                [keras.InputSpec(shape=(None, None), dtype="int32", name=name) for name in names]
            ]
        super().export(filepath, format, input_signature=input_signature, **options)

    def compute_output_shape(self, input_shape):
        return (*input_shape[1], self.config.target_vocab_size)

    def get_config(self):
        return {**super().get_config(), "config": self.config.model_dump()}
