"""Boolean attention masks made from ids and lengths: True = may attend."""

from keras import ops


def padding_mask(ids, pad_id):
    """Let every query attend to the positions that hold a real token.

    Args:
        ids: integer tokens `[B, S]`.
        pad_id: the id that fills rows up to the longest.

    Returns:
        Boolean `[B, 1, S]`, which broadcasts to an attention mask `[B, T, S]`.

    Example:
        >>> np.asarray(padding_mask(np.array([[5, 3, 0]]), pad_id=0)).tolist()
        [[[True, True, False]]]
    """
    return ops.expand_dims(ops.not_equal(ids, pad_id), 1)


def causal_mask(length):
    """Let position t attend to positions 0..t ('Attention Is All You Need', section 3.2.3).

    Args:
        length: number of positions T, a Python int or a scalar tensor.

    Returns:
        Boolean `[1, T, T]`, which broadcasts to an attention mask `[B, T, T]`.

    Raises:
        ValueError: a Python number that is no integer from 0.

    Example:
        >>> np.asarray(causal_mask(3)).astype(int).tolist()
        [[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]
    """
    if isinstance(length, float) or (isinstance(length, int) and length < 0):
        raise ValueError(f"length must be an integer from 0. Received: length={length}")
    positions = ops.arange(length)
    return ops.expand_dims(ops.expand_dims(positions, 1) >= ops.expand_dims(positions, 0), 0)
