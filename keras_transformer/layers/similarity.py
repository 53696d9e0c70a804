"""Score functions of attention: how much a query has to do with a key."""

import keras
from keras import layers, ops


def scaled_dot(query, prepared_key):
    """Return q.k / sqrt(H) ('Attention Is All You Need', section 3.2.1, equation 1).

    The division keeps the variance of the scores at 1 whatever the head size H, so that the
    softmax does not saturate. It is applied to the query, the smaller operand.

    Args:
        query: `[B, N, T, H]`.
        prepared_key: keys with their last two axes swapped, `[B, N, H, S]`.

    Returns:
        Scores `[B, N, T, S]`.
    """
    return ops.matmul(query * query.shape[-1] ** -0.5, prepared_key)


@keras.saving.register_keras_serializable(package="keras_transformer")
class ScaledDot(layers.Layer):
    """Scaled dot-product similarity (paper, section 3.2.1).

    A similarity is a layer with two steps, so that whatever depends on the key alone is computed
    once and cached: `prepare_key(key [B, N, S, H])`, then `call(query [B, N, T, H], prepared)`
    gives scores `[B, N, T, S]`. `length_axis` is the axis of `prepared` along which a cache grows.
    """

    length_axis = -1

    def build(self, query_shape=None, prepared_shape=None):
        self.built = True

    def prepare_key(self, key):
        """`[B, N, S, H]` -> `[B, N, H, S]`: stored transposed, so that a step is one product."""
        return ops.transpose(key, (0, 1, 3, 2))

    def call(self, query, prepared):
        return scaled_dot(query, prepared)

    def get_config(self):
        # Keras refuses to write a layer without this method once its dtype is a policy object
        return {**super().get_config()}


SIMILARITIES = {"scaled_dot": ScaledDot}


def get(similarity, **options):
    """Return a similarity layer for a registered name, a serialized config or a layer.

    Raises:
        ValueError: unknown name, or an object without `prepare_key`.
    """
    if isinstance(similarity, dict):
        similarity = keras.saving.deserialize_keras_object(similarity)
    if isinstance(similarity, str):
        if similarity not in SIMILARITIES:
            raise ValueError(
                f"similarity must be one of {', '.join(SIMILARITIES)}, or a layer with "
                f"prepare_key and call. Received: similarity={similarity!r}"
            )
        return SIMILARITIES[similarity](name="similarity", **options)
    if not hasattr(similarity, "prepare_key"):
        raise ValueError(
            "similarity must be a registered name or a layer with prepare_key(key) and "
            f"call(query, prepared). Received: similarity={similarity!r}"
        )
    return similarity
