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
    if shape[1] == 0:
        raise ValueError(
            f"{name} must have at least one position. Received: {name} of shape {tuple(shape)}"
        )
    check_size(name, shape, size)


def check_size(name, shape, size):
    """Refuse vectors of another size than that the layer was built for, where both are known.

    Raises:
        ValueError: another size.
    """
    if size is not None and shape[-1] is not None and shape[-1] != size:
        raise ValueError(
            f"{name} must have vectors of size {size}, for which this layer was built. "
            f"Received: {name} of shape {tuple(shape)}"
        )


def check_equal(axis, **shapes):
    """Refuse inputs that differ in a size they must share, where it is known.

    Args:
        axis: the axis they share, 0 for the batch.
        **shapes: of the inputs, by name.

    Raises:
        ValueError: two sizes.
    """
    sizes = {shape[axis] for shape in shapes.values()} - {None}
    if len(sizes) > 1:
        what = "batch size" if axis == 0 else "number of positions"
        received = ", ".join(f"{name} of shape {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{' and '.join(shapes)} must have one {what}. Received: {received}")


def check_mask(mask, scores_shape):
    """Refuse a mask that does not fit scores `[B, N, T, S]`.

    Raises:
        ValueError: not boolean, not three axes, or a size that is neither 1 nor that of the scores.
    """
    if not hasattr(mask, "shape"):
        raise ValueError(
            "attention_mask must be a boolean array or tensor [B, T, S]. "
            f"Received: {type(mask).__name__}"
        )
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
