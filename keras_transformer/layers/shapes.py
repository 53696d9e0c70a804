"""Shapes of inputs, checked where they are known, with errors that name the argument."""

import keras


def check_vectors(name, shape, size=None):
    """Refuse vectors of another shape than `[B, T, D]`.

    Args:
        name: of the argument.
        shape: its shape, None where a dimension is not known.
        size: D, where the layer has been built for it.

    Raises:
        ValueError: another number of axes, or another size.
    """
    if len(shape) != 3:
        raise ValueError(
            f"{name} must have three axes, [batch, positions, size]. Received: {name} of shape "
            f"{tuple(shape)}"
        )
    if size is not None and shape[-1] is not None and shape[-1] != size:
        raise ValueError(
            f"{name} must have vectors of size {size}, for which this layer was built. "
            f"Received: {name} of shape {tuple(shape)}"
        )


def check_mask(mask, scores_shape):
    """Refuse a mask that does not fit scores `[B, N, T, S]`.

    Raises:
        ValueError: not boolean, not three axes, or a size that is neither 1 nor that of the scores.
    """
    shape = tuple(mask.shape)
    batch, _, queries, keys = scores_shape
    fits = len(shape) == 3 and all(
        of_mask is None or of_scores is None or of_mask in (1, of_scores)
        for of_mask, of_scores in zip(shape, (batch, queries, keys), strict=True)
    )
    if not fits:
        raise ValueError(
            "attention_mask must be broadcastable to [B, T, S] = "
            f"{[batch, queries, keys]}, with three axes. Received: attention_mask of shape {shape}"
        )
    if keras.backend.standardize_dtype(mask.dtype) != "bool":
        raise ValueError(
            "attention_mask must be boolean, True = may attend. "
            f"Received: attention_mask of type {keras.backend.standardize_dtype(mask.dtype)}"
        )
