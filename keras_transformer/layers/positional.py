"""Positions: sinusoidal as in the paper, or learned; added to the token embeddings."""

import keras
import numpy as np
from keras import layers, ops

LAYOUTS = ("interleaved", "halves")


def _angular_frequencies(d_model, layout):
    """Return frequency and phase of each of the `d_model` columns, float64 `[D]`.

    Column 2i is sin(p * w_i) and column 2i+1 is cos(p * w_i) = sin(p * w_i + pi/2), with
    w_i = 10000^(-2i / d_model).
    """
    frequencies = 10000.0 ** (-np.arange(0, d_model, 2) / d_model)
    if layout == "halves":
        return np.tile(frequencies, 2), np.repeat([0.0, np.pi / 2], d_model // 2)
    return np.repeat(frequencies, 2), np.tile([0.0, np.pi / 2], d_model // 2)


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
    if d_model < 2 or d_model % 2:
        raise ValueError(
            f"d_model must be even: sines and cosines come in pairs. Received: d_model={d_model}"
        )
    if length < 0:
        raise ValueError(f"length must be 0 or more positions. Received: length={length}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}. Received: layout={layout!r}")
    frequencies, phases = _angular_frequencies(d_model, layout)
    return np.sin(np.arange(length)[:, None] * frequencies + phases).astype("float32")


@keras.saving.register_keras_serializable(package="keras_transformer")
class PositionalEmbedding(layers.Layer):
    """Adds to each vector an encoding of its position (paper, section 3.5).

    Args:
        positions: `sinusoidal` (any length, no weights) or `learned` (Gehring et al. 2017, up to
            `max_positions`).
        position_layout: order of the sinusoidal columns, see `sinusoidal_positions`.
        max_positions: longest sequence with learned positions.

    Call arguments:
        x: `[B, T, D]`.

    Returns:
        `[B, T, D]`.

    Raises:
        ValueError: a sequence longer than `max_positions` with learned positions.
    """

    def __init__(
        self, positions="sinusoidal", position_layout="interleaved", max_positions=512, **kwargs
    ):
        if positions not in ("sinusoidal", "learned"):
            raise ValueError(
                f"positions must be 'sinusoidal' or 'learned'. Received: positions={positions!r}"
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
        elif self.d_model % 2:
            raise ValueError(
                f"d_model must be even for sinusoidal positions. Received: d_model={self.d_model}"
            )
        self.built = True

    def call(self, x):
        length = ops.shape(x)[1]
        self._check(length)
        return x + ops.expand_dims(self._encode(ops.arange(length)), 0)

    def step(self, x, step):
        """Add position `step`, an integer scalar, to the rows `[R, D]` of one decoding step."""
        self._check(step)
        return x + self._encode(ops.reshape(step, (1,)))

    def _check(self, length):
        if self.positions == "learned" and isinstance(length, int) and length > self.max_positions:
            raise ValueError(
                f"The sequence must have at most max_positions={self.max_positions} tokens, "
                "because its positions are learned. Cut it, raise max_positions and train "
                f"again, or use positions='sinusoidal'. Received: length={length}"
            )

    def _encode(self, positions):
        """Integer positions `[T]` -> encodings `[T, D]`."""
        if self.positions == "learned":
            return ops.cast(ops.take(self.embeddings, positions, axis=0), self.compute_dtype)
        frequencies, phases = _angular_frequencies(self.d_model, self.position_layout)
        # float64: in float32 the angle of position 500 is already wrong in the fifth digit
        angles = ops.expand_dims(ops.cast(positions, "float64"), 1) * frequencies + phases
        return ops.cast(ops.sin(angles), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "positions": self.positions,
            "position_layout": self.position_layout,
            "max_positions": self.max_positions,
        }
