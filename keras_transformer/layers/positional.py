"""Positions: sinusoidal as in the paper, or learned, added to the embeddings; or rotary."""

import keras
import numpy as np
from keras import layers, ops

from keras_transformer.layers.shapes import check_vectors

LAYOUTS = ("interleaved", "halves")


def _check(size, layout, name="d_model"):
    if size < 2 or size % 2:
        raise ValueError(
            f"{name} must be even: sines and cosines come in pairs. Received: {name}={size}"
        )
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}. Received: layout={layout!r}")


def pair_frequencies(size):
    """Return w_i = 10000^(-2i / size) in radians for each position, float64 `[size / 2]`."""
    return 10000.0 ** (-np.arange(0, size, 2) / size)


def _columns(d_model, layout):
    """Return frequency and phase of each column, float64 `[D]`; a cosine is a sine with pi / 2."""
    pairs = pair_frequencies(d_model)
    if layout == "halves":
        return np.tile(pairs, 2), np.repeat([0.0, np.pi / 2], d_model // 2)
    return np.repeat(pairs, 2), np.tile([0.0, np.pi / 2], d_model // 2)


def sinusoidal_positions(length, d_model, layout="interleaved"):
    """Return the sinusoidal position encoding ('Attention Is All You Need', section 3.5).

    PE(p, 2i) = sin(p / 10000^(2i / d_model)), PE(p, 2i+1) = cos(p / 10000^(2i / d_model)).

    Args:
        length: number of positions.
        d_model: model size, even.
        layout: `interleaved` (the paper) or `halves` (all sines, then all cosines, as in
            tensor2tensor and Marian).

    Returns:
        float32 NumPy array `[length, d_model]`.

    Raises:
        ValueError: odd `d_model`, negative `length` or unknown `layout`.

    Example:
        >>> sinusoidal_positions(2, 2).astype(float).round(4).tolist()
        [[0.0, 1.0], [0.8415, 0.5403]]
    """
    _check(d_model, layout)
    if length < 0:
        raise ValueError(f"length must be 0 or more positions. Received: length={length}")
    columns, phases = _columns(d_model, layout)
    return np.sin(np.arange(length)[:, None] * columns + phases).astype("float32")


def position_shift_matrix(shift, d_model, layout="interleaved"):
    """Return the matrix M with PE(p + shift) = M PE(p) for every position p (paper, section 3.5).

    Of each pair (sin, cos) it is the rotation by shift * w_i, so that a model can attend by
    relative positions with a linear map.

    Args:
        shift: how many positions further, an integer of either sign.
        d_model: model size, even.
        layout: as for `sinusoidal_positions`.

    Returns:
        float64 NumPy array `[d_model, d_model]`, orthogonal.

    Raises:
        ValueError: odd `d_model` or unknown `layout`.

    Example:
        >>> position_shift_matrix(1, 2).round(4).tolist()
        [[0.5403, 0.8415], [-0.8415, 0.5403]]
    """
    _check(d_model, layout)
    columns, phases = _columns(d_model, layout)
    sines, cosines = np.flatnonzero(phases == 0), np.flatnonzero(phases)
    turn = shift * columns[sines]
    matrix = np.zeros((d_model, d_model))
    matrix[sines, sines] = matrix[cosines, cosines] = np.cos(turn)
    matrix[sines, cosines] = np.sin(turn)
    matrix[cosines, sines] = -np.sin(turn)
    return matrix


def angles(positions, frequencies):
    """Return p w modulo 2 pi, float32 `[T, F]`, for integer positions `[T]`.

    To 1e-6 for any position up to 65,536, though float32 holds an angle of 1,000 radians to
    6e-5 only: angles are counted in whole turns, of which the whole number is dropped while it
    is exact. Each frequency is split into two parts of 8 bits and a small rest, and the product
    of 8 bits and a position of 16 bits fits the 24 bits of a float32. Longer positions do not fit:
    up to 131,072 angles are off by at most 0.006, up to 262,144 by 0.012, at 1,000,000 by 0.05.

    Args:
        positions: integers `[T]`.
        frequencies: w in radians for each position, below 2 pi, a NumPy array `[F]`.
    """
    turns = frequencies / (2 * np.pi)
    coarse = _leading_bits(turns)
    middle = _leading_bits(turns - coarse)
    parts = np.stack([coarse, middle, turns - coarse - middle]).astype("float32")
    positions = ops.reshape(ops.cast(positions, "float32"), (-1, 1, 1))
    turn = ops.sum(_fraction(positions * parts), axis=1)
    return _fraction(turn) * (2 * np.pi)


def _leading_bits(values, bits=8):
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.trunc(np.ldexp(mantissa, bits)), exponent - bits)


def _fraction(turns):
    """Drop whole turns: the rest is from -1/2 to 1/2."""
    return turns - ops.round(turns)


def rotate(x, positions, layout="interleaved"):
    """Turn each pair of components by an angle that grows with the position: rotary positions.

    The dot product of a query turned by p and a key turned by q depends on p - q alone
    (Su et al. 2021, https://arxiv.org/abs/2104.09864, section 3.2.2).

    Args:
        x: queries or keys `[B, N, T, H]`, H even.
        positions: integers `[T]`. Angles are exact to 1e-6 up to position 65,536 and degrade
            beyond, see `angles`.
        layout: which components are a pair: neighbours (`interleaved`, as in the paper cited)
            or i and i + H / 2 (`halves`, as in GPT-NeoX).

    Returns:
        `[B, N, T, H]`.

    Raises:
        ValueError: odd H, unknown `layout`, or another number of positions than that of `x`.

    Example:
        >>> x = np.array([[[[1.0, 0.0], [1.0, 0.0]]]], "float32")   # one head, two positions
        >>> np.asarray(rotate(x, np.arange(2))).astype(float).round(4).tolist()
        [[[[1.0, 0.0], [0.5403, 0.8415]]]]
    """
    positions = ops.convert_to_tensor(positions)
    _check_count(x.shape[2], positions)
    _check(x.shape[-1], layout, "the size of a head")
    angle = angles(positions, pair_frequencies(x.shape[-1]))
    sines, cosines = ops.cast(ops.sin(angle), x.dtype), ops.cast(ops.cos(angle), x.dtype)
    first, second = _split_pairs(x, layout)
    turned = [first * cosines - second * sines, first * sines + second * cosines]
    if layout == "halves":
        return ops.concatenate(turned, axis=-1)
    return ops.reshape(ops.stack(turned, axis=-1), ops.shape(x))


def _check_count(length, positions):
    count = positions.shape[0]
    if None not in (length, count) and count not in (1, length):
        raise ValueError(
            f"positions must be {length} integers, one for each position of x. "
            f"Received: positions of shape {tuple(positions.shape)}"
        )


def _split_pairs(x, layout):
    """`[B, N, T, H]` -> the first and the second of each pair, `[B, N, T, H / 2]`."""
    half = x.shape[-1] // 2
    if layout == "halves":
        return x[..., :half], x[..., half:]
    pairs = ops.reshape(x, (*ops.shape(x)[:-1], half, 2))
    return pairs[..., 0], pairs[..., 1]


@keras.saving.register_keras_serializable(package="keras_transformer")
class PositionalEmbedding(layers.Layer):
    """Adds to each vector an encoding of its position (paper, section 3.5).

    Args:
        positions: `sinusoidal` (any length, no weights; exact to 1e-6 up to position 65,536, see
            `angles` for what lies beyond) or `learned` (Gehring et al. 2017, up to
            `max_positions`). Rotary positions are no embedding: attention layers turn queries
            and keys themselves.
        position_layout: order of the sinusoidal columns, see `sinusoidal_positions`.
        max_positions: longest sequence with learned positions.

    Call arguments:
        x: `[B, T, D]`.
        step: the position of the first vector, an integer or a scalar tensor.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: a sequence longer than `max_positions` with learned positions.

    Example:
        >>> layer = PositionalEmbedding()
        >>> np.asarray(layer(np.zeros((1, 1, 2), "float32"), step=1)).round(4).tolist()
        [[[0.8414999842643738, 0.5403000116348267]]]
    """

    def __init__(
        self, positions="sinusoidal", position_layout="interleaved", max_positions=512, **kwargs
    ):
        if positions not in ("sinusoidal", "learned"):
            raise ValueError(
                "positions must be 'sinusoidal' or 'learned' (for rotary ones give "
                "rotary_layout to self-attention, which turns queries and keys). "
                f"Received: positions={positions!r}"
            )
        if position_layout not in LAYOUTS:
            raise ValueError(
                f"position_layout must be one of {LAYOUTS}. "
                f"Received: position_layout={position_layout!r}"
            )
        super().__init__(**kwargs)
        self.positions = positions
        self.position_layout = position_layout
        self.max_positions = max_positions

    def build(self, input_shape):
        self.d_model = input_shape[-1]
        if self.positions == "learned":
            self.embeddings = self.add_weight(
                shape=(self.max_positions, self.d_model),
                initializer=keras.initializers.RandomNormal(stddev=self.d_model**-0.5),
                name="embeddings",
            )
        else:
            _check(self.d_model, self.position_layout)
        self.built = True

    def call(self, x, step=0):
        check_vectors("x", x.shape, self.d_model)
        length = ops.shape(x)[1]
        if isinstance(step, int) and step < 0:
            raise ValueError(f"step must be 0 or more. Received: step={step}")
        if isinstance(step, int):
            self._check_end(step + length if isinstance(length, int) else step + 1)
        return x + ops.expand_dims(self._encode(step + ops.arange(length)), 0)

    def step(self, x, step):
        """Add position `step`, an integer scalar, to the rows `[R, D]` of one decoding step."""
        if isinstance(step, int):
            self._check_end(step + 1)
        return x + self._encode(ops.reshape(step, (1,)))

    def _check_end(self, end):
        if self.positions == "learned" and end > self.max_positions:
            raise ValueError(
                f"The sequence must have at most max_positions={self.max_positions} tokens, "
                "because its positions are learned. Cut it, raise max_positions and train "
                f"again, or use positions='sinusoidal'. Received: length={end}"
            )

    def _encode(self, positions):
        """Integer positions `[T]` -> encodings `[T, D]`."""
        if self.positions == "learned":
            return ops.cast(ops.take(self.embeddings, positions, axis=0), self.compute_dtype)
        columns, phases = _columns(self.d_model, self.position_layout)
        return ops.cast(ops.sin(angles(positions, columns) + phases), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "positions": self.positions,
            "position_layout": self.position_layout,
            "max_positions": self.max_positions,
        }
