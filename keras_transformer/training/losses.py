"""Cross entropy over the real target tokens, with label smoothing."""

import keras
import numpy as np
from keras import ops

__all__ = ["SmoothedCrossEntropy", "token_cross_entropy"]


def token_cross_entropy(target_out, logits, label_smoothing=0.0):
    """Return -sum_k q(k) log p(k) for each position.

    q gives 1 - eps to the right token and spreads eps evenly over all V (Szegedy et al. 2016;
    'Attention Is All You Need', section 5.4). With z the logits, this is logsumexp(z) - q.z,
    whose gradient needs no scatter: with TensorFlow, JAX and XLA it is faster than the framework's
    fused cross entropy with a term for the smoothing.

    Args:
        target_out: integers `[B, T]`.
        logits: `[B, T, V]`.
        label_smoothing: eps, from 0 to below 1.

    Returns:
        float32 `[B, T]`, in nats; not a number where a target is outside the vocabulary.
    """
    logits = ops.cast(logits, "float32")
    target_out = ops.cast(target_out, "int32")  # Keras hands targets on as floats
    vocab_size = logits.shape[-1]
    known = ops.logical_and(target_out >= 0, target_out < vocab_size)
    if not label_smoothing:
        some_id = ops.where(known, target_out, 0)
        losses = ops.sparse_categorical_crossentropy(some_id, logits, from_logits=True)
        return ops.where(known, losses, np.nan)  # a wrong id must not pass for a good loss
    right = ops.equal(ops.expand_dims(target_out, -1), ops.arange(vocab_size, dtype="int32"))
    even = label_smoothing / vocab_size
    weighted = ops.sum(logits * ops.where(right, 1 - label_smoothing + even, even), axis=-1)
    losses = ops.logsumexp(logits, axis=-1) - weighted
    return ops.where(known, losses, np.nan)


def position_weights(target_out, pad_id, sample_weight=None):
    """Return float32 `[B, T]`: 1 where a position holds a token, 0 where it is padding.

    `sample_weight`, one for each row `[B]` or for each position `[B, T]`, multiplies them.
    """
    weights = ops.cast(ops.not_equal(target_out, pad_id), "float32")
    if sample_weight is None:
        return weights
    sample_weight = ops.cast(sample_weight, "float32")
    if len(sample_weight.shape) == 1:
        sample_weight = ops.expand_dims(sample_weight, 1)
    return weights * sample_weight


@keras.saving.register_keras_serializable(package="keras_transformer")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Mean cross entropy over the real target tokens of a batch.

    The sum over positions that are not padding, divided by their number; Keras's own default
    divides by the padded positions too.

    Args:
        label_smoothing: eps, 0.1 in the paper (section 5.4).
        pad_id: positions with this target do not count.

    Call arguments:
        y_true: integers `[B, T]`.
        y_pred: logits `[B, T, V]`.
        sample_weight: optional, `[B]` or `[B, T]`; multiplies the weight of each position.

    Raises:
        ValueError: `label_smoothing` out of range.

    Example:
        >>> loss = SmoothedCrossEntropy(0.0)
        >>> float(loss(np.array([[1, 0]]), np.zeros((1, 2, 4), "float32")))   # log(4)
        1.3862943649291992
    """

    def __init__(self, label_smoothing=0.1, pad_id=0, name="smoothed_cross_entropy", **kwargs):
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "label_smoothing must be from 0 to below 1. "
                f"Received: label_smoothing={label_smoothing}"
            )
        kwargs.setdefault("reduction", "mean_with_sample_weight")
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing
        self.pad_id = pad_id

    def call(self, y_true, y_pred):
        return token_cross_entropy(y_true, y_pred, self.label_smoothing)

    def position_weights(self, y_true, sample_weight=None):
        """Return the weight of each position, float32 `[B, T]`: 0 where it is padding."""
        return position_weights(y_true, self.pad_id, sample_weight)

    def __call__(self, y_true, y_pred, sample_weight=None):
        weights = position_weights(y_true, self.pad_id, sample_weight)
        return super().__call__(y_true, y_pred, sample_weight=weights)

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "pad_id": self.pad_id,
        }
