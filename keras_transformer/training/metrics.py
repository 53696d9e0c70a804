"""Metrics over the real target tokens of an epoch."""

import keras
from keras import ops

from keras_transformer.training.losses import position_weights, token_cross_entropy

__all__ = ["Perplexity", "TokenAccuracy"]


class _TokenMean(keras.metrics.Mean):
    """Mean of a value for each target position, padding left out."""

    def __init__(self, pad_id=0, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.pad_id = pad_id

    def token_values(self, y_true, y_pred):
        """Return the value of each position, `[B, T]`."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        weights = position_weights(y_true, self.pad_id, sample_weight)
        values = self.token_values(y_true, y_pred)
        # as one row: Keras takes the mean of each row, and rows of a wider batch would weigh less
        super().update_state(ops.reshape(values, (-1,)), sample_weight=ops.reshape(weights, (-1,)))

    def get_config(self):
        return {**super().get_config(), "pad_id": self.pad_id}


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenAccuracy(_TokenMean):
    """Share of real target tokens that are the most probable one, given the right prefix.

    Args:
        pad_id: positions with this target do not count.
    """

    def __init__(self, pad_id=0, name="token_accuracy", dtype=None):
        super().__init__(pad_id, name, dtype)

    def token_values(self, y_true, y_pred):
        chosen = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        return ops.cast(ops.equal(chosen, ops.cast(y_true, "int32")), "float32")


@keras.saving.register_keras_serializable(package="keras_transformer")
class Perplexity(_TokenMean):
    """exp(mean cross entropy in nats), without label smoothing.

    Args:
        pad_id: positions with this target do not count.
    """

    def __init__(self, pad_id=0, name="perplexity", dtype=None):
        super().__init__(pad_id, name, dtype)

    def token_values(self, y_true, y_pred):
        return token_cross_entropy(y_true, y_pred)

    def result(self):
        return ops.exp(super().result())
