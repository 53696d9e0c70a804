"""Token embedding, which also serves as the output projection when the two are tied."""

import keras
from keras import layers, ops

from keras_transformer import backend


def check_ids(ids, vocab_size, name="ids"):
    """Refuse ids outside a vocabulary where their values are known: not while a graph is traced.

    Raises:
        ValueError: an id below 0 or not below `vocab_size`.
    """
    values = backend.concrete(ids)
    if values is not None and values.size and not 0 <= values.min() <= values.max() < vocab_size:
        raise ValueError(
            f"{name} must be from 0 to {vocab_size - 1}, inside the vocabulary. Encode the text "
            "with the tokenizer the model was made for. "
            f"Received: ids from {values.min()} to {values.max()}"
        )


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenEmbedding(layers.Layer):
    """Looks up a vector for each token, times sqrt(D) ('Attention Is All You Need', section 3.4).

    Args:
        vocab_size: number of tokens V.
        d_model: vector size D.
        scale: multiply by sqrt(D), so that vectors and positions are of one size.

    Call arguments:
        ids: integers of any shape `[...]`, each below `vocab_size`.

    Returns:
        `[..., D]`.

    Raises:
        ValueError: an id outside the vocabulary, in eager calls.

    Example:
        >>> layer = TokenEmbedding(vocab_size=10, d_model=4)
        >>> tuple(layer(np.array([[1, 2]])).shape)
        (1, 2, 4)
    """

    def __init__(self, vocab_size, d_model, scale=True, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.scale = scale

    def build(self, input_shape=None):
        self.embeddings = self.add_weight(
            shape=(self.vocab_size, self.d_model),
            initializer=keras.initializers.RandomNormal(stddev=self.d_model**-0.5),
            name="embeddings",
        )
        self.built = True

    def call(self, ids):
        check_ids(ids, self.vocab_size, f"ids of {self.name}")
        vectors = ops.cast(ops.take(self.embeddings, ids, axis=0), self.compute_dtype)
        return vectors * self.d_model**0.5 if self.scale else vectors

    def project(self, rows):
        """Return logits `[R, V]` of rows `[R, D]` by the same matrix, transposed (section 3.4)."""
        table = ops.cast(self.embeddings, self.compute_dtype)
        return ops.matmul(rows, ops.transpose(table))

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.d_model)

    def get_config(self):
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "scale": self.scale,
        }
