"""The recurrent encoder-decoder with attention, the Transformer's ancestor, for comparison."""

from typing import Any, NamedTuple

from keras_transformer import backend

backend.start()

import keras
from keras import layers, ops

from keras_transformer.config import RNNSearchConfig
from keras_transformer.layers.attention import attention_weights
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.masks import padding_mask
from keras_transformer.layers.similarity import Additive
from keras_transformer.sequence_model import SequenceModel


def maxout(vectors):
    """Return the larger of each two neighbours: `[..., 2 l]` -> `[..., l]` (section A.2.2)."""
    shape = ops.shape(vectors)
    return ops.max(ops.reshape(vectors, (*shape[:-1], vectors.shape[-1] // 2, 2)), axis=-1)


def repeated(rows, count):
    """Return every row `count` times, the copies together: `[B, ...]` -> `[B * count, ...]`."""
    if isinstance(count, int) and count == 1:
        return rows
    shape = ops.shape(rows)
    copies = ops.broadcast_to(ops.expand_dims(rows, 1), (shape[0], count, *shape[1:]))
    return ops.reshape(copies, (shape[0] * count, *shape[1:]))


class RecurrentMemory(NamedTuple):
    """What the decoder reads of R sources: computed once, the same at every step."""

    annotations: Any  # [R, S, 2n]: h_j, the states of both directions side by side
    prepared_key: Any  # [R, 1, S, units]: U_a h_j
    attention_mask: Any  # bool [R, 1, S]: real source positions
    initial_state: Any  # [R, n]: s_0

    def with_state(self, state):
        """Return the states of the decoder's cell: its own, and the memory it hands on."""
        return [state, self.annotations, self.prepared_key, self.attention_mask]


@keras.saving.register_keras_serializable(package="keras_transformer")
class AttentionGRUCell(layers.Layer):
    """One position of the decoder: attend with the old state, then make the new one (A.2.2).

    c_i = sum_j softmax_j(v.tanh(W s_{i-1} + U h_j)) h_j,    s_i = GRU([E y_{i-1}; c_i], s_{i-1}).

    A cell of `keras.layers.RNN`, which hands nothing but states to its cell. So the memory is
    among the states and is returned as it came.

    Args:
        hidden_size: n.
        units: size n' of the alignment's hidden layer.

    Call arguments:
        inputs: embeddings `[R, m]` of the tokens before.
        states: `RecurrentMemory.with_state(state)`, the state `[R, n]`.

    Returns:
        `[R, 3n]`, what the output layers read: s_{i-1} and c_i side by side; and the new states.
    """

    def __init__(self, hidden_size, units, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.units = units
        self.state_size = [hidden_size, 2 * hidden_size, units, 1]
        self.output_size = 3 * hidden_size
        self.similarity = Additive(units, name="similarity", dtype=self.dtype_policy)
        self.gru = layers.GRUCell(
            hidden_size, reset_after=False, name="gru", dtype=self.dtype_policy
        )

    def build(self, input_shape):
        annotation_size = 2 * self.hidden_size
        self.similarity.build((None, 1, None, self.hidden_size), (None, 1, None, annotation_size))
        self.gru.build((None, input_shape[-1] + annotation_size))
        self.built = True

    def call(self, inputs, states):
        state, annotations, prepared_key, attention_mask = states
        weights = self.align(ops.expand_dims(state, 1), prepared_key, attention_mask)
        context = ops.matmul(ops.cast(weights, self.compute_dtype), annotations)
        context = ops.squeeze(context, 1)
        new_state, _ = self.gru(ops.concatenate([inputs, context], axis=-1), state)
        return ops.concatenate([state, context], axis=-1), [new_state, *states[1:]]

    def align(self, states, prepared_key, attention_mask):
        """Return the weights alpha, float32 `[R, T, S]`, of states s_{i-1} `[R, T, n]`."""
        scores = self.similarity(ops.expand_dims(states, 1), prepared_key)
        mask = ops.cast(attention_mask, "bool")  # RNN turns what it carries into floats
        return ops.squeeze(attention_weights(scores, mask), 1)

    def get_config(self):
        return {**super().get_config(), "hidden_size": self.hidden_size, "units": self.units}


@keras.saving.register_keras_serializable(package="keras_transformer")
class RNNSearch(SequenceModel):
    """The model of 'Neural Machine Translation by Jointly Learning to Align and Translate'
    (Bahdanau, Cho and Bengio 2015, section 3 and appendix A).

    A bidirectional GRU reads the source. A GRU writes the target: before each token it compares
    its state with every source position and takes their weighted mean as further input. Both run
    token by token, where the Transformer computes all positions at once.

    What the paper leaves open or Keras does otherwise:
        - The reset gate works on the state before the matrix product, U [r * s], as in the
          paper: `reset_after=False` of Keras's GRU, not its default, cuDNN's r * (U s).
        - Keras's update gate is 1 - z of the paper: it keeps the old state where the paper's
          takes the new one. sigmoid(-a) = 1 - sigmoid(a), so weights of opposite sign give the
          same function.
        - The output layer reads s_{i-1}, y_{i-1} and c_i, as the equation of section A.2.2 has
          it (section 3.1 writes s_i). So logits do not wait for the new state.
        - The paper's equations omit biases. All layers here have them but the alignment.
        - Weights start as Keras starts them (recurrent ones orthogonal, as in section B.1).
        - Dropout, which the paper does without, falls on embeddings and on the maxout layer,
          never on what passes from step to step (Zaremba et al. 2014).

    Args:
        config: an `RNNSearchConfig`, or its fields as a dict.

    Call arguments:
        inputs: pair `(source_ids [B, S], target_in [B, T])` of integers, padded on the right
            with `config.pad_id`.

    Returns:
        float32 logits `[B, T, V]`; position t predicts the token after `target_in[:, t]`.

    Raises:
        ValueError: an id outside the vocabulary (in eager calls), a wrong number of inputs.

    Example:
        >>> sizes = {"d_embedding": 4, "hidden_size": 6, "units": 5, "maxout_size": 3}
        >>> config = RNNSearchConfig(source_vocab_size=9, target_vocab_size=7, **sizes)
        >>> tuple(RNNSearch(config)((np.array([[4, 5, 3]]), np.array([[2, 4]]))).shape)
        (1, 2, 7)
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(config, RNNSearchConfig):
            config = RNNSearchConfig(**dict(config))
        self.config = config
        size, dtype = config.hidden_size, self.dtype_policy

        def embedding(vocab_size, name):
            return TokenEmbedding(
                vocab_size, config.d_embedding, scale=False, name=name, dtype=dtype
            )

        self.source_embedding = embedding(config.source_vocab_size, "source_embedding")
        self.token_embedding = embedding(config.target_vocab_size, "token_embedding")
        self.embedding_dropout = Dropout(config.dropout, dtype=dtype)
        self.encoder = layers.Bidirectional(
            layers.GRU(size, reset_after=False, return_sequences=True, name="gru", dtype=dtype),
            name="encoder",
            dtype=dtype,
        )
        self.initial_state = layers.Dense(size, "tanh", name="initial_state", dtype=dtype)
        cell = AttentionGRUCell(size, config.units, name="cell", dtype=dtype)
        self.decoder = layers.RNN(cell, return_sequences=True, name="decoder", dtype=dtype)
        self.deep_output = layers.Dense(2 * config.maxout_size, name="deep_output", dtype=dtype)
        self.output_dropout = Dropout(config.dropout, dtype=dtype)
        self.output_projection = layers.Dense(config.target_vocab_size, name="output", dtype=dtype)
        self.build([(None, None), (None, None)])

    def build(self, input_shape):
        embedded, size = self.config.d_embedding, self.config.hidden_size
        self.source_embedding.build((None, None))
        self.token_embedding.build((None, None))
        self.embedding_dropout.build((None, None, embedded))
        self.encoder.build((None, None, embedded))
        self.initial_state.build((None, size))
        self.decoder.build((None, None, embedded))
        self.deep_output.build((None, 3 * size + embedded))
        self.output_dropout.build((None, None, self.config.maxout_size))
        self.output_projection.build((None, self.config.maxout_size))
        self.built = True

    def call(self, inputs, training=None):
        source_ids, target_in = self.unpack(inputs)
        memory = self._memory(self.encode(source_ids, training=training), source_ids)
        embedded = self.embedding_dropout(self.token_embedding(target_in), training=training)
        return self._logits(self._run(embedded, memory), embedded, training=training)

    def source_mask(self, source_ids):
        """Return the boolean mask `[B, 1, S]` of the real source positions."""
        return padding_mask(source_ids, self.config.pad_id)

    def encode(self, source_ids, training=None):
        """Return the annotations `[B, S, 2n]` of the source ids `[B, S]` (equation 7).

        Pads change no state, so that the backward direction begins at the last real token.
        """
        x = self.embedding_dropout(self.source_embedding(source_ids), training=training)
        real = ops.not_equal(source_ids, self.config.pad_id)
        return self.encoder(x, mask=real, training=training)

    def _memory(self, annotations, source_ids):
        backward_at_first = annotations[:, 0, self.config.hidden_size :]
        return RecurrentMemory(
            annotations,
            self.decoder.cell.similarity.prepare_key(ops.expand_dims(annotations, 1)),
            self.source_mask(source_ids),
            self.initial_state(backward_at_first),
        )

    def _run(self, embedded, memory):
        """Return s_{i-1} and c_i of every target position, `[B, T, 3n]`."""
        return self.decoder(embedded, initial_state=memory.with_state(memory.initial_state))

    def _logits(self, read, embedded, training=None):
        """Deep output with one maxout layer (A.2.2): `[..., 3n]`, `[..., m]` -> `[..., V]`."""
        hidden = maxout(self.deep_output(ops.concatenate([read, embedded], axis=-1)))
        hidden = self.output_dropout(hidden, training=training)
        return ops.cast(self.output_projection(hidden), "float32")

    def attention_scores(self, source_ids, target_in):
        """Return the alignment alpha, float32 `[B, T, S]` (the paper's figure 3).

        Row t tells where in the source the model looks to predict the token after
        `target_in[:, t]`; it sums to 1, pads get 0.
        """
        source_ids, target_in = self.unpack((source_ids, target_in))
        memory = self.project_memory(source_ids)
        read = self._run(self.token_embedding(target_in), memory)
        states = read[:, :, : self.config.hidden_size]
        return self.decoder.cell.align(states, memory.prepared_key, memory.attention_mask)

    def project_memory(self, source_ids):
        """Encode the source ids `[B, S]` and compute all that does not change from step to step.

        Returns:
            `RecurrentMemory`, which `decode_step` reads.
        """
        return self._memory(self.encode(source_ids), source_ids)

    def init_cache(self, memory, capacity=None, beam_size=1):
        """Return the first cache: the state s_0 `[B * K, n]`, K times for each source in `memory`.

        It does not grow, so `capacity`, the number of positions, is not looked at.
        """
        return repeated(memory.initial_state, beam_size)

    def decode_step(self, ids, step, cache, memory, beam_size=1):
        """Decode one position.

        Args:
            ids: `[R]`, the token before the one to predict; at step 0 the start id. R = B * K:
                the hypotheses of a source stand together.
            step: not looked at: the state knows what came before.
            cache: the state `[R, n]`, from `init_cache` or the step before.
            memory: from `project_memory`, of B sources.
            beam_size: K, an int or a scalar tensor.

        Returns:
            float32 logits `[R, V]` and the new state.
        """
        memory = RecurrentMemory(*(repeated(part, beam_size) for part in memory))
        embedded = self.token_embedding(ids)
        read, states = self.decoder.cell(embedded, memory.with_state(cache))
        return self._logits(read, embedded), states[0]
